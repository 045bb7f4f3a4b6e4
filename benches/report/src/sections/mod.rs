//! What the page shows, by subject.

pub mod cycles;
pub mod distance;
pub mod handoff;
pub mod lasting;
pub mod memory;

use crate::library::Library;
use crate::plan::Plan;
use crate::process::Processes;

/// What every subject needs.
pub struct Bench<'a> {
    pub plan: &'a Plan,
    pub processes: Processes<'a>,
}

/// The locks, each used in the usual way, and the floor.
const LOCKS: [Library; 7] = [
    Library::Lockkeeper,
    Library::Lingering,
    Library::ZookeeperClient,
    Library::Kazoo,
    Library::Curator,
    Library::Go,
    Library::Floor,
];

/// Those in which a hand-off or a wait is the same for each request.
const QUEUES: [Library; 5] =
    [Library::Lockkeeper, Library::ZookeeperClient, Library::Kazoo, Library::Curator, Library::Go];
