//! How to connect.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lockkeeper_actors::backoff::Backoff;
use lockkeeper_actors::error::ConnectError;
use lockkeeper_actors::messages::Lifeline;
use lockkeeper_actors::supervisor::{self, KeeperSettings, RestartPolicy};
#[cfg(any(feature = "sasl-digest-md5", feature = "sasl-gssapi"))]
use lockkeeper_actors::zookeeper::SaslOptions;
#[cfg(feature = "tls")]
use lockkeeper_actors::zookeeper::TlsOptions;
use lockkeeper_actors::zookeeper::{Acl, AuthId, Connector, Permission};
use lockkeeper_actors::{Clock, Randomness};

use crate::handle::Shared;
use crate::options::MAX_IDENTIFIER;

/// How to connect.
#[derive(Clone)]
pub struct KeeperOptions {
    session_timeout: Duration,
    connect_timeout: Duration,
    tick: Option<Duration>,
    identifier: Vec<u8>,
    acl: Vec<Acl>,
    build: Vec<Credential>,
    restart: RestartPolicy,
    close_timeout: Option<Duration>,
}

impl KeeperOptions {
    pub(crate) fn new() -> KeeperOptions {
        KeeperOptions {
            session_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            tick: None,
            identifier: Vec::new(),
            acl: vec![Acl::new(Permission::ALL, AuthId::anyone())],
            build: Vec::new(),
            restart: RestartPolicy::default(),
            close_timeout: None,
        }
    }

    /// How long the server keeps a session that it does not hear from. The server may grant less or more:
    /// [`Keeper::session_timeout`](crate::Keeper::session_timeout) tells. Ten seconds unless set. After a crash, a lock is free again this much later; a fail-over of the ensemble within a third
    /// of it costs nobody a lock.
    pub fn session_timeout(self, session_timeout: Duration) -> Self {
        KeeperOptions { session_timeout, ..self }
    }

    /// How long the first connecting may take. Ten seconds unless set.
    pub fn connect_timeout(self, connect_timeout: Duration) -> Self {
        KeeperOptions { connect_timeout, ..self }
    }

    /// How long to rest between rounds of connecting when a session was lost: `initial`, then twice as long each time
    /// up to `maximum`, less a random part of up to a half. From a tenth of a second to five unless set.
    pub fn backoff(self, initial: Duration, maximum: Duration) -> Self {
        let backoff = Backoff { initial, maximum };
        KeeperOptions { restart: RestartPolicy { backoff, ..self.restart }, ..self }
    }

    /// How long to go on without a session before [giving up](crate::SessionEvent::GaveUp), rests included: then the keeper
    /// closes, waiting callers are answered, and a [supervisor](KeeperOptions::connect_linked) is told. For ever
    /// unless set.
    /// Credentials that are not taken any more end it at once.
    pub fn give_up_after(self, time: Duration) -> Self {
        let give_up_after = Some(time);
        KeeperOptions { restart: RestartPolicy { give_up_after, ..self.restart }, ..self }
    }

    /// How long [closing](crate::Keeper::close) waits: for actors that work under locks to end, and for the server to confirm
    /// what is released. After that guards are `Lost`, whatever still works under them, and the session is closed, which
    /// takes two seconds at most. For ever unless set.
    ///
    /// Actors that have not ended by then are killed. One whose handler never awaits goes on all the same: set the time
    /// so that this does not happen when nothing is wrong.
    pub fn close_timeout(self, time: Duration) -> Self {
        KeeperOptions { close_timeout: Some(time), ..self }
    }

    /// The servers' tickTime, where it is less than half of the session timeout: leases are then known to be good
    /// for longer.
    pub fn tick_time(self, tick: Duration) -> Self {
        KeeperOptions { tick: Some(tick), ..self }
    }

    /// Who this process is, for people who list contenders.
    pub fn identifier(self, identifier: impl Into<String>) -> Self {
        KeeperOptions { identifier: identifier.into().into_bytes(), ..self }
    }

