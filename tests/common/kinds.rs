//! The kinds of locks that the promises are made for: how each is opened, who keeps it out, where its nodes stand.
//!
//! A promise is a function that takes a [`Kind`]; `promises!` makes a test of it for each kind of a set, so that
//! `a_free_lock_is_granted::read_lock` says which promise was broken, and by whom. The tests see every kind through
//! [`Locking`] and [`Holding`]; what only one kind has is tested elsewhere.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use lockkeeper::{
    Access, AcquireError, AcquireTimeoutError, ContendersError, FencingToken, Guard, InvalidLock, Keeper,
    LeaseState, Lock, LockEvent, LockOptions, Lost, Mode, MultiGuard, MultiLock, ReleaseError, Semaphore,
    Ticket, TryAcquireError,
};
use ractor::ActorRef;

use super::hearing::Heard;

/// A row of the table: a kind of lock, as the promises see it.
#[derive(Clone, Copy)]
pub struct Kind {
    pub open: fn(&Keeper, &str) -> Result<AnyLock, InvalidLock>,
    pub open_with: Open,
    /// One that keeps it out while it is held, and is kept out by it.
    pub rival: Open,
    /// What is locked by one that is opened at a path.
    pub paths: fn(&str) -> Vec<String>,
    /// What `Queued` tells behind so many rivals that hold and so many of the same kind that wait.
    pub ahead: fn(usize, usize) -> usize,
    /// It holds by leases in the path itself, and queues in a directory beside it.
    pub leases: bool,
}

pub type Open = fn(&Keeper, &str, LockOptions) -> Result<AnyLock, InvalidLock>;

pub fn lock() -> Kind {
    Kind {
        open: |keeper, path| Ok(Arc::new(keeper.lock(path)?)),
        open_with: |keeper, path, options| Ok(Arc::new(keeper.lock_with(path, options)?)),
        rival: |keeper, path, options| Ok(Arc::new(keeper.lock_with(path, options)?)),
        paths: |path| vec![path.to_owned()],
        ahead: |rivals, waiting| rivals + waiting,
        leases: false,
    }
}

pub fn write_lock() -> Kind {
    Kind {
        open: |keeper, path| Ok(Arc::new(keeper.read_write(path)?.write().clone())),
        open_with: write_with,
        rival: write_with,
        ..lock()
    }
}

/// Readers do not keep each other out: who does is a writer.
pub fn read_lock() -> Kind {
    Kind {
        open: |keeper, path| Ok(Arc::new(keeper.read_write(path)?.read().clone())),
        open_with: |keeper, path, options| {
            Ok(Arc::new(keeper.read_write_with(path, options)?.read().clone()))
        },
        rival: write_with,
        ahead: |rivals, _| rivals,
        ..lock()
    }
}

/// A semaphore of one.
pub fn semaphore() -> Kind {
    let open_with: Open = |keeper, path, options| Ok(Arc::new(keeper.semaphore_with(path, 1, options)?));
    Kind {
        open: |keeper, path| Ok(Arc::new(keeper.semaphore(path, 1)?)),
        open_with,
        rival: open_with,
        // Who holds permits is in no queue.
        ahead: |_, waiting| waiting,
        leases: true,
        ..lock()
    }
}

/// Two paths at once. Who keeps it out takes them the other way round.
pub fn multi_lock() -> Kind {
    Kind {
        open: |keeper, path| {
            let both = keeper.multi_lock([path.to_owned(), second(path)])?;
            Ok(Arc::new((both, keeper.lock(path)?)))
        },
        open_with: |keeper, path, options| {
            let both = [path.to_owned(), second(path)].map(|path| (path, Mode::Lock));
            let queue = keeper.lock_with(path, options.clone())?;
            Ok(Arc::new((keeper.multi_lock_with(both, options)?, queue)))
        },
        rival: |keeper, path, options| {
            let both = [second(path), path.to_owned()].map(|path| (path, Mode::Lock));
            let queue = keeper.lock_with(path, options.clone())?;
            Ok(Arc::new((keeper.multi_lock_with(both, options)?, queue)))
        },
        paths: |path| vec![path.to_owned(), second(path)],
        // Told of all queues together.
        ahead: |rivals, waiting| 2 * (rivals + waiting),
        ..lock()
    }
}

fn second(path: &str) -> String {
    format!("{path}-too")
}

fn write_with(keeper: &Keeper, path: &str, options: LockOptions) -> Result<AnyLock, InvalidLock> {
    Ok(Arc::new(keeper.read_write_with(path, options)?.write().clone()))
}

