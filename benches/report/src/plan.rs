//! How much is measured.

use std::time::Duration;

pub struct Plan {
    pub rounds: usize,
    /// How long cycles are counted in a round.
    pub window: Duration,
    /// Contenders of one session.
    pub contenders: &'static [usize],
    /// Sessions with one contender each.
    pub sessions: &'static [usize],
    /// How far the server is away, one way.
    pub distances: &'static [Duration],
    /// Hand-offs in a round.
    pub handoffs: usize,
    /// Locks that wait, and the rounds.
    pub waiting: &'static [(usize, usize)],
    /// Rounds under faults that last, and how long grants are counted in each.
    pub lasting: (usize, Duration),
}

impl Plan {
    /// For a page to publish: twenty minutes.
    pub const FULL: Plan = Plan {
        rounds: 5,
        window: Duration::from_millis(750),
        contenders: &[1, 4, 16, 64, 256, 1024],
        sessions: &[4, 16, 64],
        distances: &[Duration::from_micros(500), Duration::from_millis(2), Duration::from_millis(10)],
        handoffs: 60,
        waiting: &[(100, 3), (1_000, 3), (10_000, 1)],
        lasting: (5, Duration::from_secs(5)),
    };

    /// Too little for a measurement. It shows that everything works.
    pub const QUICK: Plan = Plan {
        rounds: 1,
        window: Duration::from_millis(200),
        contenders: &[1, 16, 64],
        sessions: &[4],
        distances: &[Duration::from_millis(2)],
        handoffs: 10,
        waiting: &[(10, 1), (100, 1)],
        lasting: (1, Duration::from_secs(3)),
    };
}
