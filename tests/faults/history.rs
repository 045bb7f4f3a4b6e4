//! The history that each client writes about its locks, and the checks on all histories together.
//!
//! All processes read the same monotonic clock of the system, so their times are comparable.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

pub use super::common::monotonic as now;
use super::locks::{Kind, Place, Side, write_tokens};

/// Nanoseconds on the clock that all processes of this machine share.
pub type Time = u64;

/// One line of a history. Lines are written as things happen, so the history of a killed or stopped client is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A process starts; what a previous process of this client held was lost with it.
    Started(Time),
    /// `asked` is the time before the request, `at` the time after the grant.
    Acquired { asked: Time, at: Time, kind: &'static str, tokens: Vec<u64> },
    /// The guard promises that no other client holds until this time.
    Promised(Time),
    /// The time before the release began.
    Releasing(Time),
    /// The guard reports that its lease is lost.
    Lost(Time),
    /// The request ended without a grant.
    Refused(Time),
    /// So many of something were found in the record of the client's machines since the last such line.
    Counted { what: String, number: u64 },
    /// An error that no client should ever get, or a record that does not fit its machines.
    Failed(String),
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Started(at) => write!(f, "started {at}"),
            Entry::Acquired { asked, at, kind, tokens } => {
                write!(f, "acquired {asked} {at} {kind} {}", write_tokens(tokens))
            }
            Entry::Promised(until) => write!(f, "promised {until}"),
            Entry::Releasing(at) => write!(f, "releasing {at}"),
            Entry::Lost(at) => write!(f, "lost {at}"),
            Entry::Refused(at) => write!(f, "refused {at}"),
            Entry::Counted { what, number } => write!(f, "counted {number} {what}"),
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
                let times = number().zip(number());
                let kind = words.next().and_then(Kind::named);
                let tokens = kind.zip(words.next()).and_then(|(kind, word)| kind.read_tokens(word));
                times.zip(kind).zip(tokens).map(|(((asked, at), kind), tokens)| Entry::Acquired {
                    asked,
                    at,
                    kind: kind.name,
                    tokens,
                })
            }
            "promised" => number().map(Entry::Promised),
            "releasing" => number().map(Entry::Releasing),
            "lost" => number().map(Entry::Lost),
            "refused" => number().map(Entry::Refused),
            "counted" => number()
                .zip(words.next())
                .map(|(number, what)| Entry::Counted { what: what.to_owned(), number }),
            "failed" => Some(Entry::Failed(rest.to_owned())),
            _ => None,
        };
        entry.ok_or_else(|| format!("not an entry: {line:?}"))
    }
}

/// A grant, with the time in which no other client may hold: from the grant to the release, or to the end of what the
/// guard promised. For a killed client this is its last promise.
#[derive(Clone, Debug)]
pub struct Grant {
    pub client: usize,
    pub kind: &'static Kind,
    /// One token for each place of its kind.
    pub tokens: Vec<u64>,
    pub asked: Time,
    pub from: Time,
    pub until: Time,
}

/// The result of the checks.
#[derive(Debug, Default)]
pub struct Findings {
    pub grants: Vec<Grant>,
    pub lost: usize,
    pub refused: usize,
    /// Two grants that exclude each other were valid at the same time.
    pub overlaps: Vec<String>,
    /// A grant whose token is not larger than that of an earlier conflicting grant; or a permit whose token is smaller
    /// than one that was known before the permit was requested.
    pub backward: Vec<String>,
    /// What was found in the records of all clients' machines.
    pub counts: BTreeMap<String, u64>,
    pub failed: Vec<String>,
}

impl Findings {
    pub fn faults(&self) -> Vec<&str> {
        let all = self.overlaps.iter().chain(&self.backward).chain(&self.failed);
        all.map(String::as_str).collect()
    }

    /// The number of grants under a node that had been granted before.
    pub fn shared(&self) -> usize {
        let lingering = self.grants.iter().filter(|grant| grant.kind.lingers);
        let nodes: BTreeSet<_> = lingering.clone().map(|grant| (grant.client, &grant.tokens)).collect();
        lingering.count() - nodes.len()
    }

