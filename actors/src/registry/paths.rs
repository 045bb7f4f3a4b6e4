//! The actors of paths: how many handles each has, and which session it knows.

use std::collections::BTreeMap;
use std::sync::Arc;

use ractor::{ActorCell, ActorProcessingErr, ActorRef, Message};

use crate::machine::node::Instance;
use crate::path::PathNotice;
use crate::session::{Connection, SessionNews};

/// The actors of one kind of path.
pub(super) struct Paths<M>(pub BTreeMap<Arc<str>, Entry<M>>);

pub(super) struct Entry<M> {
    pub actor: ActorRef<M>,
    pub instance: Instance,
    handles: usize,
    /// The number of handles ever created. Shows whether an actor's report that it has retired is out of date.
    generation: u64,
    /// The epoch of the newest session that was announced to the actor.
    epoch: u64,
}

/// Failed casts are ignored: the supervision event reports that the actor has ended.
impl<M: Message + From<PathNotice>> Paths<M> {
    /// The actor of a path.
    pub fn get(&mut self, path: &Arc<str>) -> Result<&mut Entry<M>, ActorProcessingErr> {
        Ok(self.0.get_mut(path).ok_or_else(|| format!("no actor for {path:?}"))?)
    }

    /// Passes a message on, after the session, which the actor learns of at once or in its turn.
    pub fn pass(
        &mut self,
        path: &Arc<str>,
        message: M,
        connection: Option<&Connection>,
        suspended: bool,
        turns: Option<&mut usize>,
    ) -> Result<(), ActorProcessingErr> {
        let entry = self.get(path)?;
        if let Some(connection) = connection {
            entry.announce(connection, suspended, turns);
        }
        let _ = entry.actor.cast(message);
        Ok(())
    }

    /// Announces the session to the actors that do not know it, as long as there are turns.
    pub fn announce(&mut self, connection: &Connection, suspended: bool, turns: &mut usize) {
        for entry in self.0.values_mut() {
            if *turns == 0 {
                return;
            }
            entry.announce(connection, suspended, Some(turns));
        }
    }

    /// Tells the actors that know the session what happened to it.
    pub fn tell(&self, news: &SessionNews) {
        for entry in self.0.values().filter(|entry| entry.epoch == news.epoch()) {
            let _ = entry.actor.cast(PathNotice::Session(news.clone()).into());
        }
    }

    pub fn dropped(&mut self, path: &Arc<str>) {
        if let Some(entry) = self.0.get_mut(path) {
            entry.handles = entry.handles.saturating_sub(1);
            if entry.handles == 0 {
                entry.retire();
            }
        }
    }

    pub fn notify(&self, path: &Arc<str>, notice: PathNotice) {
        if let Some(entry) = self.0.get(path) {
            let _ = entry.actor.cast(notice.into());
        }
    }

    pub fn close(&self) {
        for entry in self.0.values() {
            let _ = entry.actor.cast(PathNotice::Close.into());
            entry.retire();
        }
    }

    /// Removes an actor that has retired, unless it is needed again. The report may be a late one of an actor that was
    /// removed before.
    pub fn take_retired(
        &mut self,
        path: &Arc<str>,
        instance: Instance,
        generation: u64,
        closed: bool,
    ) -> Option<ActorCell> {
        let entry = self.0.get(path)?;
        let current = entry.instance == instance && entry.generation == generation;
        let retires = current && (closed || entry.handles == 0);
        retires.then(|| self.0.remove(path)).flatten().map(|entry| entry.actor.get_cell())
    }

    /// Removes an entry. Returns its instance, and the number and generation of its handles.
    pub fn remove(&mut self, path: &Arc<str>) -> Option<(Instance, usize, u64)> {
        let entry = self.0.remove(path)?;
        Some((entry.instance, entry.handles, entry.generation))
    }
}

impl<M: Message + From<PathNotice>> Entry<M> {
    pub fn new(actor: ActorRef<M>, instance: Instance) -> Entry<M> {
        Entry { actor, instance, handles: 0, generation: 0, epoch: 0 }
    }

    /// Announces the session, unless the actor knows it: at once, or if there is a turn left, which it takes.
    pub fn announce(&mut self, connection: &Connection, suspended: bool, turns: Option<&mut usize>) {
        if self.epoch >= connection.epoch {
            return;
        }
        match turns {
            Some(0) => return,
            Some(turns) => *turns -= 1,
            None => {}
        }
        self.epoch = connection.epoch;
        let tell = |news| drop(self.actor.cast(PathNotice::Session(news).into()));
        tell(SessionNews::Connected(connection.clone()));
        if suspended {
            tell(SessionNews::Suspended(connection.epoch));
        }
    }

    pub fn opened(&mut self) {
        self.handles += 1;
        self.generation += 1;
    }

    /// Takes over the handles of an actor that died.
    pub fn inherit(&mut self, handles: usize, generation: u64) {
        (self.handles, self.generation) = (handles, generation);
    }

    pub fn retire(&self) {
        let _ = self.actor.cast(PathNotice::Retire(self.generation).into());
    }
}

#[cfg(test)]
mod tests {
    use ractor::Actor;

    use super::*;
    use crate::lock::LockActorMessage;

    struct PathActor;

    #[ractor::actor(message = LockActorMessage, state = (), arguments = ())]
    impl PathActor {
        async fn pre_start(&self, _: ActorRef<LockActorMessage>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }
    }

    async fn entry(instance: u128) -> Entry<LockActorMessage> {
        let (actor, _) = Actor::spawn(None, PathActor, ()).await.expect("it starts");
        let mut entry = Entry::new(actor, Instance::new(instance));
        entry.opened();
        entry
    }

    /// Every actor of a path counts its handles from one, and reports that it has retired once or more often.
    #[tokio::test]
    async fn a_late_report_of_an_earlier_actor_does_not_end_the_next_one() {
        let (path, mut paths) = (Arc::<str>::from("/lock"), Paths(BTreeMap::new()));
        for instance in [1, 2] {
            paths.0.insert(path.clone(), entry(instance << 64).await);
            paths.dropped(&path);
            let late = Instance::new((instance - 1) << 64);
            assert!(paths.take_retired(&path, late, 1, false).is_none(), "{instance}");
            let own = Instance::new(instance << 64);
            paths.take_retired(&path, own, 1, false).expect("it has retired").stop(None);
        }
    }
}
