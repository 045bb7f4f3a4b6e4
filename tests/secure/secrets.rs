//! No secret is in a line of the log, in an error, or in what `Debug` shows: of the library, of the ZooKeeper client and
//! of all else in the process, at every level.

use std::error::Error;
use std::fmt::Debug;
use std::io;
use std::sync::{Mutex, PoisonError};

use lockkeeper::auth::{Acl, AuthId, Permission, SaslOptions, TlsIdentity, TlsOptions};
use lockkeeper::error::{AcquireError, ConnectError};
use lockkeeper::record::Recording;
use lockkeeper::session::SessionEvent;
use lockkeeper::{Keeper, KeeperOptions};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::common::events::session_event;
use crate::common::servers::tls::certificate;
use crate::common::tls::trusting;
use crate::common::{Proxy, SOON, Server, ServerOptions, options, refusal, run};

/// All that is written, by all threads.
static WRITTEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());

#[derive(Clone, Copy)]
struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        WRITTEN.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Some crates, such as rustls, write to `log`.
impl log::Log for Writer {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        note(&format!("{} {} {}", record.level(), record.target(), record.args()));
    }

    fn flush(&self) {}
}

fn note(text: &str) {
    io::Write::write_all(&mut Writer, format!("{text}\n").as_bytes()).expect("memory");
}

fn note_all(values: &[&dyn Debug]) {
    for value in values {
        note(&format!("{value:?} {value:#?}"));
    }
}

fn note_error(error: &(dyn Error + 'static)) {
    let mut next = Some(error);
    while let Some(error) = next {
        note(&format!("{error} {error:?}"));
        next = error.source();
    }
}

const DIGEST: &str = "digest-never-write-this";
const OTHERS_DIGEST: &str = "digest-of-another";
const SASL: &str = "sasl-never-write-this";
const WRONG_SASL: &str = "sasl-that-is-wrong";

fn user(name: &str, digest: &str, sasl: &str) -> KeeperOptions {
    // Not `authed`, which would name the certificate and the user of SASL, too. Both users have the same ones.
    let owner = AuthId::new("digest", "owner:ccwpjaBisJL2+8ebq4ql37eC/qI=");
    let acl = vec![Acl::new(Permission::ALL, owner)];
    let options = options().tls(trusting(certificate())).sasl(SaslOptions::digest_md5("me", sasl));
    options.auth("digest", format!("{name}:{digest}").as_bytes()).acl(acl)
}

#[test]
fn no_secret_is_written() {
    let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE);
    subscriber.with_span_events(FmtSpan::FULL).with_ansi(false).with_writer(|| Writer).init();
    log::set_logger(&Writer).expect("the first logger");
    log::set_max_level(log::LevelFilter::Trace);
    run(work());

    let text = take_written();
    // All of them are heard.
    for line in [" lockkeeper_actors::session", "sending connect request", "rustls::client", "KeeperOptions"]
    {
        assert!(text.contains(line), "{line}");
    }
    let secrets = secrets();
    assert_eq!(shown(&text, &secrets), None);
    // Whoever wrote one of them would be noticed.
    let writers: [fn(&str); 3] = [|leak| tracing::trace!("{leak}"), |leak| log::trace!("{leak}"), note];
    for leak in leaks() {
        for write in writers {
            write(&leak);
            assert!(shown(&take_written(), &secrets).is_some(), "{leak} is not noticed");
        }
    }
}

fn take_written() -> String {
    let written = std::mem::take(&mut *WRITTEN.lock().unwrap_or_else(PoisonError::into_inner));
    String::from_utf8_lossy(&written).into_owned()
}

