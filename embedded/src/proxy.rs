//! A TCP proxy on loopback that injects network faults between clients and any server.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::net::MAX_DURATION;

/// How many bytes are read at once.
const CHUNK: usize = 16 << 10;
/// How many such reads can be under way in one direction of a connection. The proxy reads no more until it has delivered
/// the first one.
const UNDER_WAY: usize = 256;

/// A TCP proxy that injects network faults between clients and any server, including a real one. Dropping it closes
/// all its connections.
///
/// ```
/// # async fn example(zookeeper: &lockkeeper_embedded::Embedded) -> std::io::Result<()> {
/// use lockkeeper_embedded::Proxy;
///
/// let proxy = Proxy::start(zookeeper.address()).await?;
/// // A client connects to proxy.address(). Then the network drops everything:
/// proxy.black_hole(true);
/// # Ok(())
/// # }
/// ```
///
/// Each fault is in effect when its method returns: after `black_hole(true)` not one more byte is delivered, even if
/// it was already in transit.
pub struct Proxy {
    address: String,
    faults: Arc<watch::Sender<Faults>>,
    counts: Arc<Counts>,
    listening: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy that forwards connections to `target`, an address like `127.0.0.1:2181`.
    ///
    /// Unlike an embedded server, the proxy runs on the caller's runtime. While a test blocks that runtime, nothing
    /// passes. When the runtime ends, so does the proxy.
    pub async fn start(target: impl Into<String>) -> io::Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let faults = Arc::new(watch::Sender::new(Faults::default()));
        let counts = Arc::new(Counts::default());
        let target = target.into();
        let listening = tokio::spawn(listen(listener, target, Arc::clone(&faults), Arc::clone(&counts)));
        Ok(Proxy { address: address.to_string(), faults, counts, listening })
    }

    /// The address that clients connect to.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Resets every open connection. Bytes that are held back are lost, and so are later replies. New connections work.
    /// This also ends [`drop_replies_then_cut`](Self::drop_replies_then_cut), but not [`refuse`](Self::refuse),
    /// [`black_hole`](Self::black_hole) or [`hold_replies`](Self::hold_replies).
    pub fn cut(&self) {
        self.faults.send_modify(|faults| {
            faults.cuts += 1;
            faults.drop_replies = false;
        });
    }

    /// While on, new connections are accepted and closed at once. Open connections are not affected.
    pub fn refuse(&self, on: bool) {
        self.faults.send_modify(|faults| faults.refuse = on);
    }

    /// While on, bytes in both directions are held back, and so is the closing or the reset of either side. Connections
    /// stay open and new ones are accepted, even if the server is down. Turning it off delivers what was held back.
    pub fn black_hole(&self, on: bool) {
        self.faults.send_modify(|faults| faults.hold_all = on);
    }

    /// Like [`black_hole`](Self::black_hole), but only from the server to the client. Requests are delivered.
    pub fn hold_replies(&self, on: bool) {
        self.faults.send_modify(|faults| faults.hold_replies = on);
    }

    /// Discards everything the server sends until [`cut`](Self::cut) ends the connections. The server executes the
    /// requests, but the client cannot know the outcome.
    pub fn drop_replies_then_cut(&self) {
        self.faults.send_modify(|faults| faults.drop_replies = true);
    }

    /// Delays bytes in both directions from now on, and keeps their order. The bytes flow as on a long link: up to four
    /// megabytes of each direction of a connection can be under way. The delay is capped at a hundred years. Zero ends
    /// it, also for the bytes under way.
    pub fn delay(&self, delay: Duration) {
        self.faults.send_modify(|faults| faults.delay = delay.min(MAX_DURATION));
    }

    /// Closes the server's side of every open connection without telling the client. The client's side stays open and
    /// silent until [`cut`](Self::cut).
    pub fn half_open(&self) {
        self.faults.send_modify(|faults| faults.half_opens += 1);
    }

    /// How many connections have been accepted so far, including the refused ones.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    pub fn open(&self) -> u64 {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// How many bytes of the server's replies have been discarded so far. A test can watch this number to notice that
    /// the server has replied.
    pub fn dropped_bytes(&self) -> u64 {
        self.counts.dropped_bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // This task owns the connections' tasks, so aborting it ends them too.
        self.listening.abort();
    }
}

