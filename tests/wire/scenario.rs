//! A short scenario, drawn from a seed: a few keepers behind faulty proxies, and callers that acquire and release.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use lockkeeper::error::{AcquireTimeoutError, TryAcquireError};
use lockkeeper::{Keeper, LockOptions, Mode};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use zookeeper_client as zk;

use crate::common::kinds::{AnyGuard, AnyLock};
use crate::dice::Dice;
use crate::faults::Plan;
use crate::history::History;
use crate::proxy::Proxy;
use crate::witness::{Claim, Use, Witness};

/// What a scenario has shown.
#[derive(Default)]
pub struct Outcome {
    pub history: Vec<String>,
    pub violations: Vec<String>,
    pub grants: u64,
    pub lost: u64,
}

/// Runs the scenario of a seed against a server. `observer` has a connection of its own, without faults.
pub async fn run(seed: u64, server: &str, observer: &zk::Client) -> Outcome {
    let mut dice = Dice::new(seed);
    let history = Arc::new(History::begin());
    let scenario = Scenario::draw(seed, &mut dice);
    for place in &scenario.places {
        history.note(format!("{place:?}"));
    }
    let (calm, calms) = watch::channel(false);
    let mut proxies = Vec::new();
    for keeper in 0..scenario.keepers {
        let plans = (0..FAULTY).map(|_| Plan::draw(&mut dice)).collect();
        let (name, history) = (format!("keeper {keeper}"), history.clone());
        let proxy = Proxy::start(name, server.to_owned(), plans, calms.clone(), history).await;
        proxies.push(proxy.expect("a free port"));
    }
    let witness = Witness::default();
    let finished = watch::Sender::new(false);
    let calming = async {
        let _ = timeout(scenario.stormy, finished.subscribe().wait_for(|finished| *finished)).await;
        history.note("it is calm");
        calm.send_replace(true);
    };
    let acting = async {
        act(&scenario, &proxies, &witness, &history, calms.clone(), observer).await;
        finished.send_replace(true);
    };
    let watching = async {
        let mut end = finished.subscribe();
        tokio::select! {
            () = watch_guards(&scenario, &witness, observer) => {}
            _ = end.wait_for(|finished| *finished) => {}
        }
    };
    futures::join!(calming, acting, watching);
    let (grants, lost, violations) = witness.findings();
    Outcome { history: history.lines(), violations, grants, lost }
}

/// A session timeout that some of the faults exceed.
const SESSION: Duration = Duration::from_millis(600);

/// The number of a keeper's connections that suffer faults. Later ones do not.
const FAULTY: usize = 3;

/// How long anything may take once it is calm. It only ends what would hang.
const BOUND: Duration = Duration::from_secs(30);

struct Scenario {
    keepers: usize,
    places: Vec<Place>,
    callers: Vec<Caller>,
    /// How long there are faults.
    stormy: Duration,
}

#[derive(Debug)]
struct Place {
    path: String,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Lock { linger: Option<Duration> },
    ReadWrite { linger: Option<Duration> },
    Semaphore { permits: u32 },
}

struct Caller {
    name: String,
    keeper: usize,
    start: Duration,
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    target: Target,
    /// Only to read, where that is possible.
    shared: bool,
    wait: Wait,
    hold: Duration,
    release: bool,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    One(usize),
    Both,
}

#[derive(Clone, Copy, Debug)]
enum Wait {
    Forever,
    /// The future is dropped after this time.
    Cancel(Duration),
    Until(Duration),
    Try,
}

impl Scenario {
    fn draw(seed: u64, dice: &mut Dice) -> Scenario {
        let keepers = 2 + dice.index(2);
        let count = 1 + dice.index(2);
        let places: Vec<_> = (0..count)
            .map(|number| Place { path: format!("/wire/{seed}-{number}"), what: what(dice) })
            .collect();
        let jointly = count == 2 && places.iter().all(|place| !matches!(place.what, What::Semaphore { .. }));
        let callers = (0..3 + dice.index(4)).map(|number| Caller {
            name: format!("caller {number}"),
            keeper: dice.index(keepers),
            start: dice.time(200),
            steps: (0..=dice.below(3)).map(|_| step(dice, count, jointly)).collect(),
        });
        let callers = callers.collect();
        Scenario { keepers, places, callers, stormy: Duration::from_millis(300) + dice.time(900) }
    }

