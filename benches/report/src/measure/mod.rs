//! The measurements. Each runs the libraries in turn, in rounds, so that a moment in which the machine is slow slows down
//! all of them.

pub mod handoff;
pub mod memory;
pub mod rate;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Result;
use crate::common::Server;
use crate::library::Library;

/// What each library has measured, one sample for each round, or the reason why it has not.
pub type Outcome<S> = Vec<(Library, std::result::Result<Vec<S>, String>)>;

/// Measures the libraries alternately. One that fails does not run again.
pub fn alternate<S>(
    libraries: &[Library],
    rounds: usize,
    mut measure: impl FnMut(Library) -> Result<S>,
) -> Outcome<S> {
    let mut outcome: Outcome<S> = libraries.iter().map(|library| (*library, Ok(Vec::new()))).collect();
    for round in 0..rounds {
        // The order rotates, so that each library follows each other one in some round.
        for turn in 0..libraries.len() {
            let (library, samples) = &mut outcome[(round + turn) % libraries.len()];
            let Ok(measured) = samples else { continue };
            // The helpers of the tests panic when a server does not answer.
            let sample = catch_unwind(AssertUnwindSafe(|| measure(*library)));
            let sample = sample.unwrap_or_else(|_| Err("the server does not answer".into()));
            match sample {
                Ok(sample) => measured.push(sample),
                Err(reason) => {
                    println!("failed: {library}: {reason}");
                    *samples = Err(reason.to_string());
                }
            }
        }
    }
    outcome
}

/// A part of each sample.
pub fn part<S, T>(outcome: &Outcome<S>, part: impl Fn(&S) -> T) -> Outcome<T> {
    let part = &part;
    let cell = |cell: &std::result::Result<Vec<S>, String>| match cell {
        Ok(samples) => Ok(samples.iter().map(part).collect()),
        Err(reason) => Err(reason.clone()),
    };
    outcome.iter().map(|(library, samples)| (*library, cell(samples))).collect()
}

/// Waits until the server has no contender's node that is left from a measurement before. `others` are not contenders.
fn until_alone(server: &Server, others: usize) -> Result<()> {
    until("nodes of another measurement are left", || Ok(ephemerals(server) <= others))
}

fn ephemerals(server: &Server) -> usize {
    usize::try_from(server.mntr("zk_ephemerals_count")).unwrap_or_default()
}

/// Waits for a condition. The error says what is wrong until then.
fn until(what: &str, mut is_met: impl FnMut() -> Result<bool>) -> Result<()> {
    // Longer than a session that nobody closed, and than 10,000 threads of Python need to begin.
    const LIMIT: Duration = Duration::from_secs(120);
    let begun = Instant::now();
    while !is_met()? {
        if begun.elapsed() > LIMIT {
            return Err(format!("{what} after {LIMIT:?}").into());
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_rotates_and_a_failure_ends_only_its_own_row() {
        let mut order = Vec::new();
        let libraries = [Library::Lockkeeper, Library::Kazoo, Library::Curator];
        let outcome = alternate(&libraries, 2, |library| {
            order.push(library);
            match library {
                Library::Kazoo => Err("too slow".into()),
                Library::Curator => panic!("no answer"),
                _ => Ok(order.len()),
            }
        });
        assert_eq!(order, [Library::Lockkeeper, Library::Kazoo, Library::Curator, Library::Lockkeeper]);
        assert_eq!(
            outcome,
            [
                (Library::Lockkeeper, Ok(vec![1, 4])),
                (Library::Kazoo, Err("too slow".to_owned())),
                (Library::Curator, Err("the server does not answer".to_owned())),
            ]
        );
        assert_eq!(part(&outcome, |place| place * 2)[0].1, Ok(vec![2, 8]));
    }
}
