//! How to reach the servers: options that all commands have.

use std::fs;
#[cfg(feature = "tls")]
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use lockkeeper::{Keeper, KeeperOptions};

use crate::exit::Failure;

/// How to reach ZooKeeper.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// The servers, with an optional chroot: host:port,host:port/chroot
    #[arg(long, env = "LOCKKEEPER_SERVERS", default_value = "127.0.0.1:2181", value_name = "ADDRESS")]
    pub servers: String,

    /// The time after which the servers end a session that they do not hear from
    #[arg(long, env = "LOCKKEEPER_SESSION_TIMEOUT", default_value = "10s", value_name = "TIME",
          value_parser = humantime::parse_duration)]
    pub session_timeout: Duration,

    /// How long to try to connect
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub connect_timeout: Duration,

    /// The text that others see; user@host:pid by default
    #[arg(long, env = "LOCKKEEPER_IDENTIFIER", value_name = "TEXT")]
    pub identifier: Option<String>,

    /// Credentials, as lines of scheme:credentials, from a variable (env:NAME) or a file (file:PATH)
    ///
    /// The credentials themselves are never an argument, because other users of a machine can read those. If the option
    /// is absent, and the variable LOCKKEEPER_AUTH is set, that is used. An example of a line is digest:user:password.
    /// They give access to protected nodes. They do not protect the nodes that `run` creates: see --acl of `run`.
    #[arg(long, value_name = "SOURCE", value_parser = Source::parse)]
    pub auth: Option<Source>,

    /// A file with the certificates of the authorities to trust (PEM); connects with TLS
    #[cfg(feature = "tls")]
    #[arg(long, env = "LOCKKEEPER_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// A file with the certificate of this client (PEM)
    #[cfg(feature = "tls")]
    #[arg(long, env = "LOCKKEEPER_TLS_CERT", value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    pub tls_cert: Option<PathBuf>,

    /// A file with the private key of this client (PEM)
    #[cfg(feature = "tls")]
    #[arg(long, env = "LOCKKEEPER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// SASL credentials, user:password, from a variable (env:NAME) or a file (file:PATH)
    #[cfg(feature = "sasl-digest-md5")]
    #[arg(long, value_name = "SOURCE", value_parser = Source::parse)]
    pub sasl: Option<Source>,
}

impl Connection {
    /// Connects. Options that cannot be used are refused before anything is sent.
    pub async fn connect(&self) -> Result<Keeper, Failure> {
        Ok(self.read()?.options.connect(&self.servers).await?)
    }

    /// Whether there is a certificate, or a user of SASL.
    fn has_identity(&self) -> bool {
        #[cfg(feature = "tls")]
        let has_certificate = self.tls_cert.is_some();
        #[cfg(not(feature = "tls"))]
        let has_certificate = false;
        #[cfg(feature = "sasl-digest-md5")]
        let has_password = self.sasl.is_some();
        #[cfg(not(feature = "sasl-digest-md5"))]
        let has_password = false;
        has_certificate || has_password
    }

