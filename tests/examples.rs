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

/// Runs an example with the command that the README gives.
async fn run(name: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "--locked", "--example", name, "--"]).args(arguments);
    let output = tokio::time::timeout(Duration::from_secs(300), command.kill_on_drop(true).output()).await;
    let output = output.expect("it ends").expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
