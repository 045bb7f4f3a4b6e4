//! The options of singletons.

use std::time::Duration;

use lockkeeper_actors::backoff::Backoff;
use lockkeeper_actors::candidate::{RunFailed, Supervisor};
use lockkeeper_actors::run::StopPolicy;
use lockkeeper_actors::zookeeper::Acl;
use ractor::{ActorRef, Message};

use crate::options::{Defaults, InvalidHandle, LockOptions};

/// Options of a [`Singleton`](super::Singleton) handle, and of its candidates.
#[derive(Clone, Debug, Default)]
pub struct SingletonOptions {
    pub(super) lock: LockOptions,
    pub(super) stop_policy: StopPolicy,
    pub(super) backoff: Backoff,
    pub(super) supervisor: Option<Supervisor>,
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
        SingletonOptions { stop_policy: self.stop_policy.grace(grace), ..self }
    }

    /// `true` stops the actor as soon as the connection is suspended, instead of when 1/4 of the session timeout is
    /// left. Every short interruption then moves it to another member, and it does not receive
    /// [`LeaseEvent::Suspended`](crate::run::LeaseEvent::Suspended). The default is `false`.
    pub fn stop_when_suspended(self, stop_when_suspended: bool) -> Self {
        SingletonOptions { stop_policy: self.stop_policy.stop_when_suspended(stop_when_suspended), ..self }
    }

    /// The pause of this member after a run that failed or ended by itself: `initial` at first, then doubled each time
    /// up to `maximum`, each minus a random part of up to a half. The defaults are 100 milliseconds and five seconds.
    /// After a run of more than `maximum`, the pause is `initial` again.
    pub fn backoff(self, initial: Duration, maximum: Duration) -> Self {
        SingletonOptions { backoff: Backoff { initial, maximum }, ..self }
    }

    /// Names an actor of the application that is sent each failure of a run in this process, converted to one of its
    /// messages. It has no influence on restarts: the candidate starts the actor again by itself, after a
    /// [pause](SingletonOptions::backoff) or when it leads again.
    ///
    /// Failures are not sent as events of ractor's supervision, because a default `handle_supervisor_evt` would end the
    /// supervisor at the first one. ractor's supervisor of the singleton's actor is an actor of this library, which ends
    /// it before its lease ends. If the named actor has ended, failures are only logged. After a panic of `convert`, the
    /// failure is not sent.
    ///
    /// ```
    /// use lockkeeper::run::Crash;
    /// use lockkeeper::singleton::RunFailed;
    /// use lockkeeper::run::RunFailure;
    /// use lockkeeper::singleton::SingletonOptions;
    ///
    /// enum Message {
    ///     Failed(RunFailed),
    /// }
    ///
    /// # #[cfg(not(feature = "cluster"))]
    /// fn options(myself: &ractor::ActorRef<Message>) -> SingletonOptions {
    ///     SingletonOptions::new().supervisor(myself, Message::Failed)
    /// }
    ///
    /// fn handle(Message::Failed(run): Message) {
    ///     match run.failure {
    ///         RunFailure::Failed(Crash::Panic(text)) => println!("a bug, under token {}: {text}", run.token),
    ///         RunFailure::LeaseEnded { .. } => println!("{} was cut off from ZooKeeper", run.path),
    ///         failure => println!("{failure}"),
    ///     }
    /// }
    /// ```
    pub fn supervisor<T: Message>(
        self,
        actor: &ActorRef<T>,
        convert: impl Fn(RunFailed) -> T + Send + Sync + 'static,
    ) -> Self {
        let actor = actor.clone();
        // Fails if the actor has ended.
        let supervisor = Supervisor::new(move |failed| drop(actor.cast(convert(failed))));
        SingletonOptions { supervisor: Some(supervisor), ..self }
    }

    /// The access list of the candidate's node and of missing directories. The default is the keeper's access list.
    /// Other members must be able to read the node.
    pub fn acl(self, acl: Vec<Acl>) -> Self {
        SingletonOptions { lock: self.lock.acl(acl), ..self }
    }

    /// Returns the options if they can be used.
    pub(crate) fn checked(self, defaults: &Defaults) -> Result<SingletonOptions, InvalidHandle> {
        Ok(SingletonOptions { lock: self.lock.checked(defaults)?, ..self })
    }
}
