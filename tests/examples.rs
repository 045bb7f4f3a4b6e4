//! The examples run and print the expected output.

mod common;

use std::time::Duration;

use common::shared;
use tokio::process::Command;

#[tokio::test]
async fn quickstart_shows_tokens_a_timeout_a_cancel_and_a_recovery() {
    let output = run("quickstart", &[&shared().one_address()]).await;
    let tokens: Vec<u64> = (output.lines().filter(|line| line.contains("worker-")))
        .filter_map(|line| u64::from_str_radix(line.rsplit_once("0x")?.1, 16).ok())
        .collect();
    assert_eq!(tokens.len(), 12, "{output}");
    assert!(tokens.is_sorted(), "{output}");
    for expected in ["gave up after 200 ms", "cancelled: true", "  Lost\n", "holds again in a new session"] {
        assert!(output.contains(expected), "{expected:?} is not in:\n{output}");
    }
    assert!(!output.contains("unexpected") && !output.contains("still queueing"), "{output}");
}

#[tokio::test]
async fn the_singleton_moves_when_its_process_is_killed_and_when_it_is_asked_to_leave() {
    let output = run("singleton", &[]).await;
    assert_eq!(output.matches(" leads").count(), 3, "{output}");
    assert_eq!(output.matches("the scheduler runs here").count(), 3, "{output}");
    // The first scheduler was killed, so only two stop in order.
    assert_eq!(output.matches("the scheduler stops here, the lock is Held").count(), 2, "{output}");
    assert!(output.contains("tokens grow: true"), "{output}");
}

#[tokio::test]
async fn each_job_is_done_once_by_one_of_two_clerks() {
    // The example fails if a job is done twice, or by both clerks at once.
    let output = run("job_queue", &[&shared().one_address()]).await;
    for (what, times) in
        [(": Done\n", 4), (": FoundDone\n", 4), ("each job was done once, by one clerk\n", 1)]
    {
        assert_eq!(output.matches(what).count(), times, "{what:?} in:\n{output}");
    }
}

#[tokio::test]
async fn an_application_of_messages_survives_the_death_of_its_keeper() {
    let output = run("by_message", &[&shared().one_address()]).await;
    let (before, after) = output.split_once("the keeper has died: ").expect("it dies");
    for part in [before, after] {
        assert!(
            part.contains("the keeper is connected\n") && part.contains(" works under token"),
            "{output}"
        );
    }
    for (what, times) in [(" is done\n", 9), ("all 9 jobs are done\n", 1)] {
        assert_eq!(output.matches(what).count(), times, "{what:?} in:\n{output}");
    }
    assert!(output.contains("eve has cancelled") && output.contains(" waits for a new keeper"), "{output}");
    assert!(output.ends_with("all 9 jobs are done\n"), "{output}");
}

#[tokio::test]
async fn two_workers_of_six_work_at_a_time() {
    let output = run("workers", &[&shared().one_address()]).await;
    assert_eq!(output.matches(" works\n").count(), 6, "{output}");
    assert!(output.contains("at most 2 worked") || output.contains("at most 1 worked"), "{output}");
}

#[tokio::test]
async fn a_service_without_actors_hands_over() {
    let output = run("service", &[&shared().one_address()]).await;
    for expected in ["one leaves", "two leaves", "and refused 0\n"] {
        assert!(output.contains(expected), "{expected:?} is not in:\n{output}");
    }
}

#[tokio::test]
async fn the_probes_of_a_service_tell_whether_zookeeper_answers() {
    let output = run("health", &[&shared().one_address()]).await;
    let (answers, silent) = output.split_once("ZooKeeper is silent\n").expect("both parts");
    for expected in ["/ready: 200, connected; ", "/alive: 200\n", "; a lock was acquired and released in "] {
        assert!(answers.contains(expected), "{expected:?} is not in:\n{output}");
    }
    for expected in ["/ready: 503, ", "/alive: 200\n", "; no lock was acquired and released within 3s\n"] {
        assert!(silent.contains(expected), "{expected:?} is not in:\n{output}");
    }
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn four_troubles_show_in_metrics() {
    // With the features of this test, nothing else has to be built again.
    let features = std::env::var("LOCKKEEPER_TEST_FEATURES").unwrap_or_else(|_| "metrics".to_owned());
    let output = run_with("metrics", &features, &["1"]).await;
    for expected in [
        "metrics at http://127.0.0.1:",
        "a holder is stuck:\n    lockkeeper_refused_total{kind=\"lock\",path=\"/locks\",reason=\"timed_out\"} ",
        "the server is slow:\n    lockkeeper_heartbeat_seconds_bucket{",
        "the link flaps:\n    lockkeeper_sessions_suspended_total ",
        "the session was lost:\n    lockkeeper_sessions_lost_total ",
        "and its lease:\n    lockkeeper_leases_lost_total{",
    ] {
        assert!(output.contains(expected), "{expected:?} is not in:\n{output}");
    }
}

/// Builds an example, as `cargo test --workspace` does, and runs it.
async fn run(name: &str, arguments: &[&str]) -> String {
    run_with(name, "", arguments).await
}

async fn run_with(name: &str, features: &str, arguments: &[&str]) -> String {
    let build = ["build", "--quiet", "--locked", "--workspace", "--profile", "test", "--features", features];
    let build = [&build[..], &["--example", name]].concat();
    let built = Command::new(env!("CARGO")).args(build).status().await.expect("cargo runs");
    assert!(built.success(), "{name} is not built");
    let test = std::env::current_exe().expect("the path of this test");
    let example = test.ancestors().nth(2).expect("its folder's folder").join("examples").join(name);
    let mut command = Command::new(example);
    command.args(arguments);
    let output = tokio::time::timeout(Duration::from_secs(300), command.kill_on_drop(true).output()).await;
    let output = output.expect("the example ends").expect("the example runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
