//! `KeeperOptions::record`: the record of a real run has all that is needed to replay it.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/records/mod.rs"]
mod records;
mod rules;
mod scenes;

use std::collections::BTreeMap;

use common::{client, options, run, shared, unique_path};
use lockkeeper::Keeper;
use lockkeeper::record::Recording;
use lockkeeper_actors::machine::linger::Event;
use lockkeeper_actors::machine::lock;
use lockkeeper_actors::record::{Exchange, Step, steps, take};
use records::{Count, Replay};
use zookeeper_client as zk;

/// Larger than the record of any of these runs.
const ROOM: usize = 64 << 20;

#[test]
fn every_machine_decides_the_same_again_when_its_record_is_replayed() {
    run(async {
        let steps = scenes::all().await;
        let counts = replay(&steps).expect("the same commands");
        println!("{counts:?}");
        for kind in ["lock", "semaphore", "multi-lock", "session", "candidate", "run"] {
            assert!(counts[kind].events > 2, "{counts:?}");
        }
    });
}

#[test]
fn a_record_can_be_replayed_in_parts() {
    run(async {
        let recording = Recording::new(ROOM);
        let keeper = connect(&recording).await;
        let lock = keeper.lock(&unique_path("parts")).expect("a path");
        let (mut replay, mut events) = (Replay::default(), Vec::new());
        for _ in 0..3 {
            lock.acquire().await.expect("it is free").release().await.expect("held");
            replay.feed(&take(&recording)).expect("the same commands");
            events.push(replay.counts()["lock"].events);
        }
        assert!(events.is_sorted() && events[0] < events[2], "{events:?}");
        keeper.close().await;
        assert_eq!((steps(&recording).is_empty(), recording.dropped()), (false, 0));
    });
}

#[test]
fn a_record_with_one_event_changed_or_missing_is_refused() {
    run(async {
        let recording = Recording::new(ROOM);
        let keeper = connect(&recording).await;
        let path = unique_path("changed");
        keeper
            .lock(&path)
            .expect("a path")
            .acquire()
            .await
            .expect("it is free")
            .release()
            .await
            .expect("held");
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
    });
}

#[test]
fn the_text_has_a_line_for_each_step_and_no_secret() {
    run(async {
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
    });
}

/// A semaphore may be on a node that is used for something else.
#[test]
fn the_text_has_no_data_of_an_application() {
    run(async {
        let recording = Recording::new(ROOM);
        let (keeper, path) = (connect(&recording).await, unique_path("configuration"));
        let client = client().await;
        let persistent = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
        client.create(&path, b"[database] password=hunter2", &persistent).await.expect("a new node");
        drop(keeper.semaphore(&path, 2).expect("a path").acquire().await.expect("it is free"));
        keeper.close().await;
        let text = recording.to_string();
        assert!(text.contains("bytes: 27, permits: None"), "{text}");
        let bytes = format!("{:?}", b"hunter2");
        assert!(!text.contains("hunter2") && !text.contains(bytes.trim_matches(['[', ']'])), "{text}");
    });
}

#[test]
fn a_full_record_drops_its_oldest_steps() {
    run(async {
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
    });
}

async fn connect(recording: &Recording) -> Keeper {
    options().record(recording).connect(&shared().address()).await.expect("should connect")
}

/// The counts of each kind of machine, or how the first step differs.
fn replay(steps: &[Step]) -> Result<BTreeMap<&'static str, Count>, String> {
    let mut replay = Replay::default();
    replay.feed(steps).map_err(|difference| difference.to_string())?;
    Ok(replay.counts().clone())
}