    fn open(&self, keeper: &Keeper, step: &Step) -> AnyLock {
        let mode = |place: &Place| match (place.what, step.shared) {
            (What::ReadWrite { .. }, true) => Mode::Read,
            (What::ReadWrite { .. }, false) => Mode::Write,
            (What::Lock { .. } | What::Semaphore { .. }, _) => Mode::Lock,
        };
        let Target::One(number) = step.target else {
            let parts: Vec<_> = self.places.iter().map(|place| (place.path.clone(), mode(place))).collect();
            let multi_lock = keeper.multi_lock_with(parts, LockOptions::new()).expect("valid paths");
            return Arc::new((multi_lock, keeper.lock(&self.places[0].path).expect("a valid path")));
        };
        let Place { path, what } = &self.places[number];
        let lingering = |linger: &Option<Duration>| match linger {
            Some(time) => LockOptions::new().linger(*time),
            None => LockOptions::new(),
        };
        match what {
            What::Lock { linger } => {
                Arc::new(keeper.lock_with(path, lingering(linger)).expect("a valid path"))
            }
            What::ReadWrite { linger } => {
                let locks = keeper.read_write_with(path, lingering(linger)).expect("a valid path");
                match step.shared {
                    true => Arc::new(locks.read().clone()),
                    false => Arc::new(locks.write().clone()),
                }
            }
            What::Semaphore { permits } => Arc::new(keeper.semaphore(path, *permits).expect("a valid path")),
        }
    }

    fn claims(&self, step: &Step) -> Vec<Claim> {
        let numbers = match step.target {
            Target::One(number) => vec![number],
            Target::Both => vec![0, 1],
        };
        let usage = |number: &usize| match self.places[*number].what {
            What::ReadWrite { .. } if step.shared => Use::Shared,
            What::Lock { .. } | What::ReadWrite { .. } => Use::Exclusive,
            What::Semaphore { permits } => Use::Permit(permits as usize),
        };
        numbers.iter().map(|number| (*number, usage(number))).collect()
    }

    /// All directories that may have nodes.
    fn directories(&self) -> Vec<String> {
        let mutex = |place: &Place| format!("{}-__lock__", place.path);
        self.places.iter().flat_map(|place| [place.path.clone(), mutex(place)]).collect()
    }
}

fn what(dice: &mut Dice) -> What {
    let linger = (dice.below(4) == 0).then(|| dice.time(100));
    match dice.below(3) {
        0 => What::Lock { linger },
        1 => What::ReadWrite { linger },
        _ => What::Semaphore { permits: if dice.below(2) == 0 { 1 } else { 2 } },
    }
}

fn step(dice: &mut Dice, places: usize, jointly: bool) -> Step {
    Step {
        target: match jointly && dice.below(3) == 0 {
            true => Target::Both,
            false => Target::One(dice.index(places)),
        },
        shared: dice.below(2) == 0,
        wait: match dice.below(10) {
            0..5 => Wait::Forever,
            5..7 => Wait::Cancel(dice.time(150)),
            7..9 => Wait::Until(dice.time(400)),
            _ => Wait::Try,
        },
        // Some hold for longer than a session lives without heartbeats.
        hold: if dice.below(8) == 0 { dice.time(900) } else { dice.time(50) },
        release: dice.below(3) > 0,
    }
}

