//! The same as `examples.rs`, with a PostgreSQL server that this test starts. It needs Debian's package `postgresql`;
//! without it, it fails.

mod common;
#[path = "../../tests/common/servers/mod.rs"]
mod servers;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::refused;
use servers::guardian::Guardian;
use servers::{eventually, shared};
use tokio_postgres::NoTls;

#[tokio::test]
async fn postgresql_refuses_a_writer_that_was_paused() {
    let postgres = Postgres::start().await;
    let program = env!("CARGO_BIN_EXE_fenced_row");
    assert_eq!(refused(program, &[&shared().one_address(), &postgres.address()]).await, "row: from the next");
}

/// A PostgreSQL server that listens on a socket in its own directory only. Dropping it kills it and removes its data.
struct Postgres(Guardian);

impl Postgres {
    async fn start() -> Postgres {
        let server = Postgres(Guardian::new("lockkeeper-postgres", |directory| {
            let socket = directory.to_str().expect("a path without strange characters");
            command(directory, "postgres", &["-k", socket, "-c", "listen_addresses=", "-c", "fsync=off"])
        }));
        let directory = server.0.directory();
        if is_root() {
            let id = |of: &str| output(&["id".into(), of.into(), "postgres".into()]).trim().parse().ok();
            chown(directory, id("-u"), id("-g")).expect("the directory belongs to root");
        }
        output(&command(directory, "initdb", &["--auth=trust", "--username=postgres", "--no-sync"]));
        server.0.launch("log");
        eventually("PostgreSQL serves", Duration::from_secs(30), async || {
            assert!(!server.0.child_has_ended(), "{}", server.log());
            tokio_postgres::connect(&server.address(), NoTls).await.is_ok()
        })
        .await;
        server
    }

    fn address(&self) -> String {
        format!("host={} user=postgres", self.0.directory().display())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.0.directory().join("log")).unwrap_or_default()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Ends all its processes, so that none writes while the directory is removed. The guardian kills only one.
        let stop = command(self.0.directory(), "pg_ctl", &["stop", "--mode=immediate"]);
        let _ = Command::new(&stop[0]).args(&stop[1..]).output();
    }
}

/// The command line of one of PostgreSQL's programs, which all refuse to run as root.
fn command(directory: &Path, program: &str, options: &[&str]) -> Vec<OsString> {
    const USER: [&str; 4] = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"];
    let user = USER.into_iter().filter(|_| is_root()).map(OsString::from);
    let program = [programs().join(program).into(), "-D".into(), directory.join("data").into()];
    user.chain(program).chain(options.iter().map(OsString::from)).collect()
}

/// The programs of the newest version that is installed.
fn programs() -> PathBuf {
    let versions =
        fs::read_dir("/usr/lib/postgresql").expect("install it with `apt-get install -y postgresql`");
    let versions = versions.map(|version| version.expect("readable").path().join("bin"));
    let version = |path: &PathBuf| path.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    versions.filter(|path| path.join("initdb").exists()).max_by_key(version).expect("a version with a server")
}

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("/proc").uid() == 0
}

fn output(command: &[OsString]) -> String {
    let output = Command::new(&command[0]).args(&command[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
