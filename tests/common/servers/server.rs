//! A standalone ZooKeeper server, run from its jar.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::guardian::Guardian;
use super::{STARTING, java, ports};

/// One server process on loopback. Dropping it kills the process and removes its data.
///
/// The methods block: a launch for about half a second, the others for milliseconds. A test that cannot block wraps the
/// server in an `Arc` and uses `tokio::task::spawn_blocking`.
pub struct Server {
    guardian: Guardian,
    port: u16,
    /// The port for clients, if that takes only TLS.
    secure_port: Option<u16>,
    state: Mutex<State>,
    /// Four-letter words answered since the last launch, which the server counts as packets.
    questions: AtomicI64,
}

/// The options of a server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The server's time unit in milliseconds. Sessions last at least two ticks, and expire on a tick.
    pub tick_ms: u32,
    /// Additional configuration lines, such as `minSessionTimeout=1000`. They come last and override the default lines.
    pub config: Vec<String>,
    /// Additional JVM flags, such as `-Dznode.container.checkIntervalMs=100`.
    pub jvm: Vec<String>,
    /// Files in the server's directory, by name. In `config` and `jvm`, [`DIRECTORY`] stands for that directory.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// Whether clients need TLS: see `ServerOptions::with_tls`. They have a port of their own then, and the other one
    /// serves the four-letter words.
    pub tls: bool,
    /// How many seconds the server's timeouts count in one second of its clients.
    pub clock_rate: Option<f64>,
}

/// The server's directory, in the options of a server.
pub const DIRECTORY: &str = "{directory}";

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            tick_ms: 200,
            config: Vec::new(),
            jvm: Vec::new(),
            files: Vec::new(),
            tls: false,
            clock_rate: None,
        }
    }
}

impl ServerOptions {
    /// The number of ports for clients and four-letter words.
    pub(super) fn ports(&self) -> usize {
        1 + usize::from(self.tls)
    }
}

impl Server {
    /// Starts a server on a free port and returns when it serves.
    pub fn start() -> Server {
        Server::start_with(&ServerOptions::default())
    }

    /// Like `start`, with other options.
    pub fn start_with(options: &ServerOptions) -> Server {
        Server::try_start(options).unwrap_or_else(|reason| panic!("{reason}"))
    }

    /// `127.0.0.1:<port>` for clients, the same across restarts.
    pub fn address(&self) -> String {
        loopback(self.secure_port.unwrap_or(self.port)).to_string()
    }

    /// Writes a file in the server's directory.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        fs::write(self.guardian.directory().join(name), bytes)
    }

    /// Kills the server with SIGKILL. Its data stays, including everything that it confirmed.
    pub fn stop(&self) {
        let mut state = self.state();
        self.guardian.kill();
        state.status = Status::Stopped;
    }

    /// Launches the server again on the same port with the same data, and returns when it serves. Stops it first if it
    /// runs.
    pub fn restart(&self) {
        self.stop();
        self.relaunch();
        self.wait_until_serving();
    }

    /// Deletes the data of a stopped server. A member of an ensemble then gets that of its leader.
    pub fn forget(&self) {
        assert!(self.state().status == Status::Stopped, "only a stopped server can lose its data");
        let data = self.guardian.directory().join("data").join("version-2");
        fs::remove_dir_all(&data).unwrap_or_else(|error| panic!("{}: {error}", data.display()));
    }

    /// Launches a stopped server without waiting until it serves: a member of an ensemble cannot serve before another
    /// one is launched as well.
    pub fn relaunch(&self) {
        let mut state = self.state();
        assert!(state.status == Status::Stopped, "only a stopped server can be launched");
        self.launch(&mut state);
    }

    /// Waits until a launched server serves.
    pub fn wait_until_serving(&self) {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match self.outcome_of_launch(deadline) {
                Ok(()) => return,
                // While the server is down another process can bind the port, so retry until it is free again.
                Err(Failure::PortTaken) if Instant::now() < deadline => {
                    self.stop();
                    thread::sleep(POLL);
                    self.relaunch();
                }
                Err(failure) => panic!("{}", self.explain(&failure)),
            }
        }
    }

    /// Stops the process with SIGSTOP: connections stay open and nothing is answered.
    pub fn pause(&self) {
        let mut state = self.state();
        assert!(state.status == Status::Running, "only a running server can be paused");
        self.guardian.pause();
        state.status = Status::Paused;
    }

    /// Resumes a paused server.
    pub fn resume(&self) {
        let mut state = self.state();
        assert!(state.status == Status::Paused, "only a paused server can be resumed");
        self.guardian.resume();
        state.status = Status::Running;
    }

    /// Whether it has been neither stopped nor paused through these methods.
    pub fn is_running(&self) -> bool {
        self.state().status == Status::Running
    }

    /// The server's answer to a four-letter word, such as `srvr`, `wchp` or `dump`. Empty if there is none within a
    /// second: just after its start a server may accept the connection and never answer.
    pub fn four_letter(&self, word: &str) -> String {
        self.try_four_letter(word, Duration::from_secs(1)).unwrap_or_default()
    }

    /// Like `four_letter`, with a custom time limit and the reason for a missing answer.
    pub fn try_four_letter(&self, word: &str, within: Duration) -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&loopback(self.port), within)?;
        stream.set_read_timeout(Some(within))?;
        stream.set_write_timeout(Some(within))?;
        stream.write_all(word.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        self.questions.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }

    /// One of the monitored numbers, such as `zk_watch_count`, `zk_ephemerals_count`, `zk_znode_count` or
    /// `zk_num_alive_connections`.
    ///
    /// The query itself counts as a connection and as a received packet.
    pub fn mntr(&self, key: &str) -> i64 {
        let answer = self
            .try_four_letter("mntr", Duration::from_secs(10))
            .unwrap_or_else(|error| panic!("{} does not answer mntr: {error}", self.address()));
        answer
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .find(|(name, _)| *name == key)
            .unwrap_or_else(|| panic!("mntr does not contain {key}:\n{answer}"))
            .1
            .parse()
            .unwrap_or_else(|error| panic!("{key} is not a whole number: {error}"))
    }

    /// How many packets clients have sent since the last launch: `zk_packets_received` without the queries of these
    /// methods. Pings and handshakes count as packets.
    pub fn client_packets(&self) -> i64 {
        let received = self.mntr("zk_packets_received");
        received - self.questions.load(Ordering::Relaxed)
    }

    /// `standalone`, `leader` or `follower`; `None` while the server does not serve.
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