/// Connects, works, and is refused, with all secrets in use.
async fn work() {
    let server = ServerOptions::default().with_tls(certificate()).with_sasl(&[("me", SASL)]);
    let server = Server::start_with(&server);
    let proxy = Proxy::start(server.address()).await.expect("a free port");
    let recording = Recording::new(1 << 20);
    let options = user("owner", DIGEST, SASL).record(&recording);
    let identity = TlsIdentity::from_pem(&certificate().pem, &certificate().key).expect("a key");
    note_all(&[&options, &trusting(certificate()), &identity, &SaslOptions::digest_md5("me", SASL)]);

    let keeper = options.connect(&proxy.address()).await.expect("should connect");
    let lock = keeper.lock("/private").expect("a path");
    let guard = lock.acquire().await.expect("free");
    let mut events = keeper.events();
    proxy.cut();
    session_event(&mut events, SessionEvent::Resumed { epoch: 1 }).await;
    let (state, contenders) = (keeper.state().get(), lock.contenders().await);
    note_all(&[&keeper, &lock, &guard, &state, &contenders]);

    let other = user("other", OTHERS_DIGEST, SASL).connect(&server.address()).await.expect("should connect");
    let denied = refusal(other.lock("/private").expect("a path").acquire().await);
    assert!(matches!(denied, AcquireError::NoAuth { .. }), "{denied:?}");
    note_error(&denied);
    let wrong = user("owner", DIGEST, WRONG_SASL).connect(&server.address()).await.expect_err("no session");
    assert!(matches!(wrong, ConnectError::AuthFailed { .. }), "{wrong:?}");
    note_error(&wrong);
    let anonymous = TlsOptions::new().with_pem_ca(&certificate().pem).expect("an authority");
    let anonymous =
        Keeper::options().auth("digest", DIGEST.as_bytes()).tls(anonymous).connect_timeout(SOON / 5);
    note_error(&anonymous.connect(&server.address()).await.expect_err("no session"));

    guard.release().await.expect("released");
    keeper.close().await;
    note(&recording.to_string());
}

const PASSWORDS: [&str; 4] = [DIGEST, OTHERS_DIGEST, SASL, WRONG_SASL];

/// All secrets, in the forms in which they might be written.
fn secrets() -> Vec<String> {
    let lines = certificate().key.lines().filter(|line| !line.starts_with('-'));
    let passwords = PASSWORDS.into_iter().flat_map(|password| {
        let forms = forms(password.as_bytes());
        forms.into_iter().chain([password.to_owned()])
    });
    passwords.chain(forms(&private_number())).chain(lines.map(str::to_owned)).collect()
}

/// The secret that a text shows, if there is one, and the line.
fn shown<'a>(text: &'a str, secrets: &'a [String]) -> Option<(&'a str, &'a str)> {
    let shown = |line: &'a str| Some((secrets.iter().find(|secret| line.contains(*secret))?.as_str(), line));
    text.lines().find_map(shown)
}

/// Bytes as `Debug` shows them, also in hexadecimal numbers, and as one such number.
fn forms(secret: &[u8]) -> [String; 3] {
    let inner = |list: String| list.trim_matches(['[', ']']).to_owned();
    [inner(format!("{secret:?}")), inner(format!("{secret:02x?}")), hexadecimal(secret)]
}

/// What careless code would write.
fn leaks() -> Vec<String> {
    let key = &certificate().key;
    let der = der();
    let passwords = PASSWORDS.into_iter().flat_map(|password| {
        let bytes = password.as_bytes();
        [
            format!("user:{password}"),
            format!("{:?}", Some(password)),
            format!("{:?}", ("digest", bytes)),
            format!("{bytes:02x?}"),
            hexadecimal(format!("user:{password}").as_bytes()),
        ]
    });
    let keys = [
        key.clone(),
        format!("{key:?}"),
        key.lines().nth(1).expect("a line of the key").to_owned(),
        format!("{der:?}"),
        format!("{der:02x?}"),
        hexadecimal(&der),
    ];
    passwords.chain(keys).collect()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The key, as PKCS #8 encodes it.
fn der() -> Vec<u8> {
    decoded(&certificate().key.lines().filter(|line| !line.starts_with('-')).collect::<String>())
}

/// A part of the secret number in the key.
fn private_number() -> Vec<u8> {
    let der = der();
    // The first bytes of a key, and those before its number of 32 bytes.
    assert_eq!((der[0], &der[33..35]), (0x30, &[4, 32][..]), "a key for P-256");
    der[35..65].to_vec()
}

/// What a text in base64, without padding at a place that matters, stands for.
fn decoded(text: &str) -> Vec<u8> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<usize> = text.chars().map_while(|digit| DIGITS.find(digit)).collect();
    let triple = |four: &[usize]| {
        let number = four.iter().fold(0, |number, digit| number << 6 | digit);
        [number >> 16, number >> 8, number].map(|byte| (byte & 255) as u8)
    };
    digits.chunks_exact(4).flat_map(triple).collect()
}
