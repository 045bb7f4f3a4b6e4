//! A standalone ZooKeeper server, run from its jar.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::guardian::Guardian;
use super::{java, ports};

/// One server process on loopback. Dropping it kills the process and removes its data.
///
/// The methods block: a launch for about half a second, the rest for milliseconds. A test that
/// minds this wraps the server in an `Arc` and goes through `tokio::task::spawn_blocking`.
pub struct Server {
    guardian: Guardian,
    port: u16,
    state: Mutex<State>,
    /// Four-letter words answered since the last launch; the server counts them as packets.
    questions: AtomicI64,
}

/// What may be different from one server to another.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The server's unit of time, in milliseconds. Sessions last at least two ticks, and expire
    /// on a tick.
    pub tick_ms: u32,
    /// More lines for the configuration file, such as `minSessionTimeout=1000`. They come last
    /// and so override those that are there.
    pub config: Vec<String>,
    /// More flags for the JVM, such as `-Dznode.container.checkIntervalMs=100`.
    pub jvm: Vec<String>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions { tick_ms: 200, config: Vec::new(), jvm: Vec::new() }
    }
}

impl Server {
    /// Starts a server of its own on a free port, and returns when it serves.
    pub fn start() -> Server {
        Server::start_with(&ServerOptions::default())
    }

    /// The same with other options.
    pub fn start_with(options: &ServerOptions) -> Server {
        Server::try_start(options).unwrap_or_else(|reason| panic!("{reason}"))
    }

    /// `127.0.0.1:<port>`, the same across restarts.
    pub fn address(&self) -> String {
        self.socket_address().to_string()
    }

    /// Kills the server with SIGKILL. Its data stays, and what it confirmed is in there.
    pub fn stop(&self) {
        let mut state = self.state();
        self.guardian.kill();
        state.status = Status::Stopped;
    }

    /// Launches the server again, on the same port with the same data, and returns when it
    /// serves. It is stopped before, if it has not been.
    pub fn restart(&self) {
        self.stop();
        self.relaunch();
        self.wait_until_serving();
    }

    /// The first half of `restart` after a `stop`, for a member of an ensemble that cannot serve
    /// before another one is launched as well.
    pub fn relaunch(&self) {
        let mut state = self.state();
        assert!(state.status == Status::Stopped, "only a stopped server can be launched");
        self.launch(&mut state);
    }

    /// The second half of `restart`.
    pub fn wait_until_serving(&self) {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match self.outcome_of_launch(deadline) {
                Ok(()) => return,
                // The port is not ours while the server is down; whoever has it may leave.
                Err(Failure::PortTaken) if Instant::now() < deadline => {
                    self.stop();
                    thread::sleep(POLL);
                    self.relaunch();
                }
                Err(failure) => panic!("{}", self.explain(&failure)),
            }
        }
    }

    /// Stops the process with SIGSTOP: connections stay open, and nothing is answered.
    pub fn pause(&self) {
        let mut state = self.state();
        assert!(state.status == Status::Running, "only a running server can be paused");
        self.guardian.pause();
        state.status = Status::Paused;
    }

    /// Ends a `pause`.
    pub fn resume(&self) {
        let mut state = self.state();
        assert!(state.status == Status::Paused, "only a paused server can be resumed");
        self.guardian.resume();
        state.status = Status::Running;
    }

    /// Neither stopped nor paused, as far as this harness is concerned.
    pub fn is_running(&self) -> bool {
        self.state().status == Status::Running
    }

    /// The server's answer to one of ZooKeeper's four-letter words, such as `srvr`, `wchp` or
    /// `dump`. It is empty when there is none within a second: in the first moments of its life
    /// a server may accept a question and never answer.
    pub fn four_letter(&self, word: &str) -> String {
        self.try_four_letter(word, Duration::from_secs(1)).unwrap_or_default()
    }

    /// The same with a time limit of choice, and the reason why there is no answer.
    pub fn try_four_letter(&self, word: &str, within: Duration) -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.socket_address(), within)?;
        stream.set_read_timeout(Some(within))?;
        stream.set_write_timeout(Some(within))?;
        stream.write_all(word.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        self.questions.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }

    /// One of the numbers the server monitors, such as `zk_watch_count`, `zk_ephemerals_count`,
    /// `zk_znode_count` or `zk_num_alive_connections`.
    ///
    /// The question itself counts as a connection, and as a packet received.
    pub fn mntr(&self, key: &str) -> i64 {
        let answer = self
            .try_four_letter("mntr", Duration::from_secs(10))
            .unwrap_or_else(|error| panic!("{} does not answer mntr: {error}", self.address()));
        answer
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .find(|(name, _)| *name == key)
            .unwrap_or_else(|| panic!("mntr does not tell {key}:\n{answer}"))
            .1
            .parse()
            .unwrap_or_else(|error| panic!("{key} is not a whole number: {error}"))
    }

    /// How many packets clients have sent since the last launch: `zk_packets_received` without
    /// the questions asked through this harness. Pings and handshakes are packets as well.
    pub fn client_packets(&self) -> i64 {
        let received = self.mntr("zk_packets_received");
        received - self.questions.load(Ordering::Relaxed)
    }

    /// `standalone`, `leader` or `follower`; nothing while the server does not serve.
    pub fn mode(&self) -> Option<String> {
        let answer = self.four_letter("srvr");
        let mode = answer.lines().find_map(|line| line.strip_prefix("Mode: "))?;
        Some(mode.trim().to_owned())
    }

    /// The last lines of the server's log since its last launch.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

