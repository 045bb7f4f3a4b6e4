//! The resource that the locks protect: a service outside of the clients that compares tokens.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::history::{Time, now};
use super::locks::{Kind, Place, write_tokens};

/// A service on loopback. It refuses a write with a token smaller than that of a conflicting write it has accepted.
/// Permits conflict with nothing, so their writes are always accepted.
pub struct Resource {
    address: String,
    seen: Arc<Mutex<Seen>>,
    serving: JoinHandle<()>,
}

/// What the resource has recorded so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    largest: BTreeMap<Place, u64>,
    /// For each client, when it last wrote under a valid promise.
    pub last: BTreeMap<usize, Time>,
    /// The same, with the order that it followed.
    pub followed: BTreeMap<usize, (Time, String)>,
    pub accepted: u64,
    /// Writes that came after the end of their lease and after another client's write: what tokens protect from.
    pub refused: u64,
    /// The same, while the writer's guard still promised that no other client holds. This must never happen.
    pub violations: Vec<String>,
}

impl Resource {
    pub async fn start() -> Resource {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let serving = tokio::spawn(serve(listener, seen.clone()));
        Resource { address, seen, serving }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }
}

impl Drop for Resource {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A client's connection to the resource.
pub struct Writer {
    client: usize,
    answers: BufReader<OwnedReadHalf>,
    writes: OwnedWriteHalf,
}

impl Writer {
    pub async fn connect(address: &str, client: usize) -> Writer {
        let stream = TcpStream::connect(address).await.expect("the resource answers");
        stream.set_nodelay(true).expect("a TCP stream");
        let (answers, writes) = stream.into_split();
        Writer { client, answers: BufReader::new(answers), writes }
    }

    /// Writes with the tokens of a guard, its promise, which is the time until which no other client holds, and the
    /// order that the client follows. Returns whether the write was accepted.
    pub async fn write(&mut self, kind: &Kind, tokens: &[u64], promise: Time, order: &str) -> bool {
        let (client, tokens) = (self.client, write_tokens(tokens));
        let line = format!("{client} {} {tokens} {promise} {order}\n", kind.name);
        self.writes.write_all(line.as_bytes()).await.expect("the resource answers");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).await.expect("the resource answers");
        answer == "accepted\n"
    }
}

impl Seen {
    /// The largest token that has written under a lock of this place.
    pub fn newest(&self, place: &Place) -> Option<u64> {
        self.largest.get(place).copied()
    }

    fn write(&mut self, client: usize, kind: &'static Kind, tokens: &[u64], promise: Time, at: Time) -> bool {
        let places = || kind.places.iter().zip(tokens);
        let newer = |(other, largest): &(&Place, &u64)| {
            places().any(|(place, token)| other.excludes(place) && *largest > token)
        };
        if let Some((other, largest)) = self.largest.iter().find(newer) {
            if at < promise {
                self.violations.push(format!(
                    "client {client} wrote at {at} as {} with {tokens:x?}, promised until {promise}, after {largest:x} on {}",
                    kind.name, other.path
                ));
            }
            self.refused += 1;
            return false;
        }
        for (place, token) in places() {
            let newest = self.largest.entry(*place).or_default();
            *newest = *token.max(newest);
        }
        if at < promise {
            self.last.insert(client, at);
        }
        self.accepted += 1;
        true
    }
}

async fn serve(listener: TcpListener, seen: Arc<Mutex<Seen>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let seen = seen.clone();
        tokio::spawn(async move {
            // A killed client closes its connection, possibly in the middle of a line.
            let (answers, mut writes) = stream.into_split();
            let mut lines = BufReader::new(answers).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Some((client, kind, tokens, promise, order)) = parse(&line) else { return };
                let accepted = {
                    // The time is read under the lock, so that it grows from write to write.
                    let mut seen = lock(&seen);
                    let at = now();
                    let accepted = seen.write(client, kind, &tokens, promise, at);
                    if accepted && at < promise {
                        seen.followed.insert(client, (at, order));
                    }
                    accepted
                };
                let answer: &[u8] = if accepted { b"accepted\n" } else { b"refused\n" };
                if writes.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

fn parse(line: &str) -> Option<(usize, &'static Kind, Vec<u64>, Time, String)> {
    let mut words = line.split(' ');
    let client = words.next()?.parse().ok()?;
    let kind = Kind::named(words.next()?)?;
    let tokens = kind.read_tokens(words.next()?)?;
    Some((client, kind, tokens, words.next()?.parse().ok()?, words.next()?.to_owned()))
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

mod tests {
    use super::*;

    #[test]
    fn a_smaller_token_is_refused_and_is_a_violation_only_within_its_promise() {
        let [lock, read, write, permit, multi] =
            ["lock", "read", "write", "permit", "multi"].map(|name| Kind::named(name).expect("a kind"));
        let mut seen = Seen::default();
        assert!(seen.write(0, lock, &[5], 100, 1));
        assert!(seen.write(0, lock, &[5], 100, 2), "the same holder again");
        assert!(seen.write(1, lock, &[6], 100, 3));
        assert!(!seen.write(0, lock, &[5], 4, 4), "after the end of its promise");
        assert_eq!((seen.refused, seen.violations.len()), (1, 0));
        assert!(!seen.write(0, lock, &[5], 5, 4), "before the end of its promise");
        assert_eq!((seen.refused, seen.violations.len()), (2, 1));

        assert!(seen.write(0, read, &[9], 100, 5));
        assert!(seen.write(1, read, &[8], 100, 6), "readers are not compared with readers");
        assert!(!seen.write(2, write, &[8], 100, 7), "writers are compared with readers");
        assert_eq!(seen.violations.len(), 2);

        assert!(!seen.write(3, multi, &[7, 8], 100, 8), "each token is compared on its own path");
        assert!(!seen.write(3, multi, &[5, 9], 100, 9));
        assert_eq!(seen.violations.len(), 4);
        assert!(seen.write(3, multi, &[7, 9], 100, 10));
        assert!(!seen.write(1, lock, &[6], 100, 11));
        assert_eq!(seen.violations.len(), 5);

        assert!(seen.write(0, permit, &[9], 100, 12));
        assert!(seen.write(1, permit, &[8], 100, 13), "permits are not compared");
    }
}
