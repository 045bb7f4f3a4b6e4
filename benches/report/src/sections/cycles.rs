//! Cycles a second: of one contender, of many in one session, of many sessions. And the requests of a cycle.

use std::collections::BTreeMap;
use std::panic::{UnwindSafe, catch_unwind};
use std::time::Duration;

use super::{Bench, LOCKS};
use crate::common::{Ensemble, Server, ServerOptions};
use crate::library::Library;
use crate::measure::rate::{self, Load, Rate};
use crate::measure::{self, Outcome};
use crate::plot::{Axis, Scale};
use crate::production;
use crate::section::{self, Section};
use crate::table::{self, Better, Cell, Table};

/// Cycles of one contender of each library: the outcome on the single server is also the cost without a distance.
pub struct Cycles {
    pub sections: Vec<Section>,
    pub single: Outcome<Rate>,
}

pub fn measure(bench: &mut Bench<'_>) -> Cycles {
    let server = Server::start_with(&production::options());
    let (address, window) = (server.address(), bench.plan.window);
    let one = |sessions, contenders| Load {
        address: &address,
        server: Some(&server),
        sessions,
        contenders,
        window,
        persist: false,
    };
    warm_up(bench, &one(1, 16));

    let mut by_contenders = BTreeMap::new();
    for &contenders in bench.plan.contenders {
        println!("{contenders} contenders");
        let libraries: &[Library] = if contenders == 1 { &Library::ALL } else { &LOCKS };
        let outcome = rates(bench, libraries, bench.plan.rounds, &one(1, contenders));
        by_contenders.insert(contenders, outcome);
    }
    let mut by_sessions = Vec::new();
    for &sessions in bench.plan.sessions {
        println!("{sessions} sessions");
        by_sessions.push((sessions, rates(bench, &LOCKS, bench.plan.rounds, &one(sessions, sessions))));
    }
    println!("a server that does not wait for its disk");
    let unforced = rates_on(bench, || Server::start_with(&unforced_options()), Server::address);
    println!("an ensemble of three");
    let ensemble = rates_on(bench, || Ensemble::start_with(&production::options()), Ensemble::connect_string);

    let single = by_contenders.get(&1).cloned().unwrap_or_default();
    let sections = vec![
        uncontended(&single, &unforced, &ensemble),
        contended(&by_contenders),
        sessions(by_sessions),
        requests(&by_contenders),
    ];
    Cycles { sections, single }
}

const WARM_UP: Duration = Duration::from_secs(1);

fn rates(bench: &mut Bench<'_>, libraries: &[Library], rounds: usize, load: &Load<'_>) -> Outcome<Rate> {
    measure::alternate(libraries, rounds, |library| rate::rate(&mut bench.processes, library, load))
}

/// The server answers before a write is on disk.
fn unforced_options() -> ServerOptions {
    let mut options = production::options();
    options.jvm.push("-Dzookeeper.forceSync=no".to_owned());
    options
}

/// Cycles of one contender on other servers.
fn rates_on<S>(
    bench: &mut Bench<'_>,
    start: impl FnOnce() -> S + UnwindSafe,
    address: impl FnOnce(&S) -> String,
) -> Outcome<Rate> {
    // The start panics when a server does not serve.
    let Ok(servers) = catch_unwind(start) else {
        let reason = || Err("the server did not start".to_owned());
        return Library::ALL.map(|library| (library, reason())).into();
    };
    let (address, window) = (address(&servers), bench.plan.window);
    let load = Load { address: &address, server: None, sessions: 1, contenders: 1, window, persist: false };
    warm_up(bench, &load);
    rates(bench, &Library::ALL, bench.plan.rounds, &load)
}

/// What compiles at run time is compiled, in servers and drivers. A library that fails here fails again when it is
/// measured, and is reported there.
fn warm_up(bench: &mut Bench<'_>, load: &Load<'_>) {
    rates(bench, &Library::ALL, 1, &Load { window: WARM_UP, ..*load });
}

fn per_second(outcome: &Outcome<Rate>) -> impl Iterator<Item = (Library, Cell)> {
    measure::part(outcome, |rate| rate.per_second).into_iter()
}