/// Also used by `ensemble`.
impl Server {
    /// Prepares a server without launching it, on as many ports as the options need. `config` is added to the lines that
    /// every server has; `id` is written to the file that identifies an ensemble member.
    pub(super) fn prepare(
        ports: &[u16],
        options: &ServerOptions,
        config: &[String],
        id: Option<usize>,
    ) -> Result<Server, String> {
        let java = java::command(&options.jvm, options.clock_rate)?;
        let guardian = Guardian::new("lockkeeper-zookeeper", |directory| {
            let in_directory = |word: OsString| match word.to_str() {
                Some(text) => text.replace(DIRECTORY, &directory.to_string_lossy()).into(),
                None => word,
            };
            let mut command: Vec<OsString> = java.into_iter().map(in_directory).collect();
            command.push(directory.join("zoo.cfg").into());
            command
        });

        let (port, secure_port) = (ports[0], ports.get(1).copied());
        let data = guardian.directory().join("data");
        let mut lines = vec![
            format!("tickTime={}", options.tick_ms),
            format!("dataDir={}", data.display()),
            format!("clientPort={port}"),
            "clientPortAddress=127.0.0.1".to_owned(),
            "admin.enableServer=false".to_owned(),
            "4lw.commands.whitelist=*".to_owned(),
            "maxClientCnxns=0".to_owned(),
            // The default is 20 ticks, which is too short for clients when ticks are short.
            "maxSessionTimeout=60000".to_owned(),
        ];
        if let Some(port) = secure_port {
            lines.push(format!("secureClientPort={port}"));
            lines.push("secureClientPortAddress=127.0.0.1".to_owned());
        }
        lines.extend_from_slice(config);
        lines.extend_from_slice(&options.config);
        let config = lines.join("\n").replace(DIRECTORY, &guardian.directory().to_string_lossy());
        let written = |(name, bytes): &(&str, Vec<u8>)| fs::write(guardian.directory().join(name), bytes);
        fs::create_dir(&data)
            .and_then(|()| fs::write(guardian.directory().join("zoo.cfg"), config))
            .and_then(|()| options.files.iter().try_for_each(written))
            .and_then(|()| match id {
                Some(id) => fs::write(data.join("myid"), id.to_string()),
                None => Ok(()),
            })
            .map_err(|error| format!("writing the configuration of a server: {error}"))?;

        Ok(Server {
            guardian,
            port,
            secure_port,
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

    /// An error message with the end of the log.
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

/// How many times a start is tried when another process takes the port first.
pub(super) const START_ATTEMPTS: u32 = 5;

/// The time limit until a server serves.
pub(super) const START_LIMIT: Duration = Duration::from_secs(60);

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
        let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut attempt = 1;
        loop {
            let reserved = ports::reserve(options.ports());
            let server = Server::prepare(&reserved.ports, options, &[], None)?;
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

    /// Whether this server serves on all its ports, and not another one that took them. It binds the port for TLS last,
    /// and ends if that is taken.
    fn serves(&self) -> bool {
        let data = self.guardian.directory().join("data");
        let bound = |port| self.log().contains(&format!("bound to port {port}"));
        self.mode().is_some()
            && self.four_letter("conf").contains(&*data.to_string_lossy())
            && self.secure_port.is_none_or(bound)
    }

    fn log(&self) -> String {
        let path = self.guardian.directory().join(log_name(self.state().launches));
        let bytes = fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn log_name(launch: u32) -> String {
    format!("server-{launch}.log")
}
