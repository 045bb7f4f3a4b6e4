//! Spare sessions: they hold the watches for which the main session has no room, and nothing else.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::future::{self, BoxFuture, FutureExt, join_all, select};
use futures::stream::StreamExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tracing::debug;

use super::connect::caught;
use crate::machine::Failure;
use crate::machine::watch_budget::{Place, WatchBudget};
use crate::metrics::{Counted, Metrics};
use crate::runtime::clock::Clock;
use crate::runtime::log::SessionId;
use crate::runtime::random::Randomness;
use crate::runtime::tasks::Tasks;
use crate::zookeeper::{Answer, Connect, Connected, LinkState, ZooKeeper};

/// How spare sessions are opened.
pub(crate) struct SpareSettings {
    pub connector: Arc<dyn Connect>,
    pub connect_timeout: Duration,
    pub clock: Clock,
    pub randomness: Randomness,
    /// The room of one session for watched paths, in bytes.
    pub room: usize,
    pub metrics: Metrics,
}

/// The room of a main session and its spare sessions.
pub(super) struct Spares {
    settings: SpareSettings,
    state: Mutex<State>,
}

struct State {
    budget: WatchBudget,
    open: HashMap<u64, (Spare, AbortHandle)>,
    /// Aborted when the main session ends.
    tasks: Tasks,
    closed: bool,
}

/// A spare session, or one that is being established. Watches are set in batches: each follows a write through the
/// quorum.
pub(super) struct Spare<C: ?Sized = dyn ZooKeeper>(mpsc::UnboundedSender<Registration<C>>);

/// Sends a request that sets a watch, and delivers its answer.
type Registration<C> = Box<dyn FnOnce(&C) -> BoxFuture<'static, ()> + Send>;

/// The room reserved for one watch. Freed when it is dropped.
pub(super) struct Room {
    spares: Arc<Spares>,
    place: Place,
    bytes: usize,
    /// `None` for the main session.
    pub spare: Option<Spare>,
    _counted: Counted,
}

impl Spares {
    pub fn new(settings: SpareSettings) -> Arc<Spares> {
        let budget = match settings.connector.resumes_watches() {
            true => WatchBudget::new(settings.room),
            false => WatchBudget::without_main(settings.room),
        };
        let state = State { budget, open: HashMap::new(), tasks: Tasks::default(), closed: false };
        Arc::new(Spares { settings, state: Mutex::new(state) })
    }

