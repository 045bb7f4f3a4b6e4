//! The command line that runs ZooKeeper's jar.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::clock;

/// The command line of a server, without the configuration file at its end. With a rate, its clock runs at that rate.
/// The error says what is missing and how to install it.
pub fn command(more_flags: &[String], clock_rate: Option<f64>) -> Result<Vec<OsString>, String> {
    let mut class_path = class_path()?;
    let mut command = vec![OsString::from("java")];
    command.extend(FLAGS.iter().map(OsString::from));
    command.extend(more_flags.iter().map(OsString::from));
    if let Some(rate) = clock_rate {
        let mut first = clock::class_path()?.as_os_str().to_owned();
        first.push(":");
        first.push(class_path);
        class_path = first;
        command.push(clock::flag(rate).into());
    }
    command.extend(["-cp".into(), class_path, MAIN_CLASS.into()]);
    Ok(command)
}

const MAIN_CLASS: &str = "org.apache.zookeeper.server.quorum.QuorumPeerMain";

/// Flags that keep the JVM small and its start quick, and that spare the disk: written data survives the death of the
/// process anyway, so syncing it to the disk would test nothing here.
const FLAGS: &[&str] = &[
    "-Xmx256m",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-Djava.net.preferIPv4Stack=true",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
    "-Dzookeeper.extendedTypesEnabled=true",
    "-Dzookeeper.forceSync=no",
    "-Dzookeeper.preAllocSize=1024",
];

const DEBIAN_JAR: &str = "/usr/share/java/zookeeper.jar";

/// The class path, after checking that it names something that exists.
///
/// `ZOOKEEPER_JAR` is passed to java unchanged, so it may also be a list such as `/opt/zookeeper/lib/*`, which an
/// unpacked ZooKeeper release needs.
fn class_path() -> Result<OsString, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&path).any(|directory| directory.join("java").is_file()) {
        return Err(missing("there is no java in PATH"));
    }
    if let Some(given) = env::var_os("ZOOKEEPER_JAR") {
        return if env::split_paths(&given).any(|entry| names_something(&entry)) {
            Ok(given)
        } else {
            Err(missing(&format!("ZOOKEEPER_JAR is {given:?}, which does not exist")))
        };
    }
    if !Path::new(DEBIAN_JAR).is_file() {
        return Err(missing(&format!("there is no {DEBIAN_JAR}")));
    }
    // The manifest of Debian's jar names all its dependencies except a logger.
    Ok(format!("{DEBIAN_JAR}:/usr/share/java/slf4j-simple.jar").into())
}

fn names_something(entry: &Path) -> bool {
    if entry.file_name() == Some(OsStr::new("*")) {
        return entry.parent().is_some_and(Path::is_dir);
    }
    entry.exists()
}

fn missing(what: &str) -> String {
    format!(
        "these tests run a real ZooKeeper server, but {what}: \
         install it with `apt-get install -y zookeeper`, \
         or set ZOOKEEPER_JAR to its jar (or class path)"
    )
}
