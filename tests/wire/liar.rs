//! A server that lies: it passes requests to an honest server, and makes something else of the answers.

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::raw::Bytes;

/// The kinds of requests, by the numbers of the protocol.
pub const DELETE: i32 = 2;
pub const GET_DATA: i32 = 4;
pub const PING: i32 = 11;
pub const GET_CHILDREN: i32 = 12;
pub const MULTI: i32 = 14;
pub const CREATE: i32 = 15;

/// Which answers are lies.
#[derive(Clone, Copy, Debug)]
pub enum About {
    /// The answer to a connect request.
    Handshake,
    /// The answers to connect requests but the first. The first connection is closed after some answers.
    Reconnect,
    /// The answers to requests of this kind.
    Answer(i32),
    /// All answers but those to connect requests and pings.
    Answers,
}

/// How often the server lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Often {
    /// One of the answers that the lie is about is a lie, after so many that are not.
    Once(usize),
    Always,
}

/// An honest answer.
pub struct Honest {
    /// The body of the request.
    pub request: Vec<u8>,
    /// The frame without its length. An answer but the first begins with xid, zxid and error code.
    pub frame: Vec<u8>,
}

/// What the client gets instead of an honest answer.
#[derive(Default)]
pub struct Told {
    pub now: Vec<u8>,
    /// Behind the next answer.
    pub later: Vec<u8>,
}

/// A lie.
pub type Tell = fn(&Honest) -> Told;

impl Honest {
    /// The size of an answer's header.
    pub const HEADER: usize = 16;

    pub fn header(&self) -> &[u8] {
        &self.frame[..Honest::HEADER.min(self.frame.len())]
    }

    pub fn body(&self) -> &[u8] {
        &self.frame[self.header().len()..]
    }

    pub fn is_success(&self) -> bool {
        self.header().ends_with(&[0; 4])
    }
}

/// A frame with its length.
pub fn frame(content: &[u8]) -> Vec<u8> {
    Bytes::default().buffer(content).0
}

/// The lying server. Dropping it ends its connections.
pub struct Liar {
    address: String,
    counts: Arc<Counts>,
    listening: JoinHandle<()>,
}

impl Liar {
    pub async fn start(target: String, about: About, often: Often, tell: Tell) -> io::Result<Liar> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?.to_string();
        let counts = Arc::<Counts>::default();
        let lie = Lie { about, often, tell, counts: counts.clone() };
        let listening = tokio::spawn(listen(listener, target, lie));
        Ok(Liar { address, counts, listening })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// How many lies were told.
    pub fn told(&self) -> usize {
        self.counts.told.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// How many requests came, without connect requests.
    pub fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

#[derive(Default)]
struct Counts {
    /// The answers that the lie is about.
    asked: AtomicUsize,
    told: AtomicUsize,
    connections: AtomicUsize,
    requests: AtomicUsize,
}

#[derive(Clone)]
struct Lie {
    about: About,
    often: Often,
    tell: Tell,
    counts: Arc<Counts>,
}

async fn listen(listener: TcpListener, target: String, lie: Lie) {
    let (mut connections, mut number) = (JoinSet::new(), 0);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // The client may have gone before it was accepted.
                let Ok((client, _)) = accepted else { continue };
                lie.counts.connections.fetch_add(1, Ordering::SeqCst);
                let (target, lie) = (target.clone(), lie.clone());
                connections.spawn(async move {
                    // An error means that a side has gone, which ends the connection.
                    let _ = connection(client, target, number, lie).await;
                });
                number += 1;
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(client: TcpStream, target: String, number: usize, lie: Lie) -> io::Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let asked = Mutex::default();
    tokio::try_join!(
        pass_requests(from_client, to_server, &asked, &lie.counts),
        pass_answers(from_server, to_client, &asked, number, &lie),
    )?;
    Ok(())
}

/// The requests that are not answered yet: each with its kind and body.
type Asked = Mutex<VecDeque<(i32, Vec<u8>)>>;

fn lock(asked: &Asked) -> MutexGuard<'_, VecDeque<(i32, Vec<u8>)>> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn pass_requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    asked: &Asked,
    counts: &Counts,
) -> io::Result<()> {
    let connect = read_frame(&mut from).await?;
    to.write_all(&frame(&connect)).await?;
    loop {
        let request = read_frame(&mut from).await?;
        counts.requests.fetch_add(1, Ordering::SeqCst);
        let kind = request.get(4..8).and_then(|kind| kind.try_into().ok()).map_or(0, i32::from_be_bytes);
        lock(asked).push_back((kind, request.get(8..).unwrap_or_default().to_vec()));
        to.write_all(&frame(&request)).await?;
    }
}

async fn pass_answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    asked: &Asked,
    number: usize,
    lie: &Lie,
) -> io::Result<()> {
    let (mut later, mut answers, mut first) = (Vec::new(), 0, true);
    loop {
        let frame_read = read_frame(&mut from).await?;
        let is_event = !first && frame_read.starts_with(&[0xff; 4]);
        let (kind, request) = match first || is_event {
            true => (0, Vec::new()),
            false => lock(asked).pop_front().unwrap_or_default(),
        };
        let honest = Honest { request, frame: frame_read };
        let applies = match lie.about {
            About::Handshake => first,
            About::Reconnect => first && number > 0,
            About::Answer(about) => kind == about && !first && !is_event,
            About::Answers => !first && !is_event && kind != PING,
        };
        first = false;
        let Told { now, later: next } = match applies && lie.may_tell() {
            true => (lie.tell)(&honest),
            false => Told { now: frame(&honest.frame), later: Vec::new() },
        };
        to.write_all(&now).await?;
        to.write_all(&later).await?;
        later = next;
        answers += 1;
        if matches!(lie.about, About::Reconnect) && number == 0 && answers > CLOSED_AFTER {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    }
}

/// After how many answers the first connection is closed, if the lie is about the next one.
const CLOSED_AFTER: usize = 6;

impl Lie {
    fn may_tell(&self) -> bool {
        let before = self.counts.asked.fetch_add(1, Ordering::SeqCst);
        let tells = match self.often {
            Often::Once(honest) => before == honest,
            Often::Always => true,
        };
        self.counts.told.fetch_add(usize::from(tells), Ordering::SeqCst);
        tells
    }
}

async fn read_frame(from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let length = usize::try_from(from.read_i32().await?).map_err(io::Error::other)?;
    let mut content = vec![0; length];
    from.read_exact(&mut content).await?;
    Ok(content)
}