    /// Reserves room for a watch on a path of this size, if there is any.
    pub fn reserve(self: &Arc<Spares>, bytes: usize) -> Option<Room> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        let place = state.budget.reserve(bytes, self.settings.clock.now())?;
        let spare = match place {
            Place::Main => None,
            Place::Spare(number) => Some(match state.open.get(&number) {
                Some((spare, _)) => spare.clone(),
                None => self.open(&mut state, number),
            }),
        };
        let counted = self.settings.metrics.watch();
        Some(Room { spares: self.clone(), place, bytes, spare, _counted: counted })
    }

    /// A watch is replaced with a timer.
    pub fn refused(&self) {
        self.settings.metrics.watch_refused();
    }

    /// Closes all spare sessions, and opens no more.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.open.clear();
        state.tasks.abort_all();
    }

    fn open(self: &Arc<Spares>, state: &mut State, number: u64) -> Spare {
        debug!(number, "opening a spare session for watches");
        let (sender, queue) = mpsc::unbounded_channel();
        let spares = Arc::downgrade(self);
        let connect = connect(self.settings.connector.clone(), self.settings.connect_timeout);
        let metrics = self.settings.metrics.clone();
        let task = state.tasks.spawn(async move {
            let reason = match connect.await {
                Ok(connected) => {
                    let session = SessionId(connected.client.session());
                    debug!(number, %session, "spare session established");
                    let _counted = metrics.spare_session();
                    note(&spares, |state, _| state.budget.established());
                    serve(connected, queue).await;
                    "its session has ended".to_owned()
                }
                Err(reason) => reason,
            };
            debug!(number, reason, "no spare session");
            note(&spares, |state, settings| {
                state.open.remove(&number);
                state.budget.ended(number, settings.clock.now(), settings.randomness.next());
            });
        });
        let spare = Spare(sender);
        state.open.insert(number, (spare.clone(), task));
        spare
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent even after a panic under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: ?Sized> Clone for Spare<C> {
    fn clone(&self) -> Spare<C> {
        Spare(self.0.clone())
    }
}

impl<C: ?Sized> Spare<C> {
    /// Sends a request, once the session is as new as the main session is now. The reply port is dropped if that cannot
    /// be established.
    pub fn ask<T: Send + 'static>(
        &self,
        send: impl FnOnce(&C) -> Answer<T> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, Failure>> {
        let (reply, receiver) = oneshot::channel();
        // Fails if the session has ended, and then the reply port is dropped.
        let _ = self.0.send(Box::new(move |client| {
            if reply.is_closed() {
                return Box::pin(future::ready(()));
            }
            let answer = send(client);
            // If nobody receives the watch, it is dropped, which removes it.
            Box::pin(async move { drop(reply.send(answer.await)) })
        }));
        receiver
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut state = self.spares.lock();
        for number in state.budget.free(self.place, self.bytes) {
            if let Some((_, task)) = state.open.remove(&number) {
                debug!(number, "closing a spare session");
                // Drops its client, which closes the session.
                task.abort();
            }
        }
    }
}

fn note(spares: &Weak<Spares>, change: impl FnOnce(&mut State, &SpareSettings)) {
    if let Some(spares) = spares.upgrade() {
        change(&mut spares.lock(), &spares.settings);
    }
}

/// Connects once. An error says why there is no session.
async fn connect(connector: Arc<dyn Connect>, limit: Duration) -> Result<Connected, String> {
    let attempt = async { tokio::time::timeout(limit, connector.connect()).await };
    match caught(attempt).await? {
        Ok(connected) => connected.map_err(|unconnected| format!("{unconnected:?}")),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Sets watches until the session ends.
async fn serve(connected: Connected, queue: mpsc::UnboundedReceiver<Registration<dyn ZooKeeper>>) {
    let Connected { client, mut states } = connected;
    let ended = async { while states.next().await.is_some_and(|state| state != LinkState::Ended) {} };
    let write = || client.check(&[]).map(|written| written.is_ok());
    select(pin!(ended), pin!(register(&*client, write, queue))).await;
}

/// Sets watches in batches. Each batch begins with a write through the quorum, so that its reads, which follow on the same
/// connection, know all that any session knew before. Otherwise a server that lags would not find nodes that were
/// created shortly before, and they would count as deleted. A `sync` does not do that behind a leader that was deposed.
async fn register<C: ?Sized, W: Future<Output = bool>>(
    client: &C,
    write: impl Fn() -> W,
    mut queue: mpsc::UnboundedReceiver<Registration<C>>,
) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let written = write();
        let answers: Vec<_> = batch.drain(..).map(|send| send(client)).collect();
        // Without the write, the answers are dropped, and with them the watches.
        if written.await {
            join_all(answers).await;
        }
    }
}

/// The maximum number of watches that one session sets at a time.
const BATCH: usize = 128;

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    /// A server that lags until it answers a write.
    struct Server {
        current: Mutex<bool>,
        /// Whether writes succeed.
        quorum: bool,
        /// How many writes are answered.
        answers: Semaphore,
        requests: Mutex<String>,
    }

    impl Server {
        fn new(quorum: bool, answers: usize) -> Arc<Server> {
            let (current, requests) = (Mutex::new(false), Mutex::default());
            Arc::new(Server { current, quorum, answers: Semaphore::new(answers), requests })
        }

        fn register(self: &Arc<Server>) -> Spare<Server> {
            let (server, (sender, queue)) = (self.clone(), mpsc::unbounded_channel());
            tokio::spawn(async move { register(&*server, || server.write(), queue).await });
            Spare(sender)
        }

        fn write(&self) -> impl Future<Output = bool> {
            self.note('w');
            async {
                self.answers.acquire().await.expect("it is not closed").forget();
                *self.current.lock().expect("no panic") |= self.quorum;
                self.quorum
            }
        }

        /// Executed after the requests that were sent before it, as on a connection.
        fn read(server: &Arc<Server>) -> Answer<&'static str> {
            server.note('r');
            let server = server.clone();
            Box::pin(async move {
                server.current.lock().expect("no panic").then_some("a node").ok_or(Failure::NoNode)
            })
        }

        fn note(&self, request: char) {
            self.requests.lock().expect("no panic").push(request);
        }

        fn requests(&self) -> String {
            self.requests.lock().expect("no panic").clone()
        }

        fn ask(
            self: &Arc<Server>,
            spare: &Spare<Server>,
        ) -> oneshot::Receiver<Result<&'static str, Failure>> {
            let server = self.clone();
            spare.ask(move |_| Server::read(&server))
        }
    }

    #[tokio::test]
    async fn a_server_that_lags_finds_the_nodes_that_existed_when_it_was_asked() {
        let server = Server::new(true, 1);
        let spare = server.register();
        assert_eq!(server.ask(&spare).await, Ok(Ok("a node")));
    }

    #[tokio::test]
    async fn without_a_quorum_no_node_counts_as_deleted() {
        let server = Server::new(false, 1);
        let spare = server.register();
        assert!(server.ask(&spare).await.is_err(), "no answer");
    }

    #[tokio::test]
    async fn one_write_is_in_flight_and_serves_all_that_asked_before() {
        let server = Server::new(true, 0);
        let spare = server.register();
        let settle = async || {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        };
        let mut asked: Vec<_> = (0..3).map(|_| server.ask(&spare)).collect();
        settle().await;
        assert_eq!(server.requests(), "wrrr");
        asked.extend((0..BATCH + 2).map(|_| server.ask(&spare)));
        drop(asked.pop());
        settle().await;
        assert_eq!(server.requests(), "wrrr", "they wait for the next write");
        server.answers.add_permits(3);
        for answer in asked {
            assert_eq!(answer.await, Ok(Ok("a node")));
        }
        let batch = "r".repeat(BATCH);
        assert_eq!(
            server.requests(),
            format!("wrrrw{batch}wr"),
            "in limited batches, for those who still ask"
        );
    }
}
