//! How to authenticate with SASL. The client's own options show the password in their `Debug` output.

use std::fmt;

use zookeeper_client as zk;

/// How to authenticate with SASL. The `Debug` output has no password.
#[derive(Clone)]
pub struct SaslOptions(pub(super) zk::SaslOptions);

impl SaslOptions {
    /// A user's name and password, with the mechanism DIGEST-MD5. Servers have them in their JAAS configuration, which
    /// they read when they start.
    #[cfg(feature = "sasl-digest-md5")]
    pub fn digest_md5(username: impl Into<String>, password: impl Into<String>) -> SaslOptions {
        SaslOptions(zk::SaslOptions::digest_md5(username.into(), password.into()).into())
    }

    /// Kerberos, with the tickets in the cache of the process' user. The result has options of its own, and is accepted
    /// by `KeeperOptions::sasl` as it is.
    #[cfg(feature = "sasl-gssapi")]
    pub fn gssapi() -> zk::GssapiSaslOptions {
        zk::SaslOptions::gssapi()
    }
}

#[cfg(feature = "sasl-gssapi")]
impl From<zk::GssapiSaslOptions> for SaslOptions {
    fn from(options: zk::GssapiSaslOptions) -> SaslOptions {
        SaslOptions(options.into())
    }
}

impl fmt::Debug for SaslOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SaslOptions").finish_non_exhaustive()
    }
}
