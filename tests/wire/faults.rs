//! What can happen to the bytes of a connection, and when.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::dice::Dice;

/// A fault of one direction of a connection.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The connection ends in the middle of a frame.
    Truncate,
    /// The connection is reset.
    Reset,
    /// The receiver is told that the sender has ended, and gets nothing more. The other direction goes on.
    HalfClose,
    /// So many bytes arrive one at a time.
    Fragment { bytes: usize },
    /// So many bytes arrive in small pieces, with a pause after each.
    Trickle { bytes: usize, pause: Duration },
    /// The bytes of this time arrive together.
    Coalesce { time: Duration },
    /// Nothing arrives for a time that costs no session.
    Pause { time: Duration },
    /// Nothing arrives for a time that may cost the session.
    Stall { time: Duration },
    /// The client's side ends. What the client has sent arrives after bytes of its next connection.
    Late,
}

/// The names of the faults, in the order of [`Fault::index`].
pub const NAMES: [&str; 9] =
    ["truncate", "reset", "half-close", "fragment", "trickle", "coalesce", "pause", "stall", "late"];

impl Fault {
    fn index(self) -> usize {
        match self {
            Fault::Truncate => 0,
            Fault::Reset => 1,
            Fault::HalfClose => 2,
            Fault::Fragment { .. } => 3,
            Fault::Trickle { .. } => 4,
            Fault::Coalesce { .. } => 5,
            Fault::Pause { .. } => 6,
            Fault::Stall { .. } => 7,
            Fault::Late => 8,
        }
    }

    /// Counts it, because it has taken effect.
    pub fn struck(self) {
        STRUCK[self.index()].fetch_add(1, Ordering::Relaxed);
    }
}

static STRUCK: [AtomicU64; NAMES.len()] = [const { AtomicU64::new(0) }; NAMES.len()];

/// How often each fault has taken effect in this process.
pub fn counts() -> Vec<(&'static str, u64)> {
    NAMES.into_iter().zip(STRUCK.iter().map(|count| count.load(Ordering::Relaxed))).collect()
}

/// A fault, and the offset in the stream at which it strikes.
#[derive(Clone, Copy, Debug)]
pub struct Strike {
    pub at: usize,
    pub fault: Fault,
}

/// The faults of one connection, by direction, each in the order of their offsets.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub requests: VecDeque<Strike>,
    pub replies: VecDeque<Strike>,
}

impl Plan {
    pub fn draw(dice: &mut Dice) -> Plan {
        let mut plan = Plan::default();
        for _ in 0..=dice.below(3) {
            let fault = draw(dice);
            let requests = matches!(fault, Fault::Late) || dice.below(2) == 0;
            let direction = if requests { &mut plan.requests } else { &mut plan.replies };
            // One in five strikes during the handshake, or right behind it.
            let range = if dice.below(5) == 0 { 80 } else { 1200 };
            direction.push_back(Strike { at: dice.index(range), fault });
        }
        for direction in [&mut plan.requests, &mut plan.replies] {
            direction.make_contiguous().sort_by_key(|strike| strike.at);
        }
        plan
    }
}

fn draw(dice: &mut Dice) -> Fault {
    match dice.below(NAMES.len() as u64) {
        0 => Fault::Truncate,
        1 => Fault::Reset,
        2 => Fault::HalfClose,
        3 => Fault::Fragment { bytes: 50 + dice.index(400) },
        4 => Fault::Trickle { bytes: 20 + dice.index(60), pause: dice.time(8) },
        5 => Fault::Coalesce { time: Duration::from_millis(10) + dice.time(120) },
        6 => Fault::Pause { time: dice.time(150) },
        7 => Fault::Stall { time: Duration::from_millis(200) + dice.time(1000) },
        _ => Fault::Late,
    }
}
