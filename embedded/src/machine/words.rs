//! The responses to the four-letter words, in the format of a standalone 3.9 server, which monitoring tools understand.

use std::collections::{BTreeMap, BTreeSet};
use std::env::consts::{ARCH, OS};
use std::fmt::{Display, Write};
use std::time::Duration;

use super::connection::{Connection, Packets, Phase};
use super::server::Server;
use super::{ConnectionId, Moment, SessionId};
use crate::wire::Word;

/// The version reported to clients and tools. The number is that of the protocol.
const VERSION: &str =
    concat!("3.9.0-lockkeeper-embedded-", env!("CARGO_PKG_VERSION"), ", built on 1970-01-01 00:00 UTC");

impl Server {
    /// The response to a word sent on the connection `asking`.
    pub(super) fn answer(&mut self, asking: ConnectionId, word: Word, now: Moment) -> String {
        match word {
            Word::Conf => self.configuration(),
            Word::Cons => format!("{}\n", self.clients(asking, true)),
            Word::Crst => {
                self.connections.values_mut().for_each(Connection::reset_statistics);
                "Connection stats reset.\n".to_owned()
            }
            // Nothing is stored on disk.
            Word::Dirs => "datadir_size: 0\nlogdir_size: 0\n".to_owned(),
            Word::Dump => self.dump(),
            Word::Envi => environment(),
            // The real server lists digests of the tree, which it computes every so many transactions. This server
            // computes none. The real one also returns an empty list right after its start.
            Word::Hash => String::new(),
            Word::Isro => "rw".to_owned(),
            Word::Mntr => self.monitored(now),
            Word::Ruok => "imok".to_owned(),
            Word::Srst => {
                self.packets = Packets::default();
                "Server stats reset.\n".to_owned()
            }
            Word::Srvr => format!("Zookeeper version: {VERSION}\n{}", self.summary()),
            Word::Stat => {
                let clients = self.clients(asking, false);
                format!("Zookeeper version: {VERSION}\nClients:\n{clients}\n{}", self.summary())
            }
            // Like the real server, these three report only watches on nodes, not watches on children.
            Word::Wchc => grouped(self.watched().map(|(path, session)| (session, path))),
            Word::Wchp => grouped(self.watched()),
            Word::Wchs => {
                let (connections, paths) = self.data_watches.summary();
                let total = self.data_watches.len();
                format!("{connections} connections watching {paths} paths\nTotal watches:{total}\n")
            }
        }
    }

