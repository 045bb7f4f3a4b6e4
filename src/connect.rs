//! Options for connecting to ZooKeeper.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lockkeeper_actors::api::error::ConnectError;
use lockkeeper_actors::api::keep_alive::KeepAlive;
use lockkeeper_actors::api::request::bytes_of;
use lockkeeper_actors::backoff::Backoff;
use lockkeeper_actors::keeper::{self, KeeperSettings, RestartPolicy};
use lockkeeper_actors::machine::path_rules::check_path;
use lockkeeper_actors::metrics::Metrics;
use lockkeeper_actors::record::Recording;
#[cfg(any(feature = "sasl-digest-md5", feature = "sasl-gssapi"))]
use lockkeeper_actors::zookeeper::SaslOptions;
#[cfg(feature = "tls")]
use lockkeeper_actors::zookeeper::TlsOptions;
use lockkeeper_actors::zookeeper::{Acl, AuthId, Connector, Permission};
use lockkeeper_actors::{Clock, Randomness};

use crate::handle::Shared;
use crate::identity;
use crate::options::{Defaults, MAX_NODE, MAX_REQUEST};

/// Options for connecting, from [`Keeper::options`](crate::Keeper::options).
///
/// Times, other than those of [`backoff`](KeeperOptions::backoff), are at least one millisecond and less than 2^31
/// milliseconds (24 days). If an option cannot be used, [`connect`](KeeperOptions::connect) fails with
/// [`InvalidOption`](ConnectError::InvalidOption).
#[derive(Clone)]
pub struct KeeperOptions {
    session_timeout: Duration,
    connect_timeout: Duration,
    tick: Option<Duration>,
    identifier: Vec<u8>,
    acl: Vec<Acl>,
    credentials: Vec<Credential>,
    restart: RestartPolicy,
    close_timeout: Option<Duration>,
    metric_paths: Vec<String>,
    health_path: String,
    recording: Option<Recording>,
}

impl KeeperOptions {
    pub(crate) fn new() -> KeeperOptions {
        KeeperOptions {
            session_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            tick: None,
            identifier: identity::of_this_process().into_bytes(),
            acl: vec![Acl::new(Permission::ALL, AuthId::anyone())],
            credentials: Vec::new(),
            restart: RestartPolicy::default(),
            close_timeout: None,
            metric_paths: Vec::new(),
            health_path: "/lockkeeper-health".to_owned(),
            recording: None,
        }
    }

    /// The time after which the server ends a session that it does not hear from. The default is ten seconds. The
    /// server may grant another value: see [`Keeper::session_timeout`](crate::Keeper::session_timeout).
    ///
    /// After a crash of its holder, a lock is free again when this time has passed. A failover of the ensemble that
    /// takes less than a fifth of it does not cost a lock.
    pub fn session_timeout(self, session_timeout: Duration) -> Self {
        KeeperOptions { session_timeout, ..self }
    }

    /// How long [`connect`](KeeperOptions::connect) tries to establish a session. For a keeper that has lost its
    /// session, how long one round of attempts takes: see [`backoff`](KeeperOptions::backoff). The default is ten
    /// seconds.
    ///
    /// A server that does not answer is given up after two fifths of the session timeout. It is given up sooner if the
    /// connect timeout would otherwise pass before a majority that answers was tried, but not before a tenth of the
    /// requested session timeout or a second has passed. This also holds for a server that stops answering later.
    pub fn connect_timeout(self, connect_timeout: Duration) -> Self {
        KeeperOptions { connect_timeout, ..self }
    }

    /// The pause between two rounds of attempts to connect after a session was lost: `initial` at first, then doubled
    /// each time up to `maximum`, each minus a random part of up to a half. The defaults are 100 milliseconds and five
    /// seconds.
    ///
    /// A round takes up to the [connect timeout](KeeperOptions::connect_timeout). Within it, a failed attempt is
    /// repeated after a pause of at most 100 milliseconds at first, and at most one second later.
    pub fn backoff(self, initial: Duration, maximum: Duration) -> Self {
        let backoff = Backoff { initial, maximum };
        KeeperOptions { restart: RestartPolicy { backoff, ..self.restart }, ..self }
    }

    /// The time without a session after which the keeper [gives up](crate::session::SessionEvent::GaveUp), pauses
    /// included. It then closes, answers waiting callers, and informs its [supervisor](KeeperOptions::connect_linked). The default
    /// is to never give up. Credentials that the server no longer accepts make it give up at once.
    pub fn give_up_after(self, time: Duration) -> Self {
        let give_up_after = Some(time);
        KeeperOptions { restart: RestartPolicy { give_up_after, ..self.restart }, ..self }
    }

