//! How long a lock is idle between two processes: from the begin of the release in one to the grant in the other. Both
//! times are taken in these processes, by the clock of the system.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Result;
use crate::common::{Server, unique_path};
use crate::library::Library;
use crate::process::{Process, Processes};

/// Two processes of each library.
#[derive(Default)]
pub struct Pairs(BTreeMap<Library, [Process; 2]>);

impl Pairs {
    /// The milliseconds of this many hand-offs.
    pub fn handoffs(
        &mut self,
        processes: &Processes<'_>,
        library: Library,
        server: &Server,
        count: usize,
    ) -> Result<Vec<f64>> {
        let mut pair = match self.0.remove(&library) {
            Some(pair) => pair,
            None => connected(processes, library, server)?,
        };
        let path = unique_path("handoff");
        let times = (0..count).map(|_| handoff(&mut pair, server, &path)).collect::<Result<_>>()?;
        self.0.insert(library, pair);
        Ok(times)
    }
}

/// How long the waiter is left alone after it has set its watch.
const REST: Duration = Duration::from_millis(5);

const LIMIT: Duration = Duration::from_secs(10);

/// The number of hand-offs that are not counted.
const WARM_UP: usize = 10;

fn connected(processes: &Processes<'_>, library: Library, server: &Server) -> Result<[Process; 2]> {
    let mut pair = [processes.fresh(library)?, processes.fresh(library)?];
    for process in &mut pair {
        process.ask(&format!("connect {} 1", server.address()))?;
    }
    let path = unique_path("handoff");
    for _ in 0..WARM_UP {
        handoff(&mut pair, server, &path)?;
    }
    Ok(pair)
}

fn handoff([first, second]: &mut [Process; 2], server: &Server, path: &str) -> Result<f64> {
    first.ask(&format!("acquire {path}"))?;
    let watches = server.mntr("zk_watch_count");
    second.send(&format!("acquire {path}"))?;
    let begun = Instant::now();
    while server.mntr("zk_watch_count") <= watches {
        if begun.elapsed() > LIMIT {
            return Err("the second contender does not watch the first".into());
        }
    }
    sleep(REST);
    let released = first.ask(&format!("release {path}"))?;
    let granted = second.answer(LIMIT)?;
    second.ask(&format!("release {path}"))?;
    match (released.as_slice(), granted.as_slice()) {
        ([released], [granted]) => Ok((*granted as f64 - *released as f64) / 1e6),
        times => Err(format!("not two times: {times:?}").into()),
    }
}
