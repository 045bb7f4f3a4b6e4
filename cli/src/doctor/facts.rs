//! What is known beside the nodes themselves.

use std::collections::BTreeSet;
use std::time::SystemTime;

use lockkeeper::inspect::{Inventory, PathState};
use rustix::process::{Pid, test_kill_process};

/// What conclusions may use.
pub struct Facts {
    /// The time of the servers' clock, or why it is not known.
    pub server_time: Result<SystemTime, String>,
    /// The identifiers of nodes that belong to sessions: their owners live.
    pub living: BTreeSet<String>,
    /// The nodes that clients watch, as full paths with the chroot, or why they are not known.
    pub watched: Result<BTreeSet<String>, String>,
    /// Whether a process of this host is seen to run; `None` for the processes of other hosts, and for other identifiers.
    /// Processes in other PID namespaces of the host are not seen.
    pub process_runs: fn(&str) -> Option<bool>,
}

impl Facts {
    /// What the nodes themselves show, without what is asked for only if it matters.
    pub fn new(found: &Inventory) -> Facts {
        let mut living = BTreeSet::new();
        for place in &found.places {
            let entries = place.queue().entries.iter().filter(|entry| entry.contender.session.is_some());
            living.extend(entries.map(|entry| entry.contender.identifier.clone()));
            if let PathState::Semaphore(pool) = place {
                let taken = pool.taken.iter().filter(|taken| taken.holder.session.is_some());
                living.extend(taken.map(|taken| taken.holder.identifier.clone()));
            }
        }
        living.remove("");
        let server_time = Err("the servers were not asked for their time".to_owned());
        Facts { server_time, living, watched: Ok(BTreeSet::new()), process_runs }
    }
}

/// Looks at an identifier of the form user@host:pid.
fn process_runs(identifier: &str) -> Option<bool> {
    let (user_and_host, process) = identifier.rsplit_once(':')?;
    // The name of a user can have an `@`.
    let (_, at) = user_and_host.rsplit_once('@')?;
    let process = Pid::from_raw(process.parse().ok()?)?;
    // A process of another user may not be signalled, but runs.
    let host = rustix::system::uname();
    (at == host.nodename().to_string_lossy())
        .then(|| !matches!(test_kill_process(process), Err(rustix::io::Errno::SRCH)))
}
