//! The process that kazoo runs in: its installation, and its line-based protocol.

use std::collections::HashMap;
use std::env;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};

/// A running `kazoo_peer.py`. Dropping this kills it; it also ends with this process, because that closes its standard
/// input.
pub struct Process {
    child: Child,
    requests: mpsc::UnboundedSender<String>,
    count: AtomicU64,
    open: Arc<Open>,
    first_answer: Mutex<Option<oneshot::Receiver<Answer>>>,
}

/// The result, or the name of the exception that kazoo raised.
pub type Answer = Result<Value, String>;

impl Process {
    /// Starts the process, and installs kazoo first if necessary.
    pub async fn start(hosts: &str, session_timeout: Duration) -> Process {
        let python = tokio::task::spawn_blocking(python).await.expect("looking for kazoo");
        let mut child = Command::new(&python)
            .args(["-c", SCRIPT, "serve", hosts])
            .arg(session_timeout.as_secs_f64().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("starting {}: {error}", python.display()));
        let (sender, receiver) = oneshot::channel();
        let open = Arc::new(Open::default());
        open.insert(0, sender);
        let (requests, lines) = mpsc::unbounded_channel();
        tokio::spawn(write(child.stdin.take().expect("stdin"), lines));
        tokio::spawn(read(child.stdout.take().expect("stdout"), Arc::clone(&open)));
        tokio::spawn(collect(child.stderr.take().expect("stderr"), Arc::clone(&open)));
        Process { child, requests, count: AtomicU64::new(1), open, first_answer: Mutex::new(Some(receiver)) }
    }

    /// The first line, which answers no request and tells whether the client has connected.
    pub async fn first_answer(&self) -> Answer {
        let receiver = lock(&self.first_answer).take();
        received(receiver.expect("called only once"), &self.open).await
    }

    /// Sends a request at once; the future only waits for the answer.
    pub fn ask(&self, mut request: Value) -> impl Future<Output = Answer> + Send + 'static {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        request["id"] = number.into();
        let (sender, receiver) = oneshot::channel();
        self.open.insert(number, sender);
        // If the writer has ended, so has the process, and the reader reports that.
        let _ = self.requests.send(format!("{request}\n"));
        let open = Arc::clone(&self.open);
        async move { received(receiver, &open).await }
    }

    pub fn stderr(&self) -> String {
        lock(&self.open.stderr).clone()
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(mut self) {
        let limit = Duration::from_secs(30);
        let outcome = tokio::time::timeout(limit, self.child.wait()).await;
        outcome.expect("kazoo's process does not end").expect("waiting for kazoo's process");
    }

    pub async fn kill(mut self) {
        self.child.kill().await.expect("killing kazoo's process");
    }
}

/// The script is compiled into the test binary, so the working directory does not matter.
const SCRIPT: &str = include_str!("kazoo_peer.py");

/// The environment variable that names a python with kazoo installed.
const PYTHON: &str = "LOCKKEEPER_KAZOO_PYTHON";

/// State shared by the tasks.
#[derive(Default)]
struct Open {
    /// The pending requests, until the process ends.
    waiting: Mutex<Waiting>,
    stderr: Mutex<String>,
}

enum Waiting {
    For(HashMap<u64, oneshot::Sender<Answer>>),
    Ended,
}

impl Default for Waiting {
    fn default() -> Self {
        Waiting::For(HashMap::new())
    }
}

impl Open {
    /// After the process has ended this drops the sender, which tells the receiver.
    fn insert(&self, number: u64, sender: oneshot::Sender<Answer>) {
        if let Waiting::For(waiting) = &mut *lock(&self.waiting) {
            waiting.insert(number, sender);
        }
    }

    fn remove(&self, number: u64) -> Option<oneshot::Sender<Answer>> {
        match &mut *lock(&self.waiting) {
            Waiting::For(waiting) => waiting.remove(&number),
            Waiting::Ended => None,
        }
    }
}

async fn received(receiver: oneshot::Receiver<Answer>, open: &Open) -> Answer {
    match receiver.await {
        Ok(answer) => answer,
        Err(_) => Err(format!("kazoo's process has ended; its standard error:\n{}", lock(&open.stderr))),
    }
}

async fn write(mut stdin: ChildStdin, mut lines: mpsc::UnboundedReceiver<String>) {
    while let Some(line) = lines.recv().await {
        if stdin.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(stdout: ChildStdout, open: Arc<Open>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(mut answer) = serde_json::from_str::<Value>(&line) else {
            lock(&open.stderr).push_str(&format!("not an answer: {line}\n"));
            continue;
        };
        let outcome = match &answer["ok"] {
            Value::Bool(true) => Ok(answer["result"].take()),
            _ => Err(answer["error"].as_str().unwrap_or("no reason given").to_owned()),
        };
        if let Some(sender) = answer["id"].as_u64().and_then(|number| open.remove(number)) {
            // The caller may have stopped waiting.
            let _ = sender.send(outcome);
        }
    }
    *lock(&open.waiting) = Waiting::Ended;
}

async fn collect(mut stderr: ChildStderr, open: Arc<Open>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        lock(&open.stderr).push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A python that can import kazoo. This blocks, for several seconds if it has to install kazoo.
pub fn python() -> PathBuf {
    // A failure is kept too, so that not every test waits for it again.
    static PYTHON_WITH_KAZOO: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = PYTHON_WITH_KAZOO.get_or_init(|| match env::var_os(PYTHON) {
        Some(python) => {
            let outcome = run(Path::new(&python), &["check"]);
            outcome.map(|_| python.into()).map_err(|reason| format!("the one in {PYTHON}: {reason}"))
        }
        None => install(),
    });
    found.clone().unwrap_or_else(|reason| panic!("these tests need python with kazoo; {reason}"))
}

fn install() -> Result<PathBuf, String> {
    // Not in the directory for temporary test files, which may be cleared.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
    let directory = target.join("kazoo-venv");
    let directory = directory.to_str().ok_or("the path of the target directory is not UTF-8")?;
    let python = run(Path::new("python3"), &["setup", directory])?;
    let python = PathBuf::from(python.trim());
    run(&python, &["check"])?;
    Ok(python)
}

/// Runs a task of the script. Returns its standard output, or its standard error if it fails.
fn run(python: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = std::process::Command::new(python)
        .args(["-c", SCRIPT])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("running {}: {error}", python.display()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let reason = String::from_utf8_lossy(&output.stderr);
        Err(format!("{} {} failed:\n{reason}", python.display(), arguments.join(" ")))
    }
}
