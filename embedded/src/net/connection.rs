//! The task of one connection: it reads frames from the socket and writes replies to it.

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

/// While more bytes than this wait to be sent, no request is accepted. A client that does not read its replies has to
/// wait.
const HIGH_WATER: usize = 1 << 20;
/// How many bytes are read at once.
const CHUNK: usize = 8 << 10;
/// How long to wait for the client to read the last bytes before a connection is closed.
const LINGER: Duration = Duration::from_secs(1);

/// Serves a new connection in a task of its own.
pub(super) fn spawn(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let Some((id, wake)) = shared.open(peer) else { return };
    // Clients wait for small replies, so send them without delay. If this fails, the socket is broken and reading will
    // fail as well.
    let _ = stream.set_nodelay(true);
    let connection = Connection { shared: Arc::clone(shared), id, wake, stream, established: false };
    let guard = RemoveOnDrop { shared: Arc::clone(shared), id };
    tokio::spawn(async move {
        let guard = guard;
        match connection.run().await {
            Ok(()) => debug!(connection = guard.id.0, %peer, "connection ended"),
            Err(reason) => info!(connection = guard.id.0, %peer, %reason, "closing connection"),
        }
    });
}

/// Removes a connection when its task ends, even by a panic. `take_down` waits for this.
struct RemoveOnDrop {
    shared: Arc<Shared>,
    id: ConnectionId,
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        self.shared.closed(self.id);
    }
}

struct Connection {
    shared: Arc<Shared>,
    id: ConnectionId,
    wake: Arc<Notify>,
    stream: TcpStream,
    /// Whether the first packet has been processed.
    established: bool,
}

/// Why a connection ends with an error.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the client closed the connection")]
    ClosedByClient,
    #[error("invalid frame length {0}: it must be from 0 to {max}", max = MAX_FRAME)]
    FrameLength(i32),
    #[error("{0}")]
    Malformed(#[from] decode::Malformed),
}

impl Connection {
    async fn run(mut self) -> Result<(), ConnectionError> {
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
                Next::Failed(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for bytes, a wake-up or the given time, and reads the available bytes.
    async fn read(&self, incoming: &mut Vec<u8>, again: Option<Instant>) -> Result<(), ConnectionError> {
        if self.shared.is_busy(self.id, HIGH_WATER) {
            // Read nothing more until something has been sent.
            return self.wait(again).await;
        }
        tokio::select! {
            // Unlike `readable`, this yields to other tasks from time to time, even if there is always more to read.
            readable = poll_fn(|context| self.stream.poll_read_ready(context)) => readable?,
            () = self.wake.notified() => return Ok(()),
            () = until(again) => return Ok(()),
        }
        incoming.reserve(CHUNK);
        match self.stream.try_read_buf(incoming) {
            Ok(0) => Err(ConnectionError::ClosedByClient),
            Ok(count) => {
                if count >= CHUNK {
                    // There may be more to read. Let the other connections run first.
                    yield_now().await;
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn wait(&self, again: Option<Instant>) -> Result<(), ConnectionError> {
        tokio::select! {
            () = self.wake.notified() => {}
            () = until(again) => {}
        }
        Ok(())
    }

    /// Waits until the socket is writable, or for a wake-up. Returns `false` if the connection is closing and the
    /// client has not read anything for [`LINGER`]: then it is not worth waiting any longer.
    async fn wait_until_writable(&self) -> Result<bool, ConnectionError> {
        tokio::select! {
            writable = timeout(LINGER, self.stream.writable()) => match writable {
                Ok(writable) => writable?,
                Err(_) => return Ok(!self.shared.is_ending(self.id)),
            },
            () = self.wake.notified() => {}
        }
        Ok(true)
    }

    /// Passes every complete frame to the machine.
    fn take_frames(&mut self, incoming: &mut Vec<u8>) -> Result<(), ConnectionError> {
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
            let length = length.ok_or(ConnectionError::FrameLength(claimed))?;
            let Some(frame) = incoming.get(taken + 4..taken + 4 + length) else { break };
            if !self.take_frame(frame)? {
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

    /// Passes one frame to the machine. Returns `false` if the machine cannot accept it now.
    fn take_frame(&mut self, frame: &[u8]) -> Result<bool, ConnectionError> {
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