    fn configuration(&self) -> String {
        let ms = |duration: Duration| duration.as_millis();
        format!(
            "clientPort={}\nsecureClientPort=-1\ntickTime={}\nmaxClientCnxns=0\nminSessionTimeout={}\n\
             maxSessionTimeout={}\nclientPortListenBacklog=-1\nserverId=0\n",
            self.config.client_port,
            ms(self.config.tick),
            ms(self.config.min_session_timeout),
            ms(self.config.max_session_timeout),
        )
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

    fn clients(&self, asking: ConnectionId, detailed: bool) -> String {
        let mut text = String::new();
        for (id, connection) in &self.connections {
            let Connection { peer, packets, phase, established, last, .. } = connection;
            // The real server reports which socket events it waits for: 1 for reading, 0 for none.
            let reads = u8::from(*id != asking);
            let _ =
                write!(text, " /{peer}[{reads}](queued=0,recved={},sent={}", packets.received, packets.sent);
            if let (true, Phase::Session(session)) = (detailed, phase) {
                let timeout = self.sessions.get(*session).map_or(0, |session| session.timeout.as_millis());
                let _ = write!(text, ",sid={session},lop={},est={established},to={timeout}", last.operation);
                if let Some(cxid) = last.cxid {
                    let _ = write!(text, ",lcxid={cxid:#x}");
                }
                let response = last.at.0 / 1_000_000;
                let zxid = last.zxid;
                let _ = write!(text, ",lzxid={zxid:#x},lresp={response},llat=0,minlat=0,avglat=0,maxlat=0");
            }
            text.push_str(")\n");
        }
        text
    }

    fn monitored(&self, now: Moment) -> String {
        let watches = self.data_watches.len() + self.child_watches.len();
        let values: [(&str, &dyn Display); 19] = [
            ("version", &VERSION),
            ("server_state", &"standalone"),
            ("ephemerals_count", &self.tree.ephemeral_count()),
            ("num_alive_connections", &self.connections.len()),
            ("avg_latency", &"0.0"),
            ("outstanding_requests", &0),
            ("znode_count", &self.node_count()),
            ("global_sessions", &self.sessions.len()),
            ("packets_sent", &self.packets.sent),
            ("packets_received", &self.packets.received),
            ("connection_drop_probability", &"0.0"),
            ("watch_count", &watches),
            ("auth_failed_count", &0),
            ("min_latency", &0),
            ("approximate_data_size", &self.tree.size()),
            ("local_sessions", &0),
            ("uptime", &(now.0 / 1_000_000)),
            ("max_latency", &0),
            ("outstanding_tls_handshake", &0),
        ];
        values.iter().fold(String::new(), |mut text, (name, value)| {
            let _ = writeln!(text, "zk_{name}\t{value}");
            text
        })
    }

    fn dump(&self) -> String {
        let sessions = self.sessions.iter().map(|(id, session)| (session.expires_at, id.to_string()));
        let mut text = format!("SessionTracker dump:\nSession {}", self.by_expiry(sessions));
        let owners = self.tree.owners().count();
        let _ = writeln!(text, "ephemeral nodes dump:\nSessions with Ephemerals ({owners}):");
        for (session, paths) in self.tree.owners() {
            let _ = writeln!(text, "{session}:");
            paths.iter().for_each(|path| {
                let _ = writeln!(text, "\t{path}");
            });
        }
        let connections = self.connections.values().map(|connection| {
            let (expires_at, session) = match connection.phase {
                Phase::Session(id) => {
                    (self.sessions.get(id).map_or(Moment::default(), |session| session.expires_at), id)
                }
                Phase::Handshake(until) => (until, SessionId(0)),
            };
            (expires_at, format!("ip: /{} sessionId: {session}", connection.peer))
        });
        let _ = write!(text, "Connections dump:\nConnections {}", self.by_expiry(connections));
        text
    }

    /// Lists sessions or connections in groups that expire at the same time.
    fn by_expiry(&self, items: impl Iterator<Item = (Moment, String)>) -> String {
        let mut sets: BTreeMap<Moment, Vec<String>> = BTreeMap::new();
        items.for_each(|(expires_at, item)| sets.entry(expires_at).or_default().push(item));
        let count: usize = sets.values().map(Vec::len).sum();
        let mut text = format!("Sets ({})/({count}):\n", sets.len());
        for (expires_at, set) in sets {
            let _ = writeln!(text, "{} expire at {}:", set.len(), date(self.wall_clock(expires_at)));
            for item in set {
                let _ = writeln!(text, "\t{item}");
            }
        }
        text
    }

    /// Every pair of a path with a watch on its node and a session that has such a watch.
    fn watched(&self) -> impl Iterator<Item = (&str, SessionId)> {
        self.data_watches.paths().flat_map(move |(path, watchers)| {
            watchers.filter_map(move |id| match self.connections.get(&id)?.phase {
                Phase::Session(session) => Some((path, session)),
                Phase::Handshake(_) => None,
            })
        })
    }

    /// The number of nodes as the real server reports it: it counts the root twice, as `"/"` and as `""`.
    fn node_count(&self) -> usize {
        self.tree.len() + 1
    }
}

/// Groups pairs by their first element: each first element on a line, followed by indented lines with its second ones.
fn grouped<A: Display + Ord, B: Display + Ord>(pairs: impl Iterator<Item = (A, B)>) -> String {
    let mut groups: BTreeMap<A, BTreeSet<B>> = BTreeMap::new();
    pairs.for_each(|(first, second)| {
        groups.entry(first).or_default().insert(second);
    });
    let mut text = String::new();
    for (first, seconds) in groups {
        let _ = writeln!(text, "{first}");
        for second in seconds {
            let _ = writeln!(text, "\t{second}");
        }
    }
    text.push('\n');
    text
}

/// The response to `envi`. The real server reports missing properties as `<NA>`.
fn environment() -> String {
    const ABSENT: [&str; 13] = [
        "java.version",
        "java.vendor",
        "java.home",
        "java.class.path",
        "java.library.path",
        "java.io.tmpdir",
        "java.compiler",
        "os.version",
        "user.name",
        "user.home",
        "user.dir",
        "os.memory.free",
        "os.memory.max",
    ];
    let mut text = format!(
        "Environment:\nzookeeper.version={VERSION}\nhost.name=localhost\nos.name={OS}\nos.arch={ARCH}\n"
    );
    for name in ABSENT {
        let _ = writeln!(text, "{name}=<NA>");
    }
    text
}

/// Formats milliseconds since the Unix epoch like Java's `Date`, such as `Thu Jan 01 00:00:00 UTC 1970`.
fn date(time: i64) -> String {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = u64::try_from(time).unwrap_or(0) / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Count days from 1 March of the year 0, so that a leap day is the last day of a year, of a century and of 400
    // years.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + u64::from(month >= 10);
    let (weekday, month) = (WEEKDAYS[(days % 7) as usize], MONTHS[((month + 2) % 12) as usize]);
    let (hours, minutes, seconds) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday} {month} {day:02} {hours:02}:{minutes:02}:{seconds:02} UTC {year}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_formatted_like_java_dates() {
        for (seconds, expected) in [
            (0, "Thu Jan 01 00:00:00 UTC 1970"),
            (951_782_400, "Tue Feb 29 00:00:00 UTC 2000"),
            (951_868_799, "Tue Feb 29 23:59:59 UTC 2000"),
            (951_868_800, "Wed Mar 01 00:00:00 UTC 2000"),
            (1_795_540_390, "Tue Nov 24 17:13:10 UTC 2026"),
            (4_107_542_399, "Sun Feb 28 23:59:59 UTC 2100"),
            (4_107_542_400, "Mon Mar 01 00:00:00 UTC 2100"),
            (253_402_300_799, "Fri Dec 31 23:59:59 UTC 9999"),
        ] {
            assert_eq!(date(seconds * 1000), expected);
        }
        let _ = (date(i64::MAX), date(i64::MIN));
    }
}