    /// The number of grants of this kind.
    pub fn of(&self, kind: &Kind) -> usize {
        self.grants.iter().filter(|grant| grant.kind.name == kind.name).count()
    }
}

/// Reads one history per client and checks all of them together.
pub fn check(histories: &[Vec<Entry>]) -> Findings {
    let mut findings = Findings::default();
    for (client, history) in histories.iter().enumerate() {
        findings.read(client, history);
    }
    findings.grants.sort_by_key(|grant| grant.from);
    findings.find_overlaps();
    findings.find_backward_tokens();
    findings.find_backward_turns();
    findings
}

impl Findings {
    fn read(&mut self, client: usize, history: &[Entry]) {
        let mut open: Option<Grant> = None;
        for entry in history {
            match entry {
                Entry::Started(_) => self.grants.extend(open.take()),
                Entry::Acquired { asked, at, kind, tokens } => {
                    self.grants.extend(open.take());
                    let kind = Kind::named(kind).expect("a kind of the table");
                    let (asked, from, until) = (*asked, *at, *at);
                    open = Some(Grant { client, kind, tokens: tokens.clone(), asked, from, until });
                }
                Entry::Promised(until) => match &mut open {
                    Some(grant) => grant.until = grant.until.max(*until),
                    None => self.failed.push(format!("client {client} made a promise without a grant")),
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
                Entry::Counted { what, number } => {
                    *self.counts.entry(what.clone()).or_default() += number;
                }
                Entry::Failed(reason) => self.failed.push(format!("client {client} got the error: {reason}")),
            }
        }
        self.grants.extend(open);
    }

    /// Leaves out grants that were never valid: a client that is paused during its acquire may learn of the grant only
    /// after the lease has ended.
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
            for place in grant.kind.places {
                let Side::Permit(limit) = place.side else { continue };
                let beside = holding.iter().filter(|other| other.kind.places.contains(place));
                if beside.count() >= limit {
                    overlaps.push(format!("{grant} exceeds the limit of {limit}"));
                }
            }
            holding.push(grant);
        }
        self.overlaps = overlaps;
    }

    fn find_backward_tokens(&mut self) {
        let mut backward = Vec::new();
        let mut newest: BTreeMap<&Place, (u64, &Grant)> = BTreeMap::new();
        for grant in self.valid() {
            for (place, token) in grant.kind.places.iter().zip(&grant.tokens) {
                let before = newest.iter().filter(|(other, (largest, before))| {
                    let shared = largest == token && grant.may_share_a_node_with(before);
                    other.excludes(place) && largest >= token && !shared
                });
                backward.extend(before.map(|(_, (_, before))| format!("{grant} came after {before}")));
                let largest = newest.entry(place).or_insert((*token, grant));
                if largest.0 < *token {
                    *largest = (*token, grant);
                }
            }
        }
        self.backward = backward;
    }

    /// A client may learn of its permit late, when the next turn of the semaphore is already over, so tokens of
    /// concurrent requests may be out of order. But a permit that is requested after another was granted must not have
    /// a smaller token.
    fn find_backward_turns(&mut self) {
        let mut backward = Vec::new();
        let mut taken: BTreeMap<&Place, Vec<(Time, u64)>> = BTreeMap::new();
        for grant in self.valid() {
            for (place, token) in grant.kind.places.iter().zip(&grant.tokens) {
                let Side::Permit(_) = place.side else { continue };
                // The time of each grant, and the largest token until then. Both grow.
                let taken = taken.entry(place).or_default();
                let before = taken[..taken.partition_point(|(from, _)| *from <= grant.asked)].last();
                if let Some((_, largest)) = before.filter(|(_, largest)| largest > token) {
                    backward.push(format!("{grant} was requested after one with token {largest:#x}"));
                }
                let largest = taken.last().map_or(*token, |(_, largest)| *token.max(largest));
                taken.push((grant.from, largest));
            }
        }
        self.backward.extend(backward);
    }
}

