//! Runs several contestants alternately, in rounds, and compares them.

use std::future::Future;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, try_join_all};

use crate::report::{Expectation, Row};
use crate::spread::Spread;
use crate::{Bench, Result};

/// Several ways to run the same number of cycles, in the sessions that `S` holds.
pub struct Contest<S> {
    title: &'static str,
    rounds: usize,
    /// The number of turns of each contestant in a round.
    laps: usize,
    /// The number of cycles in a turn.
    cycles: usize,
    contestants: Vec<(&'static str, Run<S>)>,
}

/// Runs one turn and returns how long it took.
type Run<S> = Box<dyn Fn(&S) -> BoxFuture<'static, Result<Duration>> + Send>;

/// Cycles per second: one number per round for each contestant.
pub struct Outcome {
    title: String,
    rates: Vec<(&'static str, Vec<f64>)>,
}

/// The number of rounds that are not counted.
const WARM_UP: usize = 3;

impl<S: Send + 'static> Contest<S> {
    pub fn new(title: &'static str, rounds: usize, laps: usize, cycles: usize) -> Contest<S> {
        Contest { title, rounds, laps, cycles, contestants: Vec::new() }
    }

    /// Adds a contestant. The cycles of a turn are divided among concurrent tasks, one for each of `starters`. `run`
    /// runs one task's share, and returns when the server has confirmed the last cycle.
    pub fn enter<T, F>(
        mut self,
        name: &'static str,
        starters: fn(&S) -> Vec<T>,
        run: fn(T, usize) -> F,
    ) -> Contest<S>
    where
        T: 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let cycles = self.cycles;
        let start = move |sessions: &S| -> BoxFuture<'static, Result<Duration>> {
            let begun = Instant::now();
            let starters = starters(sessions);
            let share = cycles / starters.len();
            let tasks: Vec<_> = starters.into_iter().map(|one| tokio::spawn(run(one, share))).collect();
            Box::pin(async move {
                try_join_all(tasks).await?.into_iter().collect::<Result<()>>()?;
                Ok(begun.elapsed())
            })
        };
        self.contestants.push((name, Box::new(start)));
        self
    }

    /// Adds a contestant that divides the cycles and measures its time itself.
    pub fn enter_timed<F>(
        mut self,
        name: &'static str,
        run: impl Fn(&S, usize) -> F + Send + 'static,
    ) -> Contest<S>
    where
        F: Future<Output = Result<Duration>> + Send + 'static,
    {
        let cycles = self.cycles;
        self.contestants.push((name, Box::new(move |sessions| Box::pin(run(sessions, cycles)))));
        self
    }

    /// Runs the contest. Every round has new sessions, and none is closed before the end: the client polls in an order
    /// that depends on its session's address in memory, and in one order out of five it sends two concurrent requests
    /// in one packet; otherwise the second waits for the answer to the first. Over many sessions this effect averages
    /// out.
    pub async fn hold<F>(self, bench: &Bench, connect: impl Fn(Bench) -> F) -> Result<Outcome>
    where
        F: Future<Output = Result<S>> + Send,
    {
        let mut rates: Vec<_> = self.contestants.iter().map(|(name, _)| (*name, Vec::new())).collect();
        let (count, mut kept) = (self.contestants.len(), Vec::new());
        for round in 0..WARM_UP + self.rounds {
            let sessions = connect(bench.clone()).await?;
            let mut times = vec![Duration::ZERO; count];
            for lap in 0..self.laps {
                // The order rotates, so that each contestant is first, and follows each other one, in some lap.
                for turn in 0..count {
                    let turn = (round + lap + turn) % count;
                    times[turn] += self.contestants[turn].1(&sessions).await?;
                }
            }
            kept.push(sessions);
            if round >= WARM_UP {
                let cycles = (self.laps * self.cycles) as f64;
                for ((_, rates), time) in rates.iter_mut().zip(times) {
                    rates.push(cycles / time.as_secs_f64());
                }
            }
        }
        let Contest { title, rounds, laps, cycles, .. } = self;
        let title = format!("{title}; median [quartiles] of {rounds} rounds of {laps} × {cycles} cycles");
        Ok(Outcome { title, rates })
    }
}

impl Outcome {
    pub fn title(&self) -> &str {
        &self.title
    }

    pub fn rate(&self, name: &str) -> f64 {
        Spread::of(self.of(name).to_vec()).median
    }

    /// The ratio of the rates, computed per round, so that what slows down a whole round cancels out.
    pub fn ratio(&self, name: &str, floor: &str) -> Spread {
        Spread::of_ratios(self.of(name), self.of(floor))
    }

    fn of(&self, name: &str) -> &[f64] {
        let found = self.rates.iter().find(|(contestant, _)| *contestant == name);
        &found.unwrap_or_else(|| panic!("no contestant is called {name:?}")).1
    }
}

impl Row {
    /// A contestant's rate.
    pub fn rate(outcome: &Outcome, name: &str) -> Row {
        Row::new(name, format!("{:.0}/s", outcome.rate(name)))
    }

    /// Adds the ratio to another contestant.
    pub fn compared_to(
        self,
        outcome: &Outcome,
        floor: &str,
        expected: impl Into<Option<Expectation>>,
    ) -> Row {
        let ratio = outcome.ratio(&self.name, floor);
        let text = format!("{:.2} [{:.2} {:.2}] of {floor}", ratio.median, ratio.low, ratio.high);
        self.with(text, ratio.median, expected)
    }

    /// A further row about the same contestant.
    pub fn and(&self) -> Row {
        Row::new(self.name.clone(), "")
    }
}
