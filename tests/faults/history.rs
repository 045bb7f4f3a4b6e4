//! What clients write down of what they hold, and the check of it.
//!
//! All processes read the system's one monotonic clock, so their times compare.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::kinds::{KINDS, Kind};

/// Nanoseconds on a clock that all processes of this machine share.
pub type Time = u64;

/// The clock.
pub fn now() -> Time {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).expect("after the start") * 1_000_000_000
        + u64::try_from(time.tv_nsec).expect("a part of a second")
}

/// One line of a history. A client that is killed or stopped has written whatever it has done so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A process begins; whatever the one before it had was taken from it.
    Started(Time),
    /// Read behind the grant.
    Acquired { at: Time, kind: &'static str, token: u64 },
    /// The guard says that nobody else holds until then.
    Promised(Time),
    /// Read before the release began.
    Releasing(Time),
    /// The guard says that it is lost.
    Lost(Time),
    /// Waiting ended without a grant.
    Refused(Time),
    /// Something that no client should ever be told.
    Failed(String),
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Started(at) => write!(f, "started {at}"),
            Entry::Acquired { at, kind, token } => write!(f, "acquired {at} {kind} {token}"),
            Entry::Promised(until) => write!(f, "promised {until}"),
            Entry::Releasing(at) => write!(f, "releasing {at}"),
            Entry::Lost(at) => write!(f, "lost {at}"),
            Entry::Refused(at) => write!(f, "refused {at}"),
            Entry::Failed(reason) => write!(f, "failed {}", reason.replace('\n', " ")),
        }
    }
}

impl FromStr for Entry {
    type Err = String;

    fn from_str(line: &str) -> Result<Entry, String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut words = rest.split(' ');
        let mut number = || words.next().and_then(|word| word.parse().ok());
        let entry = match word {
            "started" => number().map(Entry::Started),
            "acquired" => {
                let at = number();
                let kind = words.next().and_then(Kind::named);
                let token = words.next().and_then(|word| word.parse().ok());
                at.zip(kind).zip(token).map(|((at, kind), token)| Entry::Acquired {
                    at,
                    kind: kind.name,
                    token,
                })
            }
            "promised" => number().map(Entry::Promised),
            "releasing" => number().map(Entry::Releasing),
            "lost" => number().map(Entry::Lost),
            "refused" => number().map(Entry::Refused),
            "failed" => Some(Entry::Failed(rest.to_owned())),
            _ => None,
        };
        entry.ok_or_else(|| format!("not an entry: {line:?}"))
    }
}

/// A grant, with the time in which nobody else may hold: from its grant to its release, or to the end of what its
/// guard promised. A client that was killed is bound by its last promise.
#[derive(Clone, Debug)]
pub struct Grant {
    pub client: usize,
    pub kind: &'static Kind,
    pub token: u64,
    pub from: Time,
    pub until: Time,
}

/// What histories show.
#[derive(Debug, Default)]
pub struct Findings {
    pub grants: Vec<Grant>,
    pub lost: usize,
    pub refused: usize,
    /// Two that exclude each other were valid at one moment.
    pub overlaps: Vec<String>,
    /// A grant whose token is not larger than that of a conflicting one before.
    pub backward: Vec<String>,
    pub failed: Vec<String>,
}

impl Findings {
    pub fn faults(&self) -> Vec<&str> {
        let all = self.overlaps.iter().chain(&self.backward).chain(&self.failed);
        all.map(String::as_str).collect()
    }
}

/// Reads one history a client, and checks them together.
pub fn check(histories: &[Vec<Entry>]) -> Findings {
    let mut findings = Findings::default();
    for (client, history) in histories.iter().enumerate() {
        findings.read(client, history);
    }
    findings.grants.sort_by_key(|grant| grant.from);
    findings.find_overlaps();
    findings.find_backward_tokens();
    findings
}

impl Findings {
    fn read(&mut self, client: usize, history: &[Entry]) {
        let mut open: Option<Grant> = None;
        for entry in history {
            match entry {
                Entry::Started(_) => self.grants.extend(open.take()),
                Entry::Acquired { at, kind, token } => {
                    self.grants.extend(open.take());
                    let kind = Kind::named(kind).expect("it has been read from the table");
                    open = Some(Grant { client, kind, token: *token, from: *at, until: *at });
                }
                Entry::Promised(until) => match &mut open {
                    Some(grant) => grant.until = grant.until.max(*until),
                    None => self.failed.push(format!("client {client} promises what it does not have")),
                },
                Entry::Releasing(at) => {
                    if let Some(grant) = &mut open {
                        grant.until = grant.until.min(*at);
                    }
                    self.grants.extend(open.take());
                }
                Entry::Lost(_) => {
                    self.lost += 1;
                    self.grants.extend(open.take());
                }
                Entry::Refused(_) => self.refused += 1,
                Entry::Failed(reason) => self.failed.push(format!("client {client} was told: {reason}")),
            }
        }
        self.grants.extend(open);
    }

    /// Grants of which nothing was ever valid are left out: a client that is stopped inside its acquire reads of its
    /// grant when all is over.
    fn valid(&self) -> impl Iterator<Item = &Grant> {
        self.grants.iter().filter(|grant| grant.from < grant.until)
    }

