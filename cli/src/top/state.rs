//! What `top` shows: the places, their order, and what is selected. Pure.

use std::cmp::Ordering;

use lockkeeper::inspect::{InspectError, Inventory, PathState};

use crate::exit::with_source;
use crate::list::{Summary, unreadable};

/// What the user can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    /// Shows or hides the queue of what is selected.
    Detail,
    /// Sorts by the next column.
    Sort,
    Reverse,
    Redraw,
    Quit,
}

pub struct State {
    pub title: String,
    /// The places in their order, each with its summary.
    pub rows: Vec<(Summary, PathState)>,
    /// How many nodes may not be read, if there are such.
    pub unreadable: Option<String>,
    /// The column that the rows are sorted by.
    pub sort: usize,
    pub reversed: bool,
    pub detail: bool,
    /// Why the last read failed, if it did. The rows are those of the last one that did not.
    pub error: Option<String>,
    /// The path of the row that is selected: it stays selected when the order changes.
    selected: Option<String>,
    /// How many rows are visible, as last drawn.
    pub page: usize,
}

/// The column with the number of waiters, which are what most people look for.
const WAITERS: usize = 4;
const COLUMNS: usize = 6;

impl State {
    pub fn new(prefix: &str, servers: &str) -> State {
        State {
            title: format!("{prefix} at {servers}"),
            rows: Vec::new(),
            unreadable: None,
            sort: WAITERS,
            reversed: false,
            detail: false,
            error: None,
            selected: None,
            page: 1,
        }
    }

    /// Takes what was read.
    pub fn read(&mut self, found: Result<Inventory, InspectError>) {
        match found {
            Ok(inventory) => {
                self.error = None;
                self.unreadable = unreadable(&inventory);
                self.rows = inventory.places.into_iter().map(|place| (Summary::of(&place), place)).collect();
                self.order();
            }
            Err(error) => self.error = Some(with_source(&error)),
        }
    }

    /// Does what the user wants. Returns whether to go on.
    pub fn press(&mut self, key: Key) -> bool {
        let (at, page) = (self.selected().unwrap_or_default(), self.page.max(1));
        match key {
            Key::Up => self.select(at.saturating_sub(1)),
            Key::Down => self.select(at + 1),
            Key::PageUp => self.select(at.saturating_sub(page)),
            Key::PageDown => self.select(at + page),
            Key::First => self.select(0),
            Key::Last => self.select(usize::MAX),
            Key::Detail => self.detail = !self.detail,
            Key::Sort => {
                self.sort = (self.sort + 1) % COLUMNS;
                self.order();
            }
            Key::Reverse => {
                self.reversed = !self.reversed;
                self.order();
            }
            Key::Redraw => {}
            Key::Quit => return false,
        }
        true
    }

    /// The index of the row that is selected, if there are rows.
    pub fn selected(&self) -> Option<usize> {
        let found = self.rows.iter().position(|(row, _)| Some(&row.path) == self.selected.as_ref());
        found.or((!self.rows.is_empty()).then_some(0))
    }

    fn select(&mut self, index: usize) {
        let last = self.rows.len().saturating_sub(1);
        self.selected = self.rows.get(index.min(last)).map(|(row, _)| row.path.clone());
    }

    /// Numbers and times are sorted with the largest first, texts in their order.
    fn order(&mut self) {
        let (sort, reversed) = (self.sort, self.reversed);
        self.rows.sort_by(|(a, _), (b, _)| {
            let order = compare(sort, a, b);
            let order = if reversed { order.reverse() } else { order };
            order.then_with(|| a.path.cmp(&b.path))
        });
    }
}

fn compare(column: usize, a: &Summary, b: &Summary) -> Ordering {
    // The longest time is the earliest; those without one come last.
    let longest = |a, b| match (a, b) {
        (Some(a), Some(b)) => Ord::cmp(a, b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    };
    match column {
        0 => a.path.cmp(&b.path),
        1 => a.kind.cmp(b.kind),
        2 => a.holder.cmp(&b.holder),
        3 => longest(a.since.as_ref(), b.since.as_ref()),
        4 => b.waiters.cmp(&a.waiters),
        _ => longest(a.oldest.as_ref(), b.oldest.as_ref()),
    }
}