/// Makes the tests: for each set of kinds, the promises that are made for it.
///
/// | set | a promise that needs |
/// |---|---|
/// | `every_kind` | nothing |
/// | `exclusive` | that the kind keeps itself out |
/// | `in_order` | that places are taken across keepers in the order of asking, and only by one at a time |
/// | `queued` | contenders in the path itself: listed, with patterns, and on request outliving sessions |
/// | `[lock, semaphore]` | what the kind has little to do with, or has alone |
macro_rules! promises {
    ($($set:tt: $($promise:ident),+ $(,)?;)+) => { $($( for_kinds!($set $promise); )+)+ };
}

/// The sets: where a new kind is added.
macro_rules! for_kinds {
    (every_kind $promise:ident) => { for_kinds!([lock, write_lock, read_lock, semaphore, multi_lock] $promise); };
    (exclusive $promise:ident) => { for_kinds!([lock, write_lock, semaphore, multi_lock] $promise); };
    (in_order $promise:ident) => { for_kinds!([lock, write_lock, multi_lock] $promise); };
    (queued $promise:ident) => { for_kinds!([lock, write_lock, read_lock] $promise); };
    ([$($kind:ident),+] $promise:ident) => {
        mod $promise {
            $(
                #[test]
                fn $kind() {
                    $crate::common::run(super::$promise($crate::common::kinds::$kind()));
                }
            )+
        }
    };
}

pub type AnyLock = Arc<dyn Locking>;

/// What a handle of every kind can do.
pub trait Locking: Send + Sync + 'static {
    fn acquire(&self) -> BoxFuture<'static, Result<AnyGuard, AcquireError>>;
    fn try_acquire(&self) -> BoxFuture<'static, Result<AnyGuard, TryAcquireError>>;
    fn acquire_timeout(&self, timeout: Duration)
    -> BoxFuture<'static, Result<AnyGuard, AcquireTimeoutError>>;
    fn listen(&self, wait: Wait, hear: Hear) -> Ticket;
    fn forward(&self, wait: Wait, actor: &ActorRef<Heard>) -> Ticket;
    fn cancel(&self, ticket: Ticket);
    /// How many its own question for who is there tells of.
    fn listed(&self) -> BoxFuture<'_, Result<usize, ContendersError>>;
}

pub type Hear = Box<dyn FnMut(LockEvent<AnyGuard>) + Send>;

/// Which of the three calls.
#[derive(Clone, Copy)]
pub enum Wait {
    Forever,
    Try,
    For(Duration),
}

/// What a guard of every kind can do.
pub trait Holding: Send + Sync + 'static {
    fn paths(&self) -> Vec<String>;
    fn nodes(&self) -> Vec<String>;
    fn token(&self) -> FencingToken;
    fn ticket(&self) -> Ticket;
    fn state(&self) -> LeaseState;
    fn valid_until(&self) -> Option<Instant>;
    fn lost(&self) -> BoxFuture<'_, ()>;
    fn protect<'a>(&'a self, work: BoxFuture<'a, u32>) -> BoxFuture<'a, Result<u32, Lost>>;
    fn release_it(self: Box<Self>) -> BoxFuture<'static, Result<(), ReleaseError>>;
}

/// A guard of some kind. Dropping it releases.
#[must_use]
pub struct AnyGuard(Box<dyn Holding>);

impl AnyGuard {
    pub fn release(self) -> BoxFuture<'static, Result<(), ReleaseError>> {
        self.0.release_it()
    }

    /// The first of its nodes.
    pub fn node(&self) -> String {
        self.nodes().swap_remove(0)
    }
}

impl Deref for AnyGuard {
    type Target = dyn Holding;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for AnyGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnyGuard({:?}, {:?})", self.nodes(), self.state())
    }
}

impl<M: 'static> From<Guard<M>> for AnyGuard {
    fn from(guard: Guard<M>) -> AnyGuard {
        AnyGuard(Box::new(guard))
    }
}

