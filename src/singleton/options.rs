//! The options of singletons.

use std::time::Duration;

use lockkeeper_actors::backoff::Backoff;
use lockkeeper_actors::candidate::RunFailed;
use lockkeeper_actors::run::StopPolicy;
use lockkeeper_actors::zookeeper::Acl;
use ractor::DerivedActorRef;

use crate::options::{InvalidLock, LockOptions};

/// Options of a [`Singleton`] handle, and of its candidates.
#[derive(Clone, Debug, Default)]
pub struct SingletonOptions {
    pub(super) lock: LockOptions,
    pub(super) stop_policy: StopPolicy,
    pub(super) backoff: Backoff,
    pub(super) supervisor: Option<DerivedActorRef<RunFailed>>,
}

impl SingletonOptions {
    /// The default options.
    pub fn new() -> SingletonOptions {
        SingletonOptions::default()
    }

    /// Data about this member that others can read, for example its address. At most 960 KiB. The default is the
    /// keeper's identifier. [`Candidate::advertise`](super::Candidate::advertise) changes it later.
    pub fn advertise(self, data: impl Into<String>) -> Self {
        SingletonOptions { lock: self.lock.identifier(data), ..self }
    }

    /// The time that the actor may take to stop, including its `post_stop`, before it is killed. The default is five
    /// seconds. If it is stopped because the lease is about to end, it has at most 1/8 of the session timeout: a
    /// `post_stop` of one second needs a session timeout of more than eight seconds.
    pub fn grace(self, grace: Duration) -> Self {
        SingletonOptions { stop_policy: StopPolicy { grace, ..self.stop_policy }, ..self }
    }

    /// `true` stops the actor as soon as the connection is suspended, instead of when 1/4 of the session timeout is
    /// left. Every short interruption then moves it to another member, and it does not receive
    /// [`LeaseEvent::Suspended`]. The default is `false`.
    pub fn stop_when_suspended(self, stop_when_suspended: bool) -> Self {
        SingletonOptions { stop_policy: StopPolicy { stop_when_suspended, ..self.stop_policy }, ..self }
    }

    /// The pause of this member after a run that failed or ended by itself: `initial` at first, then doubled each time
    /// up to `maximum`, each minus a random part of up to a half. The defaults are 100 milliseconds and five seconds.
    /// After a run of more than `maximum`, the pause is `initial` again.
    pub fn backoff(self, initial: Duration, maximum: Duration) -> Self {
        SingletonOptions { backoff: Backoff { initial, maximum }, ..self }
    }

    /// Names an actor of the application that is told of each run that fails here. It decides nothing: the candidate
    /// starts the actor again by itself, after a [pause](SingletonOptions::backoff) or when it leads again.
    ///
    /// The failure comes as a message, not as an event of ractor's supervision: a default `handle_supervisor_evt` would
    /// end the supervisor at the first failure. The singleton's actor has another supervisor, which ends it before its
    /// lease ends. If the named actor has ended, failures are only logged.
    ///
    /// ```
    /// # #[cfg(not(feature = "cluster"))]
    /// # mod hidden {
    /// use lockkeeper::{Crash, RunFailed, RunFailure, SingletonOptions};
    /// use ractor::{Actor, ActorProcessingErr, ActorRef};
    ///
    /// struct Overseer;
    ///
    /// #[ractor::actor(message = RunFailed, state = (), arguments = ())]
    /// impl Overseer {
    ///     async fn pre_start(&self, _: ActorRef<RunFailed>, (): ()) -> Result<(), ActorProcessingErr> {
    ///         Ok(())
    ///     }
    ///
    ///     async fn handle(&self, _: ActorRef<RunFailed>, run: RunFailed, (): &mut ()) -> Result<(), ActorProcessingErr> {
    ///         match run.failure {
    ///             RunFailure::Failed(Crash::Panic(text)) => println!("a bug in run {}: {text}", run.token),
    ///             RunFailure::LeaseEnded { .. } => println!("{} was cut off from ZooKeeper", run.path),
    ///             failure => println!("{failure}"),
    ///         }
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # pub async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let (overseer, _) = Actor::spawn(None, Overseer, ()).await?;
    /// let options = SingletonOptions::new().supervisor(overseer.get_derived());
    /// # drop(options);
    /// # Ok(())
    /// # }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # #[cfg(not(feature = "cluster"))]
    /// # hidden::example().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn supervisor(self, actor: DerivedActorRef<RunFailed>) -> Self {
        SingletonOptions { supervisor: Some(actor), ..self }
    }

    /// The access list of the candidate's node and of missing directories. The default is the keeper's access list.
    /// Other members must be able to read the node.
    pub fn acl(self, acl: Vec<Acl>) -> Self {
        SingletonOptions { lock: self.lock.acl(acl), ..self }
    }

    /// Returns the options if they can be used.
    pub(crate) fn checked(self) -> Result<SingletonOptions, InvalidLock> {
        Ok(SingletonOptions { lock: self.lock.checked()?, ..self })
    }
}
