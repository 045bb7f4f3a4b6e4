//! Clients of servers that take only TLS.

use lockkeeper::KeeperOptions;
#[cfg(feature = "tls")]
use lockkeeper::auth::TlsOptions;
use zookeeper_client as zk;

use super::LONG;
#[cfg(feature = "tls")]
use super::servers::tls::{Certificate, certificate};
use super::servers::uses_tls;

/// Trusts the certificate, and shows it.
#[cfg(feature = "tls")]
pub fn trusting(certificate: &Certificate) -> TlsOptions {
    let options = TlsOptions::new().with_pem_ca(&certificate.pem).expect("an authority");
    options.with_pem_identity(&certificate.pem, &certificate.key).expect("a key")
}

/// The same options, with TLS if the servers of the tests need it.
pub fn keeper(options: KeeperOptions) -> KeeperOptions {
    match uses_tls() {
        false => options,
        #[cfg(feature = "tls")]
        true => options.tls(trusting(certificate())),
        #[cfg(not(feature = "tls"))]
        true => panic!("{MISSING}"),
    }
}

/// Connects a client beside the library, with TLS if the servers of the tests need it. By default it would give up a
/// connection that is silent for 2.4 s, and what is in flight fails.
pub async fn connect(connector: zk::Connector, address: &str) -> zk::Client {
    let connector = connector.with_session_timeout(LONG);
    let client = match uses_tls() {
        false => connector.connect(address).await,
        #[cfg(feature = "tls")]
        true => connector.with_tls(trusting(certificate())).secure_connect(address).await,
        #[cfg(not(feature = "tls"))]
        true => panic!("{MISSING}"),
    };
    client.expect("should connect")
}

#[cfg(not(feature = "tls"))]
const MISSING: &str = "LOCKKEEPER_TEST_SERVER=tls needs the feature tls";