/// The faults in effect. Each connection borrows this value for the duration of a write, and
/// `watch::Sender::send_modify` waits for all borrows to end. So a fault is in effect when `send_modify` returns.
#[derive(Default)]
struct Faults {
    /// How often `cut` was called. A connection ends when this has changed since it was accepted.
    cuts: u64,
    /// How often `half_open` was called. A connection's server side is closed when this has changed since the
    /// connection was accepted.
    half_opens: u64,
    delay: Duration,
    refuse: bool,
    hold_all: bool,
    hold_replies: bool,
    drop_replies: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Requests,
    Replies,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    open: AtomicU64,
    dropped_bytes: AtomicU64,
}

/// Counts a connection as open until it is dropped. This also works when the connection's task is aborted.
struct OpenGuard(Arc<Counts>);

impl OpenGuard {
    fn new(counts: &Arc<Counts>) -> OpenGuard {
        counts.open.fetch_add(1, Ordering::SeqCst);
        OpenGuard(Arc::clone(counts))
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn listen(
    listener: TcpListener,
    target: String,
    faults: Arc<watch::Sender<Faults>>,
    counts: Arc<Counts>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else {
                    // Most likely the process is out of file descriptors, so wait a little before the next attempt.
                    sleep(Duration::from_millis(20)).await;
                    continue;
                };
                counts.accepted.fetch_add(1, Ordering::SeqCst);
                let faults = faults.subscribe();
                let before = {
                    let faults = faults.borrow();
                    if faults.refuse {
                        continue;
                    }
                    (faults.cuts, faults.half_opens)
                };
                let open = OpenGuard::new(&counts);
                connections.spawn(connection(client, target.clone(), faults, before, open));
            }
            // Removes ended connections from the set.
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves a connection. `cuts` and `half_opens` are those at the time when it was accepted.
async fn connection(
    mut client: TcpStream,
    target: String,
    faults: watch::Receiver<Faults>,
    (cuts, half_opens): (u64, u64),
    open: OpenGuard,
) {
    let ended = tokio::select! {
        // A fault takes precedence over bytes that are ready at the same time.
        biased;
        _ = wait_for(faults.clone(), move |faults| faults.cuts != cuts) => Err(connection_reset()),
        _ = wait_for(faults.clone(), move |faults| faults.half_opens != half_opens) => {
            // The server's side was closed when the `pass` branch was dropped.
            wait_for(faults.clone(), move |faults| faults.cuts != cuts).await;
            Err(connection_reset())
        }
        ended = pass(&mut client, &target, &faults, cuts, &open) => ended,
    };
    if ended.is_err() {
        // Closing the client's side sends a reset. The server's side must not be reset: that could discard requests
        // that the server has not read yet.
        let _ = client.set_zero_linger();
    }
}

async fn wait_for(mut faults: watch::Receiver<Faults>, what: impl FnMut(&Faults) -> bool) {
    // An error means that the proxy was dropped. The connection ends in that case too.
    let _ = faults.wait_for(what).await;
}

/// Forwards bytes until both sides have closed or one has failed.
async fn pass(
    client: &mut TcpStream,
    target: &str,
    faults: &watch::Receiver<Faults>,
    cuts: u64,
    open: &OpenGuard,
) -> io::Result<()> {
    let pump = |direction| Pump { faults: faults.clone(), cuts, direction, counts: &open.0 };
    let mut server = match TcpStream::connect(target).await {
        Ok(server) => server,
        Err(error) => return pump(Direction::Replies).fail(error).await,
    };
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        pump(Direction::Requests).run(from_client, to_server),
        pump(Direction::Replies).run(from_server, to_client),
    )?;
    Ok(())
}

/// Forwards the bytes of one direction of one connection.
struct Pump<'a> {
    faults: watch::Receiver<Faults>,
    cuts: u64,
    direction: Direction,
    counts: &'a Counts,
}

/// What to do with the next bytes, or with the end of the stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Deliver,
    Drop,
    Hold,
    Break,
}

