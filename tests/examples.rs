//! The examples run, and print what they promise.

mod common;

use std::time::Duration;

use common::shared;
use tokio::process::Command;

#[tokio::test]
async fn quickstart_shows_tokens_a_timeout_a_cancel_and_a_recovery() {
    let said = run("quickstart", &[&shared().one_address()]).await;
    let tokens: Vec<u64> = (said.lines().filter(|line| line.contains("worker-")))
        .filter_map(|line| u64::from_str_radix(line.rsplit_once("0x")?.1, 16).ok())
        .collect();
    assert_eq!(tokens.len(), 12, "{said}");
    assert!(tokens.is_sorted(), "{said}");
    for promised in ["gave up after 200 ms", "cancelled: true", "  Lost\n", "holds again in a new session"] {
        assert!(said.contains(promised), "{promised:?} is not in:\n{said}");
    }
    assert!(!said.contains("unexpected") && !said.contains("still queueing"), "{said}");
}

#[tokio::test]
async fn the_singleton_moves_when_its_process_is_killed_and_when_it_is_asked_to_leave() {
    let said = run("singleton", &[]).await;
    assert_eq!(said.matches(" leads").count(), 3, "{said}");
    assert_eq!(said.matches("the scheduler runs here").count(), 3, "{said}");
    // The first was killed.
    assert_eq!(said.matches("the scheduler stops here, the lock is Held").count(), 2, "{said}");
    assert!(said.contains("tokens grow: true"), "{said}");
}

#[tokio::test]
async fn jobs_are_worked_off_one_at_a_time_by_actors_that_never_wait() {
    let said = run("job_queue", &[&shared().one_address()]).await;
    for (what, times) in [("works on", 8), ("is done with", 8), ("every job was done twice", 1)] {
        assert_eq!(said.matches(what).count(), times, "{what:?} in:\n{said}");
    }
}

#[tokio::test]
async fn two_workers_of_six_work_at_a_time() {
    let said = run("workers", &[&shared().one_address()]).await;
    assert_eq!(said.matches(" works\n").count(), 6, "{said}");
    assert!(said.contains("at most 2 worked") || said.contains("at most 1 worked"), "{said}");
}

#[tokio::test]
async fn a_service_without_actors_hands_over() {
    let said = run("service", &[&shared().one_address()]).await;
    for promised in ["one leaves", "two leaves", "and refused 0\n"] {
        assert!(said.contains(promised), "{promised:?} is not in:\n{said}");
    }
}

#[tokio::test]
async fn a_holder_that_comes_late_is_refused_by_a_row_an_object_and_a_node() {
    for (example, kept) in [
        ("fenced_row", "balance: 130\n"),
        ("fenced_object", "object: from the next\n"),
        ("fenced_znode", "node: from the next\n"),
    ] {
        let said = run(example, &[&shared().one_address()]).await;
        let done: Vec<bool> =
            (said.lines().filter_map(|line| line.rsplit_once(": ")?.1.parse().ok())).collect();
        assert_eq!(done, [true, true, false], "{said}");
        assert!(said.ends_with(kept), "{said}");
    }
}

#[test]
fn the_page_on_safety_quotes_the_examples_as_they_are() {
    let page = include_str!("../docs/safety.md");
    for (example, function) in [
        (include_str!("../examples/fenced_row.rs"), "fn deposit("),
        (include_str!("../examples/fenced_object.rs"), "fn put("),
        (include_str!("../examples/fenced_znode.rs"), "async fn set("),
    ] {
        let begin = example.find(function).expect("the function");
        let end = example[begin..].find("\n}\n").expect("its end") + "\n}\n".len();
        let quoted = format!("```rust\n{}```\n", &example[begin..begin + end]);
        assert!(page.contains(&quoted), "not on the page:\n{quoted}");
    }
}

/// Runs an example with the command that the README gives.
async fn run(name: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "--locked", "--example", name, "--"]).args(arguments);
    let output = tokio::time::timeout(Duration::from_secs(300), command.kill_on_drop(true).output()).await;
    let output = output.expect("it ends").expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
