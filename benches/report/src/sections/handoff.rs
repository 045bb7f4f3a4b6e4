//! The hand-off between two processes.

use super::{Bench, QUEUES};
use crate::common::Server;
use crate::library::Library;
use crate::measure::handoff::Pairs;
use crate::measure::{self, Outcome};
use crate::plot::{Axis, Line, Plot, Scale};
use crate::production;
use crate::section::Section;
use crate::spread::percentile;
use crate::table::{Better, Table};

pub fn measure(bench: &mut Bench<'_>) -> Section {
    println!("hand-offs");
    let (server, mut pairs) = (Server::start_with(&production::options()), Pairs::default());
    let libraries = [&QUEUES[..], &[Library::Floor]].concat();
    let (rounds, count) = (bench.plan.rounds, bench.plan.handoffs);
    let outcome = measure::alternate(&libraries, rounds, |library| {
        pairs.handoffs(&bench.processes, library, &server, count)
    });
    let times = together(outcome);

    let mut table = Table::new(Better::Lower);
    for (name, part) in [("median", 0.5), ("90 %", 0.9), ("99 %", 0.99)] {
        let of = |(library, times): &(Library, Result<Vec<f64>, String>)| {
            (*library, times.clone().map(|times| vec![percentile(&times, part)]))
        };
        table.column(name, times.iter().map(of));
    }
    let lines = times.into_iter().filter_map(|(library, times)| {
        Some(Line { library, points: distribution(&times.ok()?), marked: false })
    });
    let plot = Plot {
        title: "Hand-off between two processes: the part that is done after this time".to_owned(),
        x: Axis { label: "milliseconds", scale: Scale::Logarithmic },
        y: Axis { label: "part of the hand-offs", scale: Scale::Linear },
        lines: lines.collect(),
    };
    Section {
        title: "Hand-off",
        text: format!(
            "Milliseconds from the begin of the release in one process to the grant in another, which waits already; {} \
             hand-offs. Both times are taken inside these processes, by the system's clock. The floor is a delete, \
             and a watch of the deleted node that fires. The server forces the delete to disk before it tells anybody.",
            rounds * count
        ),
        corner: "milliseconds",
        table,
        plot: Some(("handoff", plot)),
    }
}

/// The times of all rounds, sorted.
fn together(outcome: Outcome<Vec<f64>>) -> Vec<(Library, Result<Vec<f64>, String>)> {
    let sorted = |rounds: Vec<Vec<f64>>| {
        let mut times = rounds.concat();
        times.sort_by(f64::total_cmp);
        times
    };
    outcome.into_iter().map(|(library, rounds)| (library, rounds.map(sorted))).collect()
}

/// Each time, and the part of the times that are not longer.
fn distribution(sorted: &[f64]) -> Vec<(f64, f64)> {
    let count = sorted.len() as f64;
    sorted.iter().enumerate().map(|(place, time)| (*time, (place + 1) as f64 / count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_ends_with_all_of_them() {
        let rounds = vec![vec![3.0, 1.0], vec![2.0, 9.0]];
        let times = together(vec![(Library::Kazoo, Ok(rounds))]).remove(0).1.expect("times");
        assert_eq!(distribution(&times), [(1.0, 0.25), (2.0, 0.5), (3.0, 0.75), (9.0, 1.0)]);
    }
}
