//! `KeeperOptions::record`: the record of a real run has all that is needed to replay it.

mod common;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use common::events::session_event;
use common::{BRISK, SOON, eventually, options, proxied, refusal, shared, unique_path};
use lockkeeper::record::Recording;
use lockkeeper::run::{LeaseEvent, LeaseView, StopPolicy};
use lockkeeper::session::SessionEvent;
use lockkeeper::{Keeper, LockOptions};
use lockkeeper_actors::machine::candidate::Candidate;
use lockkeeper_actors::machine::linger::{Event, LingeringLock};
use lockkeeper_actors::machine::multi_lock::MultiLock;
use lockkeeper_actors::machine::run::Run;
use lockkeeper_actors::machine::semaphore::Semaphore;
use lockkeeper_actors::machine::session::Session;
use lockkeeper_actors::machine::{Machine, Moment, lock};
use lockkeeper_actors::record::{Exchange, Origin, Step, steps};
use ractor::{ActorProcessingErr, ActorRef};

/// Larger than the record of any of these runs.
const ROOM: usize = 64 << 20;

#[tokio::test]
async fn every_machine_decides_the_same_again_when_its_record_is_replayed() {
    let (recording, proxy) = (Recording::new(ROOM), proxied().await);
    let recorded = options().session_timeout(BRISK).record(&recording);
    let keeper = recorded.connect(&proxy.address()).await.expect("should connect");
    let stranger = options().connect(&shared().address()).await.expect("should connect");
    locks(&keeper, &stranger, LockOptions::new()).await;
    locks(&keeper, &stranger, LockOptions::new().linger(Duration::from_millis(20))).await;
    permits(&keeper, &stranger).await;
    actors(&keeper).await;
    let guard = keeper.lock(&unique_path("recorded")).expect("a path").acquire().await.expect("it is free");
    let mut events = keeper.events();
    proxy.cut();
    session_event(&mut events, SessionEvent::Resumed { epoch: 1 }).await;
    drop(guard);
    keeper.close().await;

    assert_eq!(recording.dropped(), 0);
    let counts = replay(&steps(&recording)).expect("the same commands");
    println!("{counts:?}");
    for kind in ["lock", "semaphore", "multi-lock", "session", "candidate", "run"] {
        assert!(counts[kind] > 2, "{counts:?}");
    }
}

#[tokio::test]
async fn a_record_with_one_event_changed_or_missing_is_refused() {
    let recording = Recording::new(ROOM);
    let keeper = connect(&recording).await;
    let path = unique_path("changed");
    keeper.lock(&path).expect("a path").acquire().await.expect("it is free").release().await.expect("held");
    let steps = steps(&recording);
    replay(&steps).expect("the same commands");

    let is_created = |step: &Step| match &step.exchange {
        Exchange::Lock(Event::Queue(lock::Event::CreatedAndListed { created, .. }), _) => created.is_ok(),
        _ => false,
    };
    let created = steps.iter().position(is_created).expect("a node was created");
    let mut changed = steps.clone();
    if let Exchange::Lock(Event::Queue(lock::Event::CreatedAndListed { created: Ok(created), .. }), _) =
        &mut changed[created].exchange
    {
        created.czxid += 1;
    }
    let differs = replay(&changed).expect_err("the token is another one");
    assert!(differs.contains("Grant"), "{differs}");
    let mut missing = steps;
    missing.remove(created);
    replay(&missing).expect_err("nothing was granted");
}

#[tokio::test]
async fn the_text_has_a_line_for_each_step_and_no_secret() {
    let recording = Recording::new(ROOM);
    let secret = "do-not-record-this";
    let options = options().auth("digest", format!("user:{secret}").as_bytes()).identifier("billing-7");
    let keeper = options.record(&recording).connect(&shared().address()).await.expect("should connect");
    let path = unique_path("text");
    drop(keeper.lock(&path).expect("a path").acquire().await.expect("it is free"));
    keeper.close().await;
    let text = recording.to_string();
    assert_eq!(text.lines().count(), steps(&recording).len());
    for expected in [path.as_str(), "Session", "Acquire", "CreatedAndListed", "Grant", "Release"] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    assert!(!text.contains(secret) && !text.contains("billing-7"), "{text}");
}

#[tokio::test]
async fn a_full_record_drops_its_oldest_steps() {
    const ROOM: usize = 8 << 10;
    let recording = Recording::new(ROOM);
    let keeper = connect(&recording).await;
    let lock = keeper.lock(&unique_path("full")).expect("a path");
    for _ in 0..50 {
        lock.acquire().await.expect("it is free").release().await.expect("held");
    }
    keeper.close().await;
    let (text, dropped) = (recording.to_string(), recording.dropped());
    assert!(dropped > 50 && text.len() <= ROOM && text.len() > ROOM / 2, "{dropped}, {}", text.len());
    assert!(text.contains("Close") && !text.contains("instance:"), "the newest are kept:\n{text}");
    // What began before cannot be replayed.
    assert!(replay(&steps(&recording)).expect("nothing differs").is_empty());
}

async fn connect(recording: &Recording) -> Keeper {
    options().record(recording).connect(&shared().address()).await.expect("should connect")
}

/// Grants in turn, a cancel, a timeout, a try, and a holder of another process.
async fn locks(keeper: &Keeper, stranger: &Keeper, options: LockOptions) {
    let path = unique_path("record");
    let lock = keeper.lock_with(&path, options).expect("valid options");
    let theirs = stranger.lock(&path).expect("a path").acquire().await.expect("it is free");
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let lock = lock.clone();
            tokio::spawn(async move { lock.acquire().await.expect("connected").release().await })
        })
        .collect();
    refusal(lock.acquire_timeout(Duration::from_millis(10)).await);
    let cancelled = tokio::spawn(lock.acquire());
    eventually("all wait", SOON, async || {
        lock.contenders().await.is_ok_and(|contenders| contenders.len() > 1)
    })
    .await;
    refusal(lock.try_acquire().await);
    cancelled.abort();
    theirs.release().await.expect("held");
    for worker in workers {
        worker.await.expect("no panic").expect("held");
    }
}

