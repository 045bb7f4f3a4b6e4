//! The memory of processes with many locks that wait.

use super::{Bench, QUEUES};
use crate::Result;
use crate::common::Server;
use crate::measure::memory::{Resident, Site};
use crate::measure::{self, Outcome};
use crate::plot::{Axis, Scale};
use crate::production;
use crate::section::{self, Section};
use crate::table::{self, Better, Table};

pub fn measure(bench: &mut Bench<'_>) -> Result<Section> {
    let server = Server::start_with(&production::options());
    let mut site = Site::new(&bench.processes, &server)?;
    let mut outcomes = Vec::new();
    for &(count, rounds) in bench.plan.waiting {
        println!("{count} waiting locks");
        site.obstruct(&QUEUES, count)?;
        let outcome =
            measure::alternate(&QUEUES, rounds, |library| site.measure(&bench.processes, library, count));
        outcomes.push((count, outcome));
    }

    let mut table = Table::new(Better::Lower);
    let mebibytes = |outcome: &Outcome<Resident>, bytes: fn(&Resident) -> f64| {
        measure::part(outcome, |resident| bytes(resident) / f64::from(1 << 20))
    };
    if let Some((_, outcome)) = outcomes.first() {
        table.column("none", mebibytes(outcome, |resident| resident.idle));
    }
    for (count, outcome) in &outcomes {
        table.column(table::count(*count), mebibytes(outcome, |resident| resident.waiting));
    }
    // A logarithmic axis has no place for the idle process.
    let counts = outcomes.iter().map(|(count, _)| Some(*count as f64));
    let x: Vec<Option<f64>> = [None].into_iter().chain(counts).collect();
    let plot = section::medians(
        &table,
        "Resident memory of a process with waiting locks",
        (Axis { label: "waiting locks", scale: Scale::Logarithmic }, &x),
        Axis { label: "MiB", scale: Scale::Logarithmic },
    );
    let rounds: Vec<String> = outcomes
        .iter()
        .zip(bench.plan.waiting)
        .map(|((count, _), (_, rounds))| format!("{rounds} for {}", table::count(*count)))
        .collect();
    Ok(Section {
        title: "Memory",
        text: format!(
            "Resident memory in MiB of a new process with one session, in which so many locks wait, each behind a \
             stranger on its own path. Rounds: {}.\n\n\
             kazoo and Curator have a thread for each lock that waits, because their acquire blocks; kazoo's threads \
             have stacks of 256 KiB here. The Java process has the heap and the collector that Java chooses by itself, \
             and takes memory from the system before it needs it. lockkeeper, zookeeper-client and \
             go-zookeeper have a task or a goroutine for each.",
            rounds.join(", ")
        ),
        corner: "MiB, by locks that wait",
        table,
        plot: Some(("memory", plot)),
    })
}
