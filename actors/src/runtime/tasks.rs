//! The tasks of an actor.

use std::future::Future;

use tokio::task::{AbortHandle, JoinSet};

/// Tasks that are aborted when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Tasks(JoinSet<()>);

impl Tasks {
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        // The set keeps finished tasks until they are taken.
        while self.0.try_join_next().is_some() {}
        self.0.spawn(task)
    }

    pub fn abort_all(&mut self) {
        self.0.abort_all();
    }
}
