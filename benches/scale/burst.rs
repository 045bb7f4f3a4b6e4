//! The first burst of contenders, when the directories are missing: how many writes the server gets.

use std::time::Instant;

use tokio::sync::mpsc::unbounded_channel;

use crate::common::{Server, unique_path};
use crate::process::{Event, Kind, Library, Process};
use crate::report::{self, Expectation, Row};
use crate::row::{self, Progress};
use crate::site::Site;
use crate::{Bench, Result, production};

const CONTENDERS: usize = 1_000;

pub fn run(bench: &Bench) -> Result<()> {
    let contenders = bench.times(CONTENDERS);
    for (title, paths) in [("on one path", 1), ("each on its own path", contenders)] {
        let mut rows = Vec::new();
        let all = [Library::Lockkeeper, Library::ZookeeperClient, Library::Kazoo, Library::Curator];
        for library in bench.libraries(&all) {
            // What has to be made, and what fails, is a write.
            let needed = contenders + if paths == 1 { DEPTH } else { DEPTH - 1 + paths };
            let expected = (library == Library::Lockkeeper).then_some(Expectation::AtMost(1.1));
            let (server, progress) = (Server::start_with(&production::options()), Progress::default());
            let burst = burst(server.address(), library, contenders, paths, progress.clone());
            rows.push(match row::run(bench, &progress, burst)? {
                Ok(Burst { writes, seconds }) => {
                    let ratio = writes as f64 / needed as f64;
                    let text = format!("{writes} writes, {ratio:.2} of the {needed} nodes");
                    Row::new(library.name(), format!("{:.0} ms", seconds * 1e3)).with(text, ratio, expected)
                }
                Err(reason) => Row::new(library.name(), "–").missed(reason, expected),
            });
        }
        report::print(&format!("{contenders} contenders {title}, the directories are missing"), &rows);
    }
    Ok(())
}

struct Burst {
    writes: i64,
    seconds: f64,
}

/// The directories of a path.
const DEPTH: usize = 3;

/// From the first request until all are queued or granted.
async fn burst(
    address: String,
    library: Library,
    contenders: usize,
    paths: usize,
    progress: Progress,
) -> Result<Burst> {
    let site = Site::connect(address).await?;
    let process = Process::connect(library, &site.address).await?;
    // The process has done everything once.
    let (requests, mut events) = unbounded_channel();
    process.open(Kind::Lock, &unique_path("warm-up"))?.request(contenders, &requests);
    if let Some((_, Event::Granted(release))) = events.recv().await {
        release();
    }
    let parent = format!("{}/locks", unique_path("burst"));
    let path = |number: usize| format!("{parent}/{:05}", number % paths);
    let entrances = (0..paths).map(|number| process.open(Kind::Lock, &path(number)));
    let entrances = entrances.collect::<Result<Vec<_>>>()?;

    progress.begin("contenders in their queues", contenders);
    let (before, begun) = (site.last_write().await?, Instant::now());
    for (number, entrance) in (0..contenders).zip(entrances.iter().cycle()) {
        entrance.request(number, &requests);
    }
    let mut granted = Vec::new();
    if process.tells() {
        let mut entered = 0;
        while entered < contenders {
            match events.recv().await.ok_or("the requests have ended")? {
                (number, Event::Failed(reason)) => return Err(format!("request {number}: {reason}").into()),
                (_, Event::Granted(release)) => granted.push(release),
                (_, Event::Queued) => {}
                // Of the first cycle.
                (_, Event::Released) => continue,
            }
            entered += 1;
            progress.reached(entered);
        }
    } else if paths == 1 {
        site.until_children(&path(0), |count| count == contenders, |count| progress.reached(count)).await?;
    } else {
        while granted.len() < contenders {
            match events.recv().await.ok_or("the requests have ended")? {
                (number, Event::Failed(reason)) => return Err(format!("request {number}: {reason}").into()),
                (_, Event::Granted(release)) => granted.push(release),
                (_, Event::Queued | Event::Released) => {}
            }
            progress.reached(granted.len());
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Burst { writes: site.last_write().await? - before, seconds })
}