    /// The access list of all that is made. Everybody may do everything unless set. Contenders must be able to
    /// read each other's nodes.
    pub fn acl(self, acl: Vec<Acl>) -> Self {
        KeeperOptions { acl, ..self }
    }

    /// Adds credentials, as `addauth` does: `("digest", b"user:password")`.
    pub fn auth(self, scheme: &str, credentials: &[u8]) -> Self {
        self.with(Credential::Auth(scheme.to_owned(), credentials.to_vec()))
    }

    /// Connects with TLS.
    #[cfg(feature = "tls")]
    pub fn tls(self, options: TlsOptions) -> Self {
        self.with(Credential::Tls(options))
    }

    /// Authenticates with SASL.
    #[cfg(any(feature = "sasl-digest-md5", feature = "sasl-gssapi"))]
    pub fn sasl(self, options: impl Into<SaslOptions>) -> Self {
        self.with(Credential::Sasl(options.into()))
    }

    /// Connects.
    pub(crate) async fn start(self, address: &str) -> Result<Shared, ConnectError> {
        self.check()?;
        let mut connector = Connector::new(address, self.session_timeout);
        for credential in self.build {
            connector = match credential {
                Credential::Auth(scheme, credentials) => connector.auth(&scheme, &credentials),
                #[cfg(feature = "tls")]
                Credential::Tls(options) => connector.tls(options),
                #[cfg(any(feature = "sasl-digest-md5", feature = "sasl-gssapi"))]
                Credential::Sasl(options) => connector.sasl(options),
            };
        }
        let settings = KeeperSettings {
            clock: Clock::start(),
            connector: Arc::new(connector),
            connect_timeout: self.connect_timeout,
            tick: self.tick,
            randomness: Randomness::default(),
            restart: self.restart,
            close_timeout: self.close_timeout,
        };
        let started = supervisor::start(settings).await?;
        let lifeline = Arc::new(Lifeline::new(started.keeper.clone()));
        Ok(Shared { started, lifeline, identifier: self.identifier, acl: self.acl })
    }

    fn with(mut self, credential: Credential) -> Self {
        self.build.push(credential);
        self
    }

    fn check(&self) -> Result<(), ConnectError> {
        let refuse = |option, value, reason| Err(ConnectError::InvalidOption { option, value, reason });
        let times = [
            ("a session timeout", Some(self.session_timeout)),
            ("a connect timeout", Some(self.connect_timeout)),
            ("a tick time", self.tick),
            ("a time to give up after", self.restart.give_up_after),
            ("a close timeout", self.close_timeout),
        ];
        for (option, time) in times {
            let Some(time) = time else { continue };
            if time < Duration::from_millis(1) {
                return refuse(option, format!("{time:?}"), "it is less than a millisecond");
            }
            if time.as_millis() > i32::MAX as u128 {
                return refuse(option, format!("{time:?}"), "ZooKeeper counts milliseconds in 31 bits");
            }
        }
        if let Some(tick) = self.tick.filter(|tick| *tick > self.session_timeout / 2) {
            return refuse(
                "a tick time",
                format!("{tick:?}"),
                "servers grant sessions of two ticks at least",
            );
        }
        if self.identifier.len() > MAX_IDENTIFIER {
            let value = format!("{} bytes", self.identifier.len());
            return refuse("an identifier", value, "a node has room for less than 1 MiB");
        }
        if self.acl.is_empty() {
            return refuse("an access list", "no entries".into(), "nobody could use what is made");
        }
        Ok(())
    }
}

#[derive(Clone)]
enum Credential {
    Auth(String, Vec<u8>),
    #[cfg(feature = "tls")]
    Tls(TlsOptions),
    #[cfg(any(feature = "sasl-digest-md5", feature = "sasl-gssapi"))]
    Sasl(SaslOptions),
}

impl fmt::Debug for KeeperOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Credentials are not for logs.
        f.debug_struct("KeeperOptions")
            .field("session_timeout", &self.session_timeout)
            .finish_non_exhaustive()
    }
}
