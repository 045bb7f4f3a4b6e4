//! The kinds of locks that are put under fault.

use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use lockkeeper::{
    Access, AcquireTimeoutError, Guard, InvalidName, Keeper, LeaseState, Lock, TryAcquireError,
};

/// One row: where it is, who may not hold beside it, and how to ask for it.
#[derive(Debug)]
pub struct Kind {
    pub name: &'static str,
    pub path: &'static str,
    /// Other kinds on that path which may not hold at the same time.
    pub excludes: &'static [&'static str],
    /// How many of this kind may.
    pub at_most: usize,
    pub ask: fn(&Keeper, &str, Patience) -> Asked,
}

/// The first is the one that a client keeps when it is told to hold on.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "lock",
        path: "/faults/ledger",
        excludes: &[],
        at_most: 1,
        ask: |keeper, path, patience| ask(keeper.lock(path), patience),
    },
    Kind {
        name: "read",
        path: "/faults/index",
        excludes: &["write"],
        at_most: usize::MAX,
        ask: |keeper, path, patience| ask(keeper.read_write(path).map(|both| both.read().clone()), patience),
    },
    Kind {
        name: "write",
        path: "/faults/index",
        excludes: &["read"],
        at_most: 1,
        ask: |keeper, path, patience| ask(keeper.read_write(path).map(|both| both.write().clone()), patience),
    },
];

impl Kind {
    pub fn named(name: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// Whether only one of the two may hold, so that their tokens grow from one to the other.
    pub fn conflicts(&self, other: &Kind) -> bool {
        self.path == other.path
            && if self.name == other.name { self.at_most == 1 } else { self.excludes.contains(&other.name) }
    }
}

/// How long a request waits.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    Forever,
    Until(Duration),
    Try,
}

/// A guard; nothing, when patience ended; or an error that nobody should get.
pub type Asked = BoxFuture<'static, Result<Option<Box<dyn Held>>, String>>;

/// Guards of all kinds alike.
pub trait Held: Send {
    fn token(&self) -> u64;
    fn state(&self) -> LeaseState;
    fn valid_until(&self) -> Option<Instant>;
    fn release(self: Box<Self>) -> BoxFuture<'static, ()>;
}

impl<M: 'static> Held for Guard<M> {
    fn token(&self) -> u64 {
        Guard::token(self).as_u64()
    }

    fn state(&self) -> LeaseState {
        Guard::state(self)
    }

    fn valid_until(&self) -> Option<Instant> {
        Guard::valid_until(self)
    }

    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        // A lease that ended first is over as well.
        Guard::release(*self).map(|_| ()).boxed()
    }
}

fn ask<M: Access>(lock: Result<Lock<M>, InvalidName>, patience: Patience) -> Asked {
    let lock = lock.expect("a path");
    let some = |guard: Guard<M>| Some(Box::new(guard) as Box<dyn Held>);
    async move {
        match patience {
            Patience::Forever => lock.acquire().await.map(some).map_err(|error| error.to_string()),
            Patience::Until(time) => match lock.acquire_timeout(time).await {
                Ok(guard) => Ok(some(guard)),
                Err(AcquireTimeoutError::TimedOut) => Ok(None),
                Err(error) => Err(error.to_string()),
            },
            Patience::Try => match lock.try_acquire().await {
                Ok(guard) => Ok(some(guard)),
                Err(TryAcquireError::Contended | TryAcquireError::Suspended) => Ok(None),
                Err(error) => Err(error.to_string()),
            },
        }
    }
    .boxed()
}
