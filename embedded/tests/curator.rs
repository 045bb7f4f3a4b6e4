//! Unmodified Apache Curator: its locks, its semaphore and its leader election.
//!
//! The test needs a JDK and Curator's jars. By default it uses Debian's; set `CURATOR_CLASSPATH` to use others.

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
/// Their manifests name all further jars, except for a logger.
const DEBIAN_JARS: [&str; 2] = ["/usr/share/java/curator-recipes.jar", "/usr/share/java/slf4j-simple.jar"];
const JVM: [&str; 5] = [
    "-Xmx256m",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Djava.net.preferIPv4Stack=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
];
const CLASS_PATH: &str = "CURATOR_CLASSPATH";

/// How long the program may run. It only stops a run that hangs.
const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn curators_locks_work() {
    let class_path = class_path();
    let classes = Classes::compile(&class_path);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    // The program waits for a container to be deleted, and creates a TTL node.
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
        .unwrap_or_else(|error| panic!("{}", missing(&format!("java does not start: {error}"))));
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
                    // An error means that the program has ended. Its exit status is checked below.
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
    let errors = stderr_reader.join().expect("reading its standard error");
    assert!(!hangs, "the program hangs after {last:?}:\n{errors}");
    assert!(status.success(), "the program failed after {last:?}:\n{errors}");
    assert_eq!(last, "all", "the program ended too early:\n{errors}");
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

/// A directory with the compiled program. It is removed when this is dropped.
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
            .unwrap_or_else(|error| panic!("{}", missing(&format!("javac does not start: {error}"))));
        assert!(output.status.success(), "javac failed:\n{}", String::from_utf8_lossy(&output.stderr));
        classes
    }
}

impl Drop for Classes {
    fn drop(&mut self) {
        // An error does not matter: the directory is inside the target directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn class_path() -> OsString {
    if let Some(given) = env::var_os(CLASS_PATH) {
        return given;
    }
    for jar in DEBIAN_JARS {
        assert!(Path::new(jar).is_file(), "{}", missing(&format!("{jar} does not exist")));
    }
    joined(DEBIAN_JARS.map(OsString::from))
}

fn joined(entries: [OsString; 2]) -> OsString {
    // Do not use `env::join_paths`, because an entry may itself be a list of paths.
    let [mut first, second] = entries;
    first.push(":");
    first.push(second);
    first
}

fn missing(what: &str) -> String {
    format!(
        "this test needs Apache Curator and a JDK: {what}; \
         install them with `apt-get install -y libcurator-recipes-java default-jdk-headless`, \
         or set {CLASS_PATH} to Curator's jars and their dependencies"
    )
}
