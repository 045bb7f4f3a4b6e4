//! What the library does with a server that lies.

use std::collections::BTreeSet;
use std::time::Duration;

use lockkeeper::{Keeper, LeaseState};
use tokio::time::{Instant, sleep, timeout};
use zookeeper_client as zk;

use crate::common::kinds::{self, AnyGuard, AnyLock, Kind};
use crate::liar::{About, Liar, Often, PING};
use crate::lies::{Always, Row};

/// What is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    /// A free lock.
    Free,
    /// A lock that another client holds for a moment.
    Behind,
    Semaphore,
    /// Two locks at once.
    Multi,
}

/// What became of a lie.
#[derive(Debug, Default)]
pub struct Course {
    /// Whether a lie was told.
    pub told: bool,
    pub granted: bool,
    /// Whether it was granted while another client held.
    pub deceived: bool,
    /// The error, if there was one.
    pub error: Option<String>,
    pub connections: usize,
    /// How many requests the server received.
    pub requests: usize,
    pub violations: Vec<String>,
}

impl Scene {
    fn kind(self) -> Kind {
        match self {
            Scene::Free | Scene::Behind => kinds::lock(),
            Scene::Semaphore => kinds::semaphore(),
            Scene::Multi => kinds::multi_lock(),
        }
    }
}

impl Course {
    /// What is not as the table says.
    pub fn check(&mut self, row: &Row, often: Often) {
        let expected = match often {
            _ if !self.told => Always::Granted,
            Often::Once(_) if row.fails => Always::Either,
            Often::Once(_) => Always::Granted,
            Often::Always => row.always,
        };
        match expected {
            Always::Granted if !self.granted => self.violations.push("it is not granted".into()),
            Always::Refused if self.granted => self.violations.push("it is granted".into()),
            Always::Granted | Always::Refused | Always::Either => {}
        }
        if self.deceived && !row.deceives {
            self.violations.push("it is granted while another client holds".into());
        }
        if self.requests > MOST_REQUESTS + self.connections * REQUESTS_OF_A_CONNECTION {
            self.violations.push(format!("{} requests: retries have no pauses", self.requests));
        }
    }
}

/// How many requests are made in a course at most, if all retries are paced.
const MOST_REQUESTS: usize = 1500;

/// What the client and the library send over every connection: a ping, and two requests that show whose session it is.
/// The client connects again without a pause when a server ends connections after their handshakes.
const REQUESTS_OF_A_CONNECTION: usize = 3;

/// A session that ends soon when its heartbeats are not answered.
const SESSION: Duration = Duration::from_millis(800);

/// A limit for what ends by itself.
const LONG: Duration = Duration::from_secs(10);

/// How much longer than its limit a call may take on a busy machine.
const LATE: Duration = Duration::from_secs(5);

/// Makes a request of a server that lies. `observer` has an honest connection.
pub async fn run(
    row: &Row,
    scene: Scene,
    often: Often,
    path: &str,
    server: &str,
    observer: &zk::Client,
) -> Course {
    let mut course = Course::default();
    let liar = Liar::start(server.to_owned(), row.about, often, row.tell).await.expect("a free port");
    // A limit that is not expected to pass is long.
    let hopeless = row.always == Always::Refused && often == Often::Always;
    let connecting = match row.about {
        About::Handshake | About::Answer(PING) if hopeless => Duration::from_millis(1500),
        _ => LONG,
    };
    let waiting = if hopeless || row.always == Always::Either && often == Often::Always {
        Duration::from_millis(1500)
    } else {
        LONG
    };
    let options = Keeper::options().session_timeout(SESSION).connect_timeout(connecting);
    let options = options.backoff(Duration::from_millis(50), Duration::from_millis(200));
    let connected = options.close_timeout(CLOSE).connect(liar.address());
    match timeout(connecting + LATE, connected).await {
        Ok(Ok(keeper)) => {
            let kind = scene.kind();
            let lock = (kind.open)(&keeper, path).expect("a valid path");
            let holder = match scene {
                Scene::Behind => Some(Holder::acquire(path, server).await),
                Scene::Free | Scene::Semaphore | Scene::Multi => None,
            };
            request(&mut course, &lock, waiting, holder, row.deceives, often, observer).await;
            if timeout(CLOSE + CLOSING + LATE, keeper.close()).await.is_err() {
                course.violations.push("closing hangs".into());
            }
        }
        Ok(Err(error)) => course.error = Some(error.to_string()),
        Err(_) => course.violations.push("connecting hangs".into()),
    }
    course.told = liar.told() > 0;
    course.connections = liar.connections();
    course.requests = liar.requests();
    course
}

