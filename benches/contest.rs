//! Contestants that take turns, round after round, and how they compare.

use std::future::Future;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, try_join_all};

use crate::{Bench, Result};

/// Several ways to do the same number of cycles, in the sessions that `S` holds.
pub struct Contest<S> {
    title: &'static str,
    rounds: usize,
    /// So many times everybody's turn comes in a round.
    laps: usize,
    /// In one turn.
    cycles: usize,
    contestants: Vec<(&'static str, Run<S>)>,
}

/// Tells how long it took.
type Run<S> = Box<dyn Fn(&S) -> BoxFuture<'static, Result<Duration>> + Send>;

/// Cycles per second: one number a round for each contestant.
pub struct Outcome {
    title: String,
    rates: Vec<(&'static str, Vec<f64>)>,
}

/// The median, and the quartiles around it.
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

/// Rounds that do not count.
const WARM_UP: usize = 3;

impl<S: Send + 'static> Contest<S> {
    pub fn new(title: &'static str, rounds: usize, laps: usize, cycles: usize) -> Contest<S> {
        Contest { title, rounds, laps, cycles, contestants: Vec::new() }
    }

    /// The cycles of a turn are shared out among tasks, one for each of `starters`, which run at the same time. `run` does one
    /// task's share, and returns when the server has confirmed the last of it.
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

    /// One that shares out the cycles, and takes its time, by itself.
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

    /// Every round has sessions of its own, and none is closed before the end. The client polls in an order that
    /// comes from its session's address in memory, and in one order out of five it sends two requests that come
    /// together in one packet; otherwise the second waits for the first one's answer. Over many sessions such luck
    /// is shared out evenly.
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
                // Everybody comes first, and behind everybody else, in some lap.
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

    /// Within each round, so that what a whole round suffered cancels out.
    pub fn ratio(&self, name: &str, floor: &str) -> Spread {
        Spread::of(self.of(name).iter().zip(self.of(floor)).map(|(rate, floor)| rate / floor).collect())
    }

    fn of(&self, name: &str) -> &[f64] {
        let found = self.rates.iter().find(|(contestant, _)| *contestant == name);
        &found.unwrap_or_else(|| panic!("no contestant is called {name:?}")).1
    }
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        let at = |part: f64| values[((values.len() - 1) as f64 * part).round() as usize];
        Spread { low: at(0.25), median: at(0.5), high: at(0.75) }
    }
}