/// Connects, lets all callers act, and then checks that nothing is left.
async fn act(
    scenario: &Scenario,
    proxies: &[Proxy],
    witness: &Witness,
    history: &History,
    calm: watch::Receiver<bool>,
    observer: &zk::Client,
) {
    let connecting = proxies.iter().map(|proxy| {
        let options = Keeper::options().session_timeout(SESSION).connect_timeout(BOUND);
        options.backoff(Duration::from_millis(20), Duration::from_millis(100)).connect(proxy.address())
    });
    let Some(connected) = bounded("connecting", &calm, witness, join_all(connecting)).await else { return };
    let keepers: Result<Vec<_>, _> = connected.into_iter().collect();
    let keepers = match keepers {
        Ok(keepers) => keepers,
        Err(error) => return witness.violation(format!("not connected: {error}")),
    };
    history.note("all are connected");
    join_all(scenario.callers.iter().map(async |caller| {
        sleep(caller.start).await;
        for step in &caller.steps {
            let run = take_step(scenario, step, &keepers[caller.keeper], &caller.name, witness, history);
            if bounded(&format!("{}: {step:?}", caller.name), &calm, witness, run).await.is_none() {
                return;
            }
        }
    }))
    .await;
    history.note("all callers are done");
    let empty = async {
        while !nodes(&scenario.directories(), observer).await.is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    if bounded("the end of the nodes", &calm, witness, empty).await.is_none() {
        let left = nodes(&scenario.directories(), observer).await;
        witness.violation(format!("{left:?} are left"));
    }
    bounded("closing", &calm, witness, join_all(keepers.iter().map(Keeper::close))).await;
}

/// Waits for something that must end in time once it is calm.
async fn bounded<T>(
    what: &str,
    calm: &watch::Receiver<bool>,
    witness: &Witness,
    work: impl Future<Output = T>,
) -> Option<T> {
    let limit = async {
        let _ = calm.clone().wait_for(|calm| *calm).await;
        sleep(BOUND).await;
    };
    tokio::select! {
        done = work => Some(done),
        () = limit => {
            witness.violation(format!("not within {BOUND:?}: {what}"));
            None
        }
    }
}

async fn take_step(
    scenario: &Scenario,
    step: &Step,
    keeper: &Keeper,
    name: &str,
    witness: &Witness,
    history: &History,
) {
    history.note(format!("{name} on {}: {step:?}", keeper.state().get().session_id));
    let lock = scenario.open(keeper, step);
    let began = Instant::now();
    let guard = match step.wait {
        Wait::Forever => granted(lock.acquire().await, witness, name, |_| false),
        Wait::Cancel(after) => match timeout(after, lock.acquire()).await {
            Ok(answer) => granted(answer, witness, name, |_| false),
            Err(_) => None,
        },
        Wait::Until(limit) => {
            let answer = lock.acquire_timeout(limit).await;
            if began.elapsed() > limit + LATE {
                witness.violation(format!("{name}: {limit:?} took {:?}", began.elapsed()));
            }
            granted(answer, witness, name, |error| matches!(error, AcquireTimeoutError::TimedOut { .. }))
        }
        Wait::Try => granted(lock.try_acquire().await, witness, name, |error| {
            matches!(error, TryAcquireError::Contended { .. } | TryAcquireError::Suspended)
        }),
    };
    let Some(guard) = guard else { return history.note(format!("{name} is not granted")) };
    history.note(format!("{name} is granted {:?}", guard.nodes()));
    let Some(id) = witness.granted(name, guard, scenario.claims(step)) else { return };
    sleep(step.hold).await;
    let Some(guard) = witness.take(id) else { return };
    history.note(format!("{name} releases, {:?}", guard.state()));
    if step.release {
        let released = guard.release().await;
        history.note(format!("{name}: {released:?}"));
    }
}

/// How much later than its deadline a request may end on a busy machine.
const LATE: Duration = Duration::from_secs(5);

fn granted<E: Debug>(
    answer: Result<AnyGuard, E>,
    witness: &Witness,
    name: &str,
    is_refusal: impl Fn(&E) -> bool,
) -> Option<AnyGuard> {
    if let Err(error) = &answer {
        if !is_refusal(error) {
            witness.violation(format!("{name}: {error:?}"));
        }
    }
    answer.ok()
}

async fn watch_guards(scenario: &Scenario, witness: &Witness, observer: &zk::Client) {
    let directories = scenario.directories();
    loop {
        for _ in 0..6 {
            sleep(Duration::from_millis(10)).await;
            witness.check();
        }
        let known = witness.nodes();
        if !known.is_empty() {
            let nodes = nodes(&directories, observer).await;
            witness.compare(known, &nodes);
        }
    }
}

async fn nodes(directories: &[String], observer: &zk::Client) -> BTreeSet<String> {
    let mut nodes = BTreeSet::new();
    for directory in directories {
        match observer.list_children(directory).await {
            Ok(names) => nodes.extend(names.into_iter().map(|name| format!("{directory}/{name}"))),
            Err(zk::Error::NoNode) => {}
            Err(error) => panic!("the observer has no connection: {error}"),
        }
    }
    nodes
}
