//! Messages to a candidate.

use lockkeeper_actors::api::contender::Contender;
use lockkeeper_actors::api::error::{AdvertiseError, QueryError};
use lockkeeper_actors::candidate::CandidateState;
use ractor::{ActorRef, DerivedActorRef, Message, RpcReplyPort};

use super::reply_with;
use crate::address::Recipient;
use crate::singleton::{Candidacy, Candidate, Leaders, ask_leader};
use crate::subscribe;

/// A message to a candidate for a singleton, whose actor takes messages of type `M`: see [`Candidate::actor`].
///
/// ```
/// # #[cfg(not(feature = "cluster"))]
/// # mod hidden {
/// # use lockkeeper::Keeper;
/// # use lockkeeper::run::{LeaseEvent, LeaseView};
/// # use ractor::{Actor, ActorProcessingErr, ActorRef};
/// # struct Scheduler;
/// # #[ractor::actor(message = LeaseEvent, state = LeaseView, arguments = LeaseView)]
/// # impl Scheduler {
/// #     async fn pre_start(&self, _: ActorRef<LeaseEvent>, lease: LeaseView) -> Result<LeaseView, ActorProcessingErr> {
/// #         Ok(lease)
/// #     }
/// # }
/// # pub async fn example(keeper: Keeper) -> Result<(), Box<dyn std::error::Error>> {
/// use lockkeeper::messages::CandidateMessage;
/// use ractor::call;
///
/// let mut candidate = keeper.singleton("/singletons/scheduler")?.run(|lease| (Scheduler, lease), Some);
/// candidate.running().await;
/// let member = candidate.actor();
/// call!(member, CandidateMessage::Advertise, "10.0.0.7:9000, idle".into())??;
/// let leader = call!(member, CandidateMessage::Leader)??;
/// assert_eq!(leader.expect("it is this process").identifier, "10.0.0.7:9000, idle");
/// call!(member, CandidateMessage::Shutdown)?;
/// assert!(candidate.running_actor().is_none());
/// # Ok(())
/// # }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
/// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
/// # #[cfg(not(feature = "cluster"))]
/// # hidden::example(keeper).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum CandidateMessage<M> {
    /// Asks for the current state.
    State(RpcReplyPort<CandidateState<M>>),
    /// Sends the states to an actor for as long as it lives: see [`Candidate::subscribe`].
    Subscribe(DerivedActorRef<CandidateState<M>>),
    /// Asks for the singleton's actor, if it runs in this process: see [`Candidate::running_actor`].
    RunningActor(RpcReplyPort<Option<ActorRef<M>>>),
    /// Changes the data about this member that others can read: see [`Candidate::advertise`].
    Advertise(String, RpcReplyPort<Result<(), AdvertiseError>>),
    /// Asks which candidate leads: see [`Singleton::leader`](crate::singleton::Singleton::leader).
    Leader(RpcReplyPort<Result<Option<Contender>, QueryError>>),
    /// Sends the leader, and each change, to an actor for as long as it lives: see
    /// [`Singleton::subscribe`](crate::singleton::Singleton::subscribe).
    SubscribeToLeaders(DerivedActorRef<Result<Option<Contender>, QueryError>>),
    /// Ends the candidacy, and answers when the server has confirmed the release of the lock: see
    /// [`Candidate::shutdown`].
    Shutdown(RpcReplyPort<()>),
}

impl<M: Message> Candidate<M> {
    /// The candidate as an actor, to which [messages](crate::messages) are sent: see
    /// [`Lock::actor`](crate::Lock::actor). It runs for as long as this handle exists, and answers also after the
    /// candidacy has ended. The singleton's own actor is the [`running_actor`](Candidate::running_actor).
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn actor(&self) -> ActorRef<CandidateMessage<M>> {
        self.start_actor()
    }
}

#[cfg(feature = "cluster")]
impl<M: 'static> ractor::Message for CandidateMessage<M> {}

impl<M: Message> Recipient for Candidacy<M> {
    type Message = CandidateMessage<M>;

    fn receive(&self, message: CandidateMessage<M>) {
        match message {
            // These fail if the caller no longer waits.
            CandidateMessage::State(reply) => drop(reply.send(self.state())),
            CandidateMessage::RunningActor(reply) => drop(reply.send(self.running_actor())),
            CandidateMessage::Subscribe(actor) => subscribe::forward_derived(self.states(), actor),
            CandidateMessage::Advertise(data, reply) => reply_with(reply, self.ask_advertise(data)),
            CandidateMessage::Leader(reply) => reply_with(reply, ask_leader(self.handle())),
            CandidateMessage::SubscribeToLeaders(actor) => {
                subscribe::forward_derived(Leaders::new(self.handle()), actor)
            }
            CandidateMessage::Shutdown(reply) => reply_with(reply, self.ask_shutdown()),
        }
    }
}
