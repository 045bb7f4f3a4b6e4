//! A proxy on loopback whose connections suffer drawn faults, until it is calm.

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use crate::faults::{Fault, Plan, Strike};
use crate::history::History;

/// The proxy of one client. Dropping it ends its connections.
pub struct Proxy {
    address: String,
    listening: JoinHandle<()>,
}

impl Proxy {
    /// The first connections suffer these plans, one each.
    pub async fn start(
        name: String,
        target: String,
        plans: Vec<Plan>,
        calm: watch::Receiver<bool>,
        history: Arc<History>,
    ) -> io::Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?.to_string();
        let line = Arc::new(Line { name, target, calm, history, newest: watch::Sender::new(0) });
        let listening = tokio::spawn(listen(listener, line, plans.into()));
        Ok(Proxy { address, listening })
    }

    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// What all connections of a proxy share.
struct Line {
    name: String,
    target: String,
    calm: watch::Receiver<bool>,
    history: Arc<History>,
    /// The newest connection of which the server has got more than the handshake.
    newest: watch::Sender<usize>,
}

impl Line {
    fn is_calm(&self) -> bool {
        *self.calm.borrow()
    }

    /// Waits for this time, or until it is calm.
    async fn wait(&self, time: Duration) {
        let _ = timeout(time, self.calm.clone().wait_for(|calm| *calm)).await;
    }
}

async fn listen(listener: TcpListener, line: Arc<Line>, mut plans: VecDeque<Plan>) {
    let (mut connections, mut number) = (JoinSet::new(), 0);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // The client may have gone before it was accepted.
                let Ok((client, _)) = accepted else { continue };
                number += 1;
                let plan = plans.pop_front().filter(|_| !line.is_calm()).unwrap_or_default();
                connections.spawn(connection(client, number, plan, line.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Why a connection ends before both sides have ended.
enum End {
    Close,
    Reset,
    /// These bytes arrive later.
    Late(Vec<u8>),
    /// A side has gone.
    Broken,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Broken
    }
}

async fn connection(mut client: TcpStream, number: usize, plan: Plan, line: Arc<Line>) {
    let Ok(mut server) = TcpStream::connect(&line.target).await else { return };
    // Without it, small pieces would be sent together.
    if client.set_nodelay(true).and(server.set_nodelay(true)).is_err() {
        return;
    }
    let end = {
        let pump = |direction, strikes| Pump {
            line: &line,
            number,
            direction,
            strikes,
            position: 0,
            frames: Frames::default(),
            pace: Pace::Whole,
        };
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        tokio::try_join!(
            pump(Direction::Requests, plan.requests).run(from_client, to_server),
            pump(Direction::Replies, plan.replies).run(from_server, to_client),
        )
    };
    match end {
        Ok(_) | Err(End::Broken) => {}
        Err(End::Close) => {
            let _ = client.shutdown().await;
            let _ = server.shutdown().await;
        }
        Err(End::Reset) => {
            let _ = client.set_zero_linger();
        }
        Err(End::Late(bytes)) => {
            drop(client);
            let mut newest = line.newest.subscribe();
            let overtaken = timeout(LATEST, newest.wait_for(|newest| *newest > number)).await.is_ok();
            if server.write_all(&bytes).await.is_ok() && overtaken {
                Fault::Late.struck();
                line.history.note(format!("{}: late bytes of connection {number} arrive", line.name));
            }
            // The server reads them before it sees the end.
            let _ = server.shutdown().await;
            let _ = timeout(LATEST, tokio::io::copy(&mut server, &mut tokio::io::sink())).await;
        }
    }
}

/// How long late bytes wait for those of a newer connection, and for the server to end.
const LATEST: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Requests,
    Replies,
}

/// How the next bytes are delivered.
enum Pace {
    Whole,
    /// So many bytes one at a time.
    Bytes(usize),
    /// So many bytes in small pieces, with a pause after each.
    Pieces(usize, Duration),
    /// Not at all.
    Never,
}

/// One direction of one connection.
struct Pump<'a> {
    line: &'a Line,
    number: usize,
    direction: Direction,
    strikes: VecDeque<Strike>,
    position: usize,
    frames: Frames,
    pace: Pace,
}

