//! The watches that a path's machine wants.

use super::WatchKey;
use crate::session::Watch;

/// The watches that are wanted: `None` until the answer has arrived. There are few: one for each kind of waiter, and two
/// for a semaphore's state.
#[derive(Default)]
pub(crate) struct WantedWatches(Vec<(WatchKey, Option<Watch>)>);

impl WantedWatches {
    /// Notes that a watch is wanted. An earlier one with this key stays until it is replaced.
    pub fn want(&mut self, key: WatchKey) {
        if self.get(&key).is_none() {
            // Most paths want one.
            self.0.reserve_exact(1);
            self.0.push((key, None));
        }
    }

    pub(super) fn get(&mut self, key: &WatchKey) -> Option<&mut Option<Watch>> {
        self.0.iter_mut().find(|(wanted, _)| wanted == key).map(|(_, watch)| watch)
    }

    pub fn remove(&mut self, key: &WatchKey) {
        self.0.retain(|(wanted, _)| wanted != key);
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}