    /// The time limit for [closing](crate::Keeper::close): for actors that work under locks to end, and for the server
    /// to confirm releases. There is no limit by default.
    ///
    /// After that time, remaining actors are killed. Their locks are released when they and their states are dropped.
    /// Once all are released, or after two seconds, guards become `Lost`, and the session is closed, which takes at most
    /// two more seconds. An actor that is not dropped within the first two seconds, for example because its handler
    /// never awaits, continues while its lock may go to another holder. Choose a time that is long enough for a regular
    /// end.
    pub fn close_timeout(self, time: Duration) -> Self {
        KeeperOptions { close_timeout: Some(time), ..self }
    }

    /// The `tickTime` of the servers, at most half of the session timeout. If it is known, leases are proven valid for
    /// longer.
    pub fn tick_time(self, tick: Duration) -> Self {
        KeeperOptions { tick: Some(tick), ..self }
    }

    /// The text that identifies this process when contenders are listed. At most 960 KiB. The default is `user@host:pid`.
    /// Everybody who may read the nodes sees it; an empty text hides it.
    pub fn identifier(self, identifier: impl Into<String>) -> Self {
        KeeperOptions { identifier: identifier.into().into_bytes(), ..self }
    }

    /// The access list of all nodes that the keeper creates. It must have at least one entry, and may have 976 KiB
    /// together with the identifier. The default permits everything to everyone. Contenders must be able to read each
    /// other's nodes.
    pub fn acl(self, acl: Vec<Acl>) -> Self {
        KeeperOptions { acl, ..self }
    }

    /// The path of the read lock that [`health`](crate::Keeper::health) acquires, below the chroot. The default is
    /// `/lockkeeper-health`. All processes may use the same path, because readers do not exclude each other. Choose another
    /// one if the access lists of the root do not permit that. A missing directory is created as a container, which the
    /// server removes when it is empty.
    pub fn health_path(self, path: impl Into<String>) -> Self {
        KeeperOptions { health_path: path.into(), ..self }
    }

