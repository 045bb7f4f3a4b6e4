//! The server that is measured.

use crate::common::ServerOptions;

pub const DESCRIPTION: &str = "tickTime 2000, every write forced to disk (forceSync as by default)";

/// The options that turn the tests' server into one with production settings: the flags that save a test time and disk
/// writes are reversed.
pub fn options() -> ServerOptions {
    let jvm = [
        "-Xmx1000m",
        "-XX:TieredStopAtLevel=4",
        "-Dzookeeper.forceSync=yes",
        "-Dzookeeper.preAllocSize=65536",
        "-Dzookeeper.extendedTypesEnabled=false",
    ];
    ServerOptions { tick_ms: 2000, config: Vec::new(), jvm: jvm.map(str::to_owned).into() }
}
