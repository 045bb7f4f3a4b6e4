//! Apache Curator, unmodified: its locks, its semaphore and its leader election.
//!
//! It needs a JDK and Curator's jars, which `CURATOR_CLASSPATH` may name; by default they are Debian's.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use lockkeeper_embedded::{Controls, Embedded, SessionId};

const PROGRAM: &str = include_str!("CuratorLocks.java");
/// These name all they need in their manifests, but a logger.
const DEBIAN_JARS: [&str; 2] = ["/usr/share/java/curator-recipes.jar", "/usr/share/java/slf4j-simple.jar"];
const JVM: [&str; 5] = [
    "-Xmx256m",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Djava.net.preferIPv4Stack=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
];
const CLASS_PATH: &str = "CURATOR_CLASSPATH";

/// Nothing waits for this to pass; it ends a run that hangs.
const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn curators_locks_work() {
    let class_path = class_path();
    let classes = Classes::compile(&class_path);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    // The test waits for a container to go, and uses a time to live.
    let options = Embedded::options().container_check(Duration::from_millis(50)).extended_types(true);
    let server = runtime.block_on(options.start()).expect("a free port");
    let mut child = Command::new("java")
        .args(JVM)
        .arg("-cp")
        .arg(joined([classes.0.as_os_str().to_owned(), class_path]))
        .args(["CuratorLocks", &server.address()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}", missing(&format!("java does not start, {error}"))));
    let mut answers = child.stdin.take().expect("stdin");
    let mut stderr = child.stderr.take().expect("stderr");
    let complaints = thread::spawn(move || {
        let mut text = Vec::new();
        // What could be read is worth showing.
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
                if let Some(fault) = line.strip_prefix("please ") {
                    cause(fault, &server.controls());
                    // If the program is gone, its status will tell.
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
        child.kill().expect("killing the program");
    }
    let status = child.wait().expect("waiting for the program");
    let complaints = complaints.join().expect("reading its standard error");
    assert!(!hangs, "the program hangs after {last:?}:\n{complaints}");
    assert!(status.success(), "the program failed after {last:?}:\n{complaints}");
    assert_eq!(last, "all", "the program ended too early:\n{complaints}");
    assert!(server.controls().sessions().is_empty(), "every client has closed its session");
}

fn cause(fault: &str, controls: &Controls) {
    let (fault, session) = fault.split_once(' ').expect("a fault and a session");
    let session = SessionId(session.parse().expect("a session's number"));
    match fault {
        "reset" => controls.reset_connections(session),
        "expire" => assert!(controls.expire(session), "there is no session {session}"),
        other => panic!("an unknown fault, {other}"),
    }
}

/// A directory with the compiled program, which goes with this.
struct Classes(PathBuf);

impl Classes {
    fn compile(class_path: &OsString) -> Classes {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("curator-{}", process::id()));
        fs::create_dir_all(&directory).expect("a directory for classes");
        let classes = Classes(directory);
        let source = classes.0.join("CuratorLocks.java");
        fs::write(&source, PROGRAM).expect("writing the program");
        let output = Command::new("javac")
            .args(["--release", "11", "-Xlint:all,-path,-options,-try,-classfile", "-Werror", "-cp"])
            .arg(class_path)
            .arg("-d")
            .args([&classes.0, &source])
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{}", missing(&format!("javac does not start, {error}"))));
        assert!(output.status.success(), "javac failed:\n{}", String::from_utf8_lossy(&output.stderr));
        classes
    }
}

impl Drop for Classes {
    fn drop(&mut self) {
        // What cannot be removed goes with the target directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn class_path() -> OsString {
    if let Some(given) = env::var_os(CLASS_PATH) {
        return given;
    }
    for jar in DEBIAN_JARS {
        assert!(Path::new(jar).is_file(), "{}", missing(&format!("there is no {jar}")));
    }
    joined(DEBIAN_JARS.map(OsString::from))
}

fn joined(entries: [OsString; 2]) -> OsString {
    // Not `env::join_paths`: an entry may be a list itself.
    let [mut first, second] = entries;
    first.push(":");
    first.push(second);
    first
}

fn missing(what: &str) -> String {
    format!(
        "this test runs Apache Curator, but {what}: \
         install it with `apt-get install -y libcurator-recipes-java default-jdk-headless`, \
         or let {CLASS_PATH} name its jars (and those they need)"
    )
}
