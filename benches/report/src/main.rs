//! Measures lockkeeper beside other lock libraries, and writes `docs/benchmarks.md` with its plots.
//!
//! `cargo run --release -p lockkeeper-report` runs everything, in about twenty minutes, on a machine that should do
//! nothing else. It is made for Debian, and installs what it needs there. `-- --quick` takes a minute or two and has too
//! few rounds for a measurement; `-- --out DIR` writes into another directory than `docs`. `-- --faults` writes
//! `docs/lasting-faults.md` instead: what is left of the grants while a fault lasts.
//!
//! Each library runs in a process of its own (`driver`, and `drivers` for those in other languages), which all answer the
//! same requests. A measurement (`measure`) asks them, and a section (`sections`) makes a table of the answers.

#[path = "../../../tests/common/servers/mod.rs"]
mod common;
#[path = "../../../tests/common/curator.rs"]
#[allow(dead_code)]
mod curator;
mod cutting_relay;
mod driver;
mod facts;
#[path = "../../shared/floors.rs"]
#[allow(dead_code)]
mod floors;
#[path = "../../shared/host.rs"]
mod host;
mod library;
mod measure;
mod page;
mod plan;
mod plot;
mod process;
#[path = "../../shared/production.rs"]
mod production;
#[path = "../../shared/delaying_relay.rs"]
mod relay;
mod section;
mod sections;
mod setup;
#[path = "../../shared/spread.rs"]
mod spread;
mod table;

use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use facts::Facts;
use library::Library;
use plan::Plan;
use process::Processes;
use section::Section;
use sections::Bench;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

/// Long, so that the heartbeats of many sessions do not add up.
const SESSION_TIMEOUT: Duration = Duration::from_secs(40);

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [driver, word] = arguments.as_slice() {
        if driver == "driver" {
            return driver::run(Library::of(word).ok_or("no such library")?);
        }
    }
    let Options { quick, faults, out } = Options::of(arguments)?;
    if cfg!(debug_assertions) && !quick {
        return Err("compile it with --release".into());
    }
    let begun = Instant::now();
    let plan = if quick { Plan::QUICK } else { Plan::FULL };
    let setup = setup::install()?;
    let page = if faults { page::LASTING_FAULTS } else { page::BENCHMARKS };
    let mut facts = Facts::of(&setup, page.servers);
    println!("measuring");
    let bench = &mut Bench { plan: &plan, processes: Processes::new(&setup) };
    let (sections, below) = match faults {
        true => sections::lasting::measure(bench)?,
        false => (measure(bench)?, Vec::new()),
    };
    facts.0.push(("duration", format!("{} s", begun.elapsed().as_secs())));
    page.write(&out, &facts, &plan, &sections)?;
    println!("written in {}", out.display());
    if below.is_empty() { Ok(()) } else { Err(below.join("; ").into()) }
}

fn measure(bench: &mut Bench<'_>) -> Result<Vec<Section>> {
    let cycles = sections::cycles::measure(bench);
    let distance = sections::distance::measure(bench, &cycles.single)?;
    let handoff = sections::handoff::measure(bench);
    let memory = sections::memory::measure(bench)?;
    Ok(cycles.sections.into_iter().chain([distance, handoff, memory]).collect())
}

#[derive(Debug, PartialEq)]
struct Options {
    quick: bool,
    faults: bool,
    out: PathBuf,
}

impl Options {
    fn of(arguments: Vec<String>) -> Result<Options> {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let (mut options, mut arguments) =
            (Options { quick: false, faults: false, out: docs }, arguments.into_iter());
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--faults" => options.faults = true,
                "--out" => options.out = arguments.next().ok_or("--out needs a directory")?.into(),
                _ => {
                    return Err(
                        format!("unknown: {argument}; there are --quick, --faults and --out DIR").into()
                    );
                }
            }
        }
        Ok(options)
    }
}

/// Nanoseconds of the clock that all processes share.
fn monotonic() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked() {
        let options = |text: &str| Options::of(text.split_whitespace().map(str::to_owned).collect());
        let quick = Options { quick: true, faults: false, out: "/tmp/x".into() };
        assert_eq!(options("--quick --out /tmp/x").expect("valid"), quick);
        assert!(!options("").expect("valid").quick);
        assert!(options("--out").expect_err("no directory").to_string().contains("needs a directory"));
        assert!(options("--fast").expect_err("unknown").to_string().contains("--fast"));
    }
}
