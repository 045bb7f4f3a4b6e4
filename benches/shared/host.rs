//! The machine, what is installed on it, and the memory of its processes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

/// The processor, the memory and the kernel.
pub fn machine() -> String {
    format!(
        "{}, {} cores, {} MiB of memory, {}",
        field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned()),
        available_parallelism().map_or(0, usize::from),
        field("/proc/meminfo", "MemTotal").and_then(|size| kibibytes(&size)).unwrap_or_default() / 1024,
        output("uname", &["-srm"]),
    )
}

pub fn date() -> String {
    output("date", &["-u", "+%Y-%m-%d %H:%M UTC"])
}

/// The version of an installed package of Debian.
pub fn package_version(package: &str) -> String {
    let version = output("dpkg-query", &["--show", "--showformat", "${Version}", package]);
    if version.is_empty() { "of unknown version".to_owned() } else { version }
}

pub fn kazoo_version(python: &Path) -> String {
    const PRINT: &str = "import importlib.metadata; print(importlib.metadata.version('kazoo'))";
    output(&python.to_string_lossy(), &["-c", PRINT])
}

/// The first line of what `java --version` prints.
pub fn java_version() -> String {
    output("java", &["--version"]).lines().next().unwrap_or_default().to_owned()
}

/// The bytes of a process that are in memory. It is a process id, or `self`.
pub fn resident(process: &str) -> Option<usize> {
    let size = field(&format!("/proc/{process}/status"), "VmRSS")?;
    Some(kibibytes(&size)? * 1024)
}

/// What a program prints, without the space around it.
pub fn output(program: &str, arguments: &[&str]) -> String {
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
