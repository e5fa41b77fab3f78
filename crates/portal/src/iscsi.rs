//! The iSCSI portal: accepts connections and spreads them over threads.

use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use base::{Error, ErrorKind, Result, Spawn, Urgency};
use futures_util::future::{FutureExt, poll_fn};
use futures_util::stream::{FuturesUnordered, StreamExt};
use scsi::iscsi::{Connection, TargetRegistry};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::driver::drive;
use crate::patience::Patience;

/// How a portal serves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Threads for connections; `None`: one for each core.
    pub threads: Option<usize>,
    /// Connections at once, those logging in included; further ones are closed at once.
    pub connections: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { threads: None, connections: 4096 }
    }
}

/// A running iSCSI portal. Dropping it stops it without waiting.
pub struct Portal {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    stop: watch::Sender<Stop>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    /// Everything goes on.
    No,
    /// No connection is accepted any more.
    Accepting,
    /// Connections are closed when their running commands have ended.
    Serving,
}

struct Shared {
    targets: Arc<TargetRegistry>,
    options: Options,
    connections: AtomicUsize,
    /// A connection has ended.
    ended: Notify,
    origin: Instant,
}

impl Portal {
    /// Listens on all `listen` addresses and serves `targets`. Fails if one address cannot be had.
    ///
    /// Call it within a tokio runtime.
    pub fn start(
        listen: &[SocketAddr],
        targets: Arc<TargetRegistry>,
        options: Options,
        spawn: &dyn Spawn,
    ) -> Result<Portal> {
        let listeners = listen.iter().map(|address| bind(address, listen)).collect::<Result<Vec<_>>>()?;
        let addresses = listeners.iter().map(|(_, address)| *address).collect();
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = options.threads.unwrap_or_else(cores).max(1);
        let shared = Arc::new(Shared {
            targets,
            options,
            connections: AtomicUsize::new(0),
            ended: Notify::new(),
            origin: Instant::now(),
        });
        let (stop, stopped) = watch::channel(Stop::No);
        let mut senders = Vec::new();
        for _ in 0..threads {
            let (sender, sockets) = mpsc::unbounded_channel();
            senders.push(sender);
            spawn.spawn_thread(
                "iscsi",
                Urgency::Clients,
                Box::pin(serve(sockets, shared.clone(), stopped.clone())),
            );
        }
        for (listener, address) in listeners {
            let work = accept(listener, address, senders.clone(), shared.clone(), stopped.clone());
            spawn.spawn("iscsi-accept", Box::pin(work));
        }
        Ok(Portal { addresses, shared, stop })
    }

    /// The addresses it listens on, with the ports that were chosen for 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Stops: takes no more connections, asks initiators to log out and gives them `grace` for it, then closes what is
    /// left. Returns when every running command has ended.
    pub async fn stop(self, grace: Duration) {
        self.stop.send_replace(Stop::Accepting);
        self.shared.targets.request_logout(grace.as_secs().min(u64::from(u16::MAX)) as u16);
        let _ = tokio::time::timeout(grace, self.empty()).await; // those that are left are closed next
        self.stop.send_replace(Stop::Serving);
        self.empty().await;
    }

