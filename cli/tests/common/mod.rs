//! Shared by the tests of the command: it runs as users run it, as a process.

// Every test binary compiles this, and uses part of it.
#![allow(dead_code, unused_imports)]

#[path = "../../../tests/common/servers/mod.rs"]
mod servers;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

pub use servers::tls::certificate;
pub use servers::{Proxy, Server, ServerOptions, TestServer, eventually, proxied, shared, unique_path};

use lockkeeper::Keeper;
use tokio::time::timeout;
use zookeeper_client as zk;

/// A time limit for what takes milliseconds when nothing is wrong.
pub const SOON: Duration = Duration::from_secs(20);

/// Runs a test, and fails it when it hangs.
pub fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async { timeout(Duration::from_secs(300), test).await.expect("the test hangs") });
}

/// The command, which is not started yet.
pub fn lockkeeper(arguments: &[&str]) -> Command {
    lockkeeper_at(&shared().address(), arguments)
}

/// The command, with other servers.
pub fn lockkeeper_at(servers: &str, arguments: &[&str]) -> Command {
    let mut command = started_by(&ignoring_no_signal(env!("CARGO_BIN_EXE_lockkeeper")), arguments);
    command.env("LOCKKEEPER_SERVERS", servers);
    command
}

/// The command without servers, started by these words, of which the last one is its path.
pub fn started_by(words: &[&str], arguments: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(arguments);
    command.env("LOCKKEEPER_SESSION_TIMEOUT", "20s");
    command.env_remove("LOCKKEEPER_AUTH").env_remove("LOCKKEEPER_IDENTIFIER").env("NO_COLOR", "1");
    // A group of its own, so that it does not take the terminal of who runs the tests.
    command.stdin(Stdio::null()).process_group(0);
    command
}

/// The words that start a program in which no signal is ignored, also if the tests ignore some, as what a script starts
/// in the background does, or what `nohup` starts.
pub fn ignoring_no_signal(program: &str) -> Vec<&str> {
    let usual: &[&str] =
        if cfg!(target_os = "linux") { &["env", "--default-signal=INT,QUIT,HUP"] } else { &[] };
    [usual, &[program]].concat()
}

/// The result of a command that has ended.
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs a command to its end.
pub async fn done(mut command: Command) -> Done {
    let output = tokio::task::spawn_blocking(move || command.output().expect("it starts"));
    let output = output.await.expect("no panic");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// An output whose reader has gone.
pub fn unread() -> Stdio {
    let (output, _reader) = UnixStream::pair().expect("a pair");
    Stdio::from(OwnedFd::from(output))
}

/// Waits for the end of a process, and returns its exit code.
pub async fn ended(what: &str, process: &mut Child) -> Option<i32> {
    let mut code = None;
    eventually(what, SOON, async || {
        code = process.try_wait().expect("it can be asked").map(|status| status.code());
        code.is_some()
    })
    .await;
    code.flatten()
}

/// An address where nothing listens. The port stays bound until the process ends: nobody else can get it.
pub fn unused_address() -> String {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = socket.local_addr().expect("an address").to_string();
    std::mem::forget(socket);
    address
}

/// A keeper beside the command.
pub async fn connect() -> Keeper {
    let options = Keeper::options().session_timeout(Duration::from_secs(20)).identifier("the test");
    options.connect(&shared().address()).await.expect("should connect")
}

/// A client without a keeper, for nodes that no keeper makes. By default it would give up a connection that is silent for
/// 2.4 s, and what is in flight fails.
pub async fn client() -> zk::Client {
    let connector = zk::Client::connector().with_session_timeout(Duration::from_secs(20));
    connector.connect(&shared().address()).await.expect("should connect")
}

/// An empty directory, which is removed at the end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        let directory = std::env::temp_dir().join(unique_path(name).trim_matches('/'));
        std::fs::create_dir_all(&directory).expect("a directory");
        Scratch(directory)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The text of a file; empty if it does not exist.
    pub fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap_or_default()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Kills a process that a test leaves behind.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a process with this number runs. One that has ended and is not reaped does not.
pub fn runs(process: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.trim())).unwrap_or_default();
    let state =
        stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().next().map(str::to_owned));
    state.is_some_and(|state| state != "Z" && state != "X")
}
