//! The server that a suite runs on: in-process by default, or a real one, or an ensemble of three.
//!
//! `LOCKKEEPER_TEST_SERVER` selects it: `embedded` (the default), `standalone`, `tls` or `ensemble`. All but the first
//! need Java and ZooKeeper's jar; without them the tests fail and are not skipped. `tls` is a standalone server that
//! takes clients only with TLS.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use lockkeeper_embedded::{Embedded, Proxy};

use super::ensemble::Ensemble;
use super::server::{Server, ServerOptions};
use super::tls::certificate;

/// An embedded server, a standalone server or an ensemble.
pub enum TestServer {
    Embedded(Embedded),
    Standalone(Server),
    Ensemble(Ensemble),
}

/// The server that all tests of one process share.
pub fn shared() -> &'static TestServer {
    static SHARED: OnceLock<TestServer> = OnceLock::new();
    SHARED.get_or_init(TestServer::start)
}

/// Whether the servers that tests start take clients only with TLS, and show this process' certificate.
pub fn uses_tls() -> bool {
    std::env::var("LOCKKEEPER_TEST_SERVER").as_deref() == Ok("tls")
}

/// A proxy in front of the shared server.
pub async fn proxied() -> Proxy {
    Proxy::start(shared().one_address()).await.expect("a free port")
}

impl TestServer {
    /// Starts a separate server, for a test that counts what is on it or restarts it.
    pub fn start() -> TestServer {
        match std::env::var("LOCKKEEPER_TEST_SERVER").as_deref() {
            Err(_) | Ok("embedded") => TestServer::Embedded(embedded()),
            Ok("standalone") => TestServer::Standalone(Server::start_with(&quick())),
            Ok("tls") => TestServer::Standalone(Server::start_with(&quick().with_tls(certificate()))),
            Ok("ensemble") => TestServer::Ensemble(Ensemble::start_with(&quick())),
            Ok(other) => {
                panic!("LOCKKEEPER_TEST_SERVER is {other:?}; use embedded, standalone, tls or ensemble")
            }
        }
    }

    /// The address or addresses that a client connects to.
    pub fn address(&self) -> String {
        match self {
            TestServer::Embedded(server) => server.address(),
            TestServer::Standalone(server) => server.address(),
            TestServer::Ensemble(servers) => servers.connect_string(),
        }
    }

    /// A single address, for a proxy. Of an ensemble it is a follower's.
    pub fn one_address(&self) -> String {
        match self {
            TestServer::Embedded(_) | TestServer::Standalone(_) => self.address(),
            TestServer::Ensemble(servers) => servers.member(servers.follower()).address(),
        }
    }

    /// The concatenated answers of the servers to a four-letter word. Panics if one of them does not answer.
    pub fn four_letter(&self, word: &str) -> String {
        self.answers(word).concat()
    }

    /// A counter of `mntr`, summed over the servers.
    pub fn mntr(&self, key: &str) -> i64 {
        let value = |answer: &String| {
            let value = answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('\t'));
            let value = value.unwrap_or_else(|| panic!("mntr does not contain {key}:\n{answer}"));
            value.trim().parse::<i64>().expect("a number")
        };
        self.answers("mntr").iter().map(value).sum()
    }

    /// One answer for each server.
    fn answers(&self, word: &str) -> Vec<String> {
        match self {
            TestServer::Embedded(server) => vec![insist(word, || ask(&server.address(), word))],
            TestServer::Standalone(server) => vec![insist(word, || server.try_four_letter(word, PATIENCE))],
            TestServer::Ensemble(servers) => {
                let answer = |member: &Server| insist(word, || member.try_four_letter(word, PATIENCE));
                servers.members().iter().map(answer).collect()
            }
        }
    }

    /// Restarts it with all its data; the members of an ensemble one after the other.
    pub fn restart(&self) {
        match self {
            TestServer::Embedded(server) => {
                block_on(server.controls().restart()).expect("the port is free again");
            }
            TestServer::Standalone(server) => server.restart(),
            TestServer::Ensemble(servers) => servers.members().iter().for_each(Server::restart),
        }
    }
}

fn embedded() -> Embedded {
    let options = Embedded::options()
        .tick(Duration::from_millis(200))
        .max_session_timeout(Duration::from_secs(60))
        .container_check(Duration::from_millis(50));
    block_on(options.start()).expect("a free port")
}

/// Options under which empty containers are removed quickly. Members of an ensemble wait ten seconds for each other, so
/// that a disk that is busy for one does not cost them their leader. Nothing pauses them, and killed ones are noticed at
/// once.
fn quick() -> ServerOptions {
    let often = "-Dznode.container.checkIntervalMs=50".to_owned();
    let patient = "syncLimit=50".to_owned();
    ServerOptions { jvm: vec![often], config: vec![patient], ..ServerOptions::default() }
}

/// How long a server may take for one answer. On a busy machine it is asked more than once.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks until there is an answer. No answer would read as "nothing is left", and so would that of a server which elects
/// a leader: that it does not serve.
fn insist(word: &str, ask: impl Fn() -> io::Result<String>) -> String {
    let deadline = Instant::now() + 20 * PATIENCE;
    loop {
        match ask() {
            Ok(answer) if !answer.is_empty() && !answer.contains("not currently serving") => return answer,
            other => assert!(Instant::now() < deadline, "no answer to {word}, but {other:?}"),
        }
        thread::sleep(PATIENCE / 50);
    }
}

fn ask(address: &str, word: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(word.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
