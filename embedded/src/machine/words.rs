//! The answers to the four-letter words, in the form that monitoring tools know.

use std::fmt::Write;

use super::Moment;
use super::server::{Connection, Phase, Server};
use crate::wire::Word;

/// The version that clients and tools are told: the one whose protocol this is.
const VERSION: &str =
    concat!("3.9.0-lockkeeper-embedded-", env!("CARGO_PKG_VERSION"), ", built on 1970-01-01 00:00 UTC");

impl Server {
    pub(super) fn answer(&self, word: Word, now: Moment) -> String {
        match word {
            Word::Ruok => "imok".to_owned(),
            Word::Isro => "rw".to_owned(),
            Word::Srvr => format!("Zookeeper version: {VERSION}\n{}", self.summary()),
            Word::Stat => {
                let clients = self.clients(false);
                format!("Zookeeper version: {VERSION}\nClients:\n{clients}\n{}", self.summary())
            }
            Word::Cons => format!("{}\n", self.clients(true)),
            Word::Mntr => self.monitored(now),
            Word::Dump => self.dump(),
            Word::Wchs => {
                // One connection or path counts once, whether it is watched for its node or its children.
                let ((a, b), (c, d)) = (self.data_watches.summary(), self.child_watches.summary());
                let total = self.data_watches.len() + self.child_watches.len();
                format!("{} connections watching {} paths\nTotal watches:{total}\n", a.max(c), b.max(d))
            }
            Word::Wchp => self.watchers(),
            Word::Conf => {
                let ms = |duration: std::time::Duration| duration.as_millis();
                let (tick, min) = (ms(self.config.tick), ms(self.config.min_session_timeout));
                let max = ms(self.config.max_session_timeout);
                format!(
                    "tickTime={tick}\nmaxClientCnxns=0\nminSessionTimeout={min}\nmaxSessionTimeout={max}\nserverId=0\n"
                )
            }
        }
    }

    fn summary(&self) -> String {
        format!(
            "Latency min/avg/max: 0/0.0/0\nReceived: {}\nSent: {}\nConnections: {}\nOutstanding: 0\nZxid: {:#x}\n\
             Mode: standalone\nNode count: {}\n",
            self.packets.received,
            self.packets.sent,
            self.connections.len(),
            self.last_zxid,
            self.node_count(),
        )
    }

    fn clients(&self, detailed: bool) -> String {
        let mut text = String::new();
        for connection in self.connections.values() {
            let Connection { peer, packets, phase, .. } = connection;
            let _ = write!(text, " /{peer}[0](queued=0,recved={},sent={}", packets.received, packets.sent);
            if let (true, Phase::Session(session)) = (detailed, phase) {
                let timeout = self.sessions.get(*session).map_or(0, |session| session.timeout.as_millis());
                let _ = write!(text, ",sid={session},lop=NA,to={timeout}");
            }
            text.push_str(")\n");
        }
        text
    }

    fn monitored(&self, now: Moment) -> String {
        let values: [(&str, u64); 17] = [
            ("avg_latency", 0),
            ("max_latency", 0),
            ("min_latency", 0),
            ("packets_received", self.packets.received),
            ("packets_sent", self.packets.sent),
            ("num_alive_connections", self.connections.len() as u64),
            ("outstanding_requests", 0),
            ("znode_count", self.node_count() as u64),
            ("watch_count", (self.data_watches.len() + self.child_watches.len()) as u64),
            ("ephemerals_count", self.tree.ephemeral_count() as u64),
            ("approximate_data_size", self.tree.size() as u64),
            ("global_sessions", self.sessions.len() as u64),
            ("local_sessions", 0),
            ("uptime", now.0 / 1_000_000),
            ("auth_failed_count", 0),
            ("connection_drop_probability", 0),
            ("outstanding_tls_handshake", 0),
        ];
        let mut text = format!("zk_version\t{VERSION}\nzk_server_state\tstandalone\n");
        for (name, value) in values {
            let _ = writeln!(text, "zk_{name}\t{value}");
        }
        text
    }

    fn dump(&self) -> String {
        let mut text = format!("SessionTracker dump:\nGlobal Sessions({}):\n", self.sessions.len());
        for (id, session) in self.sessions.iter() {
            let _ = writeln!(text, "{id}\t{}ms", session.timeout.as_millis());
        }
        let owners = self.tree.owners().count();
        let _ = writeln!(text, "ephemeral nodes dump:\nSessions with Ephemerals ({owners}):");
        for (session, paths) in self.tree.owners() {
            let _ = writeln!(text, "{session}:");
            paths.iter().for_each(|path| {
                let _ = writeln!(text, "\t{path}");
            });
        }
        let _ = writeln!(text, "Connections dump:\nConnections ({}):", self.connections.len());
        for connection in self.connections.values() {
            let session = match connection.phase {
                Phase::Session(session) => session,
                Phase::Greeting(_) => super::SessionId(0),
            };
            let _ = writeln!(text, "\tip: /{} sessionId: {session}", connection.peer);
        }
        text
    }

    fn watchers(&self) -> String {
        let mut text = String::new();
        for (path, watchers) in self.data_watches.paths().chain(self.child_watches.paths()) {
            let _ = writeln!(text, "{path}");
            for connection in watchers.filter_map(|id| self.connections.get(&id)) {
                if let Phase::Session(session) = connection.phase {
                    let _ = writeln!(text, "\t{session}");
                }
            }
        }
        text
    }

    /// The real server counts the root under both of its names.
    fn node_count(&self) -> usize {
        self.tree.len() + 1
    }
}
