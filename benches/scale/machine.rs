//! What the numbers were measured on, and the memory and processor time of this process.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::{Bench, SESSION_TIMEOUT, common, host, production};

/// Prints the machine, the versions and the date.
pub fn print(bench: &Bench) {
    println!("date     {}", host::date());
    println!("machine  {}", host::machine());
    println!(
        "server   ZooKeeper {}, standalone, {}",
        host::package_version("zookeeper"),
        production::DESCRIPTION
    );
    println!(
        "client   lockkeeper {}, {}, session timeout {SESSION_TIMEOUT:?}",
        env!("CARGO_PKG_VERSION"),
        host::output("rustc", &["--version"]),
    );
    if bench.peers {
        println!(
            "peers    kazoo {} on {}; Curator {} on {}",
            host::kazoo_version(&common::python()),
            host::output("python3", &["--version"]),
            host::package_version("libcurator-recipes-java"),
            host::java_version(),
        );
    }
    if bench.quick {
        println!("quick    too few contenders for a measurement");
    }
    println!("limit    {:?} a row", bench.limit);
}

/// The bytes of this process that are in memory.
pub fn resident() -> usize {
    host::resident("self").unwrap_or_default()
}

/// The time that all threads of this process have computed.
pub fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}