/// The keeper's limit for closing, and how long it takes after that at most.
const CLOSE: Duration = Duration::from_millis(500);
const CLOSING: Duration = Duration::from_secs(2);

/// An honest client that holds the lock.
struct Holder {
    keeper: Keeper,
    guard: AnyGuard,
}

impl Holder {
    async fn acquire(path: &str, server: &str) -> Holder {
        let keeper = Keeper::options().session_timeout(Duration::from_secs(20)).connect(server).await;
        let keeper = keeper.expect("should connect");
        let lock = (kinds::lock().open)(&keeper, path).expect("a valid path");
        Holder { guard: lock.acquire().await.expect("the lock is free"), keeper }
    }
}

async fn request(
    course: &mut Course,
    lock: &AnyLock,
    waiting: Duration,
    holder: Option<Holder>,
    deceives: bool,
    often: Often,
    observer: &zk::Client,
) {
    let acquire = timeout(waiting + LATE, lock.acquire_timeout(waiting));
    let answer = match holder {
        None => acquire.await,
        Some(Holder { keeper, guard }) => {
            let mut acquire = std::pin::pin!(acquire);
            let early = timeout(HELD, &mut acquire).await;
            course.deceived = matches!(&early, Ok(Ok(Ok(granted))) if is_held(granted) && is_held(&guard));
            // Others may wait for it in vain if it is not released.
            guard.release().await.expect("the server is honest to this client");
            keeper.close().await;
            match early {
                Ok(answer) => answer,
                Err(_) => acquire.await,
            }
        }
    };
    match answer {
        Err(_) => course.violations.push("acquiring hangs".into()),
        Ok(Err(error)) => course.error = Some(format!("{error:?}")),
        Ok(Ok(guard)) => {
            course.granted = true;
            let time = match often {
                // Longer than a session lives without heartbeats.
                Often::Always => SESSION * 3 / 2,
                Often::Once(_) => SESSION / 8,
            };
            if !deceives {
                compare(course, &guard, time, observer).await;
            }
            match (often, timeout(RELEASE, guard.release()).await) {
                (Often::Once(_), Err(_)) => course.violations.push("releasing hangs".into()),
                // While every answer is a lie, the release is repeated.
                (Often::Always, _) | (Often::Once(_), Ok(_)) => {}
            }
        }
    }
}

fn is_held(guard: &AnyGuard) -> bool {
    guard.state() == LeaseState::Held
}

/// How long the honest client holds.
const HELD: Duration = Duration::from_millis(300);

const RELEASE: Duration = Duration::from_secs(5);

/// Compares what a guard says with the nodes on the honest server.
async fn compare(course: &mut Course, guard: &AnyGuard, time: Duration, observer: &zk::Client) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        let mut nodes = BTreeSet::new();
        for node in guard.nodes() {
            // A path that the server made up need not be a valid one.
            if let Ok(Some(_)) = observer.check_stat(&node).await {
                nodes.insert(node);
            }
        }
        // Read after the nodes: a lease ends before its nodes do.
        let state = guard.state();
        if state != LeaseState::Lost && !guard.nodes().iter().all(|node| nodes.contains(node)) {
            course.violations.push(format!("{state:?}, but the server has not all of {:?}", guard.nodes()));
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}
