//! A TCP proxy on loopback that loses, delays and breaks on demand, in front of any server.

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
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// A TCP proxy in front of any server, a real one too, that breaks on demand. Dropping it closes everything it has
/// open.
///
/// ```
/// # async fn example(zookeeper: &lockkeeper_embedded::Embedded) -> std::io::Result<()> {
/// use lockkeeper_embedded::Proxy;
///
/// let proxy = Proxy::start(zookeeper.address()).await?;
/// // … a client connects to proxy.address(), and then its cable is pulled:
/// proxy.black_hole(true);
/// # Ok(())
/// # }
/// ```
///
/// Each order is in force when its method returns: after `black_hole(true)` not one more byte is
/// delivered, whatever was on its way.
pub struct Proxy {
    address: String,
    orders: Arc<watch::Sender<Orders>>,
    counts: Arc<Counts>,
    listening: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy that passes everything to `target`, an address like `127.0.0.1:2181`.
    pub async fn start(target: impl Into<String>) -> io::Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let orders = Arc::new(watch::Sender::new(Orders::default()));
        let counts = Arc::new(Counts::default());
        let target = target.into();
        let listening = tokio::spawn(listen(listener, target, Arc::clone(&orders), Arc::clone(&counts)));
        Ok(Proxy { address: address.to_string(), orders, counts, listening })
    }

    /// Where clients connect to.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Breaks every open connection: the client sees a reset. What is held is lost, and so is
    /// every answer that comes in late. Connections made afterwards pass. This also ends
    /// `drop_replies_then_cut`, but neither `refuse` nor a hold.
    pub fn cut(&self) {
        self.orders.send_modify(|orders| {
            orders.cuts += 1;
            orders.drop_replies = false;
        });
    }

    /// While on, new connections are accepted and closed at once. Open ones go on.
    pub fn refuse(&self, on: bool) {
        self.orders.send_modify(|orders| orders.refuse = on);
    }

    /// While on, the bytes of both directions are held, and so is the news that one side has
    /// closed. Connections stay open and new ones are accepted. Switching it off delivers what
    /// is held.
    pub fn black_hole(&self, on: bool) {
        self.orders.send_modify(|orders| orders.hold_all = on);
    }

    /// The same for what the server sends; what the client sends gets through.
    pub fn hold_replies(&self, on: bool) {
        self.orders.send_modify(|orders| orders.hold_replies = on);
    }

    /// From now on what the server sends is thrown away, until `cut` ends the connections. So a
    /// request is carried out, and the client cannot know: the ambiguous outcome.
    pub fn drop_replies_then_cut(&self) {
        self.orders.send_modify(|orders| orders.drop_replies = true);
    }

    /// From now on what is read is passed on that much later, in order, in both directions. Zero ends it.
    pub fn delay(&self, delay: Duration) {
        self.orders.send_modify(|orders| orders.delay = delay);
    }

    /// The server's side of every open connection is closed, and the client's stays open and silent: its peer is
    /// gone, and it was not told. Until `cut`.
    pub fn half_open(&self) {
        self.orders.send_modify(|orders| orders.halves += 1);
    }

    /// How many connections have been accepted so far, including the refused ones.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    pub fn open(&self) -> u64 {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// How many bytes of the server's answers have been thrown away so far. That this grows is
    /// how a test notices that the server has answered.
    pub fn dropped_bytes(&self) -> u64 {
        self.counts.dropped_bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The tasks of the connections belong to this one and end with it.
        self.listening.abort();
    }
}

