//! Credentials, encryption, and what they mean for the nodes that are made.

use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lockkeeper::Keeper;
use lockkeeper::auth::{Acl, AuthId, Permission};

use crate::common::{
    Killed, Proxy, SOON, Scratch, client, connect, done, ended, eventually, lockkeeper, lockkeeper_at, run,
    shared, unique_path,
};
use crate::frames::{AUTH, Pass, relay_of_frames};

#[test]
fn credentials_open_a_closed_directory_and_what_is_made_there_is_open() {
    run(async {
        let (path, scratch) = (unique_path("cli-closed"), Scratch::new("cli-closed"));
        let closed = vec![Acl::new(Permission::ALL, AuthId::authed())];
        let options = Keeper::options().auth("digest", b"me:secret").acl(closed);
        let keeper = options.connect(&shared().address()).await.expect("should connect");
        // Makes the directory.
        keeper.lock(&path).expect("a path").acquire().await.expect("free").release().await.expect("released");
        let script = format!("echo $LOCKKEEPER_NODE > {}; exec sleep 300", scratch.file("node").display());
        let arguments = ["run", &path, "--", "sh", "-c", &script];
        let denied = done(lockkeeper(&arguments)).await;
        assert_eq!(denied.code, Some(77), "{}", denied.err);
        assert_eq!(denied.err.lines().count(), 1, "{}", denied.err);
        let mut command = lockkeeper(&arguments);
        let _process = Killed(command.env("LOCKKEEPER_AUTH", "digest:me:secret").spawn().expect("it starts"));
        eventually("it holds", SOON, async || scratch.text("node").ends_with('\n')).await;
        let stranger = client().await;
        stranger.list_children(&path).await.expect_err("the directory is closed");
        stranger.get_data(scratch.text("node").trim()).await.expect("the node is open");
    });
}

#[test]
fn what_is_made_can_be_closed() {
    run(async {
        let (path, scratch) = (unique_path("cli-acl"), Scratch::new("cli-acl"));
        let script = format!("echo $LOCKKEEPER_NODE > {}; exec sleep 300", scratch.file("node").display());
        let list = ["--acl", "auth::cdrwa", "--acl", "ip:127.0.0.2:r"];
        let arguments = [&["run"], &list[..], &[&*path, "--", "sh", "-c", &*script]].concat();
        let mut command = lockkeeper(&arguments);
        let _process = Killed(command.env("LOCKKEEPER_AUTH", "digest:me:secret").spawn().expect("it starts"));
        eventually("it holds", SOON, async || scratch.text("node").ends_with('\n')).await;
        let client = client().await;
        let node = scratch.text("node");
        client.list_children(&path).await.expect_err("the directory is closed");
        client.get_data(node.trim()).await.expect_err("the node is closed");
        client.auth("digest", b"me:secret").await.expect("authenticated");
        for made in [&*path, node.trim()] {
            let (list, _) = client.get_acl(made).await.expect("it may be read");
            let schemes: Vec<&str> = list.iter().map(Acl::scheme).collect();
            assert_eq!(schemes, ["digest", "ip"], "{made}: {list:?}");
        }
    });
}

#[test]
fn credentials_can_come_through_a_pipe_which_has_them_once() {
    run(async {
        let path = unique_path("cli-auth-pipe");
        let arguments = ["run", "--auth", "file:/dev/stdin", "--acl", "auth::cdrwa", &path, "--", "true"];
        let mut command = lockkeeper(&arguments);
        let streams = command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut process = streams.spawn().expect("it starts");
        let mut secrets = process.stdin.take().expect("a pipe");
        secrets.write_all(b"digest:me:secret\n").expect("written");
        drop(secrets);
        let output = process.wait_with_output().expect("it ends");
        assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
    });
}