    async fn empty(&self) {
        loop {
            let ended = self.shared.ended.notified();
            if self.connections() == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for Portal {
    fn drop(&mut self) {
        self.stop.send_replace(Stop::Serving);
    }
}

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// `[::]` takes IPv4 too, unless another of `all` has that port for IPv4.
fn bind(address: &SocketAddr, all: &[SocketAddr]) -> Result<(TcpListener, SocketAddr)> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
        // A restarted gateway takes its port back though connections of the last one linger.
        socket.set_reuse_address(true)?;
        if address.ip() == Ipv6Addr::UNSPECIFIED {
            let shared = |other: &SocketAddr| other.is_ipv4() && other.port() == address.port();
            socket.set_only_v6(address.port() != 0 && all.iter().any(shared))?;
        }
        socket.bind(&(*address).into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket.into())?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    listen().map_err(|error: std::io::Error| {
        let text = format!("cannot listen on {address}: choose another address, or stop what uses it");
        Error::caused(ErrorKind::Unavailable, text, error)
    })
}

/// Accepts connections and hands them to the threads in turn.
async fn accept(
    listener: TcpListener,
    address: SocketAddr,
    threads: Vec<mpsc::UnboundedSender<Accepted>>,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<Stop>,
) {
    let mut turn = 0usize;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop >= Stop::Accepting) => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted.and_then(|(socket, peer)| Ok((socket.into_std()?, peer))) {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: others must end before more can begin.
                tracing::warn!("cannot accept a connection on {address}: {error}; trying again in 100 ms");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(seat) = Seat::take(&shared) else {
            tracing::warn!("refused {peer}: there are {} connections already", shared.options.connections);
            continue;
        };
        turn = (turn + 1) % threads.len();
        if threads[turn].send(Accepted { socket, peer, seat }).is_err() {
            return; // the threads are gone: the portal was stopped
        }
    }
}

struct Accepted {
    socket: TcpStream,
    peer: SocketAddr,
    seat: Seat,
}

/// One of the connections that may be at once.
struct Seat(Arc<Shared>);

impl Seat {
    fn take(shared: &Arc<Shared>) -> Option<Seat> {
        let most = shared.options.connections;
        let more = |n| (n < most).then_some(n + 1);
        shared.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Seat(shared.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        self.0.ended.notify_waiters();
    }
}

/// A thread's work: all its connections, until the portal stops.
async fn serve(
    mut sockets: mpsc::UnboundedReceiver<Accepted>,
    shared: Arc<Shared>,
    stop: watch::Receiver<Stop>,
) {
    let mut connections = FuturesUnordered::new();
    let mut open = true;
    let mut patience = Patience::new(Instant::now());
    // On a single processor whoever is waited for could not run.
    let waits = std::thread::available_parallelism().is_ok_and(|n| n.get() > 1);
    let heard = Arc::new(AtomicBool::new(false));
    poll_fn(|cx| {
        let began = Instant::now();
        while let Poll::Ready(accepted) = sockets.poll_recv(cx) {
            match accepted {
                Some(accepted) => {
                    connections.push(attend(accepted, shared.clone(), stop.clone(), heard.clone()))
                }
                None => {
                    open = false;
                    break;
                }
            }
        }
        let alone = connections.len() == 1;
        image::turn(alone, || while let Poll::Ready(Some(())) = connections.poll_next_unpin(cx) {});
        if !open && connections.is_empty() {
            return Poll::Ready(());
        }
        let now = Instant::now();
        if heard.swap(false, Ordering::Relaxed) {
            patience.worked(began, now);
        }
        if waits && patience.lasts(now) {
            std::thread::yield_now();
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
}

/// One connection, from accepted to gone. A panic ends this connection and no other, unless the process has it end everything.
async fn attend(
    accepted: Accepted,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<Stop>,
    heard: Arc<AtomicBool>,
) {
    let Accepted { socket, peer, seat } = accepted;
    let prepared = socket.set_nodelay(true).and_then(|()| socket.local_addr()).and_then(|local| {
        let socket = tokio::net::TcpStream::from_std(socket)?;
        Ok((socket, local))
    });
    let (socket, local) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return tracing::debug!("{peer} was gone before it was served: {error}"),
    };
    let connection =
        Connection::new(shared.targets.clone(), peer, local, Instant::now().duration_since(shared.origin));
    let stopped = async {
        // An error means that the portal was dropped, which is a stop too.
        let _ = stop.wait_for(|stop| *stop >= Stop::Serving).await;
    };
    match AssertUnwindSafe(drive(connection, socket, shared.origin, &heard, stopped)).catch_unwind().await {
        Ok(Some(reason)) => tracing::info!("closed the connection of {peer}: {reason}"),
        Ok(None) => tracing::debug!("{peer} has left"),
        Err(_) => tracing::error!(
            "the connection of {peer} broke on a fault of ours; please report it with the log"
        ),
    }
    drop(seat);
}
