//! The way to an object store, with weather: a proxy for HTTP that passes calls on, refuses them, or loses answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use crate::Result;

/// What happens to calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[repr(u8)]
pub enum Weather {
    /// Nothing.
    Fair,
    /// Connections are closed at once: the store is gone.
    Away,
    /// Every second call is answered with 503.
    Refusing,
    /// Of every third call that changes something the answer gets lost, after the store has done it.
    Deaf,
}

impl Weather {
    fn of(byte: u8) -> Weather {
        let all = [Weather::Fair, Weather::Away, Weather::Refusing, Weather::Deaf];
        all.into_iter().find(|w| *w as u8 == byte).unwrap_or(Weather::Fair)
    }
}

/// A proxy on this machine; it ends with the process.
pub struct Proxy {
    port: u16,
    sky: Arc<Sky>,
}

#[derive(Default)]
struct Sky {
    weather: AtomicU8,
    calls: AtomicU64,
    hurt: AtomicU64,
}

impl Proxy {
    /// Starts one before the store at `port` of this machine.
    #[allow(clippy::disallowed_methods)] // its threads live as long as the process
    pub fn start(port: u16) -> Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let sky = Arc::new(Sky::default());
        let proxy = Proxy { port: listener.local_addr()?.port(), sky: sky.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let sky = sky.clone();
                // A call that breaks is what weather is about; the client sees it too.
                std::thread::spawn(move || drop(pass(client, port, &sky)));
            }
        });
        Ok(proxy)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the weather.
    pub fn set(&self, weather: Weather) {
        self.sky.weather.store(weather as u8, Ordering::Relaxed);
    }

    /// How many calls came through here.
    pub fn calls(&self) -> u64 {
        self.sky.calls.load(Ordering::Relaxed)
    }

    /// How many calls did not go well because of it.
    pub fn hurt(&self) -> u64 {
        self.sky.hurt.load(Ordering::Relaxed)
    }
}

/// One connection, one call.
fn pass(client: TcpStream, port: u16, sky: &Sky) -> Result {
    let weather = Weather::of(sky.weather.load(Ordering::Relaxed));
    let hurt = || sky.hurt.fetch_add(1, Ordering::Relaxed);
    if weather == Weather::Away {
        sky.calls.fetch_add(1, Ordering::Relaxed);
        hurt();
        return Ok(());
    }
    client.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut from = BufReader::new(client.try_clone()?);
    let (mut head, mut length, mut waits) = (String::new(), 0, false);
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(()); // a connection that was opened for later
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        waits |= lower.starts_with("expect:");
        if lower == "\r\n" {
            break;
        }
        if !lower.starts_with("connection:") && !lower.starts_with("expect:") {
            head.push_str(&line);
        }
    }
    head.push_str("Connection: close\r\n\r\n");
    let mut client = client;
    if waits {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    let call = sky.calls.fetch_add(1, Ordering::Relaxed);
    if weather == Weather::Refusing && call.is_multiple_of(2) {
        hurt();
        let answer = "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return Ok(client.write_all(answer.as_bytes())?);
    }
    let mut store = TcpStream::connect(("127.0.0.1", port))?;
    store.set_read_timeout(Some(Duration::from_secs(60)))?;
    store.write_all(head.as_bytes())?;
    store.write_all(&body)?;
    let mut answer = Vec::new();
    store.read_to_end(&mut answer)?;
    let changes = !head.starts_with("GET") && !head.starts_with("HEAD");
    if weather == Weather::Deaf && changes && call.is_multiple_of(3) {
        hurt();
        return Ok(());
    }
    Ok(client.write_all(&answer)?)
}