    /// Whether the connection is encrypted.
    pub fn uses_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        let has_authorities = self.tls_ca.is_some();
        #[cfg(not(feature = "tls"))]
        let has_authorities = false;
        has_authorities || self.servers.contains("tcp+tls://")
    }

    /// Reads all secrets. To be called once: a pipe has them no second time.
    pub fn read(&self) -> Result<Prepared, Failure> {
        #[cfg(not(feature = "tls"))]
        refuse_tls()?;
        let mut options = Keeper::options()
            .session_timeout(self.session_timeout)
            .connect_timeout(self.connect_timeout)
            .close_timeout(CLOSE_LIMIT);
        if let Some(identifier) = &self.identifier {
            options = options.identifier(identifier);
        }
        let credentials = self.credentials()?;
        let has_credentials = self.has_identity() || !credentials.is_empty();
        for (scheme, credentials) in credentials {
            options = options.auth(&scheme, credentials.as_bytes());
        }
        #[cfg(feature = "tls")]
        if let Some(ca) = &self.tls_ca {
            options = options.tls(self.tls(ca)?);
        }
        #[cfg(feature = "sasl-digest-md5")]
        if let Some(source) = &self.sasl {
            let text = source.read()?;
            let (user, password) = text.trim_end().split_once(':').ok_or_else(|| {
                Failure::usage(format!(
                    "{source} has no user:password: write both, with a colon between them"
                ))
            })?;
            let (user, password) = (user.to_owned(), password.to_owned());
            options = options.sasl(lockkeeper::auth::SaslOptions::digest_md5(user, password));
        }
        Ok(Prepared { options, has_credentials })
    }

    fn credentials(&self) -> Result<Vec<(String, String)>, Failure> {
        let default = Source::Variable(DEFAULT_AUTH.to_owned());
        let source = match &self.auth {
            Some(source) => source,
            None if std::env::var_os(DEFAULT_AUTH).is_some() => &default,
            None => return Ok(Vec::new()),
        };
        let text = source.read()?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let parsed = lines.map(|(index, line)| match line.split_once(':') {
            Some((scheme, credentials)) if !scheme.is_empty() && !credentials.is_empty() => {
                Ok((scheme.to_owned(), credentials.to_owned()))
            }
            // The line itself may be a password.
            Some(_) | None => Err(Failure::usage(format!(
                "line {} of {source} is not scheme:credentials: write for example digest:user:password",
                index + 1
            ))),
        });
        let parsed = parsed.collect::<Result<Vec<_>, _>>()?;
        // The default variable may be empty, as a variable that is not set.
        match self.auth.is_some() && parsed.is_empty() {
            true => Err(Failure::usage(format!("{source} has no credentials: write scheme:credentials"))),
            false => Ok(parsed),
        }
    }

    #[cfg(feature = "tls")]
    fn tls(&self, ca: &PathBuf) -> Result<lockkeeper::auth::TlsOptions, Failure> {
        let options = lockkeeper::auth::TlsOptions::new();
        let mut options = options.with_pem_ca(&certificates(ca)?).map_err(|error| unusable(ca, error))?;
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            let identity = options.with_pem_identity(&certificates(cert)?, &read(key)?);
            options = identity.map_err(|error| unusable(key, error))?;
        }
        Ok(options)
    }
}

/// What is needed to connect, with all secrets.
pub struct Prepared {
    pub options: KeeperOptions,
    /// Whether access lists can know this command by more than its address.
    pub has_credentials: bool,
}

/// How long closing waits for the servers. A session that is not closed ends by itself.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

const DEFAULT_AUTH: &str = "LOCKKEEPER_AUTH";

/// Where a secret is read from.
#[derive(Clone, Debug)]
pub enum Source {
    Variable(String),
    File(PathBuf),
}

impl Source {
    fn parse(text: &str) -> Result<Source, String> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Source::Variable(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Source::File(path.into())),
            Some(_) | None => {
                Err("it must be env:NAME or file:PATH; a secret is never an argument".to_owned())
            }
        }
    }

    fn read(&self) -> Result<String, Failure> {
        match self {
            Source::Variable(name) => std::env::var(name)
                .map_err(|_| Failure::usage(format!("the variable {name} is not set, or is not text"))),
            Source::File(path) => read(path),
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Variable(name) => write!(f, "the variable {name}"),
            Source::File(path) => write!(f, "{}", path.display()),
        }
    }
}

fn read(path: &PathBuf) -> Result<String, Failure> {
    fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))
}

/// The variables of the options for TLS, which this program does not have.
#[cfg(not(feature = "tls"))]
fn refuse_tls() -> Result<(), Failure> {
    let names = ["LOCKKEEPER_TLS_CA", "LOCKKEEPER_TLS_CERT", "LOCKKEEPER_TLS_KEY"];
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match names.into_iter().find(is_set) {
        Some(name) => Err(Failure::usage(format!(
            "{name} is set, and this program was built without TLS: install it with --features tls"
        ))),
        None => Ok(()),
    }
}

/// The text of a file with certificates. One without any would be taken for an empty chain.
#[cfg(feature = "tls")]
fn certificates(path: &PathBuf) -> Result<String, Failure> {
    let text = read(path)?;
    match text.contains("-----BEGIN CERTIFICATE-----") {
        true => Ok(text),
        false => Err(unusable(path, "it has no certificate in PEM")),
    }
}

#[cfg(feature = "tls")]
fn unusable(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("cannot use {}: {why}", path.display()))
}
