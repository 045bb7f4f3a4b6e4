//! Unmodified kazoo: its recipes, and its client's sessions, watches, transactions and access control.
//!
//! The test needs `python3`. The first run also needs network access, to install kazoo into the target directory. To
//! use a Python that already has kazoo, set `LOCKKEEPER_KAZOO_PYTHON`, as for the other tests with kazoo.

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use lockkeeper_embedded::{Controls, Embedded, SessionId};

const SCRIPT: &str = include_str!("kazoo_recipes.py");
/// The script shared by the tests with kazoo. Only its commands `setup` and `check` are used here.
const INSTALLER: &str = include_str!("../../tests/common/servers/kazoo_peer.py");
const PYTHON: &str = "LOCKKEEPER_KAZOO_PYTHON";

/// How long the script may run. It only stops a run that hangs.
const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn every_recipe_of_kazoo_works() {
    let python = python().unwrap_or_else(|reason| panic!("this test needs Python with kazoo: {reason}"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let server = runtime.block_on(Embedded::start()).expect("a free port");
    let mut child = Command::new(&python)
        .args(["-c", SCRIPT, &server.address()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("starting {}: {error}", python.display()));
    let mut answers = child.stdin.take().expect("stdin");
    let mut stderr = child.stderr.take().expect("stderr");
    let stderr_reader = thread::spawn(move || {
        let mut text = Vec::new();
        // After an error, show what was read so far.
        let _ = stderr.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let (sender, lines) = mpsc::channel();
    let stdout = BufReader::new(child.stdout.take().expect("stdout"));
    thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));

    let (mut last, mut hangs) = (String::new(), false);
    let end = Instant::now() + LIMIT;
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if let Some(fault) = line.strip_prefix("fault ") {
                    inject(fault, &server.controls());
                    // An error means that the script has ended. Its exit status is checked below.
                    let _ = answers.write_all(b"done\n");
                }
                println!("{line}");
                last = line;
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                hangs = true;
                break;
            }
        }
    }
    if hangs {
        child.kill().expect("killing the script");
    }
    let status = child.wait().expect("waiting for the script");
    let errors = stderr_reader.join().expect("reading its standard error");
    assert!(!hangs, "the script hangs after {last:?}:\n{errors}");
    assert!(status.success(), "the script failed after {last:?}:\n{errors}");
    assert!(last.starts_with("all "), "the script ended after {last:?}:\n{errors}");
    assert!(server.controls().sessions().is_empty(), "every client must close its session");
}

fn inject(fault: &str, controls: &Controls) {
    let (fault, session) = fault.split_once(' ').expect("a fault and a session");
    let session = SessionId(session.parse().expect("a session id"));
    match fault {
        "reset" => controls.reset_connections(session),
        "expire" => assert!(controls.expire(session), "there is no session {session}"),
        other => panic!("unknown fault: {other}"),
    }
}

/// A Python that can import kazoo. If none is configured, kazoo is installed into a new virtual environment.
fn python() -> Result<PathBuf, String> {
    let python = match env::var_os(PYTHON) {
        Some(python) => PathBuf::from(python),
        None => {
            // Do not use the directory for temporary test files itself, because it may be emptied.
            let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
            let directory = target.join("kazoo-venv");
            let output = install("python3".as_ref(), &["setup".as_ref(), directory.as_os_str()])?;
            PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
        }
    };
    install(&python, &["check".as_ref()])?;
    Ok(python)
}

fn install(python: &Path, arguments: &[&OsStr]) -> Result<Output, String> {
    let output = Command::new(python)
        .args(["-c", INSTALLER])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("running {}: {error}", python.display()))?;
    if output.status.success() {
        Ok(output)
    } else {
        let reason = String::from_utf8_lossy(&output.stderr);
        Err(format!("{} {arguments:?} failed:\n{reason}", python.display()))
    }
}
