//! Runs one connection machine on a socket.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use base::{BoxFuture, Result};
use futures_util::future::{AbortHandle, Abortable, poll_fn};
use futures_util::stream::{FuturesUnordered, StreamExt};
use scsi::iscsi::{Connection, Event, TaskId};
use scsi::medium::Admission;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// Pieces of one vectored write.
const SLICES: usize = 128;

/// Rounds of reading, running and writing before other connections of the thread have their turn.
const ROUNDS: usize = 16;

/// What came of an admission.
type Admitted = (TaskId, Result<Admission>);

/// Work outside the machine that is not the running of commands.
#[derive(Default)]
struct Errands {
    admissions: FuturesUnordered<Abortable<BoxFuture<'static, Admitted>>>,
    abandon: BTreeMap<TaskId, AbortHandle>,
    functions: FuturesUnordered<BoxFuture<'static, u64>>,
}

impl Errands {
    fn admit(&mut self, task: TaskId, ask: BoxFuture<'static, Admitted>) {
        let (handle, registration) = AbortHandle::new_pair();
        self.abandon.insert(task, handle);
        self.admissions.push(Abortable::new(ask, registration));
    }

    fn abandon(&mut self, task: TaskId) {
        if let Some(handle) = self.abandon.remove(&task) {
            handle.abort();
        }
    }

    /// Brings what has ended to the machine; says whether anything has.
    fn poll(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> bool {
        let mut ended = false;
        while let Poll::Ready(Some(admitted)) = self.admissions.poll_next_unpin(cx) {
            if let Ok((task, answer)) = admitted {
                self.abandon.remove(&task);
                connection.admitted(task, answer);
                ended = true;
            }
        }
        while let Poll::Ready(Some(number)) = self.functions.poll_next_unpin(cx) {
            connection.function_done(number);
            ended = true;
        }
        ended
    }
}

/// Serves a connection until it has ended and all its commands have; `heard` says that something came. Returns why this side ended it, if it did.
pub(crate) async fn drive(
    mut connection: Connection,
    socket: TcpStream,
    origin: Instant,
    heard: &AtomicBool,
    stopped: impl Future<Output = ()>,
) -> Option<&'static str> {
    let mut socket = Some(socket);
    let mut running = FuturesUnordered::new();
    let mut errands = Errands::default();
    let mut sleep = pin!(sleep_until(origin));
    let mut stopped = pin!(stopped);
    let mut stopping = false;
    poll_fn(|cx| {
        connection.register(cx.waker());
        for _ in 0..ROUNDS {
            let now = Instant::now().duration_since(origin);
            connection.handle_notices();
            let read = receive(&mut connection, &mut socket, now, cx);
            if read {
                heard.store(true, Ordering::Relaxed);
            }
            // Until nothing ends and nothing begins: a command that ends at once is answered in this round.
            loop {
                let mut moved = errands.poll(&mut connection, cx);
                while let Poll::Ready(Some((task, outcome))) = running.poll_next_unpin(cx) {
                    connection.executed(task, outcome);
                    moved = true;
                }
                while let Some(event) = connection.poll_event() {
                    moved = true;
                    match event {
                        Event::Execute(execution) => running.push(execution.run()),
                        Event::Admit { task, bytes, medium } => {
                            errands.admit(task, Box::pin(async move { (task, medium.admit(bytes).await) }));
                        }
                        Event::Abandon { task } => errands.abandon(task),
                        Event::Function { number, device, nexus, lun, function } => {
                            errands.functions.push(Box::pin(async move {
                                device.task_function(&nexus, lun, function).await;
                                number
                            }));
                        }
                    }
                }
                connection.handle_notices();
                if !moved {
                    break;
                }
            }
            let written = send(&mut connection, &mut socket, cx);
            if connection.is_finished() {
                return Poll::Ready(());
            }
            if read || written {
                continue;
            }
            if !stopping && stopped.as_mut().poll(cx).is_ready() {
                stopping = true;
                connection.disconnect();
                socket = None;
                continue;
            }
            if keep_time(&mut connection, sleep.as_mut(), origin, cx) {
                continue;
            }
            return Poll::Pending;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    connection.reason()
}

/// Reads once; says whether something came.
fn receive(
    connection: &mut Connection,
    socket: &mut Option<TcpStream>,
    now: std::time::Duration,
    cx: &mut Context<'_>,
) -> bool {
    let mut ignored = [0; 256];
    let parting = connection.is_parting();
    let (Some(open), Some(space)) =
        (socket.as_mut(), if parting { Some(&mut ignored[..]) } else { connection.input_space() })
    else {
        return false;
    };
    let mut buf = ReadBuf::new(space);
    match Pin::new(open).poll_read(cx, &mut buf) {
        Poll::Pending => false,
        Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
            let n = buf.filled().len();
            if !parting {
                connection.received(now, n);
            }
            true
        }
        Poll::Ready(_) => {
            connection.disconnect();
            *socket = None;
            true
        }
    }
}

/// Sends as much as the socket takes, and closes it when that is due; says whether input may have become possible.
fn send(connection: &mut Connection, socket: &mut Option<TcpStream>, cx: &mut Context<'_>) -> bool {
    if connection.is_disconnected() {
        *socket = None;
    }
    let Some(open) = socket.as_mut() else { return false };
    let mut sent = false;
    while connection.output().pending() > 0 {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let used = connection.output().slices(&mut slices);
        match Pin::new(&mut *open).poll_write_vectored(cx, &slices[..used]) {
            Poll::Pending => return sent,
            Poll::Ready(Ok(n)) if n > 0 => connection.sent(n),
            Poll::Ready(_) => {
                connection.disconnect();
                *socket = None;
                return true;
            }
        }
        sent = true;
    }
    if connection.is_closing() && !connection.is_parting() {
        connection.disconnect();
        *socket = None;
        return true;
    }
    sent
}

/// Tells the machine of time that has passed, and sets the alarm; says whether the machine had something to do.
fn keep_time(
    connection: &mut Connection,
    mut sleep: Pin<&mut tokio::time::Sleep>,
    origin: Instant,
    cx: &mut Context<'_>,
) -> bool {
    let Some(due) = connection.poll_timeout() else { return false };
    let due = origin + due;
    // A deadline that has moved on is noticed when the old one comes: no timer is touched per command.
    let passed = sleep.is_elapsed();
    if !passed && sleep.deadline() <= due && sleep.as_mut().poll(cx).is_pending() {
        return false;
    }
    let now = Instant::now();
    if now >= due {
        connection.handle_timeout(now.duration_since(origin));
        return true;
    }
    sleep.as_mut().reset(due);
    sleep.poll(cx).is_ready()
}