/// What the connections are told. Each looks here at the very moment of a write, and
/// `watch::Sender::send_modify` waits for those looking: that is what makes an order take
/// effect at once.
#[derive(Default)]
struct Orders {
    /// A connection ends when this differs from what it was when the connection was accepted.
    cuts: u64,
    /// A connection loses its server when this differs from what it was when the connection was accepted.
    halves: u64,
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

/// Counts a connection as open as long as it exists, also when its task is aborted.
struct Open(Arc<Counts>);

impl Open {
    fn new(counts: &Arc<Counts>) -> Open {
        counts.open.fetch_add(1, Ordering::SeqCst);
        Open(Arc::clone(counts))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn listen(
    listener: TcpListener,
    target: String,
    orders: Arc<watch::Sender<Orders>>,
    counts: Arc<Counts>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A client that left before it was accepted is no reason to stop.
                let Ok((client, _)) = accepted else { continue };
                counts.accepted.fetch_add(1, Ordering::SeqCst);
                let orders = orders.subscribe();
                if orders.borrow().refuse {
                    continue;
                }
                connections.spawn(connection(client, target.clone(), orders, Open::new(&counts)));
            }
            // Takes those that ended out of the set.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(mut client: TcpStream, target: String, mut orders: watch::Receiver<Orders>, open: Open) {
    let (cuts, halves) = {
        let orders = orders.borrow_and_update();
        (orders.cuts, orders.halves)
    };
    let ended = tokio::select! {
        // An order wins over bytes that are ready at the same time.
        biased;
        _ = ordered(orders.clone(), move |orders| orders.cuts != cuts) => Err(broken()),
        _ = ordered(orders.clone(), move |orders| orders.halves != halves) => {
            // The server's side has been dropped with the other branch.
            ordered(orders.clone(), move |orders| orders.cuts != cuts).await;
            Err(broken())
        }
        ended = pass(&mut client, &target, &orders, cuts, &open) => ended,
    };
    if ended.is_err() {
        // Towards the client this makes closing a reset. Towards the server it must not: that
        // might take back requests the server has not read yet.
        let _ = client.set_zero_linger();
    }
}

async fn ordered(mut orders: watch::Receiver<Orders>, what: impl FnMut(&Orders) -> bool) {
    // An error means that the proxy is gone, and then the connection is to end as well.
    let _ = orders.wait_for(what).await;
}

/// Passes bytes until both sides have closed, or one has failed.
async fn pass(
    client: &mut TcpStream,
    target: &str,
    orders: &watch::Receiver<Orders>,
    cuts: u64,
    open: &Open,
) -> io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let pump = |direction| Pump { orders: orders.clone(), cuts, direction, counts: &open.0 };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        pump(Direction::Requests).run(from_client, to_server),
        pump(Direction::Replies).run(from_server, to_client),
    )?;
    Ok(())
}

/// One direction of one connection.
struct Pump<'a> {
    orders: watch::Receiver<Orders>,
    cuts: u64,
    direction: Direction,
    counts: &'a Counts,
}

/// What may be done with bytes, or with the end of them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Deliver,
    Drop,
    Hold,
    Break,
}

impl Pump<'_> {
    async fn run(mut self, from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let count = read(&from, &mut buffer).await?;
            if count == 0 {
                return self.close(&mut to).await;
            }
            let delay = self.orders.borrow().delay;
            tokio::time::sleep(delay).await;
            self.deliver(&to, &buffer[..count]).await?;
        }
    }

    /// Writes, or throws away, as the orders say at each moment.
    async fn deliver(&mut self, to: &WriteHalf<'_>, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let outcome = {
                // No order can change between this look and the end of the write.
                let orders = self.orders.borrow();
                match self.verdict(&orders) {
                    Verdict::Deliver => Some(to.try_write(bytes)),
                    Verdict::Drop => {
                        let count = bytes.len().try_into().unwrap_or(u64::MAX);
                        self.counts.dropped_bytes.fetch_add(count, Ordering::SeqCst);
                        return Ok(());
                    }
                    Verdict::Hold => None,
                    Verdict::Break => return Err(broken()),
                }
            };
            match outcome {
                Some(Ok(count)) => bytes = &bytes[count..],
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    to.writable().await?;
                }
                Some(Err(error)) => return Err(error),
                None => self.verdict_other_than(&[Verdict::Hold]).await?,
            }
        }
        Ok(())
    }

    /// Passes on that the sender has closed. While answers are thrown away this is one of them,
    /// except that it is not lost: it waits for the cut.
    async fn close(&mut self, to: &mut WriteHalf<'_>) -> io::Result<()> {
        loop {
            self.verdict_other_than(&[Verdict::Hold, Verdict::Drop]).await?;
            let closed = poll_fn(|context| {
                let orders = self.orders.borrow();
                match self.verdict(&orders) {
                    Verdict::Deliver => Pin::new(&mut *to).poll_shutdown(context).map(Some),
                    Verdict::Hold | Verdict::Drop => Poll::Ready(None),
                    Verdict::Break => Poll::Ready(Some(Err(broken()))),
                }
            });
            if let Some(outcome) = closed.await {
                return outcome;
            }
        }
    }

    fn verdict(&self, orders: &Orders) -> Verdict {
        let reply = self.direction == Direction::Replies;
        if orders.cuts != self.cuts {
            Verdict::Break
        } else if orders.hold_all || (orders.hold_replies && reply) {
            Verdict::Hold
        } else if orders.drop_replies && reply {
            Verdict::Drop
        } else {
            Verdict::Deliver
        }
    }

    async fn verdict_other_than(&self, those: &[Verdict]) -> io::Result<()> {
        let mut orders = self.orders.clone();
        let changed = orders.wait_for(|orders| !those.contains(&self.verdict(orders)));
        // An error means that the proxy is gone.
        changed.await.map(|_| ()).map_err(|_| broken())
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

fn broken() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}
