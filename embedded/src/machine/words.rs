//! The answers to the four-letter words, in the form of a standalone server of 3.9, which monitoring tools know.

use std::collections::{BTreeMap, BTreeSet};
use std::env::consts::{ARCH, OS};
use std::fmt::{Display, Write};
use std::time::Duration;

use super::server::{Connection, Packets, Phase, Server};
use super::{ConnectionId, Moment, SessionId};
use crate::wire::Word;

/// The version that clients and tools are told: the one whose protocol this is.
const VERSION: &str =
    concat!("3.9.0-lockkeeper-embedded-", env!("CARGO_PKG_VERSION"), ", built on 1970-01-01 00:00 UTC");

impl Server {
    /// The answer for the asking connection.
    pub(super) fn answer(&mut self, asking: ConnectionId, word: Word, now: Moment) -> String {
        match word {
            Word::Conf => self.configuration(),
            Word::Cons => format!("{}\n", self.clients(asking, true)),
            Word::Crst => {
                self.connections.values_mut().for_each(Connection::reset_statistics);
                "Connection stats reset.\n".to_owned()
            }
            // Nothing is kept on a disk.
            Word::Dirs => "datadir_size: 0\nlogdir_size: 0\n".to_owned(),
            Word::Dump => self.dump(),
            Word::Envi => environment(),
            // The digests of the tree after every so many transactions, which are not made here. Right after its start
            // the real server has none either.
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
            // These three tell of the watches on nodes alone; those on children are not among them, as there.
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
            // Whether the server goes on reading there.
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
        let sessions = self.sessions.iter().map(|(id, session)| (session.ends, id.to_string()));
        let mut text = format!("SessionTracker dump:\nSession {}", self.by_end(sessions));
        let owners = self.tree.owners().count();
        let _ = writeln!(text, "ephemeral nodes dump:\nSessions with Ephemerals ({owners}):");
        for (session, paths) in self.tree.owners() {
            let _ = writeln!(text, "{session}:");
            paths.iter().for_each(|path| {
                let _ = writeln!(text, "\t{path}");
            });
        }
        let connections = self.connections.values().map(|connection| {
            let (ends, session) = match connection.phase {
                Phase::Session(id) => (self.sessions.get(id).map_or(Moment::default(), |it| it.ends), id),
                Phase::Greeting(until) => (until, SessionId(0)),
            };
            (ends, format!("ip: /{} sessionId: {session}", connection.peer))
        });
        let _ = write!(text, "Connections dump:\nConnections {}", self.by_end(connections));
        text
    }

    /// What ends, in sets of those that end together.
    fn by_end(&self, ending: impl Iterator<Item = (Moment, String)>) -> String {
        let mut sets: BTreeMap<Moment, Vec<String>> = BTreeMap::new();
        ending.for_each(|(end, what)| sets.entry(end).or_default().push(what));
        let count: usize = sets.values().map(Vec::len).sum();
        let mut text = format!("Sets ({})/({count}):\n", sets.len());
        for (end, set) in sets {
            let _ = writeln!(text, "{} expire at {}:", set.len(), date(self.wall_clock(end)));
            for what in set {
                let _ = writeln!(text, "\t{what}");
            }
        }
        text
    }

    /// Every path whose node is watched, with each of the sessions that do.
    fn watched(&self) -> impl Iterator<Item = (&str, SessionId)> {
        self.data_watches.paths().flat_map(move |(path, watchers)| {
            watchers.filter_map(move |id| match self.connections.get(&id)?.phase {
                Phase::Session(session) => Some((path, session)),
                Phase::Greeting(_) => None,
            })
        })
    }

    /// The real server counts the root under both of its names.
    fn node_count(&self) -> usize {
        self.tree.len() + 1
    }
}

/// Every first one on a line, with its second ones on lines below.
fn grouped<A: Display + Ord, B: Display + Ord>(pairs: impl Iterator<Item = (A, B)>) -> String {
    let mut groups: BTreeMap<A, BTreeSet<B>> = BTreeMap::new();
    pairs.for_each(|(one, other)| {
        groups.entry(one).or_default().insert(other);
    });
    let mut text = String::new();
    for (one, others) in groups {
        let _ = writeln!(text, "{one}");
        for other in others {
            let _ = writeln!(text, "\t{other}");
        }
    }
    text.push('\n');
    text
}

/// `<NA>` is what the real server says of a property that is not there.
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

/// Milliseconds since the Unix epoch as Java writes a date, such as `Thu Jan 01 00:00:00 UTC 1970`.
fn date(time: i64) -> String {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = u64::try_from(time).unwrap_or(0) / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Counted from 1 March of the year 0: leap days then come last in a year, a century and four centuries.
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
    fn dates_are_those_of_the_calendar() {
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
