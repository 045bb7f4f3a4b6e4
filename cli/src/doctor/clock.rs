//! The servers' clock, which stamps nodes with the times of their creation.

use std::time::{Duration, SystemTime};

use lockkeeper::{Keeper, LockOptions};

use crate::exit::with_source;

/// The time at which the servers make a node of ours now, or why it is not known. The clock of this host may differ from
/// theirs: nothing else needs clocks that agree.
pub async fn server_time(keeper: &Keeper) -> Result<SystemTime, String> {
    // A directory that empties itself, and a mode in which nobody waits for anybody.
    let options = LockOptions::new().container_directories(true);
    let locks = keeper.read_write_with(HEALTH_PATH, options).map_err(|error| with_source(&error))?;
    let guard = locks.read().acquire_timeout(LIMIT).await.map_err(|error| with_source(&error))?;
    let state = keeper.inspector().look(HEALTH_PATH).await.map_err(|error| with_source(&error))?;
    let mut entries = state.iter().flat_map(|state| &state.queue().entries);
    let own = entries.find(|entry| entry.contender.token == guard.token());
    let created = own.and_then(|entry| entry.created);
    // If it is not confirmed, the node ends with the session.
    let _ = guard.release().await;
    created.ok_or_else(|| format!("the node below {HEALTH_PATH} may not be read"))
}

/// Where keepers make their nodes to check their health, so that access lists need not name another path.
const HEALTH_PATH: &str = "/lockkeeper-health";

const LIMIT: Duration = Duration::from_secs(2);
