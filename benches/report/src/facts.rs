//! What the numbers were measured on.

use std::env;
use std::process::Command;

use crate::host;
use crate::production;
use crate::setup::Setup;

/// Names and facts, in the order of the page.
pub struct Facts(pub Vec<(&'static str, String)>);

impl Facts {
    /// `servers` says how many there are.
    pub fn of(setup: &Setup, servers: &str) -> Facts {
        let temporary = env::temp_dir();
        let file_system = host::output("stat", &["-f", "-c", "%T", &temporary.to_string_lossy()]);
        let zookeeper = host::package_version("zookeeper");
        let not_there = |reason: &String| format!("none: {}", reason.lines().next().unwrap_or_default());
        let kazoo = setup.python.as_ref().map_or_else(not_there, |python| {
            let version = host::kazoo_version(python);
            format!("{version} on {}", host::output(&python.to_string_lossy(), &["--version"]))
        });
        let curator = setup.curator.as_ref().map_or_else(not_there, |_| {
            format!("{} on {}", host::package_version("libcurator-recipes-java"), host::java_version())
        });
        let go = setup.go.as_ref().map_or_else(not_there, |_| {
            let version = host::package_version("golang-github-samuel-go-zookeeper-dev");
            format!("{version} (the package of Debian), {}", host::output("go", &["version"]))
        });
        Facts(vec![
            ("date", host::date()),
            ("commit", commit()),
            ("machine", host::machine()),
            ("server", format!("ZooKeeper {zookeeper}, {servers}, {}", production::DESCRIPTION)),
            ("servers' data", format!("below {}, a file system of type {file_system}", temporary.display())),
            (
                "lockkeeper",
                format!("{}, {}", env!("CARGO_PKG_VERSION"), host::output("rustc", &["--version"])),
            ),
            ("zookeeper-client", zookeeper_client()),
            ("kazoo", kazoo),
            ("Curator", curator),
            ("go-zookeeper", go),
        ])
    }
}

/// The commit of the sources, and whether they were changed since.
fn commit() -> String {
    let commit = git(&["rev-parse", "--short=12", "HEAD"]);
    match git(&["status", "--porcelain"]).as_str() {
        "" => commit,
        _ => format!("{commit}, with changes"),
    }
}

fn git(arguments: &[&str]) -> String {
    let output = Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR")]).args(arguments).output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// Its version, as the lock file has it.
fn zookeeper_client() -> String {
    const LOCK_FILE: &str = include_str!("../../../Cargo.lock");
    let entry = LOCK_FILE.split("name = \"zookeeper-client\"\nversion = \"").nth(1);
    entry.and_then(|entry| entry.split('"').next()).unwrap_or("of unknown version").to_owned()
}
