//! What is left of the grants while a fault lasts.

use std::time::Duration;

use super::Bench;
use crate::Result;
use crate::common::{Ensemble, ServerOptions};
use crate::cutting_relay;
use crate::library::Library;
use crate::measure::rate::{self, Load};
use crate::measure::{self, Outcome};
use crate::production;
use crate::relay;
use crate::section::Section;
use crate::spread::Spread;
use crate::table::{self, Better, Cell, Table};

/// A fault that lasts for all rounds.
struct Fault {
    name: &'static str,
    /// What must be left to lockkeeper.
    bound: Bound,
    begin: fn() -> Result<Site>,
}

enum Bound {
    /// This part of the grants without a fault.
    Part(f64),
    /// As many grants a minute.
    Grants(f64),
}

const FAULTS: [Fault; 5] = [
    Fault { name: "one server down", bound: Bound::Part(0.5), begin: one_server_down },
    // A release waits for the flush of its delete. The node of the next one is there already. Two thirds of the flushes.
    Fault { name: "slow disks", bound: Bound::Grants(2000.0), begin: slow_disks },
    // A grant waits for two round trips to a member at most, one after the other.
    Fault { name: "a slow follower", bound: Bound::Grants(600.0), begin: slow_follower },
    Fault { name: "cut connections", bound: Bound::Part(0.5), begin: cut_connections },
    Fault { name: "fast clocks", bound: Bound::Part(0.5), begin: fast_clocks },
];

/// An ensemble with a fault.
struct Site {
    /// Dropping it ends the servers.
    _ensemble: Ensemble,
    addresses: String,
}

/// The sections, and what is below its bound.
pub fn measure(bench: &mut Bench<'_>) -> Result<(Vec<Section>, Vec<String>)> {
    println!("no fault");
    let calm = grants(bench, whole)?;
    let (mut table, mut left) = (Table::new(Better::Higher), Table::new(Better::Higher));
    let mut below = Vec::new();
    table.column("no fault", calm.clone());
    for Fault { name, bound, begin } in FAULTS {
        println!("{name}");
        let outcome = grants(bench, begin)?;
        let parts = parts_left(&outcome, &calm);
        if !bound.is_met(&outcome, &parts) {
            below.push(format!("{name}: {outcome:?}, which are {parts:?} of the grants without a fault"));
        }
        let (grants, part) = match bound {
            Bound::Part(part) => (String::new(), format!(" (≥ {part})")),
            Bound::Grants(grants) => (format!(" (≥ {})", table::number(grants)), String::new()),
        };
        table.column(format!("{name}{grants}"), outcome);
        left.column(format!("{name}{part}"), parts);
    }
    let sections = vec![
        Section {
            title: "Grants a minute",
            text: format!(
                "Four sessions in one process contend for one lock of an ensemble of three. They connect to all of its \
                 members.\n\n\
                 *One server down*: a follower, from before the first connect to the end. *Slow disks*: every member \
                 forces its log to disk {} times a second at most (`zookeeper.flushDelay`). *A slow follower*: what it \
                 sends to its leader and gets from it takes {:?} each way; one session in three or so is connected to \
                 it. *Cut connections*: in every second, {} % of all clients' connections are cut. The sessions have a \
                 timeout of 40 s and survive this. *Fast clocks*: the clocks of all members run {} % faster than \
                 those of the clients.\n\n\
                 A grant counts when its release is confirmed. What fails is tried again: by lockkeeper and kazoo in \
                 their own ways, by Curator up to 20 times, 100 ms apart (`RetryNTimes`). What fails all the same is \
                 requested again after 50 ms.\n\n\
                 The lock is handed on in turn. So with slow disks every grant waits for one, and every session that is \
                 connected to the slow follower slows down all of them. How many are is a matter of chance: that \
                 column says little about which library is faster.\n\n\
                 The number in brackets in a column's title is the lower bound for lockkeeper, here and in the next \
                 table: the command fails if the median is below it.",
                1000 / FLUSH_MILLISECONDS,
                LAG,
                cutting_relay::PART * 100.0,
                FAST_CLOCKS_PERCENT,
            ),
            corner: "grants a minute",
            table,
            plot: None,
        },
        Section {
            title: "Relative to a round without a fault",
            text: "The grants of each round under the fault, by those of a round without it. The rounds without a fault came \
                   first, on another ensemble."
                .to_owned(),
            corner: "part of the grants",
            table: left,
            plot: None,
        },
    ];
    Ok((sections, below))
}

const LIBRARIES: [Library; 3] = [Library::Lockkeeper, Library::Kazoo, Library::Curator];

/// Grants a minute.
fn grants(bench: &mut Bench<'_>, begin: fn() -> Result<Site>) -> Result<Vec<(Library, Cell)>> {
    let (rounds, window) = bench.plan.lasting;
    let site = begin()?;
    let load =
        Load { address: &site.addresses, server: None, sessions: 4, contenders: 4, window, persist: true };
    let outcome: Outcome<_> =
        measure::alternate(&LIBRARIES, rounds, |library| rate::rate(&mut bench.processes, library, &load));
    Ok(measure::part(&outcome, |rate| rate.per_second * 60.0))
}