#[test]
fn credentials_that_are_rejected_while_it_waits_are_told_from_a_refusal() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("cli-rejected"));
        let lock = keeper.lock(&path).expect("a path");
        let guard = lock.acquire().await.expect("free");
        let rejects = Arc::new(AtomicBool::new(false));
        let rejecting = rejects.clone();
        // The server takes the credentials for those of a scheme that it does not know.
        let relay = relay_of_frames(move |frame| {
            if frame[4..8] == AUTH && rejecting.load(Ordering::SeqCst) {
                let at = frame.windows(6).position(|word| word == b"digest").expect("a scheme");
                frame[at..at + 6].copy_from_slice(b"DIGEST");
            }
            Pass::On
        });
        let proxy = Proxy::start(relay.await).await.expect("a free port");
        let mut command = lockkeeper_at(&proxy.address(), &["run", &path, "--", "true"]);
        command.env("LOCKKEEPER_AUTH", "digest:me:secret").stderr(Stdio::piped());
        let mut process = Killed(command.spawn().expect("it starts"));
        eventually("it queues", SOON, async || lock.contenders().await.expect("listed").len() == 2).await;
        rejects.store(true, Ordering::SeqCst);
        proxy.cut();
        assert_eq!(ended("it gives up", &mut process.0).await, Some(77));
        let mut said = String::new();
        process.0.stderr.take().expect("a pipe").read_to_string(&mut said).expect("read");
        assert!(said.contains("credentials") && said.lines().count() == 1, "{said}");
        drop(guard);
    });
}

#[cfg(feature = "tls")]
mod tls {
    use crate::common::{Proxy, Scratch, done, lockkeeper_at, run, shared};
    #[cfg(feature = "peer-tests")]
    use crate::common::{Server, ServerOptions, certificate};

    #[test]
    fn files_that_cannot_be_used_are_refused_before_anything_is_connected() {
        run(async {
            let proxy = Proxy::start(shared().one_address()).await.expect("a free port");
            let scratch = Scratch::new("cli-tls");
            let (text, none) = (scratch.file("text"), scratch.file("none"));
            std::fs::write(&text, "no certificate\n").expect("written");
            let certificate = scratch.file("certificate");
            std::fs::write(&certificate, CERTIFICATE).expect("written");
            let [text, none, certificate] =
                [&text, &none, &certificate].map(|path| path.to_str().expect("text"));
            let missing = format!("cannot read {none}");
            let no_pem = format!("cannot use {text}: it has no certificate in PEM");
            let no_key = format!("cannot use {text}: ");
            for (options, says) in [
                (&["--tls-ca", none][..], &*missing),
                (&["--tls-ca", text], &no_pem),
                (&["--tls-cert", certificate], "--tls-"),
                (&["--tls-key", text], "--tls-"),
                (&["--tls-ca", certificate, "--tls-cert", certificate], "--tls-key"),
                (&["--tls-ca", certificate, "--tls-cert", text, "--tls-key", text], &no_pem),
                (&["--tls-ca", certificate, "--tls-cert", certificate, "--tls-key", none], &missing),
                (&["--tls-ca", certificate, "--tls-cert", certificate, "--tls-key", text], &no_key),
            ] {
                let arguments = [&["run"], options, &["/a", "--", "true"]].concat();
                let done = done(lockkeeper_at(&proxy.address(), &arguments)).await;
                assert_eq!(done.code, Some(64), "{arguments:?}: {}", done.err);
                assert!(done.err.contains(says), "{arguments:?}: {}", done.err);
                assert_eq!(done.err.lines().count(), 1, "{arguments:?}: {}", done.err);
            }
            assert_eq!(proxy.accepted(), 0);
        });
    }