impl<M: 'static> Holding for Guard<M> {
    fn paths(&self) -> Vec<String> {
        vec![self.path().to_owned()]
    }

    fn nodes(&self) -> Vec<String> {
        vec![self.node().to_owned()]
    }

    fn token(&self) -> FencingToken {
        Guard::token(self)
    }

    fn ticket(&self) -> Ticket {
        Guard::ticket(self)
    }

    fn state(&self) -> LeaseState {
        Guard::state(self)
    }

    fn valid_until(&self) -> Option<Instant> {
        Guard::valid_until(self)
    }

    fn lost(&self) -> BoxFuture<'_, ()> {
        Guard::lost(self).boxed()
    }

    fn protect<'a>(&'a self, work: BoxFuture<'a, u32>) -> BoxFuture<'a, Result<u32, Lost>> {
        Guard::protect(self, work).boxed()
    }

    fn release_it(self: Box<Self>) -> BoxFuture<'static, Result<(), ReleaseError>> {
        Guard::release(*self).boxed()
    }
}

impl From<MultiGuard> for AnyGuard {
    fn from(guard: MultiGuard) -> AnyGuard {
        AnyGuard(Box::new(guard))
    }
}

impl Holding for MultiGuard {
    fn paths(&self) -> Vec<String> {
        self.tokens().map(|(path, _)| path.to_owned()).collect()
    }

    fn nodes(&self) -> Vec<String> {
        MultiGuard::nodes(self).map(str::to_owned).collect()
    }

    fn token(&self) -> FencingToken {
        self.tokens().next().expect("a path").1
    }

    fn ticket(&self) -> Ticket {
        MultiGuard::ticket(self)
    }

    fn state(&self) -> LeaseState {
        MultiGuard::state(self)
    }

    fn valid_until(&self) -> Option<Instant> {
        MultiGuard::valid_until(self)
    }

    fn lost(&self) -> BoxFuture<'_, ()> {
        MultiGuard::lost(self).boxed()
    }

    fn protect<'a>(&'a self, work: BoxFuture<'a, u32>) -> BoxFuture<'a, Result<u32, Lost>> {
        MultiGuard::protect(self, work).boxed()
    }

    fn release_it(self: Box<Self>) -> BoxFuture<'static, Result<(), ReleaseError>> {
        MultiGuard::release(*self).boxed()
    }
}

/// The handles' methods have the same names, and are no trait of the library. `$this` is what they are called on,
/// `$listed` asks who is there.
macro_rules! locking {
    ([$($mode:ident: $bound:ident)?] $handle:ty, |$this:ident| $lock:expr, $listed:expr) => {
        impl $(<$mode: $bound>)? Locking for $handle {
            fn acquire(&self) -> BoxFuture<'static, Result<AnyGuard, AcquireError>> {
                let $this = self;
                let acquire = $lock.acquire();
                async { acquire.await.map(AnyGuard::from) }.boxed()
            }

            fn try_acquire(&self) -> BoxFuture<'static, Result<AnyGuard, TryAcquireError>> {
                let $this = self;
                let acquire = $lock.try_acquire();
                async { acquire.await.map(AnyGuard::from) }.boxed()
            }

            fn acquire_timeout(
                &self,
                timeout: Duration,
            ) -> BoxFuture<'static, Result<AnyGuard, AcquireTimeoutError>> {
                let $this = self;
                let acquire = $lock.acquire_timeout(timeout);
                async { acquire.await.map(AnyGuard::from) }.boxed()
            }

            fn listen(&self, wait: Wait, mut hear: Hear) -> Ticket {
                let $this = self;
                let hear = move |event: LockEvent<_>| hear(event.map_guard(AnyGuard::from));
                match wait {
                    Wait::Forever => $lock.acquire().listen(hear),
                    Wait::Try => $lock.try_acquire().listen(hear),
                    Wait::For(timeout) => $lock.acquire_timeout(timeout).listen(hear),
                }
            }

            fn forward(&self, wait: Wait, actor: &ActorRef<Heard>) -> Ticket {
                let $this = self;
                let convert = |event: LockEvent<_>| Heard(event.map_guard(AnyGuard::from));
                match wait {
                    Wait::Forever => $lock.acquire().forward(actor, convert),
                    Wait::Try => $lock.try_acquire().forward(actor, convert),
                    Wait::For(timeout) => $lock.acquire_timeout(timeout).forward(actor, convert),
                }
            }

            fn cancel(&self, ticket: Ticket) {
                let $this = self;
                $lock.cancel(ticket);
            }

            fn listed(&self) -> BoxFuture<'_, Result<usize, ContendersError>> {
                let $this = self;
                async { $listed.await.map(|who| who.len()) }.boxed()
            }
        }
    };
}

locking!([M: Access] Lock<M>, |this| this, this.contenders());
// The first path's queue says who is there.
locking!([](MultiLock, Lock), |this| this.0, this.1.contenders());
locking!([] Semaphore, |this| this, this.lease_holders());
