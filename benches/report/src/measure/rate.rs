//! Cycles a second, and the requests of a cycle.

use std::thread::sleep;
use std::time::Duration;

use crate::Result;
use crate::common::{Server, unique_path};
use crate::library::Library;
use crate::process::{Process, Processes};

/// Contenders for one lock.
pub struct Load<'a> {
    pub address: &'a str,
    /// The server whose counters are read, unless there are several.
    pub server: Option<&'a Server>,
    pub sessions: usize,
    pub contenders: usize,
    /// How long cycles are counted.
    pub window: Duration,
    /// Contenders try again what fails.
    pub persist: bool,
}

#[derive(Clone, Copy)]
pub struct Rate {
    /// Cycles.
    pub per_second: f64,
    /// Packets that the server has received for each cycle, with pings and heartbeats.
    pub requests: Option<f64>,
}

/// Counts the cycles of contenders that all have begun. Every measurement has new sessions: the client of this library
/// polls in an order that depends on its session's address in memory, which decides whether two requests of a cycle are
/// sent in one packet. Over several sessions this averages out.
pub fn rate(processes: &mut Processes<'_>, library: Library, load: &Load<'_>) -> Result<Rate> {
    processes.with(library, |process| {
        let Load { address, server, sessions, contenders, window, persist } = load;
        if let Some(server) = server {
            super::until_alone(server, 0)?;
        }
        process.ask(&format!("connect {address} {sessions}"))?;
        let start = if *persist { "persist" } else { "start" };
        process.ask(&format!("{start} {} {contenders}", unique_path("rate")))?;
        if let (true, Some(server)) = (library.queues(), server) {
            // Those between two cycles have no node.
            let most = contenders * 3 / 4;
            super::until("not all contenders are queued", || Ok(super::ephemerals(server) >= most))?;
        }
        super::until("no cycle", || Ok(count(process)?.cycles > 0))?;
        // The first cycles make directories.
        sleep(*window / 5);
        let packets = || server.map(Server::client_packets);
        let (before, packets_before) = (count(process)?, packets());
        sleep(*window);
        // A slow lock has more time.
        super::until("hardly a cycle", || Ok(count(process)?.cycles >= before.cycles + FEW))?;
        let (after, packets_after) = (count(process)?, packets());
        process.ask("close")?;

        let cycles = (after.cycles - before.cycles) as f64;
        let seconds = after.last.saturating_sub(before.last) as f64 / 1e9;
        let requests =
            packets_before.zip(packets_after).map(|(before, after)| (after - before) as f64 / cycles);
        Ok(Rate { per_second: cycles / seconds, requests })
    })
}

/// Fewer cycles than these are no measurement.
const FEW: u64 = 5;

struct Count {
    cycles: u64,
    /// When the last one was complete. Between two of these times there are whole cycles only.
    last: u64,
}

fn count(process: &mut Process) -> Result<Count> {
    match *process.ask("count")? {
        [cycles, last] => Ok(Count { cycles, last }),
        ref other => Err(format!("not a count: {other:?}").into()),
    }
}
