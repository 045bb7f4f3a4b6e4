//! Servers in a process that starts other ones. Apart from the other tests: what is started has a copy of their descriptors
//! for a moment, so a port that was closed may still accept.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lockkeeper_embedded::Embedded;

/// A process that is being started has a copy of all descriptors until it runs its program: also of a listener that was
/// closed meanwhile.
#[tokio::test]
async fn a_server_comes_back_while_processes_are_started() {
    let server = Embedded::start().await.expect("a server");
    let done = Arc::new(AtomicBool::new(false));
    let starting = {
        let done = done.clone();
        thread::spawn(move || {
            while !done.load(Ordering::SeqCst) {
                let started = Command::new("true").status().expect("a process");
                assert!(started.success());
            }
        })
    };
    for _ in 0..500 {
        server.controls().restart().await.expect("the port is still free");
    }
    done.store(true, Ordering::SeqCst);
    starting.join().expect("no panic");
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_without_a_thread_is_an_error() {
    const IN_CHILD: &str = "LOCKKEEPER_TEST_WITHOUT_THREADS";
    if std::env::var_os(IN_CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(Embedded::start()).expect_err("there is no memory for a stack of this size");
        return;
    }
    // The same test runs in a process in which no thread can start, because its stack would be too large.
    let mut child = Command::new(std::env::current_exe().expect("the path of this test"));
    child.args(["--exact", "a_server_without_a_thread_is_an_error"]).env(IN_CHILD, "1");
    let output = child.env("RUST_MIN_STACK", (1_u64 << 60).to_string()).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