fn is_usual((library, _): &(Library, Cell)) -> bool {
    *library != Library::Dropped
}

fn uncontended(single: &Outcome<Rate>, unforced: &Outcome<Rate>, ensemble: &Outcome<Rate>) -> Section {
    let mut table = Table::new(Better::Higher);
    table.column("one server", per_second(single));
    table.column("one server, `forceSync=no`", per_second(unforced));
    table.column("ensemble of three", per_second(ensemble));
    Section {
        title: "One contender",
        text: "Cycles a second of one contender that nobody else disturbs. The lock and its directory exist already. \
               All libraries wait for the server's disk. With `forceSync=no` the server answers before a write is on \
               disk, which shows what a library costs without that; do not run servers so. The sessions of a round \
               connect to any member of the ensemble, the leader or a follower, which is part of the spread.\n\n\
               The floor waits for its delete. A lock that does not wait for it can be faster than the floor: \
               *zookeeper-client's lock*, which cannot wait, and *lockkeeper, release not awaited*. Compare these two \
               with each other, and the other rows with the floor. *lockkeeper, lingering* sends no request at all \
               while nobody else wants the lock; no peer has this."
            .to_owned(),
        corner: "cycles a second",
        table,
        plot: None,
    }
}

fn contended(outcomes: &BTreeMap<usize, Outcome<Rate>>) -> Section {
    let mut table = Table::new(Better::Higher);
    for (contenders, outcome) in outcomes {
        table.column(table::count(*contenders), per_second(outcome).filter(is_usual));
    }
    let x: Vec<Option<f64>> = outcomes.keys().map(|contenders| Some(*contenders as f64)).collect();
    let plot = section::medians(
        &table,
        "Cycles a second on one path, contenders of one session",
        (Axis { label: "contenders", scale: Scale::Logarithmic }, &x),
        Axis { label: "cycles a second", scale: Scale::Logarithmic },
    );
    Section {
        title: "Many contenders of one session",
        text: "Cycles a second of all contenders for one lock together. They are the tasks, threads or goroutines of one \
               process with one session, and begin to be counted when they are queued.\n\n\
               lockkeeper hands a lock over inside the process, without waiting for the server, and the floor has as \
               many requests under way as it has contenders. The peers hand over through the server, as they do \
               between processes. So this table shows what local hand-off gains, and flatters lockkeeper where an \
               application has one contender in each process: see the next table."
            .to_owned(),
        corner: "contenders",
        table,
        plot: Some(("contenders", plot)),
    }
}

fn sessions(outcomes: Vec<(usize, Outcome<Rate>)>) -> Section {
    let mut table = Table::new(Better::Higher);
    for (sessions, outcome) in &outcomes {
        table.column(sessions.to_string(), per_second(outcome));
    }
    Section {
        title: "Many sessions with one contender each",
        text: "The same, but every contender has a session of its own, so that every hand-off goes through the server. \
               The sessions of a library are in one process.\n\n\
               That is bad for kazoo: its clients share one interpreter lock, which they would not in processes of their \
               own. The other libraries use all cores."
            .to_owned(),
        corner: "sessions",
        table,
        plot: None,
    }
}

fn requests(outcomes: &BTreeMap<usize, Outcome<Rate>>) -> Section {
    let mut table = Table::new(Better::Lower);
    for (contenders, outcome) in outcomes.iter().filter(|(contenders, _)| [1, 16, 64].contains(*contenders)) {
        let unit = if *contenders == 1 { "contender" } else { "contenders" };
        let counted = measure::part(outcome, |rate| rate.requests.unwrap_or(f64::NAN));
        table.column(format!("{contenders} {unit}"), counted);
    }
    Section {
        title: "Requests",
        text: "Packets that the server received for each cycle, by its own count, of contenders of one session. Pings \
               and heartbeats are among them, which lockkeeper sends more often than the others. A library that \
               completes few cycles in the time has more of them for each."
            .to_owned(),
        corner: "requests a cycle",
        table,
        plot: None,
    }
}
