//! `doctor`: names what is wrong with the locks and semaphores below a path, and what to do.
//!
//! What is concluded from what was read is pure: [`queues`], [`pools`], [`cycles`] and [`directories`]. It is concluded
//! twice, a moment apart, and only what both show is named: what happens in between is life, not a fault.

mod cycles;
mod directories;
mod facts;
mod finding;
mod pools;
mod queues;
mod watches;

use std::io::Write;
use std::time::{Duration, SystemTime};

use clap::Args;
use lockkeeper::inspect::{Inspector, Inventory, PathState};
use serde_json::json;

use self::facts::Facts;
use self::finding::Finding;
use crate::connect::Connection;
use crate::exit::{Exit, Failure};
use crate::list::check_prefix;
use crate::text::has_colours;

/// Name what is wrong, and what to do
///
/// Exits with 1 if something is wrong, and with 0 if nothing is.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  lockkeeper doctor
  lockkeeper doctor --json /locks | jq -r '.findings[].kind'")]
pub struct DoctorArgs {
    /// Where to begin
    #[arg(default_value = "/", value_name = "PREFIX")]
    prefix: String,

    /// Write JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

pub async fn doctor(args: &DoctorArgs) -> Result<Exit, Failure> {
    check_prefix(&args.prefix)?;
    let keeper = args.connection.connect().await?;
    let examined = examine_twice(&keeper.inspector(), args).await;
    keeper.close().await;
    let findings = examined?;
    let mut out = std::io::stdout().lock();
    match args.json {
        true => {
            let findings: Vec<_> = findings.iter().map(Finding::json).collect();
            writeln!(out, "{:#}", json!({ "findings": findings }))?;
        }
        false if findings.is_empty() => writeln!(out, "nothing is wrong below {}", args.prefix)?,
        false => {
            let colours = has_colours(&std::io::stdout());
            for finding in &findings {
                finding.write(&mut out, colours)?;
            }
        }
    }
    Ok(if findings.is_empty() { Exit::Success } else { Exit::Failure })
}

/// Between the two looks. Longer than a turn at a semaphore takes, or a grant.
const PAUSE: Duration = Duration::from_secs(1);

async fn examine_twice(inspector: &Inspector, args: &DoctorArgs) -> Result<Vec<Finding>, Failure> {
    let first = examine_once(inspector, args).await?;
    if first.is_empty() {
        return Ok(first);
    }
    tokio::time::sleep(PAUSE).await;
    let mut second = examine_once(inspector, args).await?;
    second.retain(|finding| first.iter().any(|before| before.is_same(finding)));
    Ok(second)
}

async fn examine_once(inspector: &Inspector, args: &DoctorArgs) -> Result<Vec<Finding>, Failure> {
    let found = inspector.walk(&args.prefix).await?;
    let mut facts = Facts::new(SystemTime::now(), &found);
    // Only some findings need to know the watches, and asking for them is costly for a large server.
    if found.places.iter().any(|place| queues::may_be_beside_readers(place.queue())) {
        facts.watched = watches::watched(&args.connection.servers).await;
    }
    Ok(examine(&found, &facts))
}

/// What is wrong with what was found.
fn examine(found: &Inventory, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for place in &found.places {
        match place {
            PathState::Semaphore(pool) => pools::examine(pool, &mut findings),
            state => queues::examine(state.queue(), facts, &mut findings),
        }
    }
    cycles::examine(&found.places, &mut findings);
    directories::examine(found, &mut findings);
    findings
}