    /// Records what the keeper decides, and why: every event that its state machines receive, and every command that
    /// they give. For reports of bugs; see [`Recording`] for what is in it. Without a record, which is the default,
    /// each event costs one branch.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let address = zookeeper.address();
    /// use lockkeeper::Keeper;
    /// use lockkeeper::record::Recording;
    ///
    /// let recording = Recording::new(4 << 20); // the newest four mebibytes
    /// let keeper = Keeper::options().record(&recording).connect(&address).await?;
    /// keeper.lock("/locks/ledger")?.acquire().await?.release().await?;
    /// let text = recording.to_string();
    /// assert!(text.contains("/locks/ledger"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn record(self, recording: &Recording) -> Self {
        KeeperOptions { recording: Some(recording.clone()), ..self }
    }

    /// Adds credentials, as ZooKeeper's `addauth` does. An example is `("digest", b"user:password")`. The servers do not
    /// check a digest's password when the keeper connects: with a wrong one, requests for nodes with an access list fail
    /// with `NoAuth`.
    pub fn auth(self, scheme: &str, credentials: &[u8]) -> Self {
        self.with(Credential::Auth(scheme.to_owned(), credentials.to_vec()))
    }

    /// The paths that may appear in metrics. Requests for a path at or below one of them have it as their label `path`;
    /// of several, the longest. All others have no such label, which is the default: each value makes a series of its own
    /// of every metric. Paths are given as for locks, without the chroot of the address. [`connect`](KeeperOptions::connect)
    /// fails with [`InvalidOption`](ConnectError::InvalidOption) if one of them cannot be a path.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// // `/locks/orders/17` counts as `/locks/orders`, and `/locks/ledger` as itself.
    /// let options = lockkeeper::Keeper::options().metric_paths(["/locks/orders", "/locks/ledger"]);
    /// let keeper = options.connect("zk1:2181").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// With the feature `metrics`.
    #[cfg(feature = "metrics")]
    pub fn metric_paths<S: Into<String>>(self, prefixes: impl IntoIterator<Item = S>) -> Self {
        KeeperOptions { metric_paths: prefixes.into_iter().map(Into::into).collect(), ..self }
    }

    /// Uses TLS for all servers of the address, except those written as `tcp://host:port`.
    ///
    /// A server's certificate must be valid now, for the host's name in the address, and be signed by one of the
    /// authorities. Otherwise [`connect`](KeeperOptions::connect) fails with [`Unreachable`](ConnectError::Unreachable)
    /// when its time is over. The reason says what is wrong with the certificate, as far as it can be seen.
    ///
    /// TLS is done by `rustls`. If the dependencies of a program turn on two of its crypto providers, the program has to
    /// install one of them before it connects (`CryptoProvider::install_default`).
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use lockkeeper::Keeper;
    /// use lockkeeper::auth::TlsOptions;
    ///
    /// let read = std::fs::read_to_string;
    /// let tls = TlsOptions::new()
    ///     .with_pem_ca(&read("ca.pem")?)?
    ///     .with_pem_identity(&read("client.pem")?, &read("client-key.pem")?)?; // if the servers want it
    /// let keeper = Keeper::options().tls(tls).connect("zk1:2281,zk2:2281,zk3:2281").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// With the feature `tls`.
    #[cfg(feature = "tls")]
    pub fn tls(self, options: TlsOptions) -> Self {
        self.with(Credential::Tls(options))
    }

    /// Authenticates with SASL, in each new session and connection. If the servers do not accept the credentials,
    /// [`connect`](KeeperOptions::connect) fails with [`AuthFailed`](ConnectError::AuthFailed) at once, and a keeper that
    /// connects again gives up.
    ///
    /// ```no_run
    /// # #[cfg(feature = "sasl-digest-md5")]
    /// # async fn example(password: String) -> Result<(), Box<dyn std::error::Error>> {
    /// use lockkeeper::Keeper;
    /// use lockkeeper::auth::SaslOptions;
    ///
    /// let options = Keeper::options().sasl(SaslOptions::digest_md5("billing", password));
    /// let keeper = options.connect("zk1:2181").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// With one of the features `sasl-digest-md5` and `sasl-gssapi`.
    #[cfg(any(feature = "sasl-digest-md5", feature = "sasl-gssapi"))]
    pub fn sasl(self, options: impl Into<SaslOptions>) -> Self {
        self.with(Credential::Sasl(options.into()))
    }

    /// Connects to `address`.
    pub(crate) async fn start(self, address: &str) -> Result<Shared, ConnectError> {
        self.check()?;
        let mut connector =
            Connector::new(address, self.session_timeout).connect_timeout(self.connect_timeout);
        for credential in self.credentials {
            connector = match credential {
                Credential::Auth(scheme, credentials) => connector.auth(&scheme, &credentials),
                #[cfg(feature = "tls")]
                Credential::Tls(options) => connector.tls(options),
                #[cfg(any(feature = "sasl-digest-md5", feature = "sasl-gssapi"))]
                Credential::Sasl(options) => connector.sasl(options),
            };
        }
        let defaults = Defaults {
            identifier: self.identifier.into(),
            acl: self.acl.into(),
            chroot: connector.chroot().len(),
        };
        let settings = KeeperSettings {
            clock: Clock::start(),
            connector: Arc::new(connector),
            connect_timeout: self.connect_timeout,
            tick: self.tick,
            randomness: Randomness::default(),
            restart: self.restart,
            close_timeout: self.close_timeout,
            metrics: Metrics::new(self.metric_paths),
            recording: self.recording.clone(),
        };
        let started = keeper::start(settings).await?;
        let keep_alive = Arc::new(KeepAlive::new(started.keeper.get_derived(), self.recording));
        let started = Arc::new(started);
        Ok(Shared { started, keep_alive, defaults, health_path: self.health_path.into() })
    }

    fn with(mut self, credential: Credential) -> Self {
        self.credentials.push(credential);
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
                return refuse(option, format!("{time:?}"), "it must be at least one millisecond");
            }
            if time.as_millis() > i32::MAX as u128 {
                return refuse(option, format!("{time:?}"), "it must be less than 2^31 milliseconds");
            }
        }
        if let Some(tick) = self.tick.filter(|tick| *tick > self.session_timeout / 2) {
            return refuse(
                "a tick time",
                format!("{tick:?}"),
                "it must be at most half of the session timeout",
            );
        }
        #[cfg(feature = "metrics")]
        for path in &self.metric_paths {
            check_path(path).or_else(|error| refuse("a metric path", error.path, error.reason))?;
        }
        if self.identifier.len() > MAX_REQUEST {
            let value = format!("{} bytes", self.identifier.len());
            return refuse("an identifier", value, "it must be at most 960 KiB");
        }
        if let Err(invalid) = check_path(&self.health_path) {
            return refuse("a health path", format!("{:?}", invalid.path), invalid.reason);
        }
        if self.acl.is_empty() {
            return refuse("an access list", "no entries".into(), "it must have at least one entry");
        }
        let bytes = self.identifier.len() + bytes_of(&self.acl);
        if bytes > MAX_NODE {
            let value = format!("{bytes} bytes with the identifier");
            return refuse("an access list", value, "they must be at most 976 KiB together");
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
        // Credentials must not appear in logs.
        f.debug_struct("KeeperOptions")
            .field("session_timeout", &self.session_timeout)
            .finish_non_exhaustive()
    }
}
