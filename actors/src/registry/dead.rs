//! The actors of paths that died: their nodes are deleted once nothing is left of them.
//!
//! A dead actor's leases are marked as `Lost` when its state is dropped. ractor reports the actor's end before that: after
//! a panic the actor's task still has the state, otherwise the report contains it. Until it is dropped, the nodes must
//! stay.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures::future::join_all;
use ractor::actor::messages::BoxedState;
use tokio::task::JoinHandle;
use tracing::warn;

use super::sweep::sweep;
use super::{RegistryActorMessage, State};
use crate::api::resource::Resource;
use crate::machine::node::{Attempt, Instance};
use crate::metrics::{Counted, Kind};

/// An actor that died, and whose nodes are not known to be deleted. Kept when the session ends, because nodes may outlive
/// it.
pub(super) struct Dead {
    resource: Resource,
    /// Nothing but nodes is left of it.
    gone: bool,
    _counted: Counted,
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
        let kind = match &resource {
            Resource::Lock(_) => Kind::Lock,
            Resource::Semaphore(_) => Kind::Semaphore,
        };
        let _counted = self.metrics.path(resource.path()).cleanup(kind);
        self.dead.insert(instance, Dead { resource, gone: false, _counted });
        let myself = self.myself.clone();
        // Beside this actor, because it calls the application's listeners, and may take long.
        tokio::spawn(async move {
            // After a panic, here or in the task, the rest was dropped all the same.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(state)));
            let _ = task.await;
            let _ = myself.cast(RegistryActorMessage::Gone(instance));
        });
    }

    pub(super) fn gone(&mut self, instance: Instance) {
        if let Some(dead) = self.dead.get_mut(&instance) {
            dead.gone = true;
            self.sweep(instance);
        }
    }

    /// Called when a session begins.
    pub(super) fn sweep_all(&mut self) {
        let instances: Vec<_> = self.dead.keys().copied().collect();
        instances.into_iter().for_each(|instance| self.sweep(instance));
    }

    fn sweep(&mut self, instance: Instance) {
        let dead = self.dead.get(&instance).filter(|dead| dead.gone);
        let (Some(dead), Some(connection)) = (dead, &self.connection) else { return };
        let sweep = |directory| sweep(connection.client.clone(), directory, instance, None);
        let sweeps = join_all(dead.resource.directories().into_iter().map(sweep));
        let myself = self.myself.clone();
        self.tasks.spawn(async move {
            if sweeps.await.into_iter().all(|is_swept| is_swept) {
                let _ = myself.cast(RegistryActorMessage::Swept(instance));
            }
        });
    }

    /// Warns of nodes that may be left behind. Called when the keeper is closed.
    pub(super) fn leave_behind(&mut self) {
        for dead in std::mem::take(&mut self.dead).into_values() {
            let path = dead.resource.path();
            warn!(%path, "closing before the nodes of a dead actor are deleted: persistent ones may be left behind");
        }
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
        let counted = self.metrics.paths().cleanup(Kind::MultiLock);
        let sweep = sweep(connection.client.clone(), directory, instance, Some(attempt));
        self.tasks.spawn(async move {
            let _counted = counted;
            sweep.await;
        });
    }
}