/// What `ensemble` needs as well.
impl Server {
    /// Prepares a server that is not launched yet. `config` are the lines that follow those
    /// every server has, and `id` is written to the file that tells members apart.
    pub(super) fn prepare(
        port: u16,
        options: &ServerOptions,
        config: &[String],
        id: Option<usize>,
    ) -> Result<Server, String> {
        let java = java::command(&options.jvm)?;
        let guardian = Guardian::new("lockkeeper-zookeeper", |directory| {
            let mut command = java;
            command.push(directory.join("zoo.cfg").into());
            command
        });

        let data = guardian.directory().join("data");
        let mut lines = vec![
            format!("tickTime={}", options.tick_ms),
            format!("dataDir={}", data.display()),
            format!("clientPort={port}"),
            "clientPortAddress=127.0.0.1".to_owned(),
            "admin.enableServer=false".to_owned(),
            "4lw.commands.whitelist=*".to_owned(),
            "maxClientCnxns=0".to_owned(),
            // By default 20 ticks, so with small ticks clients would be cut short.
            "maxSessionTimeout=60000".to_owned(),
        ];
        lines.extend_from_slice(config);
        lines.extend_from_slice(&options.config);
        fs::create_dir(&data)
            .and_then(|()| fs::write(guardian.directory().join("zoo.cfg"), lines.join("\n")))
            .and_then(|()| match id {
                Some(id) => fs::write(data.join("myid"), id.to_string()),
                None => Ok(()),
            })
            .map_err(|error| format!("writing the configuration of a server: {error}"))?;

        Ok(Server {
            guardian,
            port,
            state: Mutex::new(State { status: Status::Stopped, launches: 0 }),
            questions: AtomicI64::new(0),
        })
    }

    /// Waits until the launched server serves, or until it is clear that it will not.
    pub(super) fn outcome_of_launch(&self, deadline: Instant) -> Result<(), Failure> {
        loop {
            if self.serves() {
                return Ok(());
            }
            if self.log().contains("Address already in use") {
                return Err(Failure::PortTaken);
            }
            if self.guardian.child_has_ended() {
                return Err(Failure::Ended);
            }
            if Instant::now() >= deadline {
                return Err(Failure::TooSlow);
            }
            thread::sleep(POLL);
        }
    }

    /// A message for people, with the end of the log.
    pub(super) fn explain(&self, failure: &Failure) -> String {
        let what = match failure {
            Failure::PortTaken => "found its port taken".to_owned(),
            Failure::Ended => "ended by itself".to_owned(),
            Failure::TooSlow => format!("does not serve after {START_LIMIT:?}"),
        };
        let address = self.address();
        let log = self.log_tail();
        format!("the ZooKeeper server at {address} {what}; the end of its log:\n{log}")
    }
}

/// Why a launched server does not serve.
pub(super) enum Failure {
    PortTaken,
    Ended,
    TooSlow,
}

/// How often a start is tried again when another process has taken a port just before.
pub(super) const START_ATTEMPTS: u32 = 5;

/// How long a server may take until it serves.
pub(super) const START_LIMIT: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(20);

struct State {
    status: Status,
    launches: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Running,
    Paused,
    Stopped,
}

impl Server {
    fn try_start(options: &ServerOptions) -> Result<Server, String> {
        let mut attempt = 1;
        loop {
            let reserved = ports::reserve(1);
            let server = Server::prepare(reserved.ports[0], options, &[], None)?;
            drop(reserved);
            server.relaunch();
            match server.outcome_of_launch(Instant::now() + START_LIMIT) {
                Ok(()) => return Ok(server),
                Err(Failure::PortTaken) if attempt < START_ATTEMPTS => attempt += 1,
                Err(failure) => return Err(server.explain(&failure)),
            }
        }
    }

    fn launch(&self, state: &mut State) {
        state.launches += 1;
        state.status = Status::Running;
        self.questions.store(0, Ordering::Relaxed);
        self.guardian.launch(&log_name(state.launches));
    }

    /// Whether it is really this server that serves, and not another one that snatched the port.
    fn serves(&self) -> bool {
        let data = self.guardian.directory().join("data");
        self.mode().is_some() && self.four_letter("conf").contains(&*data.to_string_lossy())
    }

    fn log(&self) -> String {
        let path = self.guardian.directory().join(log_name(self.state().launches));
        let bytes = fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn socket_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_name(launch: u32) -> String {
    format!("server-{launch}.log")
}
