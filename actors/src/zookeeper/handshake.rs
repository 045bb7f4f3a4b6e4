//! What a server shows in a TLS handshake. The client reports only that it could not connect.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_net::TcpStream;
use futures_rustls::TlsConnector;
use futures_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use futures_rustls::rustls::client::{
    ResolvesClientCert, verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use futures_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use futures_rustls::rustls::server::ParsedCertificate;
use futures_rustls::rustls::sign::CertifiedKey;
use futures_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Makes a handshake that sends nothing of the client's, and describes what is wrong with what the server shows.
///
/// The client's options do not tell which authorities it trusts, nor whether it has a certificate. So both are left as
/// possible reasons if the rest is in order.
pub(super) async fn describe(stream: TcpStream, host: &str) -> String {
    let Ok(name) = ServerName::try_from(host.to_owned()) else {
        return "its host name cannot be verified".to_owned();
    };
    let builder = ClientConfig::builder();
    let algorithms = builder.crypto_provider().signature_verification_algorithms;
    let look = Arc::new(Look { algorithms, asked: AtomicBool::new(false) });
    let builder = builder.dangerous().with_custom_certificate_verifier(look.clone());
    let config = builder.with_client_cert_resolver(look.clone());
    let asked = || look.asked.load(Ordering::Relaxed);
    let more = match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        // Before version 1.3, this ends the handshake.
        Err(error) if asked() && is_alert(&error) => CLIENTS,
        // The server decides how long this is: it has all names of the certificate.
        Err(error) => return format!("TLS: {:.300}", error.to_string()),
        Ok(_) if asked() => CLIENTS,
        Ok(_) => "",
    };
    format!(
        "it speaks TLS, and gives no session; its certificate is valid now and for this name; the client must trust its \
         issuer{more}"
    )
}

/// What is added if the server asks for a certificate of the client.
const CLIENTS: &str = ", and the server must trust the client's certificate";

/// Whether the server has refused something.
fn is_alert(error: &std::io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(error, Some(Error::AlertReceived(_)))
}

/// Accepts every issuer, and has no certificate.
#[derive(Debug)]
struct Look {
    algorithms: WebPkiSupportedAlgorithms,
    /// Whether the server has asked for a certificate.
    asked: AtomicBool,
}

impl ServerCertVerifier for Look {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        // The last certificate that the server shows is trusted here.
        let mut roots = RootCertStore::empty();
        roots.add(intermediates.last().unwrap_or(certificate).clone().into_owned())?;
        let checked = verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &roots,
            intermediates,
            now,
            self.algorithms.all,
        );
        match checked {
            // The authority itself is mostly not shown.
            Ok(()) | Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {}
            Err(error) => return Err(error),
        }
        verify_server_name(&parsed, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ResolvesClientCert for Look {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
