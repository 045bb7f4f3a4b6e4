//! Servers whose clock runs at another rate than that of their clients.
//!
//! ZooKeeper reads the time of all its timeouts through one class. A server gets another version of it, first in its
//! class path.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The directory of the compiled class, built once per test process. The error says what is missing.
pub fn class_path() -> Result<&'static Path, String> {
    static CLASSES: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    CLASSES.get_or_init(compile).as_deref().map_err(String::clone)
}

/// The flag that sets the rate.
pub fn flag(rate: f64) -> String {
    format!("-Dlockkeeper.clockRate={rate}")
}

fn compile() -> Result<PathBuf, String> {
    let directory =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("server-clock/{}", std::process::id()));
    let source = directory.join("Time.java");
    fs::create_dir_all(&directory)
        .and_then(|()| fs::write(&source, include_str!("Time.java")))
        .map_err(|error| format!("writing {}: {error}", source.display()))?;
    let output =
        Command::new("javac").args(["-d".as_ref(), directory.as_path(), source.as_path()]).output().map_err(
            |error| format!("javac does not start, {error}: `apt-get install -y default-jdk-headless`"),
        )?;
    match output.status.success() {
        true => Ok(directory),
        false => Err(format!("javac failed:\n{}", String::from_utf8_lossy(&output.stderr))),
    }
}