impl Bound {
    fn is_met(&self, grants: &[(Library, Cell)], parts: &[(Library, Cell)]) -> bool {
        let (cells, least) = match self {
            Bound::Part(least) => (parts, least),
            Bound::Grants(least) => (grants, least),
        };
        let ours = cells.iter().find(|(library, _)| *library == Library::Lockkeeper);
        let samples = ours.and_then(|(_, cell)| cell.as_ref().ok()).filter(|samples| !samples.is_empty());
        samples.is_some_and(|samples| Spread::of(samples.clone()).median >= *least)
    }
}

fn parts_left(outcome: &[(Library, Cell)], calm: &[(Library, Cell)]) -> Vec<(Library, Cell)> {
    let part = |((library, grants), (_, calm)): (&(Library, Cell), &(Library, Cell))| {
        let parts = match (grants, calm) {
            (Ok(grants), Ok(calm)) => {
                Ok(grants.iter().zip(calm).map(|(grants, calm)| grants / calm).collect())
            }
            (Err(reason), _) | (_, Err(reason)) => Err(reason.clone()),
        };
        (*library, parts)
    };
    outcome.iter().zip(calm).map(part).collect()
}

fn site(ensemble: Ensemble) -> Site {
    Site { addresses: ensemble.connect_string(), _ensemble: ensemble }
}

fn whole() -> Result<Site> {
    Ok(site(Ensemble::start_with(&production::options())))
}

fn one_server_down() -> Result<Site> {
    let ensemble = Ensemble::start_with(&production::options());
    ensemble.member(ensemble.follower()).stop();
    Ok(site(ensemble))
}

fn slow_disks() -> Result<Site> {
    let mut options: ServerOptions = production::options();
    let delays = ["flushDelay", "maxWriteQueuePollTime"];
    options.jvm.extend(delays.map(|delay| format!("-Dzookeeper.{delay}={FLUSH_MILLISECONDS}")));
    Ok(site(Ensemble::start_with(&options)))
}

/// The time between two flushes of a log.
const FLUSH_MILLISECONDS: u32 = 20;

fn slow_follower() -> Result<Site> {
    // Of three servers that start together, the one with the smallest number does not lead.
    let link = |from: usize, _: usize, port: u16| match from {
        0 => relay::start(&format!("127.0.0.1:{port}"), LAG).expect("a port on loopback").port(),
        _ => port,
    };
    let ensemble = Ensemble::start_linked(&production::options(), &link);
    match ensemble.leader() {
        0 => Err("the slow member leads".into()),
        _ => Ok(site(ensemble)),
    }
}

/// How long the slow follower's links take, one way.
const LAG: Duration = Duration::from_millis(25);

fn cut_connections() -> Result<Site> {
    let ensemble = Ensemble::start_with(&production::options());
    let relays = ensemble.members().iter().map(|member| cutting_relay::start(&member.address()));
    let addresses = relays.map(|address| Ok(address?.to_string())).collect::<Result<Vec<_>>>()?.join(",");
    Ok(Site { _ensemble: ensemble, addresses })
}

fn fast_clocks() -> Result<Site> {
    let clock_rate = Some(1.0 + FAST_CLOCKS_PERCENT / 100.0);
    Ok(site(Ensemble::start_with(&ServerOptions { clock_rate, ..production::options() })))
}

const FAST_CLOCKS_PERCENT: f64 = 1.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_not_met_by_less_or_by_a_failure() {
        let cells = |cell: Cell| vec![(Library::Kazoo, Ok(vec![9.0])), (Library::Lockkeeper, cell)];
        let half = Bound::Part(0.5);
        assert!(half.is_met(&[], &cells(Ok(vec![0.1, 0.5, 0.9]))));
        assert!(!half.is_met(&cells(Ok(vec![9.0])), &cells(Ok(vec![0.4]))));
        assert!(!half.is_met(&[], &cells(Err("no connection".to_owned()))));
        assert!(Bound::Grants(8.0).is_met(&cells(Ok(vec![8.0])), &[]));
        assert!(!Bound::Grants(8.0).is_met(&cells(Ok(vec![7.0])), &cells(Ok(vec![9.0]))));
    }

    #[test]
    fn the_part_that_is_left_is_taken_round_by_round() {
        let calm = [(Library::Kazoo, Ok(vec![100.0, 200.0])), (Library::Curator, Ok(vec![1.0]))];
        let faulty = [(Library::Kazoo, Ok(vec![50.0, 20.0])), (Library::Curator, Err("no".to_owned()))];
        let expected = [(Library::Kazoo, Ok(vec![0.5, 0.1])), (Library::Curator, Err("no".to_owned()))];
        assert_eq!(parts_left(&faulty, &calm), expected);
    }
}