    fn find_overlaps(&mut self) {
        let mut overlaps = Vec::new();
        let mut holding: Vec<&Grant> = Vec::new();
        for grant in self.valid() {
            holding.retain(|other| other.until > grant.from);
            let excluded = holding.iter().filter(|other| grant.kind.conflicts(other.kind));
            overlaps.extend(excluded.map(|other| format!("{other} overlaps {grant}")));
            let beside = holding.iter().filter(|other| other.kind.name == grant.kind.name).count();
            if beside >= grant.kind.at_most && grant.kind.at_most > 1 {
                overlaps.push(format!("{grant} is one more than {}", grant.kind.at_most));
            }
            holding.push(grant);
        }
        self.overlaps = overlaps;
    }

    fn find_backward_tokens(&mut self) {
        let mut backward = Vec::new();
        let mut newest: BTreeMap<&str, &Grant> = BTreeMap::new();
        for grant in self.valid() {
            let conflicting = KINDS.iter().filter(|kind| kind.conflicts(grant.kind));
            let before = conflicting.filter_map(|kind| newest.get(kind.name));
            backward.extend(
                before
                    .filter(|before| before.token >= grant.token)
                    .map(|before| format!("{grant} came after {before}")),
            );
            let largest = newest.entry(grant.kind.name).or_insert(grant);
            if largest.token < grant.token {
                *largest = grant;
            }
        }
        self.backward = backward;
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Grant { client, kind, token, from, until } = self;
        write!(f, "{} of client {client} under {token:#x} [{from}, {until}]", kind.name)
    }
}

mod tests {
    use super::*;

    fn acquired(at: Time, kind: &'static str, token: u64) -> Entry {
        Entry::Acquired { at, kind, token }
    }

    /// A grant from here to there.
    fn held(kind: &'static str, token: u64, from: Time, until: Time) -> Vec<Entry> {
        vec![acquired(from, kind, token), Entry::Promised(until + 1000), Entry::Releasing(until)]
    }

    fn counts(histories: &[Vec<Entry>]) -> (usize, usize) {
        let findings = check(histories);
        (findings.overlaps.len(), findings.backward.len())
    }

    #[test]
    fn entries_are_read_as_they_were_written() {
        for entry in [
            Entry::Started(1),
            acquired(2, "write", u64::MAX),
            Entry::Promised(3),
            Entry::Releasing(4),
            Entry::Lost(5),
            Entry::Refused(6),
            Entry::Failed("the reason".into()),
        ] {
            assert_eq!(entry.to_string().parse(), Ok(entry));
        }
        assert!("acquired 2 spoon 1".parse::<Entry>().is_err());
        assert!("acquired 2 wri".parse::<Entry>().is_err(), "cut short by a kill");
    }

    #[test]
    fn good_histories_pass() {
        assert_eq!(counts(&[held("lock", 1, 10, 20), held("lock", 2, 20, 30)]), (0, 0));
        let readers = [held("write", 1, 10, 20), held("read", 3, 20, 40), held("read", 2, 21, 30)];
        assert_eq!(counts(&readers), (0, 0), "readers hold together, and in any order");
        assert_eq!(counts(&[held("lock", 1, 10, 30), held("write", 1, 20, 40)]), (0, 0), "two paths");
    }

    #[test]
    fn two_at_once_are_found() {
        assert_eq!(counts(&[held("lock", 1, 10, 21), held("lock", 2, 20, 30)]), (1, 0));
        assert_eq!(counts(&[held("write", 1, 10, 21), held("read", 2, 20, 30)]), (1, 0));
        assert_eq!(counts(&[held("read", 1, 10, 21), held("write", 2, 20, 30)]), (1, 0));
        let longer = [held("read", 1, 10, 50), held("read", 2, 11, 12), held("write", 3, 20, 30)];
        assert_eq!(counts(&longer), (1, 0), "behind one that is over");
    }

    #[test]
    fn a_client_that_was_killed_is_bound_by_its_promise_and_no_longer() {
        let killed = |next| vec![acquired(10, "lock", 1), Entry::Promised(20), Entry::Started(next)];
        assert_eq!(counts(&[killed(12), held("lock", 2, 19, 30)]), (1, 0));
        assert_eq!(counts(&[killed(12), held("lock", 2, 20, 30)]), (0, 0));
    }

    #[test]
    fn a_client_that_holds_on_after_its_promise_is_found() {
        let deaf = vec![acquired(10, "lock", 1), Entry::Promised(20), Entry::Promised(41)];
        assert_eq!(counts(&[deaf, held("lock", 2, 30, 40)]), (1, 0));
        let honest = vec![acquired(10, "lock", 1), Entry::Promised(20), Entry::Lost(41)];
        assert_eq!(counts(&[honest, held("lock", 2, 30, 40)]), (0, 0));
    }

    #[test]
    fn tokens_that_were_swapped_are_found() {
        assert_eq!(counts(&[held("lock", 2, 10, 20), held("lock", 1, 20, 30)]), (0, 1));
        assert_eq!(counts(&[held("lock", 1, 10, 20), held("lock", 1, 20, 30)]), (0, 1), "nor are they equal");
        assert_eq!(counts(&[held("write", 2, 10, 20), held("read", 1, 20, 30)]), (0, 1));
        assert_eq!(counts(&[held("read", 2, 10, 20), held("write", 1, 20, 30)]), (0, 1));
    }

    #[test]
    fn what_no_client_should_be_told_is_a_fault() {
        let findings = check(&[vec![Entry::Failed("no".into())]]);
        assert_eq!(findings.faults(), ["client 0 was told: no"]);
        assert_eq!(check(&[vec![Entry::Promised(1)]]).failed.len(), 1);
    }
}
