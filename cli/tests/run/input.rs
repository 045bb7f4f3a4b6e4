//! Bad input: one line that says what to do, exit code 64, and nothing is connected.

use crate::common::{Proxy, done, lockkeeper_at, run, shared, unused_address};

#[test]
fn bad_input_is_refused_in_one_line_before_anything_is_connected() {
    run(async {
        let proxy = Proxy::start(shared().one_address()).await.expect("a free port");
        for (arguments, says) in [
            (&["run", "locks/a", "--", "true"][..], "must begin with `/`"),
            (&["run", "/", "--", "true"], "it is the root"),
            (&["run", "/a", "/a", "--", "true"], "name each path once"),
            (&["run", "/a"], "COMMAND"),
            (&["run", "--", "true"], "PATH"),
            (&["run", "--wait", "30", "/a", "--", "true"], "time unit needed"),
            (&["run", "--permits", "9", "--of", "8", "/a", "--", "true"], "ask for at most 8"),
            (&["run", "--permits", "0", "/a", "--", "true"], "0 is not in 1.."),
            (&["run", "--permits", "1", "/a", "/b", "--", "true"], "give one path"),
            (&["run", "--of", "8", "/a", "--", "true"], "--permits"),
            (&["run", "--read", "--write", "/a", "--", "true"], "cannot be used with"),
            (&["run", "--try", "--wait", "1s", "/a", "--", "true"], "cannot be used with"),
            (
                &["run", "--term-before", "1s", "--kill-before", "2s", "/a", "--", "true"],
                "TERM must come first",
            ),
            (&["run", "--term-before", "8s", "/a", "--", "true"], "three eighths of the session timeout"),
            (&["run", "--auth", "digest:me:secret", "/a", "--", "true"], "a secret is never an argument"),
            (&["run", "--auth", "env:NO_SUCH_NAME", "/a", "--", "true"], "NO_SUCH_NAME is not set"),
            (&["run", "--auth", "file:/no/such/file", "/a", "--", "true"], "cannot read /no/such/file"),
            (&["run", "--auth", "file:/dev/null", "/a", "--", "true"], "/dev/null has no credentials"),
            (&["ls", "--auth", "file:/dev/null"], "/dev/null has no credentials"),
            (&["run", "--acl", "open", "/a", "--", "true"], "scheme:id:permissions"),
            (
                &["run", "--acl", "digest:me:secret:cdr", "/a", "--", "true"],
                "a password is never an argument",
            ),
            (&["run", "--acl", "auth::cdr", "/a", "--", "true"], "give them with --auth"),
            (&["run", "--acl", "world:anyone:r", "/a", "--", "true"], "gives nobody all of c, d and r"),
            (&["run", "--dialect", "zookeeper", "/a", "--", "true"], "kazoo, curator"),
            (&["run", "--dialect", "curator", "--permits", "1", "/a", "--", "true"], "cannot be used with"),
            (
                &["run", "--container-directories", "--permits", "1", "/a", "--", "true"],
                "cannot be used with",
            ),
            (&["run", "--session-timeout", "0s", "/a", "--", "true"], "TERM"),
            (&["run", "--session-timeout", "18446744073709551615s", "/a", "--", "true"], "session timeout"),
            (&["walk", "/a"], "unrecognized subcommand"),
        ] {
            let done = done(lockkeeper_at(&proxy.address(), arguments)).await;
            assert_eq!(done.code, Some(64), "{arguments:?}: {}", done.err);
            assert!(done.err.contains(says), "{arguments:?}: {}", done.err);
            assert_eq!((done.err.lines().count(), &*done.out), (1, ""), "{arguments:?}: {}", done.err);
        }
        assert_eq!(proxy.accepted(), 0);
    });
}

#[test]
fn a_secret_that_cannot_be_read_is_not_shown() {
    run(async {
        let mut command = lockkeeper_at(&shared().address(), &["run", "/a", "--", "true"]);
        command.env("LOCKKEEPER_AUTH", "digest:me:secret\n\nhunter2");
        let done = done(command).await;
        assert_eq!(done.code, Some(64), "{}", done.err);
        assert!(done.err.contains("line 3 of the variable LOCKKEEPER_AUTH"), "{}", done.err);
        assert!(!done.err.contains("hunter2"), "{}", done.err);
    });
}

#[cfg(not(feature = "tls"))]
#[test]
fn a_program_without_tls_does_not_connect_in_clear_if_tls_is_asked_for() {
    run(async {
        let proxy = Proxy::start(shared().one_address()).await.expect("a free port");
        for variable in ["LOCKKEEPER_TLS_CA", "LOCKKEEPER_TLS_CERT", "LOCKKEEPER_TLS_KEY"] {
            for arguments in [&["run", "/a", "--", "true"][..], &["ls"]] {
                let mut command = lockkeeper_at(&proxy.address(), arguments);
                command.env(variable, "/etc/ssl/ca.pem");
                let done = done(command).await;
                assert_eq!(done.code, Some(64), "{variable} {arguments:?}: {}", done.err);
                assert!(done.err.contains(variable) && done.err.contains("--features tls"), "{}", done.err);
                assert_eq!(done.err.lines().count(), 1, "{}", done.err);
            }
        }
        assert_eq!(proxy.accepted(), 0);
        // As with the other variables of shells, empty is absent.
        let mut command = lockkeeper_at(&proxy.address(), &["run", "/a", "--", "true"]);
        command.env("LOCKKEEPER_TLS_CA", "");
        assert_eq!(done(command).await.code, Some(0));
    });
}

#[test]
fn an_address_that_is_no_address_is_bad_input_and_no_server_is_not() {
    run(async {
        let bad = done(lockkeeper_at("zk1:port", &["run", "/a", "--", "true"])).await;
        assert_eq!(bad.code, Some(64), "{}", bad.err);
        let arguments = ["run", "--connect-timeout", "200ms", "/a", "--", "true"];
        let none = done(lockkeeper_at(&unused_address(), &arguments)).await;
        assert_eq!(none.code, Some(69), "{}", none.err);
        assert_eq!(none.err.lines().count(), 1, "{}", none.err);
    });
}

#[test]
fn help_is_short_or_long_and_goes_to_standard_output() {
    run(async {
        let short = done(lockkeeper_at("", &["run", "-h"])).await;
        let long = done(lockkeeper_at("", &["run", "--help"])).await;
        assert_eq!((short.code, long.code), (Some(0), Some(0)));
        assert!(!short.out.contains("Examples:") && long.out.contains("Examples:"), "{}", short.out);
    });
}
