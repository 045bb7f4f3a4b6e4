//! A table of costs that should not grow with the number of contenders.

use crate::common::Server;
use crate::report::{self, Expectation, Row};
use crate::row::{self, Progress};
use crate::{Bench, Result, production};

/// One block of the table: a cost for each contender, whose ratio to the cost at the smallest number is printed.
pub struct Metric {
    pub name: &'static str,
    pub show: fn(f64) -> String,
    pub expected: Option<Expectation>,
}

/// What is expected of a cost for each contender.
pub const FLAT: Option<Expectation> = Some(Expectation::AtMost(1.5));

/// Measures and prints the curve. `measure` runs one row, at the address of the table's server.
pub fn draw<F>(
    bench: &Bench,
    title: &str,
    metrics: &[Metric],
    measure: impl Fn(String, usize, Progress) -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let server = Server::start_with(&production::options());
    let mut points: Vec<Point> = Vec::new();
    for size in bench.sizes() {
        let progress = Progress::default();
        // With more contenders it would not finish either.
        let stopped = match points.iter().find(|point| point.stopped.is_some()) {
            Some(point) => Some(format!("not run, as {} did not finish", point.size)),
            None => row::run(bench, &progress, measure(server.address(), *size, progress.clone()))?.err(),
        };
        points.push(Point { size: *size, progress, stopped });
    }
    let rows: Vec<Row> = metrics.iter().flat_map(|metric| metric.rows(&points)).collect();
    report::print(title, &rows);
    Ok(())
}

pub fn milliseconds(seconds: f64) -> String {
    format!("{:.3} ms", seconds * 1e3)
}

struct Point {
    size: usize,
    progress: Progress,
    /// Why the row did not finish.
    stopped: Option<String>,
}

impl Metric {
    /// The same without an expectation, for a peer.
    pub fn reported(self) -> Metric {
        Metric { expected: None, ..self }
    }

    fn rows(&self, points: &[Point]) -> Vec<Row> {
        let first = points.first().and_then(|point| point.progress.median(self.name));
        let rows = points.iter().enumerate().map(|(place, point)| {
            let Point { size, progress, stopped } = point;
            let Some(value) = progress.median(self.name) else {
                let reason = stopped.clone().unwrap_or_default();
                return Row::new(self.name, format!("{size}: –")).missed(reason, self.expected);
            };
            let row = Row::new(self.name, format!("{size}: {}", (self.show)(value)));
            match first {
                Some(first) if place > 0 && first > 0.0 => {
                    let ratio = value / first;
                    row.with(format!("{ratio:.2} of that at {}", points[0].size), ratio, self.expected)
                }
                _ => row,
            }
        });
        rows.collect()
    }
}