impl Pump<'_> {
    async fn run(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), End> {
        let mut buffer = vec![0; 4096];
        loop {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                // The other side may have gone.
                let _ = to.shutdown().await;
                return Ok(());
            }
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                if self.line.is_calm() {
                    self.strikes.clear();
                }
                let due = |strike: &Strike| strike.at.saturating_sub(self.position);
                match self.strikes.front().map(due) {
                    Some(0) => self.strike(&mut rest, &mut from, &mut to).await?,
                    distance => {
                        let (next, behind) = rest.split_at(rest.len().min(distance.unwrap_or(usize::MAX)));
                        self.deliver(next, &mut to).await?;
                        rest = behind;
                    }
                }
            }
        }
    }

    async fn strike(
        &mut self,
        rest: &mut &[u8],
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
    ) -> Result<(), End> {
        let Some(Strike { at, fault }) = self.strikes.pop_front() else { return Ok(()) };
        let Pump { number, direction, .. } = *self;
        self.line
            .history
            .note(format!("{}: connection {number}, {direction:?}, byte {at}: {fault:?}", self.line.name));
        match fault {
            Fault::Truncate => {
                if self.frames.is_between() {
                    self.deliver(&rest[..1], to).await?;
                }
                fault.struck();
                return Err(End::Close);
            }
            Fault::Reset => {
                fault.struck();
                return Err(End::Reset);
            }
            Fault::HalfClose => {
                fault.struck();
                to.shutdown().await?;
                self.pace = Pace::Never;
                self.strikes.clear();
            }
            Fault::Fragment { bytes } => self.pace = Pace::Bytes(bytes),
            Fault::Trickle { bytes, pause } => self.pace = Pace::Pieces(bytes, pause),
            Fault::Pause { time } | Fault::Stall { time } => {
                fault.struck();
                self.line.wait(time).await;
            }
            Fault::Coalesce { time } => {
                let mut held = rest.to_vec();
                self.line.wait(time).await;
                let mut more = [0; 4096];
                while let Ok(count @ 1..) = from.try_read(&mut more) {
                    held.extend_from_slice(&more[..count]);
                }
                *rest = &[];
                if self.write(&held, to).await? > 1 {
                    fault.struck();
                }
            }
            Fault::Late => {
                let mut held = rest.to_vec();
                // What else the client has sent by now.
                sleep(Duration::from_millis(2)).await;
                let mut more = [0; 4096];
                while let Ok(count @ 1..) = from.try_read(&mut more) {
                    held.extend_from_slice(&more[..count]);
                }
                return Err(End::Late(held));
            }
        }
        Ok(())
    }

    async fn deliver(&mut self, mut bytes: &[u8], to: &mut WriteHalf<'_>) -> Result<(), End> {
        while !bytes.is_empty() {
            if self.line.is_calm() && !matches!(self.pace, Pace::Never) {
                self.pace = Pace::Whole;
            }
            let (size, pause, left) = match self.pace {
                Pace::Never => return Ok(()),
                Pace::Whole => (bytes.len(), None, 0),
                Pace::Bytes(left) => (1, None, left - 1),
                Pace::Pieces(left, pause) => {
                    (bytes.len().min(left).min(3), Some(pause), left.saturating_sub(3))
                }
            };
            let (piece, behind) = bytes.split_at(size);
            self.write(piece, to).await?;
            bytes = behind;
            match (&self.pace, pause) {
                (Pace::Whole | Pace::Never, _) => {}
                (_, None) => {
                    yield_now().await;
                    self.pace = if left == 0 { Pace::Whole } else { Pace::Bytes(left) };
                    if left == 0 {
                        Fault::Fragment { bytes: 0 }.struck();
                    }
                }
                (_, Some(pause)) => {
                    self.line.wait(pause).await;
                    self.pace = if left == 0 { Pace::Whole } else { Pace::Pieces(left, pause) };
                    if left == 0 {
                        Fault::Trickle { bytes: 0, pause }.struck();
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes the bytes at once. Returns how many frames end in them.
    async fn write(&mut self, bytes: &[u8], to: &mut WriteHalf<'_>) -> Result<usize, End> {
        to.write_all(bytes).await?;
        self.position += bytes.len();
        if self.direction == Direction::Requests && self.position > HANDSHAKE {
            self.line.newest.send_if_modified(|newest| {
                let newer = *newest < self.number;
                *newest = self.number.max(*newest);
                newer
            });
        }
        Ok(self.frames.advance(bytes))
    }
}

/// The length of a connect request, with its length prefix.
const HANDSHAKE: usize = 49;

/// Where the end of a stream is within its frames.
#[derive(Default)]
struct Frames {
    prefix: Vec<u8>,
    left: usize,
}

impl Frames {
    /// Returns how many frames end in these bytes.
    fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut ended = 0;
        for byte in bytes {
            if self.left > 0 {
                self.left -= 1;
            } else {
                self.prefix.push(*byte);
                let Ok(length) = <[u8; 4]>::try_from(&*self.prefix) else { continue };
                self.left = usize::try_from(i32::from_be_bytes(length)).unwrap_or_default();
                self.prefix.clear();
            }
            ended += usize::from(self.left == 0);
        }
        ended
    }

    fn is_between(&self) -> bool {
        self.left == 0 && self.prefix.is_empty()
    }
}
