//! One connection: frames in, bytes out.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{sleep_until, timeout};
use tracing::{debug, info};

use super::shared::{Next, Shared};
use crate::machine::{ConnectionId, Input};
use crate::wire::{MAX_FRAME, Word, decode};

/// As long as more than this waits to be sent, no request is taken: a client that asks without reading waits.
const HIGH_WATER: usize = 1 << 20;
/// How much is read at once.
const CHUNK: usize = 8 << 10;
/// How long the last bytes may take when a connection is to be closed.
const LINGER: Duration = Duration::from_secs(1);

/// Serves a new connection in a task of its own.
pub(super) fn spawn(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let Some((id, wake)) = shared.open(peer) else { return };
    // Replies are small and waited for. A socket that cannot do this is as good as dead, which reading will show.
    let _ = stream.set_nodelay(true);
    let connection = Connection { shared: Arc::clone(shared), id, wake, stream, established: false };
    let gone = Gone { shared: Arc::clone(shared), id };
    tokio::spawn(async move {
        let gone = gone;
        match connection.run().await {
            Ok(()) => debug!(connection = gone.id.0, %peer, "a connection has ended"),
            Err(reason) => info!(connection = gone.id.0, %peer, %reason, "a connection is closed"),
        }
    });
}

/// Takes a connection out when its task ends, in whatever way: taking the server down waits for this.
struct Gone {
    shared: Arc<Shared>,
    id: ConnectionId,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.shared.closed(self.id);
    }
}

struct Connection {
    shared: Arc<Shared>,
    id: ConnectionId,
    wake: Arc<Notify>,
    stream: TcpStream,
    /// Whether the first packet has been taken.
    established: bool,
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the client has gone")]
    Gone,
    #[error("a frame of {0} bytes is not possible")]
    FrameLength(i32),
    #[error("{0}")]
    Malformed(#[from] decode::Malformed),
}

impl Connection {
    async fn run(mut self) -> Result<(), Broken> {
        let mut incoming = Vec::new();
        loop {
            self.take_frames(&mut incoming)?;
            match self.shared.next(self.id, |bytes| self.stream.try_write(bytes)) {
                Next::Hold => self.wake.notified().await,
                Next::Sent => {}
                Next::Full => {
                    if !self.wait_until_writable().await? {
                        let _ = self.stream.set_zero_linger();
                        return Ok(());
                    }
                }
                Next::Read(again) => self.read(&mut incoming, again).await?,
                Next::Close => return Ok(()),
                Next::Reset => {
                    let _ = self.stream.set_zero_linger();
                    return Ok(());
                }
                Next::Broken(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for bytes, for a wake, or for the given time, and takes what has come.
    async fn read(&self, incoming: &mut Vec<u8>, again: Option<Instant>) -> Result<(), Broken> {
        if self.shared.is_busy(self.id, HIGH_WATER) {
            // Not a byte more before something is sent.
            return self.rest(again).await;
        }
        tokio::select! {
            // Unlike `readable`, this gives way to other tasks from time to time, even if there is always more to read.
            readable = poll_fn(|context| self.stream.poll_read_ready(context)) => readable?,
            () = self.wake.notified() => return Ok(()),
            () = until(again) => return Ok(()),
        }
        incoming.reserve(CHUNK);
        match self.stream.try_read_buf(incoming) {
            Ok(0) => Err(Broken::Gone),
            Ok(count) => {
                if count >= CHUNK {
                    // Much has come, and more may be there: the others first.
                    yield_now().await;
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn rest(&self, again: Option<Instant>) -> Result<(), Broken> {
        tokio::select! {
            () = self.wake.notified() => {}
            () = until(again) => {}
        }
        Ok(())
    }

    /// Waits until the socket takes more, or for a wake. Says whether the connection is worth it: one that is to be
    /// closed does not wait long for a client that does not read.
    async fn wait_until_writable(&self) -> Result<bool, Broken> {
        tokio::select! {
            writable = timeout(LINGER, self.stream.writable()) => match writable {
                Ok(writable) => writable?,
                Err(_) => return Ok(!self.shared.is_ending(self.id)),
            },
            () = self.wake.notified() => {}
        }
        Ok(true)
    }

    /// Hands the machine every frame that is complete.
    fn take_frames(&mut self, incoming: &mut Vec<u8>) -> Result<(), Broken> {
        let mut taken = 0;
        while let Some(prefix) = incoming[taken..].first_chunk::<4>() {
            if self.shared.is_busy(self.id, HIGH_WATER) {
                break;
            }
            if let Some(word) = Word::from_bytes(*prefix).filter(|_| !self.established) {
                if self.shared.input(self.id, Input::Word { connection: self.id, word }) {
                    self.established = true;
                    taken = incoming.len();
                }
                break;
            }
            let claimed = i32::from_be_bytes(*prefix);
            let length = usize::try_from(claimed).ok().filter(|length| *length <= MAX_FRAME);
            let length = length.ok_or(Broken::FrameLength(claimed))?;
            let Some(frame) = incoming.get(taken + 4..taken + 4 + length) else { break };
            if !self.take(frame)? {
                break;
            }
            taken += 4 + length;
        }
        incoming.drain(..taken);
        if incoming.is_empty() {
            incoming.shrink_to(0);
        }
        Ok(())
    }

    /// Hands the machine one frame, unless it has to wait.
    fn take(&mut self, frame: &[u8]) -> Result<bool, Broken> {
        let connection = self.id;
        if self.established {
            let (xid, request) = decode::request(frame)?;
            return Ok(self.shared.input(connection, Input::Request { connection, xid, request }));
        }
        self.established = self.shared.connect(connection, decode::connect_request(frame)?);
        Ok(self.established)
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
