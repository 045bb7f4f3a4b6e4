//! The process kazoo runs in: its installation, and asking it line by line.

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

/// A running `kazoo_peer.py`. Dropping it kills it; it also ends when this process does, because
/// that closes its standard input.
pub struct Process {
    child: Child,
    requests: mpsc::UnboundedSender<String>,
    count: AtomicU64,
    open: Arc<Open>,
    first_answer: Mutex<Option<oneshot::Receiver<Answer>>>,
}

/// What kazoo says, or the name of the exception it raised.
pub type Answer = Result<Value, String>;

impl Process {
    /// Starts the process, installing kazoo before if this is the first time.
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

    /// The answer to no request, which tells whether the client has connected.
    pub async fn first_answer(&self) -> Answer {
        let receiver = lock(&self.first_answer).take();
        received(receiver.expect("it is asked for once"), &self.open).await
    }

    /// Hands over a request at once; the future is only about the answer.
    pub fn ask(&self, mut request: Value) -> impl Future<Output = Answer> + Send + 'static {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        request["id"] = number.into();
        let (sender, receiver) = oneshot::channel();
        self.open.insert(number, sender);
        // If the writer is gone, so is the process, and the reader tells.
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

/// The script is part of the test binary, so it does not matter from where that is run.
const SCRIPT: &str = include_str!("kazoo_peer.py");

/// The environment variable that names a python which has kazoo already.
const PYTHON: &str = "LOCKKEEPER_KAZOO_PYTHON";

/// What the tasks share.
#[derive(Default)]
struct Open {
    /// Who waits for which answer; nothing once there will be no answers any more.
    waiting: Mutex<Waiting>,
    stderr: Mutex<String>,
}

enum Waiting {
    For(HashMap<u64, oneshot::Sender<Answer>>),
    InVain,
}

impl Default for Waiting {
    fn default() -> Self {
        Waiting::For(HashMap::new())
    }
}

impl Open {
    /// Once the process is gone this drops the sender, which is what its receiver notices.
    fn insert(&self, number: u64, sender: oneshot::Sender<Answer>) {
        if let Waiting::For(waiting) = &mut *lock(&self.waiting) {
            waiting.insert(number, sender);
        }
    }

    fn remove(&self, number: u64) -> Option<oneshot::Sender<Answer>> {
        match &mut *lock(&self.waiting) {
            Waiting::For(waiting) => waiting.remove(&number),
            Waiting::InVain => None,
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
            // Who has stopped waiting does not mind.
            let _ = sender.send(outcome);
        }
    }
    *lock(&open.waiting) = Waiting::InVain;
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

/// A python that can import kazoo. This blocks, for seconds when it has to install it.
pub fn python() -> PathBuf {
    // The failure is kept too, or else every test would wait for it again.
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
    // Beside the directory for temporary files of tests, which may be emptied.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
    let directory = target.join("kazoo-venv");
    let directory = directory.to_str().ok_or("the path of the target directory is not UTF-8")?;
    let python = run(Path::new("python3"), &["setup", directory])?;
    let python = PathBuf::from(python.trim());
    run(&python, &["check"])?;
    Ok(python)
}

/// Runs a task of the script and returns its standard output, or its standard error as the
/// reason of a failure.
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
