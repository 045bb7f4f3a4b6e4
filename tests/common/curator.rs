//! A live Apache Curator client to contend with. It needs a JDK and Curator's jars. The jars are Debian's, unless
//! `CURATOR_CLASSPATH` names others.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};

/// One client with its own session and its own process. Dropping it kills the process; the session then lasts until the
/// server expires it.
pub struct Curator {
    _process: Child,
    requests: mpsc::UnboundedSender<String>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<String>>>>,
    numbers: AtomicU64,
}

/// Curator's kinds of locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CuratorKind {
    Mutex,
    Read,
    Write,
}

/// A held lock.
#[derive(Debug)]
pub struct CuratorHandle(u64);

impl Curator {
    pub async fn start(address: &str) -> Curator {
        Curator::start_with_session(address, Duration::from_secs(10)).await
    }

    pub async fn start_with_session(address: &str, session: Duration) -> Curator {
        // The compiler takes seconds, in which sessions of this thread must go on.
        let classes = tokio::task::spawn_blocking(classes).await.expect("it compiles");
        let mut process = Command::new("java")
            .args(JVM)
            .arg("-cp")
            .arg(format!("{}:{}", classes.display(), class_path()))
            .args(["CuratorPeer", address, &session.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("java does not start, {error}: {NEEDED}"));
        let mut answers = BufReader::new(process.stdout.take().expect("standard output is piped")).lines();
        let ready = tokio::time::timeout(LIMIT, answers.next_line()).await;
        assert!(matches!(&ready, Ok(Ok(Some(line))) if line == "ready"), "Curator is not ready: {ready:?}");
        let waiting = Arc::new(Mutex::new(HashMap::new()));
        let (requests, queue) = mpsc::unbounded_channel();
        tokio::spawn(write(process.stdin.take().expect("standard input is piped"), queue));
        tokio::spawn(read(answers, waiting.clone()));
        Curator { _process: process, requests, waiting, numbers: AtomicU64::new(0) }
    }

    /// Waits for the lock without a time limit.
    pub async fn acquire(&self, path: &str, kind: CuratorKind) -> CuratorHandle {
        self.begin(path, kind).await
    }

    /// Like `acquire`, but the request is sent before this returns.
    pub fn begin(&self, path: &str, kind: CuratorKind) -> impl Future<Output = CuratorHandle> + Send + use<> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let answer = self.ask(number, format!("acquire {number} {} {path}", word(kind)));
        async move {
            assert_eq!(answer.await.as_deref(), Ok("yes"), "Curator should acquire {kind:?}");
            CuratorHandle(number)
        }
    }

    /// Waits only for a moment.
    pub async fn try_acquire(&self, path: &str, kind: CuratorKind) -> Option<CuratorHandle> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let answer = self.ask(number, format!("try {number} {} {path}", word(kind))).await;
        match answer.as_deref() {
            Ok("yes") => Some(CuratorHandle(number)),
            Ok("no") => None,
            other => panic!("Curator tries {kind:?}: {other:?}"),
        }
    }

    pub async fn release(&self, held: CuratorHandle) {
        let answer = self.ask(held.0, format!("release {}", held.0)).await;
        assert_eq!(answer.as_deref(), Ok("yes"), "Curator should release");
    }

    fn ask(&self, number: u64, request: String) -> oneshot::Receiver<String> {
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().expect("no panic under it").insert(number, sender);
        self.requests.send(request).expect("the writer task runs");
        answer
    }
}

async fn write(mut stdin: ChildStdin, mut requests: mpsc::UnboundedReceiver<String>) {
    while let Some(request) = requests.recv().await {
        if stdin.write_all(format!("{request}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(
    mut answers: Lines<BufReader<ChildStdout>>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<String>>>>,
) {
    while let Ok(Some(line)) = answers.next_line().await {
        let (number, answer) = line.split_once(' ').expect("a number and an answer");
        let number = number.parse().expect("a number");
        if let Some(sender) = waiting.lock().expect("no panic under it").remove(&number) {
            // The caller may have stopped waiting.
            let _ = sender.send(answer.to_owned());
        }
    }
    // The process has ended: dropping the senders tells the callers.
    waiting.lock().expect("no panic under it").clear();
}

fn word(kind: CuratorKind) -> &'static str {
    match kind {
        CuratorKind::Mutex => "mutex",
        CuratorKind::Read => "read",
        CuratorKind::Write => "write",
    }
}

/// The directory of the compiled program, built once per test process.
fn classes() -> &'static Path {
    static CLASSES: OnceLock<PathBuf> = OnceLock::new();
    CLASSES.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("curator-peer");
        let fresh = directory.join(std::process::id().to_string());
        fs::create_dir_all(&fresh).expect("a directory for classes");
        let source = fresh.join("CuratorPeer.java");
        fs::write(&source, PROGRAM).expect("writing the program");
        let output = std::process::Command::new("javac")
            .args(["--release", "11", "-Xlint:all,-path,-options,-classfile", "-Werror", "-cp"])
            .arg(class_path())
            .arg("-d")
            .args([&fresh, &source])
            .output()
            .unwrap_or_else(|error| panic!("javac does not start, {error}: {NEEDED}"));
        assert!(output.status.success(), "javac failed:\n{}", String::from_utf8_lossy(&output.stderr));
        fresh
    })
}

/// The jars of Curator and what they need.
pub fn class_path() -> String {
    if let Ok(given) = env::var("CURATOR_CLASSPATH") {
        return given;
    }
    for jar in DEBIAN_JARS {
        assert!(Path::new(jar).is_file(), "there is no {jar}: {NEEDED}");
    }
    DEBIAN_JARS.join(":")
}

const PROGRAM: &str = include_str!("CuratorPeer.java");

/// Their manifests name all their dependencies except a logger.
const DEBIAN_JARS: [&str; 2] = ["/usr/share/java/curator-recipes.jar", "/usr/share/java/slf4j-simple.jar"];

const NEEDED: &str = "this test runs Apache Curator: `apt-get install -y libcurator-recipes-java \
                      default-jdk-headless`, or set CURATOR_CLASSPATH to its jars and their dependencies";

const JVM: [&str; 5] = [
    "-Xmx128m",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Djava.net.preferIPv4Stack=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
];

/// An upper limit that is only reached when the test fails.
const LIMIT: Duration = Duration::from_secs(60);
