//! An actor for singletons, which does nothing.

use lockkeeper::run::{LeaseEvent, LeaseView};
use ractor::{ActorProcessingErr, ActorRef};

pub struct Runner;

#[ractor::actor(message = LeaseEvent, state = LeaseView, arguments = LeaseView)]
impl Runner {
    async fn pre_start(
        &self,
        _: ActorRef<LeaseEvent>,
        lease: LeaseView,
    ) -> Result<LeaseView, ActorProcessingErr> {
        Ok(lease)
    }
}
