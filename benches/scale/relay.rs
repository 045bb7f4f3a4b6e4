//! A relay in front of the server that counts requests and bytes, and can end the session that passes through it.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::Result;

/// A relay to one server. Dropping it closes its connections.
pub struct Relay {
    address: String,
    target: String,
    traffic: Arc<Traffic>,
    open: watch::Sender<bool>,
    listening: JoinHandle<()>,
}

/// What has passed, counted from a start.
#[derive(Clone, Copy)]
pub struct Counts {
    /// Requests to the server, with pings.
    pub requests: u64,
    /// Bytes from the server.
    pub received: u64,
}

impl Relay {
    pub async fn start(target: &str) -> Result<Relay> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, target) = (listener.local_addr()?.to_string(), target.to_owned());
        let (traffic, (open, is_open)) = (Arc::new(Traffic::default()), watch::channel(true));
        let listening = tokio::spawn(listen(listener, target.clone(), traffic.clone(), is_open));
        Ok(Relay { address, target, traffic, open, listening })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn counts(&self) -> Counts {
        let Traffic { requests, received, .. } = &*self.traffic;
        Counts { requests: requests.load(Ordering::Relaxed), received: received.load(Ordering::Relaxed) }
    }

    /// Closes the connections, and accepts no others until `resume`.
    pub fn interrupt(&self) {
        self.open.send_replace(false);
    }

    pub fn resume(&self) {
        self.open.send_replace(true);
    }

    /// Takes over the client's session and closes it. When the client connects again, the session has expired, and its
    /// ephemeral nodes are gone.
    pub async fn end_session(&self) -> Result<()> {
        self.interrupt();
        let session = self.traffic.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let session = session.ok_or("no session has passed the relay")?;
        let mut server = TcpStream::connect(&self.target).await?;
        server.write_all(&connect_request(&session)).await?;
        let answer = read_frame(&mut server).await?;
        if Session::of(&answer).is_none_or(|answered| answered.id != session.id) {
            return Err("the server does not give the session away".into());
        }
        server.write_all(&CLOSE_SESSION).await?;
        read_frame(&mut server).await?;
        self.resume();
        Ok(())
    }
}

impl std::ops::Sub for Counts {
    type Output = Counts;

    fn sub(self, before: Counts) -> Counts {
        Counts { requests: self.requests - before.requests, received: self.received - before.received }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // This task owns the connections.
        self.listening.abort();
    }
}

#[derive(Default)]
struct Traffic {
    requests: AtomicU64,
    received: AtomicU64,
    /// The newest session.
    session: Mutex<Option<Session>>,
}

#[derive(Clone)]
struct Session {
    id: [u8; 8],
    password: [u8; 16],
}

impl Session {
    /// Reads the answer to a connect request, without its length: protocol version, timeout, session id, password. The
    /// id is zero if the session has expired.
    fn of(answer: &[u8]) -> Option<Session> {
        let id: [u8; 8] = answer.get(8..16)?.try_into().ok()?;
        let password = answer.get(20..36)?.try_into().ok()?;
        (id != [0; 8]).then_some(Session { id, password })
    }
}

fn connect_request(session: &Session) -> Vec<u8> {
    let timeout = 10_000_u32.to_be_bytes();
    // Protocol version, last seen transaction, timeout, session id, length and bytes of the password, read-only.
    let fields: [&[u8]; 7] =
        [&[0; 4], &[0; 8], &timeout, &session.id, &[0, 0, 0, 16], &session.password, &[0]];
    let body = fields.concat();
    [&u32::try_from(body.len()).unwrap_or_default().to_be_bytes()[..], &body].concat()
}

/// A frame of eight bytes: request number 1 of type -11.
const CLOSE_SESSION: [u8; 12] = [0, 0, 0, 8, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xf5];

async fn read_frame(server: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = server.read_u32().await?;
    let mut frame = vec![0; length as usize];
    server.read_exact(&mut frame).await?;
    Ok(frame)
}

async fn listen(
    listener: TcpListener,
    target: String,
    traffic: Arc<Traffic>,
    mut open: watch::Receiver<bool>,
) {
    // An error means that the relay was dropped.
    while open.wait_for(|open| *open).await.is_ok() {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                closed = open.wait_for(|open| !open) => {
                    if closed.is_err() {
                        return;
                    }
                    break;
                }
                accepted = listener.accept() => {
                    // The client may have disconnected before it was accepted.
                    let Ok((client, _)) = accepted else { continue };
                    connections.spawn(pass(client, target.clone(), traffic.clone()));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

/// Passes bytes on until one side closes.
async fn pass(mut client: TcpStream, target: String, traffic: Arc<Traffic>) -> io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    let (mut frames, mut is_first) = (Frames::default(), true);
    let requests = pump(from_client, to_server, |bytes| {
        traffic.requests.fetch_add(frames.count(bytes), Ordering::Relaxed);
    });
    let replies = pump(from_server, to_client, |bytes| {
        traffic.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if std::mem::take(&mut is_first) {
            let session = bytes.get(4..).and_then(Session::of);
            *traffic.session.lock().unwrap_or_else(PoisonError::into_inner) = session;
        }
    });
    tokio::select! {
        ended = requests => ended,
        ended = replies => ended,
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut see: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        see(&buffer[..count]);
        to.write_all(&buffer[..count]).await?;
    }
}

/// Finds the frames in a stream of bytes: each begins with its length in four bytes.
#[derive(Default)]
struct Frames {
    /// Bytes left of the frame.
    left: usize,
    /// The bytes so far of the next frame's length.
    length: Vec<u8>,
}

impl Frames {
    /// The number of frames that begin in these bytes.
    fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut count = 0;
        while let [first, rest @ ..] = bytes {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                (self.left, bytes) = (self.left - skipped, &bytes[skipped..]);
                continue;
            }
            self.length.push(*first);
            bytes = rest;
            if let Ok(length) = <[u8; 4]>::try_from(self.length.as_slice()) {
                self.left = u32::from_be_bytes(length) as usize;
                self.length.clear();
                count += 1;
            }
        }
        count
    }
}
