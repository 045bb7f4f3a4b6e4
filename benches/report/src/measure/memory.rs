//! The memory of a process with many locks, each of which waits for a stranger on its own path.

use std::thread::sleep;
use std::time::Duration;

use crate::Result;
use crate::common::{Server, unique_path};
use crate::library::Library;
use crate::process::{Process, Processes};

/// A server, and strangers on its paths.
pub struct Site<'a> {
    server: &'a Server,
    /// The name of the strangers' nodes, and the directory of the paths.
    directories: Vec<(&'static str, String)>,
    strangers: usize,
    /// Keeps their session.
    keeper: Process,
}

/// Bytes of a process that are in memory.
#[derive(Clone, Copy)]
pub struct Resident {
    /// Connected, after a cycle.
    pub idle: f64,
    pub waiting: f64,
}

impl<'a> Site<'a> {
    pub fn new(processes: &Processes<'_>, server: &'a Server) -> Result<Site<'a>> {
        let mut keeper = processes.fresh(Library::Floor)?;
        keeper.ask(&format!("connect {} 1", server.address()))?;
        Ok(Site { server, directories: Vec::new(), strangers: 0, keeper })
    }

    /// Makes strangers on this many paths for the libraries, one for all those whose nodes have the same names.
    pub fn obstruct(&mut self, libraries: &[Library], count: usize) -> Result<()> {
        self.directories.clear();
        for library in libraries {
            let name = library.stranger();
            if self.directories.iter().all(|(known, _)| *known != name) {
                let directory = unique_path("memory");
                self.keeper.ask(&format!("strangers {directory} {name} {count}"))?;
                self.strangers += count;
                self.directories.push((name, directory));
            }
        }
        Ok(())
    }

    /// Measures a new process.
    pub fn measure(&self, processes: &Processes<'_>, library: Library, count: usize) -> Result<Resident> {
        let directory = self.directories.iter().find(|(name, _)| *name == library.stranger());
        let (_, directory) = directory.ok_or("there are no strangers")?;
        super::until_alone(self.server, self.strangers)?;
        let mut process = processes.fresh(library)?;
        process.ask(&format!("connect {} 1", self.server.address()))?;
        let path = unique_path("memory");
        process.ask(&format!("acquire {path}"))?;
        process.ask(&format!("release {path}"))?;
        sleep(SETTLED);
        let idle = process.resident()? as f64;
        process.ask(&format!("wait {directory} {count}"))?;
        super::until("not all locks wait", || {
            // It tells whether one has failed.
            process.ask("count")?;
            Ok(super::ephemerals(self.server) >= self.strangers + count)
        })?;
        sleep(SETTLED);
        let waiting = process.resident()? as f64;
        // If it does not, the session expires.
        let _ = process.ask("close");
        Ok(Resident { idle, waiting })
    }
}

/// A time in which the last waiters set their watches.
const SETTLED: Duration = Duration::from_millis(500);
