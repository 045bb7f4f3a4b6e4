//! The tests keep what they install, such as kazoo, in Cargo's target directory. Cargo tells only tests and benches where
//! that is.

use std::env;
use std::path::Path;

fn main() {
    // `<target>/<profile>/build/<package>/out`
    let out = env::var_os("OUT_DIR").expect("Cargo sets it");
    let target = Path::new(&out).ancestors().nth(4).expect("a target directory");
    println!("cargo::rustc-env=CARGO_TARGET_TMPDIR={}", target.join("tmp").display());
    println!("cargo::rerun-if-changed=build.rs");
}