impl Pump<'_> {
    async fn run(mut self, from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
        let (sender, mut under_way) = mpsc::channel(UNDER_WAY);
        let faults = self.faults.clone();
        // It owns the sender, so `writing` ends after the last chunk.
        let reading = async move {
            let mut buffer = vec![0; CHUNK];
            loop {
                let chunk = read(&from, &mut buffer).await.map(|count| buffer[..count].to_vec());
                let is_last = !matches!(&chunk, Ok(bytes) if !bytes.is_empty());
                let due = Instant::now() + faults.borrow().delay;
                if sender.send((due, chunk)).await.is_err() || is_last {
                    return Ok(());
                }
            }
        };
        let writing = async {
            while let Some((due, chunk)) = under_way.recv().await {
                self.wait_until(due).await;
                let delivered = match chunk {
                    Ok(bytes) if bytes.is_empty() => self.shut_down(&mut to).await,
                    Ok(bytes) => self.deliver(&to, &bytes).await,
                    Err(error) => return self.fail(error).await,
                };
                if let Err(error) = delivered {
                    // The receiver has reset its side. The sender learns that from what comes back.
                    return self.back().fail(error).await;
                }
            }
            Ok(())
        };
        tokio::try_join!(reading, writing)?;
        Ok(())
    }

    /// The other direction of the same connection.
    fn back(&self) -> Pump<'_> {
        let direction = match self.direction {
            Direction::Requests => Direction::Replies,
            Direction::Replies => Direction::Requests,
        };
        Pump { faults: self.faults.clone(), direction, ..*self }
    }

    /// Waits until the given time, or until there is no delay any more.
    async fn wait_until(&self, due: Instant) {
        tokio::select! {
            biased;
            () = wait_for(self.faults.clone(), |faults| faults.delay.is_zero()) => {}
            () = sleep_until(due) => {}
        }
    }

    /// Writes the bytes, holds them back or discards them, according to the faults in effect.
    async fn deliver(&mut self, to: &WriteHalf<'_>, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let outcome = {
                // The borrow keeps the faults from changing until the write is done.
                let faults = self.faults.borrow();
                match self.action(&faults) {
                    Action::Deliver => Some(to.try_write(bytes)),
                    Action::Drop => {
                        let count = bytes.len().try_into().unwrap_or(u64::MAX);
                        self.counts.dropped_bytes.fetch_add(count, Ordering::SeqCst);
                        return Ok(());
                    }
                    Action::Hold => None,
                    Action::Break => return Err(connection_reset()),
                }
            };
            match outcome {
                Some(Ok(count)) => bytes = &bytes[count..],
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    to.writable().await?;
                }
                Some(Err(error)) => return Err(error),
                None => self.wait_while(&[Action::Hold]).await?,
            }
        }
        Ok(())
    }

    /// Closes the receiver's side after the sender has closed its own. While bytes are held back or discarded, this
    /// waits.
    async fn shut_down(&mut self, to: &mut WriteHalf<'_>) -> io::Result<()> {
        loop {
            self.wait_while(&[Action::Hold, Action::Drop]).await?;
            let closed = poll_fn(|context| {
                let faults = self.faults.borrow();
                match self.action(&faults) {
                    Action::Deliver => Pin::new(&mut *to).poll_shutdown(context).map(Some),
                    Action::Hold | Action::Drop => Poll::Ready(None),
                    Action::Break => Poll::Ready(Some(Err(connection_reset()))),
                }
            });
            if let Some(outcome) = closed.await {
                return outcome;
            }
        }
    }

    /// Ends the connection after the sender has reset its side or could not be reached. While bytes are held back or
    /// discarded, this waits.
    async fn fail(&self, error: io::Error) -> io::Result<()> {
        self.wait_while(&[Action::Hold, Action::Drop]).await?;
        Err(error)
    }

    fn action(&self, faults: &Faults) -> Action {
        let reply = self.direction == Direction::Replies;
        if faults.cuts != self.cuts {
            Action::Break
        } else if faults.hold_all || (faults.hold_replies && reply) {
            Action::Hold
        } else if faults.drop_replies && reply {
            Action::Drop
        } else {
            Action::Deliver
        }
    }

    async fn wait_while(&self, actions: &[Action]) -> io::Result<()> {
        let mut faults = self.faults.clone();
        let changed = faults.wait_for(|faults| !actions.contains(&self.action(faults)));
        // An error means that the proxy was dropped.
        changed.await.map(|_| ()).map_err(|_| connection_reset())
    }
}

async fn read(from: &ReadHalf<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        from.readable().await?;
        match from.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => return outcome,
        }
    }
}

fn connection_reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("address", &self.address).finish_non_exhaustive()
    }
}