impl Grant {
    fn may_share_a_node_with(&self, other: &Grant) -> bool {
        self.client == other.client && self.kind.lingers && self.kind.name == other.kind.name
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Grant { client, kind, tokens, asked, from, until } = self;
        write!(
            f,
            "{} of client {client} with tokens {tokens:x?}, requested at {asked} [{from}, {until}]",
            kind.name
        )
    }
}

mod tests {
    use super::*;

    /// A grant without waiting time.
    fn acquired(at: Time, kind: &'static str, token: u64) -> Entry {
        let places = Kind::named(kind).expect("a kind").places.len();
        Entry::Acquired { asked: at, at, kind, tokens: vec![token; places] }
    }

    /// The history of a grant that is held from `from` until `until`.
    fn held(kind: &'static str, token: u64, from: Time, until: Time) -> Vec<Entry> {
        vec![acquired(from, kind, token), Entry::Promised(until + 1000), Entry::Releasing(until)]
    }

    fn counts(histories: &[Vec<Entry>]) -> (usize, usize) {
        let findings = check(histories);
        (findings.overlaps.len(), findings.backward.len())
    }

    #[test]
    fn entries_survive_a_round_trip_through_text() {
        for entry in [
            Entry::Started(1),
            acquired(2, "write", u64::MAX),
            Entry::Acquired { asked: 1, at: 2, kind: "multi", tokens: vec![3, 4] },
            Entry::Promised(3),
            Entry::Releasing(4),
            Entry::Lost(5),
            Entry::Refused(6),
            Entry::Counted { what: "lock.events".into(), number: 7 },
            Entry::Failed("the reason".into()),
        ] {
            assert_eq!(entry.to_string().parse(), Ok(entry));
        }
        assert!("acquired 1 2 spoon 1".parse::<Entry>().is_err());
        assert!("acquired 1 2 wri".parse::<Entry>().is_err(), "a line cut short by a kill");
        assert!("acquired 1 2 multi 3".parse::<Entry>().is_err(), "a multi-lock needs a token for each path");
    }

    #[test]
    fn good_histories_pass() {
        assert_eq!(counts(&[held("lock", 1, 10, 20), held("lock", 2, 20, 30)]), (0, 0));
        let readers = [held("write", 1, 10, 20), held("read", 3, 20, 40), held("read", 2, 21, 30)];
        assert_eq!(counts(&readers), (0, 0), "readers share, with tokens in any order");
        assert_eq!(
            counts(&[held("lock", 1, 10, 30), held("write", 1, 20, 40)]),
            (0, 0),
            "different paths do not conflict"
        );
    }

    #[test]
    fn overlapping_holders_are_found() {
        assert_eq!(counts(&[held("lock", 1, 10, 21), held("lock", 2, 20, 30)]), (1, 0));
        assert_eq!(counts(&[held("write", 1, 10, 21), held("read", 2, 20, 30)]), (1, 0));
        assert_eq!(counts(&[held("read", 1, 10, 21), held("write", 2, 20, 30)]), (1, 0));
        let longer = [held("read", 1, 10, 50), held("read", 2, 11, 12), held("write", 3, 20, 30)];
        assert_eq!(counts(&longer), (1, 0), "an overlap after a grant that has ended");
    }

    #[test]
    fn permits_beyond_the_limit_are_found() {
        let two = [held("permit", 1, 10, 30), held("permit", 2, 11, 20), held("permit", 3, 20, 40)];
        assert_eq!(counts(&two), (0, 0), "two of two permits, and a third after a release");
        let three = [held("permit", 1, 10, 30), held("permit", 2, 11, 21), held("permit", 3, 20, 40)];
        assert_eq!(counts(&three), (1, 0));
        let killed = vec![acquired(11, "permit", 2), Entry::Promised(21), Entry::Started(12)];
        assert_eq!(counts(&[held("permit", 1, 10, 30), killed, held("permit", 3, 20, 40)]), (1, 0));
    }