    // Only a real server can do that.
    #[cfg(feature = "peer-tests")]
    #[test]
    fn a_connection_can_be_encrypted_and_show_a_certificate() {
        run(async {
            let scratch = Scratch::new("cli-tls-connection");
            let shown = certificate();
            let file = |name: &str, text: &str| {
                std::fs::write(scratch.file(name), text).expect("written");
                scratch.file(name).display().to_string()
            };
            let (certificate, key) = (file("certificate.pem", &shown.pem), file("key.pem", &shown.key));
            let server = Server::start_with(&ServerOptions::default().with_tls(shown));
            let address = server.address();
            let with = async |options: &[&str], limit: &str| {
                let arguments = [&["run", "--connect-timeout", limit], options, &["/a", "--", "echo", "ran"]];
                done(lockkeeper_at(&address, &arguments.concat())).await
            };
            let shown = ["--tls-ca", &certificate, "--tls-cert", &certificate, "--tls-key", &key];
            let both = with(&shown, "20s").await;
            assert_eq!((both.code, &*both.out), (Some(0), "ran\n"), "{}\n{}", both.err, server.log_tail());
            // The server wants a certificate.
            let none = with(&["--tls-ca", &certificate], "1s").await;
            assert_eq!((none.code, &*none.out), (Some(69), ""), "{}", none.err);
            let other = file("other.pem", CERTIFICATE);
            let stranger = with(&["--tls-ca", &other], "1s").await;
            assert_eq!((stranger.code, &*stranger.out), (Some(69), ""), "{}", stranger.err);
        });
    }

    /// A certificate of a stranger.
    const CERTIFICATE: &str = include_str!("../../../tests/common/stranger.pem");
}

#[cfg(feature = "sasl-digest-md5")]
mod sasl {
    use crate::common::{Proxy, Scratch, done, lockkeeper_at, run, shared};
    #[cfg(feature = "peer-tests")]
    use crate::common::{Server, ServerOptions};

    #[test]
    fn credentials_that_cannot_be_used_are_refused_before_anything_is_connected() {
        run(async {
            let proxy = Proxy::start(shared().one_address()).await.expect("a free port");
            let scratch = Scratch::new("cli-sasl");
            std::fs::write(scratch.file("secret"), "hunter2\n").expect("written");
            let file = format!("file:{}", scratch.file("secret").display());
            for (source, says) in [
                ("me:hunter2", "a secret is never an argument"),
                ("env:NO_SUCH_NAME", "NO_SUCH_NAME is not set"),
                (&file, "has no user:password"),
            ] {
                let arguments = ["run", "--sasl", source, "/a", "--", "true"];
                let done = done(lockkeeper_at(&proxy.address(), &arguments)).await;
                assert_eq!(done.code, Some(64), "{source}: {}", done.err);
                assert!(done.err.contains(says), "{source}: {}", done.err);
                assert_eq!(done.err.lines().count(), 1, "{source}: {}", done.err);
                assert!(source.contains("hunter2") || !done.err.contains("hunter2"), "{}", done.err);
            }
            assert_eq!(proxy.accepted(), 0);
        });
    }

    // Only a real server can do that.
    #[cfg(feature = "peer-tests")]
    #[test]
    fn a_server_that_wants_a_password_gets_it() {
        run(async {
            let server = Server::start_with(&ServerOptions::default().with_sasl(&[("me", "secret")]));
            let with = async |password: Option<&str>| {
                let mut arguments = vec!["run", "--connect-timeout", "20s"];
                arguments.extend(password.iter().flat_map(|_| ["--sasl", "env:PASSWORD"]));
                arguments.extend(["/a", "--", "echo", "ran"]);
                let mut command = lockkeeper_at(&server.address(), &arguments);
                command.env("PASSWORD", format!("me:{}", password.unwrap_or_default()));
                done(command).await
            };
            let right = with(Some("secret")).await;
            assert_eq!((right.code, &*right.out), (Some(0), "ran\n"), "{}\n{}", right.err, server.log_tail());
            for password in [Some("wrong"), None] {
                let refused = with(password).await;
                assert_eq!((refused.code, &*refused.out), (Some(77), ""), "{password:?}: {}", refused.err);
            }
        });
    }
}
