//! The locks that the clients use: their paths, which of them exclude each other, and how to acquire them.

use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use lockkeeper::error::{AcquireError, AcquireTimeoutError, TryAcquireError};
use lockkeeper::future::{Pending, Target};
use lockkeeper::run::LeaseView;
use lockkeeper::singleton::Candidate;
use lockkeeper::{Dialect, Guard, Keeper, LeaseState, Lock, LockOptions, Mode, MultiGuard};
use ractor::{ActorProcessingErr, ActorRef};
use tokio::time::timeout;

use super::stage::SESSION;

/// One kind of lock.
#[derive(Debug)]
pub struct Kind {
    pub name: &'static str,
    /// The places that it holds at the same time, with one token for each.
    pub places: &'static [Place],
    /// Grants of one client may share a node, and so its token.
    pub lingers: bool,
    pub ask: fn(&Keeper, Patience) -> Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub path: &'static str,
    pub side: Side,
}

/// How a path may be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Alone,
    Shared,
    /// Up to this many holders.
    Permit(usize),
}

pub const LEDGER: Place = Place { path: "/faults/ledger", side: Side::Alone };
const INDEX: Place = Place { path: "/faults/index", side: Side::Alone };
const INDEX_READ: Place = Place { path: "/faults/index", side: Side::Shared };
/// Of Curator's dialect: other kinds on the path would not exclude it.
const SHELF: Place = Place { path: "/faults/shelf", side: Side::Alone };
const PERMITS: u32 = 2;
const POOL: Place = Place { path: "/faults/pool", side: Side::Permit(PERMITS as usize) };

/// The parent directory of all places.
pub const ROOT: &str = "/faults";

/// All kinds. No client can share the first one, and its writes are compared.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "lock",
        places: &[LEDGER],
        lingers: false,
        ask: |keeper, patience| {
            let lock = keeper.lock(LEDGER.path).expect("a valid path");
            ask(patience, || lock.acquire(), |time| lock.acquire_timeout(time), || lock.try_acquire())
        },
    },
    Kind {
        name: "read",
        places: &[INDEX_READ],
        lingers: false,
        ask: |keeper, patience| {
            let both = keeper.read_write(INDEX_READ.path).expect("a valid path");
            let lock = both.read();
            ask(patience, || lock.acquire(), |time| lock.acquire_timeout(time), || lock.try_acquire())
        },
    },
    Kind {
        name: "write",
        places: &[INDEX],
        lingers: false,
        ask: |keeper, patience| {
            let both = keeper.read_write(INDEX.path).expect("a valid path");
            let lock = both.write();
            ask(patience, || lock.acquire(), |time| lock.acquire_timeout(time), || lock.try_acquire())
        },
    },
    Kind {
        name: "permit",
        places: &[POOL],
        lingers: false,
        ask: |keeper, patience| ask_permit(keeper, PERMITS, patience),
    },
    Kind {
        name: "multi",
        places: &[LEDGER, INDEX],
        lingers: false,
        ask: |keeper, patience| {
            let paths = [(LEDGER.path, Mode::Lock), (INDEX.path, Mode::Write)];

            let lock = keeper.multi_lock_with(paths, LockOptions::default()).expect("paths");
            ask(patience, || lock.acquire(), |time| lock.acquire_timeout(time), || lock.try_acquire())
        },
    },
    Kind {
        name: "lingering",
        places: &[LEDGER],
        lingers: true,
        ask: |keeper, patience| {
            let lock = keeper.lock_with(LEDGER.path, lingering()).expect("a valid path");
            ask(patience, || lock.acquire(), |time| lock.acquire_timeout(time), || lock.try_acquire())
        },
    },
    Kind {
        name: "curator",
        places: &[SHELF],
        lingers: false,
        ask: |keeper, patience| {
            let lock = keeper.lock_with(SHELF.path, curator()).expect("a valid path");
            ask(patience, || lock.acquire(), |time| lock.acquire_timeout(time), || lock.try_acquire())
        },
    },
    Kind {
        name: "lingering_read",
        places: &[INDEX_READ],
        lingers: true,
        ask: |keeper, patience| {
            let both = keeper.read_write_with(INDEX_READ.path, lingering()).expect("a valid path");
            let lock = both.read();
            ask(patience, || lock.acquire(), |time| lock.acquire_timeout(time), || lock.try_acquire())
        },
    },
    Kind { name: "singleton", places: &[LEDGER], lingers: false, ask: stand },
];

/// A permit of a semaphore that grants one too many.
pub const OVERDRAWN: Kind = Kind {
    name: "permit",
    places: &[POOL],
    lingers: false,
    ask: |keeper, patience| ask_permit(keeper, PERMITS + 1, patience),
};

fn ask_permit(keeper: &Keeper, permits: u32, patience: Patience) -> Asked {
    let pool = keeper.semaphore(POOL.path, permits).expect("a valid path");
    ask(patience, || pool.acquire(), |time| pool.acquire_timeout(time), || pool.try_acquire())
}

/// Longer than most of the time between two requests of a client.
fn lingering() -> LockOptions {
    LockOptions::new().linger(Duration::from_millis(300))
}

fn curator() -> LockOptions {
    LockOptions::new().dialect(Dialect::Curator)
}

