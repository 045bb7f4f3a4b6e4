//! The actors of paths that died: their nodes are deleted once nothing is left of them.
//!
//! ractor reports an actor's end before it drops the actor's state: after a panic, the actor's task drops it, otherwise
//! whoever receives the report. Only that marks its leases as `Lost`, and until then its nodes must stay.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures::future::join_all;
use ractor::actor::messages::BoxedState;
use tokio::task::JoinHandle;

use super::sweep::sweep;
use super::{RegistryActorMessage, State, counted};
use crate::api::resource::Resource;
use crate::machine::node::{Attempt, Instance};
use crate::metrics::{Counted, Kind};

/// An actor that died, and of which something may be left.
pub(super) struct Dead {
    resource: Resource,
    pending: Counted,
}

impl State {
    /// `state` is the actor's, if it was not left to the actor's `task`.
    pub(super) fn bury(
        &mut self,
        resource: Resource,
        instance: Instance,
        state: Option<BoxedState>,
        task: JoinHandle<()>,
    ) {
        if let Some(connection) = &self.connection {
            for directory in resource.directories() {
                connection.nodes.untrack_all(&directory, instance);
            }
        }
        let pending = self.cleanup(&resource);
        self.dead.insert(instance, Dead { resource, pending });
        let myself = self.myself.clone();
        // Beside this actor, because it calls the application's listeners, and may take long.
        tokio::spawn(async move {
            // After a panic, here or in the task, the rest was dropped all the same.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(state)));
            let _ = task.await;
            let _ = myself.cast(RegistryActorMessage::Gone(instance));
        });
    }

    /// Deletes the nodes of a dead actor, of which nothing is left.
    pub(super) fn gone(&mut self, instance: Instance) {
        let (Some(dead), Some(connection)) = (self.dead.remove(&instance), &self.connection) else { return };
        while self.tasks.try_join_next().is_some() {}
        let sweeps = dead.resource.directories().into_iter();
        let sweeps = sweeps.map(|directory| sweep(connection.client.clone(), directory, instance, None));
        let sweeps = join_all(sweeps);
        self.tasks.spawn(counted(dead.pending, async move { drop(sweeps.await) }));
    }

    /// Deletes the node of one attempt of a dead actor, of which something may be left: its other nodes must stay.
    pub(super) fn delete_orphan(
        &mut self,
        epoch: u64,
        directory: Arc<str>,
        instance: Instance,
        attempt: Attempt,
    ) {
        let Some(connection) = self.connection.as_ref().filter(|c| c.epoch == epoch) else { return };
        while self.tasks.try_join_next().is_some() {}
        let pending = self.metrics.paths().cleanup(Kind::MultiLock);
        let sweep = sweep(connection.client.clone(), directory, instance, Some(attempt));
        self.tasks.spawn(counted(pending, sweep));
    }

    fn cleanup(&self, resource: &Resource) -> Counted {
        let kind = match resource {
            Resource::Lock(_) => Kind::Lock,
            Resource::Semaphore(_) => Kind::Semaphore,
        };
        self.metrics.path(resource.path()).cleanup(kind)
    }
}
