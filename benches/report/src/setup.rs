//! What has to be installed, and how the drivers are started.

use std::env;
use std::fs::{self, File};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::SESSION_TIMEOUT;
use crate::common;
use crate::curator;
use crate::library::Library;

/// What is installed. A library that could not be has the reason.
pub struct Setup {
    /// A directory for programs that are compiled, and for what the drivers log.
    directory: PathBuf,
    pub python: Installed<PathBuf>,
    pub curator: Installed<PathBuf>,
    pub go: Installed<PathBuf>,
}

pub type Installed<T> = std::result::Result<T, String>;

/// Installs what is missing. Fails if there is no ZooKeeper after that; the other libraries may be missing.
pub fn install() -> Result<Setup> {
    install_packages();
    if !Path::new(ZOOKEEPER_JAR).is_file() && env::var_os("ZOOKEEPER_JAR").is_none() {
        return Err("there is no ZooKeeper: apt-get install zookeeper, or set ZOOKEEPER_JAR".into());
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
    fs::create_dir_all(&directory)?;
    // The installation panics when it fails.
    let python = catch_unwind(common::python).map_err(|_| "kazoo is not installed".to_owned());
    let curator = compile_curator(&directory).map_err(|reason| reason.to_string());
    let go = compile_go(&directory).map_err(|reason| reason.to_string());
    Ok(Setup { directory, python, curator, go })
}

impl Setup {
    /// The command that starts a driver.
    pub fn command(&self, library: Library) -> Result<Command> {
        let milliseconds = SESSION_TIMEOUT.as_millis().to_string();
        let mut command = match library {
            Library::Kazoo => {
                let mut command = Command::new(self.python.as_ref().map_err(String::as_str)?);
                command.args(["-c", KAZOO_DRIVER, &SESSION_TIMEOUT.as_secs().to_string()]);
                command
            }
            Library::Curator => {
                let classes = self.curator.as_ref().map_err(String::as_str)?;
                let mut command = Command::new("java");
                command.args(JAVA_FLAGS).arg("-cp");
                command.arg(format!("{}:{}", classes.display(), curator::class_path()));
                command.args(["CuratorDriver", &milliseconds]);
                command
            }
            Library::Go => {
                let mut command = Command::new(self.go.as_ref().map_err(String::as_str)?);
                command.arg(&milliseconds);
                command
            }
            Library::Lockkeeper
            | Library::Dropped
            | Library::Lingering
            | Library::ZookeeperClient
            | Library::Floor => {
                let mut command = Command::new(env::current_exe()?);
                command.args(["driver", library.word()]);
                command
            }
        };
        // What contenders say when their session is closed is of no interest on the terminal.
        let log = self.directory.join(format!("{}.log", library.word()));
        command.stderr(File::options().create(true).append(true).open(log)?);
        Ok(command)
    }
}

/// A package of Debian is needed unless there is this file.
const PACKAGES: [(&str, &str); 6] = [
    (ZOOKEEPER_JAR, "zookeeper"),
    ("/usr/bin/javac", "default-jdk-headless"),
    ("/usr/share/java/curator-recipes.jar", "libcurator-recipes-java"),
    ("/usr/share/doc/python3-venv", "python3-venv"),
    ("/usr/bin/go", "golang-go"),
    (GO_SOURCES, "golang-github-samuel-go-zookeeper-dev"),
];

const ZOOKEEPER_JAR: &str = "/usr/share/java/zookeeper.jar";
const GO_SOURCES: &str = "/usr/share/gocode/src/github.com/samuel/go-zookeeper";

const KAZOO_DRIVER: &str = include_str!("../drivers/kazoo.py");
const CURATOR_DRIVER: &str = include_str!("../drivers/CuratorDriver.java");
const GO_DRIVER: &str = include_str!("../drivers/driver.go");

/// Only the log is configured: the collector and the heap are those that Java chooses.
const JAVA_FLAGS: [&str; 2] =
    ["-Djava.net.preferIPv4Stack=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"];

/// Installs the packages that are missing. What is still missing after that is noticed by what needs it.
fn install_packages() {
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return;
    }
    println!("installing {}", missing.join(", "));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        command.status().is_ok_and(|status| status.success())
    };
    // Another installation may be under way.
    let options = ["-o", "DPkg::Lock::Timeout=300", "install", "-y", "-qq", "--no-install-recommends"];
    // One by one if that fails, so that one that Debian does not have does not keep out the others.
    if !apt(&["update", "-qq"]) || !apt(&[&options[..], &missing].concat()) {
        for package in missing {
            if !apt(&[&options[..], &[package]].concat()) {
                println!("not installed: {package} (this needs Debian, and root)");
            }
        }
    }
}

/// The directory of the classes.
fn compile_curator(directory: &Path) -> Result<PathBuf> {
    let class_path = catch_unwind(curator::class_path).map_err(|_| "Curator is not installed")?;
    let source = directory.join("CuratorDriver.java");
    fs::write(&source, CURATOR_DRIVER)?;
    let mut javac = Command::new("javac");
    javac.args(["-cp", &class_path, "-d"]).args([directory, &source]);
    run(javac)?;
    Ok(directory.to_owned())
}

/// The program.
fn compile_go(directory: &Path) -> Result<PathBuf> {
    if !Path::new(GO_SOURCES).exists() {
        return Err("go-zookeeper is not installed".into());
    }
    let (source, program) = (directory.join("driver.go"), directory.join("go-driver"));
    fs::write(&source, GO_DRIVER)?;
    let mut go = Command::new("go");
    // Debian keeps the sources of packages in the layout from before modules.
    go.env("GO111MODULE", "off")
        .env("GOPATH", "/usr/share/gocode")
        .env("GOCACHE", directory.join("go-cache"));
    go.args(["build", "-o"]).args([&program, &source]);
    run(go)?;
    Ok(program)
}

fn run(mut command: Command) -> Result<()> {
    let output = command.output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into()),
    }
}