/// Handles of the paths of lingering locks. Nothing lingers on a path without a handle.
pub fn open(keeper: &Keeper) -> [Lock; 2] {
    [LEDGER, INDEX].map(|place| keeper.lock(place.path).expect("a valid path"))
}

impl Kind {
    pub fn named(name: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// Parses comma-separated tokens, one for each place.
    pub fn read_tokens(&self, text: &str) -> Option<Vec<u64>> {
        let tokens: Vec<u64> = text.split(',').map(|word| word.parse().ok()).collect::<Option<_>>()?;
        (tokens.len() == self.places.len()).then_some(tokens)
    }

    /// Whether the two exclude each other, so that tokens must grow from one to the other.
    pub fn conflicts(&self, other: &Kind) -> bool {
        self.places.iter().any(|place| other.places.iter().any(|other| place.excludes(other)))
    }
}

/// The format that [`Kind::read_tokens`] parses.
pub fn write_tokens(tokens: &[u64]) -> String {
    tokens.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

impl Place {
    pub fn excludes(&self, other: &Place) -> bool {
        self.path == other.path && (self.side == Side::Alone || other.side == Side::Alone)
    }
}

/// How long a request waits.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    Forever,
    Until(Duration),
    Try,
}

/// A guard; `None` if the time limit ended; or an error that no client should get.
pub type Asked = BoxFuture<'static, Result<Option<Box<dyn Held>>, String>>;

/// The operations that guards of all kinds share.
pub trait Held: Send {
    /// One token for each place of its kind, in the same order.
    fn tokens(&self) -> Vec<u64>;
    fn state(&self) -> LeaseState;
    fn valid_until(&self) -> Option<Instant>;
    fn release(self: Box<Self>) -> BoxFuture<'static, ()>;
}

impl<M: 'static> Held for Guard<M> {
    fn tokens(&self) -> Vec<u64> {
        vec![self.token().as_u64()]
    }

    fn state(&self) -> LeaseState {
        Guard::state(self)
    }

    fn valid_until(&self) -> Option<Instant> {
        Guard::valid_until(self)
    }

    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        // A lease that has already ended counts as released.
        Guard::release(*self).map(|_| ()).boxed()
    }
}

impl Held for MultiGuard {
    fn tokens(&self) -> Vec<u64> {
        MultiGuard::tokens(self).map(|(_, token)| token.as_u64()).collect()
    }

    fn state(&self) -> LeaseState {
        MultiGuard::state(self)
    }

    fn valid_until(&self) -> Option<Instant> {
        MultiGuard::valid_until(self)
    }

    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        MultiGuard::release(*self).map(|_| ()).boxed()
    }
}

fn ask<T: Target<Guard: Held>>(
    patience: Patience,
    acquire: impl FnOnce() -> Pending<AcquireError, T>,
    acquire_timeout: impl FnOnce(Duration) -> Pending<AcquireTimeoutError, T>,
    try_acquire: impl FnOnce() -> Pending<TryAcquireError, T>,
) -> Asked {
    let some = |guard: T::Guard| Some(Box::new(guard) as Box<dyn Held>);
    match patience {
        Patience::Forever => {
            acquire().map(move |answer| answer.map(some).map_err(|error| error.to_string())).boxed()
        }
        Patience::Until(time) => acquire_timeout(time)
            .map(move |answer| match answer {
                Ok(guard) => Ok(some(guard)),
                Err(AcquireTimeoutError::TimedOut { .. }) => Ok(None),
                Err(error) => Err(error.to_string()),
            })
            .boxed(),
        Patience::Try => try_acquire()
            .map(move |answer| match answer {
                Ok(guard) => Ok(some(guard)),
                Err(TryAcquireError::Contended { .. } | TryAcquireError::Suspended) => Ok(None),
                Err(error) => Err(error.to_string()),
            })
            .boxed(),
    }
}

/// Becomes a candidate, and waits until its actor runs.
fn stand(keeper: &Keeper, patience: Patience) -> Asked {
    let singleton = keeper.singleton(LEDGER.path).expect("a valid path");
    let mut candidate = singleton.run(|_| (Leader, ()), |_| None);
    let limit = match patience {
        Patience::Forever => None,
        Patience::Until(time) => Some(time),
        // A candidate waits, so this is as close to a try as it gets.
        Patience::Try => Some(Duration::from_millis(20)),
    };
    let standing = async move {
        let running = match limit {
            None => candidate.running().await,
            Some(limit) => match timeout(limit, candidate.running()).await {
                Ok(running) => running,
                // Dropping the candidate ends its candidacy.
                Err(_) => return Ok(None),
            },
        };
        let lease = running.ok_or("the candidacy is over")?;
        Ok(Some(Box::new(Leading { candidate, lease }) as Box<dyn Held>))
    };
    standing.boxed()
}

struct Leader;

#[ractor::actor(message = (), state = (), arguments = ())]
impl Leader {
    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

struct Leading {
    candidate: Candidate<()>,
    lease: LeaseView,
}

impl Held for Leading {
    fn tokens(&self) -> Vec<u64> {
        vec![self.lease.token().as_u64()]
    }

    fn state(&self) -> LeaseState {
        self.lease.state()
    }

    /// The actor is stopped a quarter of the session timeout before the lease ends. Then the lock is released.
    fn valid_until(&self) -> Option<Instant> {
        self.lease.valid_until().map(|until| until - SESSION / 4)
    }

    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.candidate.shutdown().boxed()
    }
}
