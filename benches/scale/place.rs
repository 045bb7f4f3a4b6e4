//! One waiter behind many strangers, who leave one after the other: what its process has to do for that.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{interval, sleep};

use crate::common::{Server, unique_path};
use crate::process::{Event, Kind, Library, Process};
use crate::relay::Counts;
use crate::report::{self, Expectation, Row};
use crate::row::{self, Progress};
use crate::site::{self, Site};
use crate::{Bench, Result, production};

const STRANGERS: usize = 1_000;

/// Between two departures, so that the waiter can notice each of them, on a fast machine.
const PACE: Duration = Duration::from_millis(5);

pub fn run(bench: &Bench) -> Result<()> {
    let strangers = bench.times(STRANGERS);
    for order in [Order::Front, Order::Back, Order::Random] {
        let mut costs = Vec::new();
        for library in bench.libraries(&[Library::Lockkeeper, Library::Curator, Library::Kazoo]) {
            let (server, progress) = (Server::start_with(&production::options()), Progress::default());
            let wait = wait(server.address(), library, order, strangers, progress.clone());
            costs.push((library, row::run(bench, &progress, wait)?));
        }
        let curator = costs.iter().find(|(library, _)| *library == Library::Curator);
        let curator = curator.and_then(|(_, cost)| cost.as_ref().ok());
        let rows: Vec<Row> = costs.iter().flat_map(|(library, cost)| rows(*library, cost, curator)).collect();
        let title = format!("One waiter behind {strangers} strangers, {}, one each {PACE:?}", order.name());
        report::print(&title, &rows);
    }
    Ok(())
}

/// The order in which the strangers leave.
#[derive(Clone, Copy)]
enum Order {
    Front,
    Back,
    Random,
}

impl Order {
    fn name(self) -> &'static str {
        match self {
            Order::Front => "who leave from the front",
            Order::Back => "who leave from the back",
            Order::Random => "who leave in random order",
        }
    }

    /// The same order in every run.
    fn arrange(self, nodes: &mut [String]) {
        match self {
            Order::Front => {}
            Order::Back => nodes.reverse(),
            Order::Random => {
                let mut random = 0x2545_f491_4f6c_dd1d_u64;
                for last in (1..nodes.len()).rev() {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    nodes.swap(last, (random % (last as u64 + 1)) as usize);
                }
            }
        }
    }
}

/// The requests that the process sent, the bytes that it received, and the microseconds from the last departure to the
/// grant.
struct Cost([f64; 3]);

const UNITS: [&str; 3] = ["requests", "bytes received", "µs to the grant"];

fn rows(library: Library, cost: &std::result::Result<Cost, String>, curator: Option<&Cost>) -> Vec<Row> {
    let is_ours = library == Library::Lockkeeper;
    // The requests at rest are only known to one or two.
    let expected = (is_ours && curator.is_some()).then_some(Expectation::AtMost(1.2));
    let cost = match cost {
        Ok(cost) => cost,
        Err(reason) => return vec![Row::new(library.name(), "–").missed(reason.clone(), expected)],
    };
    let row = |(place, value): (usize, f64)| {
        let row = Row::new(library.name(), format!("{value:.0} {}", UNITS[place]));
        match curator {
            Some(curator) if library != Library::Curator => {
                let ratio = value / curator.0[place];
                row.with(format!("{ratio:.2} of Curator"), ratio, expected)
            }
            _ => row,
        }
    };
    cost.0.into_iter().enumerate().map(row).collect()
}

async fn wait(
    address: String,
    library: Library,
    order: Order,
    count: usize,
    progress: Progress,
) -> Result<Cost> {
    let site = Site::connect(address).await?;
    let process = Process::connect(library, &site.address).await?;
    let (requests, mut events) = unbounded_channel();
    // The process has done everything once.
    process.open(Kind::Lock, &unique_path("warm-up"))?.request(0, &requests);
    granted(&mut events).await?;

    let path = unique_path("place");
    site.make(std::slice::from_ref(&path)).await?;
    let mut strangers =
        site.strangers(&vec![site::stranger(Kind::Lock, library.dialect(), &path); count]).await?;
    order.arrange(&mut strangers);
    let entrance = process.open(Kind::Lock, &path)?;
    entrance.request(1, &requests);
    site.until_children(&path, |children| children > count, |_| ()).await?;
    let at_rest = rest(&process, PACE * u32::try_from(count)?).await;

    progress.begin("departures", count);
    let (before, mut pace) = (process.relay.counts(), interval(PACE));
    for (gone, stranger) in strangers.iter().enumerate() {
        pace.tick().await;
        site.delete(stranger).await?;
        progress.reached(gone + 1);
    }
    let begun = Instant::now();
    granted(&mut events).await?;
    let (grant, Counts { requests, received }) = (begun.elapsed(), process.relay.counts() - before);
    process.close().await;
    Ok(Cost([
        requests.saturating_sub(at_rest.requests) as f64,
        received.saturating_sub(at_rest.received) as f64,
        grant.as_secs_f64() * 1e6,
    ]))
}

/// Waits for the grant, and releases.
async fn granted(events: &mut UnboundedReceiver<(usize, Event)>) -> Result<()> {
    loop {
        match events.recv().await.ok_or("the requests have ended")? {
            (_, Event::Granted(release)) => {
                release();
                return Ok(());
            }
            (_, Event::Failed(reason)) => return Err(reason.into()),
            (_, Event::Queued | Event::Released) => {}
        }
    }
}

/// What the process sends and receives in so much time while it waits undisturbed: heartbeats and pings.
async fn rest(process: &Process, time: Duration) -> Counts {
    let mut before = process.relay.counts();
    loop {
        sleep(SETTLED).await;
        let now = process.relay.counts();
        if now.requests == before.requests {
            break;
        }
        before = now;
    }
    let before = process.relay.counts();
    sleep(time).await;
    process.relay.counts() - before
}

/// A time without a request, after which the waiter has made those for its place.
const SETTLED: Duration = Duration::from_millis(200);
