//! The search for states in which a property does not hold, and the tables of what it found.

use std::fmt::{Debug, Write};
use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use super::Data;

/// A model with its budgets: one row of a table.
pub trait Scenario: Model<State: Data + Send + Sync, Action: Data> + Debug + Send + Sync + 'static {}

impl<M> Scenario for M where M: Model<State: Data + Send + Sync, Action: Data> + Debug + Send + Sync + 'static {}

/// In which order states are searched.
#[derive(Clone, Copy)]
pub enum Order {
    /// With the least memory.
    DepthFirst,
    /// Meets a fault after few steps.
    BreadthFirst,
    /// The same on one thread, so that every run counts the same states until a fault.
    Steady,
}

/// What a whole search came to.
pub struct Searched {
    /// Different states.
    pub states: usize,
    /// How often a step has led to a state.
    pub reached: usize,
    pub depth: usize,
    pub seconds: f32,
    /// The properties that are to hold in some state, and do.
    pub examples: Vec<&'static str>,
}

/// What is asked for with `LOCKKEEPER_MODEL=long`.
pub fn is_long() -> bool {
    std::env::var("LOCKKEEPER_MODEL").is_ok_and(|budget| budget == "long")
}

/// What is asked for with `LOCKKEEPER_MODEL_WALKS`: a longer run, with this number of walks a row.
pub fn walks() -> Option<u64> {
    let walks = std::env::var("LOCKKEEPER_MODEL_WALKS").ok();
    walks.map(|text| text.parse().expect("a number of walks"))
}

/// Searches all states within the model's budgets. Panics with the way to a state in which a property does not hold.
pub fn search(model: impl Scenario, order: Order) -> Searched {
    let row = format!("{model:?}");
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures);
    match order {
        Order::DepthFirst => searched(|| checker.threads(2).spawn_dfs(), &row),
        Order::BreadthFirst => searched(|| checker.threads(2).spawn_bfs(), &row),
        Order::Steady => searched(|| checker.spawn_bfs(), &row),
    }
}

/// Searches until the property does not hold, and tells how many states that took. Panics if it holds in all of them.
pub fn catch(model: impl Scenario, order: Order, property: &'static str) -> usize {
    let row = format!("{model:?}");
    let checker = model.checker().finish_when(HasDiscoveries::AnyOf([property].into()));
    let (states, is_caught) = match order {
        Order::DepthFirst => caught(checker.threads(2).spawn_dfs(), property),
        Order::BreadthFirst => caught(checker.threads(2).spawn_bfs(), property),
        Order::Steady => caught(checker.spawn_bfs(), property),
    };
    assert!(is_caught, "{property} holds in all of {states} states: {row}");
    states
}

fn searched<M: Scenario, C: Checker<M>>(begin: impl FnOnce() -> C, row: &str) -> Searched {
    let begun = Instant::now();
    let checker = begin().join();
    let properties = checker.model().properties();
    let mut examples = Vec::new();
    for (name, path) in checker.discoveries() {
        let is_example = properties
            .iter()
            .any(|property| property.name == name && matches!(property.expectation, Expectation::Sometimes));
        if !is_example {
            let end = format!("{:#?}", path.last_state());
            panic!("{name}: {row}: {:?}\n{end}", path.into_actions());
        }
        examples.push(name);
    }
    assert!(checker.is_done(), "{row}");
    Searched {
        states: checker.unique_state_count(),
        reached: checker.state_count(),
        depth: checker.max_depth(),
        seconds: begun.elapsed().as_secs_f32(),
        examples,
    }
}

fn caught<M: Scenario>(checker: impl Checker<M>, property: &'static str) -> (usize, bool) {
    let checker = checker.join();
    (checker.unique_state_count(), checker.discovery(property).is_some())
}

/// The table of whole searches.
pub struct Searches {
    text: String,
    states: usize,
}

/// The table of twins.
pub struct Twins(String);

impl Searches {
    pub fn new(name: &str) -> Searches {
        let head = format!(
            "{name:<27} {:<40} {:>10} {:>10} {:>5} {:>7}\n",
            "budget", "states", "reached", "depth", "seconds"
        );
        Searches { text: head, states: 0 }
    }

    pub fn row(&mut self, name: &str, budget: impl ToString, searched: &Searched) {
        let Searched { states, reached, depth, seconds, .. } = searched;
        let budget = budget.to_string();
        let row = format!("{name:<27} {budget:<40} {states:>10} {reached:>10} {depth:>5} {seconds:>7.1}");
        if is_long() {
            eprintln!("{row}");
        }
        let _ = writeln!(self.text, "{row}");
        self.states += states;
    }

    pub fn print(self) {
        println!("{}{:<68} {:>10}\n", self.text, "sum", self.states);
    }
}

impl Twins {
    pub fn new() -> Twins {
        Twins(format!("{:<28} {:<40} {:>10}\n", "twin", "caught by", "after"))
    }

    /// What it took: so many states, or walks.
    pub fn row(&mut self, twin: impl Debug, property: &str, count: impl ToString, unit: &str) {
        let (twin, count) = (format!("{twin:?}"), count.to_string());
        let _ = writeln!(self.0, "{twin:<28} {property:<40} {count:>10} {unit}");
    }

    pub fn print(self) {
        println!("{}", self.0);
    }
}