    #[test]
    fn a_multi_lock_conflicts_on_each_of_its_paths() {
        let good = [held("lock", 1, 10, 20), held("read", 2, 12, 20), held("multi", 3, 20, 30)];
        assert_eq!(counts(&good), (0, 0));
        for kind in ["lock", "read", "write", "multi"] {
            assert_eq!(counts(&[held(kind, 1, 10, 21), held("multi", 2, 20, 30)]), (1, 0), "{kind}");
            assert_eq!(counts(&[held("multi", 1, 10, 21), held(kind, 2, 20, 30)]).0, 1, "{kind}");
        }
        assert_eq!(counts(&[held("permit", 1, 10, 21), held("multi", 2, 20, 30)]), (0, 0));
    }

    #[test]
    fn a_killed_client_holds_until_its_promise_ends() {
        let killed = |next| vec![acquired(10, "lock", 1), Entry::Promised(20), Entry::Started(next)];
        assert_eq!(counts(&[killed(12), held("lock", 2, 19, 30)]), (1, 0));
        assert_eq!(counts(&[killed(12), held("lock", 2, 20, 30)]), (0, 0));
    }

    #[test]
    fn a_client_that_keeps_holding_after_its_promise_is_found() {
        let deaf = vec![acquired(10, "lock", 1), Entry::Promised(20), Entry::Promised(41)];
        assert_eq!(counts(&[deaf, held("lock", 2, 30, 40)]), (1, 0));
        let honest = vec![acquired(10, "lock", 1), Entry::Promised(20), Entry::Lost(41)];
        assert_eq!(counts(&[honest, held("lock", 2, 30, 40)]), (0, 0));
    }

    #[test]
    fn tokens_that_do_not_grow_are_found() {
        assert_eq!(counts(&[held("lock", 2, 10, 20), held("lock", 1, 20, 30)]), (0, 1));
        assert_eq!(counts(&[held("lock", 1, 10, 20), held("lock", 1, 20, 30)]), (0, 1), "equal tokens");
        let twice = |kind| [held(kind, 1, 10, 20), held(kind, 1, 20, 30)].concat();
        assert_eq!(counts(&[twice("lock")]), (0, 1), "equal tokens of one client");
        assert_eq!(counts(&[twice("lingering")]), (0, 0), "grants under one node");
        assert_eq!(check(&[twice("lingering")]).shared(), 1);
        let strangers = [held("lingering", 1, 10, 20), held("lingering", 1, 20, 30)];
        assert_eq!(counts(&strangers), (0, 1), "equal tokens of two clients");
        assert_eq!(counts(&[held("write", 2, 10, 20), held("read", 1, 20, 30)]), (0, 1));
        assert_eq!(counts(&[held("read", 2, 10, 20), held("write", 1, 20, 30)]), (0, 1));
        let multi = |tokens| {
            let acquired = Entry::Acquired { asked: 20, at: 20, kind: "multi", tokens };
            vec![acquired, Entry::Promised(30)]
        };
        let before = [held("lock", 5, 10, 20), held("write", 3, 10, 20)];
        for (tokens, backward) in [(vec![6, 4], 0), (vec![4, 6], 1), (vec![6, 3], 1), (vec![1, 2], 2)] {
            let [lock, write] = before.clone();
            assert_eq!(counts(&[lock, write, multi(tokens.clone())]), (0, backward), "{tokens:?}");
        }
    }

    #[test]
    fn a_permit_with_an_outdated_token_is_found() {
        let permit = |asked, token| {
            let acquired = Entry::Acquired { asked, at: 20, kind: "permit", tokens: vec![token] };
            vec![acquired, Entry::Promised(30)]
        };
        assert_eq!(counts(&[held("permit", 2, 10, 15), permit(10, 2)]), (0, 0), "a permit of the same turn");
        assert_eq!(
            counts(&[held("permit", 2, 10, 15), permit(9, 1)]),
            (0, 0),
            "requested before the other was granted"
        );
        assert_eq!(counts(&[held("permit", 2, 10, 15), permit(10, 1)]), (0, 1));
    }

    #[test]
    fn unexpected_errors_are_violations() {
        let findings = check(&[vec![Entry::Failed("no".into())]]);
        assert_eq!(findings.faults(), ["client 0 got the error: no"]);
        assert_eq!(check(&[vec![Entry::Promised(1)]]).failed.len(), 1);
    }
}
