//! Runs a program of this package.

use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// Runs a program in which the first holder is refused, and returns its last line: what the resource has at the end.
pub async fn refused(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    let output = timeout(Duration::from_secs(60), command.args(arguments).kill_on_drop(true).output()).await;
    let output = output.expect("the program ends").expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().collect();
    let [first, next, late, kept] = lines[..] else { panic!("{text}") };
    for (line, expected) in [
        (first, "the first holder writes: true"),
        (next, "the next holder writes: true"),
        (late, "the first holder, late, writes: false"),
    ] {
        assert_eq!(line, expected, "{text}");
    }
    kept.to_owned()
}