/// Permits that are waited for, split and merged, and several locks at once.
async fn permits(keeper: &Keeper, stranger: &Keeper) {
    let path = unique_path("record-semaphore");
    let semaphore = keeper.semaphore(&path, 3).expect("a path");
    let theirs = stranger.semaphore(&path, 3).expect("a path").acquire().await.expect("free");
    let mut two = semaphore.acquire_many(2).await.expect("free");
    let waiting = tokio::spawn(semaphore.acquire_many(3));
    let part = two.split(1).expect("one of two");
    two.merge(part).expect("of the same semaphore");
    drop(theirs);
    two.release().await.expect("held");
    drop(waiting.await.expect("no panic").expect("granted"));
    let paths = [unique_path("record-multi"), unique_path("record-multi")];
    let multi = keeper.multi_lock(&paths).expect("two paths");
    multi.acquire().await.expect("free").release().await.expect("held");
}

/// A singleton, and an actor under a guard.
async fn actors(keeper: &Keeper) {
    let (make, tell) = (|_: LeaseView| (Worker, ()), |_: LeaseEvent| None);
    let singleton = keeper.singleton(&unique_path("record-singleton")).expect("a path");
    let mut candidate = singleton.run(make, tell);
    candidate.running().await;
    candidate.shutdown().await;
    let guard = keeper.lock(&unique_path("record-run")).expect("a path").acquire().await.expect("free");
    let run = guard.run(StopPolicy::default(), make, tell);
    run.stop();
    drop(run.ended().await.expect("the guard was held"));
}

struct Worker;

#[ractor::actor(message = (), state = (), arguments = ())]
impl Worker {
    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// The machines of a record, made anew.
enum Twin {
    Lock(Box<LingeringLock>),
    Semaphore(Box<Semaphore>),
    MultiLock(MultiLock),
    Session(Session),
    Candidate(Candidate),
    Run(Run),
}

/// Passes the events of each machine whose beginning is in the record to a machine of the same beginning. Returns the
/// number of steps of each kind, or how the first one differs.
fn replay(steps: &[Step]) -> Result<BTreeMap<&'static str, usize>, String> {
    let (mut twins, mut counts) = (BTreeMap::new(), BTreeMap::new());
    for Step { at, machine, exchange } in steps {
        if let Exchange::Begun(origin) = exchange {
            twins.insert(machine, begin(origin, *at)?);
            continue;
        }
        let Some(twin) = twins.get_mut(machine) else { continue };
        let kind = match (twin, exchange.clone()) {
            (Twin::Lock(twin), Exchange::Lock(event, commands)) => {
                compare(twin.as_mut(), event, *at, commands).map(|()| "lock")
            }
            (Twin::Semaphore(twin), Exchange::Semaphore(event, commands)) => {
                compare(twin.as_mut(), event, *at, commands).map(|()| "semaphore")
            }
            (Twin::MultiLock(twin), Exchange::MultiLock(event, commands)) => {
                compare(twin, event, *at, commands).map(|()| "multi-lock")
            }
            (Twin::Session(twin), Exchange::Session(event, commands)) => {
                compare(twin, event, *at, commands).map(|()| "session")
            }
            (Twin::Candidate(twin), Exchange::Candidate(event, commands)) => {
                compare(twin, event, *at, commands).map(|()| "candidate")
            }
            (Twin::Run(twin), Exchange::Run(until, event, commands)) => {
                twin.set_until(until);
                compare(twin, event, *at, commands).map(|()| "run")
            }
            (_, exchange) => Err(format!("of another machine: {exchange:?}")),
        };
        *counts.entry(kind?).or_insert(0) += 1;
    }
    Ok(counts)
}

fn begin(origin: &Origin, at: Moment) -> Result<Twin, String> {
    Ok(match origin {
        Origin::Lock { instance, .. } => Twin::Lock(LingeringLock::new(*instance).into()),
        Origin::Semaphore { instance, .. } => Twin::Semaphore(Semaphore::new(*instance).into()),
        Origin::MultiLock { paths } => Twin::MultiLock(MultiLock::new(paths.len())),
        Origin::Session { begun, timeout, tick, commands, .. } => {
            let mut given = Vec::new();
            let session = Session::new(*begun, at, *timeout, *tick, &mut given);
            same(&given, commands)?;
            Twin::Session(session)
        }
        Origin::Candidate { proven_after, .. } => {
            Twin::Candidate(Candidate::new(*proven_after, &mut Vec::new()))
        }
        Origin::Run { limits, .. } => Twin::Run(Run::new(limits.clone())),
    })
}

fn compare<M: Machine<Event: Debug, Command: PartialEq>>(
    machine: &mut M,
    event: M::Event,
    at: Moment,
    commands: Vec<M::Command>,
) -> Result<(), String> {
    let (mut given, what) = (Vec::new(), format!("{event:?}"));
    machine.handle(event, at, &mut given);
    same(&given, &commands).map_err(|differ| format!("{what}: {differ}"))
}

fn same<C: Debug + PartialEq>(given: &[C], recorded: &[C]) -> Result<(), String> {
    match given == recorded {
        true => Ok(()),
        false => Err(format!("gives {given:?}, and gave {recorded:?}")),
    }
}
