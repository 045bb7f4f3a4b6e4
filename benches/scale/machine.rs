//! What the numbers were measured on, and the memory and processor time of this process.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::{Bench, Result, SESSION_TIMEOUT, common, production};

/// Prints the machine, the versions and the date.
pub fn print(bench: &Bench) -> Result<()> {
    println!("date     {}", output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]));
    println!(
        "machine  {}, {} cores, {} MiB of memory, {}",
        field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned()),
        available_parallelism()?,
        field("/proc/meminfo", "MemTotal").and_then(|size| kibibytes(&size)).unwrap_or_default() / 1024,
        output("uname", &["-srm"]),
    );
    println!("server   ZooKeeper {}, {}", version("zookeeper"), production::DESCRIPTION);
    println!(
        "client   lockkeeper {}, {}, session timeout {SESSION_TIMEOUT:?}",
        env!("CARGO_PKG_VERSION"),
        output("rustc", &["--version"]),
    );
    if bench.peers {
        let kazoo = output(&common::python().to_string_lossy(), &["-c", KAZOO_VERSION]);
        println!(
            "peers    kazoo {kazoo} on {}; Curator {} on {}",
            output("python3", &["--version"]),
            version("libcurator-recipes-java"),
            output("java", &["--version"]).lines().next().unwrap_or_default(),
        );
    }
    if bench.quick {
        println!("quick    too few contenders for a measurement");
    }
    println!("limit    {:?} a row", bench.limit);
    Ok(())
}

/// The bytes of this process that are in memory.
pub fn resident() -> usize {
    field("/proc/self/status", "VmRSS").and_then(|size| kibibytes(&size)).unwrap_or_default() * 1024
}

/// The time that all threads of this process have computed.
pub fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

const KAZOO_VERSION: &str = "import importlib.metadata; print(importlib.metadata.version('kazoo'))";

/// The version of an installed package of Debian.
fn version(package: &str) -> String {
    let version = output("dpkg-query", &["--show", "--showformat", "${Version}", package]);
    if version.is_empty() { "of unknown version".to_owned() } else { version }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(|_| format!("no {program}"), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

/// The first line of the file that has this name, without the name.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines()
        .find_map(|line| Some(line.strip_prefix(name)?.trim_start().strip_prefix(':')?.trim().to_owned()))
}

fn kibibytes(size: &str) -> Option<usize> {
    size.strip_suffix("kB")?.trim().parse().ok()
}
