//! What a cycle costs on a server that is distant.

use std::time::Duration;

use super::Bench;
use crate::Result;
use crate::common::Server;
use crate::library::Library;
use crate::measure::rate::{self, Load, Rate};
use crate::measure::{self, Outcome};
use crate::plot::{Axis, Scale};
use crate::production;
use crate::relay;
use crate::section::{self, Section};
use crate::table::{Better, Table};

/// `near` is what was measured without a distance.
pub fn measure(bench: &mut Bench<'_>, near: &Outcome<Rate>) -> Result<Section> {
    let server = Server::start_with(&production::options());
    let milliseconds =
        |outcome: &Outcome<Rate>| measure::part(outcome, |rate: &Rate| 1000.0 / rate.per_second);
    let mut table = Table::new(Better::Lower);
    table.column("0 ms", milliseconds(near));
    let mut x = vec![Some(0.0)];
    for &one_way in bench.plan.distances {
        println!("{one_way:?} one way");
        let address = relay::start(&server.address(), one_way)?.to_string();
        // Long enough for a few cycles.
        let window = bench.plan.window.max(25 * one_way);
        let load =
            Load { address: &address, server: None, sessions: 1, contenders: 1, window, persist: false };
        let outcome = measure::alternate(&Library::ALL, bench.plan.rounds, |library| {
            rate::rate(&mut bench.processes, library, &load)
        });
        table.column(format!("{} ms", in_milliseconds(one_way)), milliseconds(&outcome));
        x.push(Some(in_milliseconds(one_way)));
    }
    let plot = section::medians(
        &table,
        "Milliseconds a cycle, one contender",
        (Axis { label: "milliseconds one way", scale: Scale::Linear }, &x),
        Axis { label: "milliseconds a cycle", scale: Scale::Linear },
    );
    Ok(Section {
        title: "Distance",
        text: "Milliseconds of a cycle of one contender, by how long a packet takes to the server. A relay on loopback \
               delays the packets, in both directions, and acknowledges them at once. On a real network, a client that \
               does not set `TCP_NODELAY` also waits for acknowledgements, which this relay spares it. A round trip \
               takes twice the time of the column, so the ratio of a cell to that is the number of round trips of a \
               cycle. The floor is a create and a delete, both awaited: two round trips."
            .to_owned(),
        corner: "ms a cycle, one way",
        table,
        plot: Some(("distance", plot)),
    })
}

fn in_milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
