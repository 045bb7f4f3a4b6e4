//! Certificates that the client or the server refuses.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use lockkeeper::Keeper;
use lockkeeper::auth::{TlsCa, TlsCerts, TlsDynamicCerts, TlsIdentity, TlsOptions};
use lockkeeper::error::ConnectError;
use lockkeeper::session::SessionEvent;
use lockkeeper_embedded::Embedded;
use tokio::task::spawn_blocking;

use crate::common::events::session_event;
use crate::common::servers::tls::{LOOPBACK, certificate};
use crate::common::tls::trusting;
use crate::common::{Certificate, LONG, SLACK, SOON, Server, ServerOptions, eventually, run};

/// A server that shows this certificate, and wants it from its clients.
fn showing(certificate: &Certificate) -> Server {
    Server::start_with(&ServerOptions::default().with_tls(certificate))
}

/// How long the refused connections are tried: at least once, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(10);

/// The reason of a connection that fails in time.
async fn refusal(address: &str, tls: TlsOptions) -> String {
    let began = Instant::now();
    let options = Keeper::options().connect_timeout(LIMIT).tls(tls);
    let error = options.connect(address).await.expect_err("no session");
    assert!(began.elapsed() < LIMIT + SLACK, "{:?}", began.elapsed());
    assert!(error.is_retryable(), "the certificate can be replaced meanwhile: {error:?}");
    let ConnectError::Unreachable { reason, .. } = error else { panic!("{error:?}") };
    assert!(reason.starts_with(&format!("{address}: ")), "{reason}");
    reason
}

async fn accepted(address: &str, tls: TlsOptions) {
    let options = Keeper::options().connect_timeout(2 * LIMIT).tls(tls);
    let keeper = options.connect(address).await.expect("should connect");
    keeper.lock("/a").expect("a path").acquire().await.expect("free").release().await.expect("released");
    keeper.close().await;
}

#[test]
fn an_unknown_issuer_and_a_missing_client_certificate_are_named() {
    run(async {
        let server = showing(certificate());
        accepted(&server.address(), trusting(certificate())).await;
        let anonymous = TlsOptions::new().with_pem_ca(&certificate().pem).expect("an authority");
        let stranger = TlsOptions::new().with_pem_ca(STRANGER).expect("an authority");
        let stranger = stranger.with_pem_identity(&certificate().pem, &certificate().key).expect("a key");
        for tls in [anonymous, stranger] {
            let reason = refusal(&server.address(), tls).await;
            assert!(
                reason.contains(
                    "the client must trust its issuer, and the server must trust the client's certificate"
                ),
                "{reason}"
            );
            assert!(reason.contains("valid now and for this name"), "{reason}");
        }
    });
}

#[test]
fn an_expired_certificate_is_named() {
    run(async {
        let expired = Certificate::new(LOOPBACK, &["-startdate", "-2d", "-validity", "1"]);
        let server = showing(&expired);
        let reason = refusal(&server.address(), trusting(&expired)).await;
        assert!(reason.contains("TLS: invalid peer certificate: certificate expired"), "{reason}");
        // Also if the issuer is unknown.
        let reason = refusal(&server.address(), trusting(certificate())).await;
        assert!(reason.contains("certificate expired"), "{reason}");
    });
}

#[test]
fn a_certificate_for_another_name_is_named() {
    run(async {
        let other = Certificate::new("dns:zookeeper.example", &[]);
        let server = showing(&other);
        let reason = refusal(&server.address(), trusting(&other)).await;
        assert!(reason.contains(r#"certificate not valid for name "127.0.0.1""#), "{reason}");
        assert!(reason.contains("zookeeper.example"), "{reason}");
    });
}

#[test]
fn certificates_are_replaced_while_a_lock_is_held() {
    run(async {
        let server = Arc::new(showing(certificate()));
        let certificates = TlsDynamicCerts::new(certs(certificate()));
        let tls = TlsOptions::new().with_certs(certificates.clone());
        let keeper = Keeper::options().session_timeout(LONG).connect_timeout(SOON).tls(tls);
        let keeper = keeper.connect(&server.address()).await.expect("should connect");
        let guard = keeper.lock("/a").expect("a path").acquire().await.expect("free");
        let mut events = keeper.events();
        let renewed = Certificate::new(LOOPBACK, &[]);
        certificates.update(certs(&renewed));
        for (name, bytes) in renewed.files() {
            server.write(name, &bytes).expect("written");
        }
        let restarted = server.clone();
        spawn_blocking(move || restarted.restart()).await.expect("it serves again");
        session_event(&mut events, SessionEvent::Resumed { epoch: 1 }).await;
        assert_eq!(guard.release().await, Ok(()));
        refusal(&server.address(), trusting(certificate())).await;
    });
}

/// Another server may get its port while it is stopped. The tests' server counts as running only on a port of its own.
#[test]
fn a_server_whose_port_is_taken_waits_for_it() {
    let server = Arc::new(showing(certificate()));
    server.stop();
    let taken = TcpListener::bind(server.address()).expect("the port of a stopped server");
    let restarted = server.clone();
    let restart = thread::spawn(move || restarted.restart());
    let complains = async || server.log_tail().contains("Address already in use");
    run(eventually("its port is taken", 3 * SOON, complains));
    assert!(!restart.is_finished());
    drop(taken);
    restart.join().expect("it serves again");
    run(accepted(&server.address(), trusting(certificate())));
}

fn certs(certificate: &Certificate) -> TlsCerts {
    let ca = TlsCa::from_pem(&certificate.pem).expect("an authority");
    let identity = TlsIdentity::from_pem(&certificate.pem, &certificate.key).expect("a key");
    TlsCerts::builder().with_ca(ca).with_identity(identity).build().expect("certificates")
}

#[test]
fn a_server_without_tls_is_named() {
    run(async {
        let server = Embedded::start().await.expect("a free port");
        let reason = refusal(&server.address(), trusting(certificate())).await;
        assert!(reason.contains("TLS: "), "{reason}");
    });
}

/// The certificate of a stranger.
const STRANGER: &str = include_str!("../common/stranger.pem");
