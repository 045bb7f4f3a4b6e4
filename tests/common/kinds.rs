//! The kinds of locks that the shared tests run on: how each is opened, what excludes it, and where its nodes are.
//!
//! A promise is a function that takes a [`Kind`]. `promises!` generates one test per kind from it, so that the name
//! `a_free_lock_is_granted::read_lock` shows which promise was broken by which kind. The tests access every kind
//! through [`Locking`] and [`Holding`]. Features that only one kind has are tested elsewhere.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use lockkeeper::error::{
    AcquireError, AcquireTimeoutError, InvalidHandle, LostError, QueryError, ReleaseError, TryAcquireError,
};
use lockkeeper::marker::Access;
use lockkeeper::messages::{LockEvent, Ticket};
use lockkeeper::{
    Dialect, FencingToken, Guard, Keeper, LeaseState, Lock, LockOptions, Mode, MultiGuard, MultiLock,
    Semaphore,
};
use ractor::ActorRef;

use super::by_message::ByMessage;
use super::events::Recorded;

/// One kind of lock.
#[derive(Clone, Copy)]
pub struct Kind {
    pub open: fn(&Keeper, &str) -> Result<AnyLock, InvalidHandle>,
    pub open_with: Open,
    /// Opens a lock on the same path that excludes this kind and is excluded by it.
    pub rival: Open,
    /// What the name of a node that blocks this kind has before its number.
    pub marker: &'static str,
    /// The paths that are locked by a lock opened at this path.
    pub paths: fn(&str) -> Vec<String>,
    /// The `ahead` count of `Queued`, given the number of rivals that hold and the number of waiters of this kind.
    pub ahead: fn(usize, usize) -> usize,
    /// Whether holders have lease nodes in the path itself and queue in a separate directory.
    pub leases: bool,
}

pub type Open = fn(&Keeper, &str, LockOptions) -> Result<AnyLock, InvalidHandle>;

pub fn lock() -> Kind {
    Kind {
        open: |keeper, path| Ok(Arc::new(keeper.lock(path)?)),
        open_with: |keeper, path, options| Ok(Arc::new(keeper.lock_with(path, options)?)),
        rival: |keeper, path, options| Ok(Arc::new(keeper.lock_with(path, options)?)),
        marker: "__lock__",
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

/// A lock whose requests share nodes. The rival has a node for each request.
pub fn lingering_lock() -> Kind {
    Kind {
        open: |keeper, path| Ok(Arc::new(keeper.lock_with(path, lingering(LockOptions::new()))?)),
        open_with: |keeper, path, options| Ok(Arc::new(keeper.lock_with(path, lingering(options))?)),
        ..lock()
    }
}

/// A read lock whose requests share nodes.
pub fn lingering_read_lock() -> Kind {
    let open_with: Open = |keeper, path, options| {
        Ok(Arc::new(keeper.read_write_with(path, lingering(options))?.read().clone()))
    };
    Kind {
        open: |keeper, path| {
            Ok(Arc::new(keeper.read_write_with(path, lingering(LockOptions::new()))?.read().clone()))
        },
        open_with,
        ..read_lock()
    }
}

fn lingering(options: LockOptions) -> LockOptions {
    options.linger(Duration::from_millis(200))
}

/// Readers do not exclude each other, so the rival is a writer.
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

/// A lock under the names of Curator's `InterProcessMutex`.
pub fn curator_lock() -> Kind {
    let open_with: Open = |keeper, path, options| Ok(Arc::new(keeper.lock_with(path, curator(options))?));
    Kind {
        open: |keeper, path| Ok(Arc::new(keeper.lock_with(path, curator(LockOptions::new()))?)),
        open_with,
        rival: open_with,
        marker: "-lock-",
        ..lock()
    }
}

/// A read lock under the names of Curator's `InterProcessReadWriteLock`.
pub fn curator_read_lock() -> Kind {
    let open_with: Open =
        |keeper, path, options| Ok(Arc::new(keeper.read_write_with(path, curator(options))?.read().clone()));
    Kind {
        open: |keeper, path| {
            Ok(Arc::new(keeper.read_write_with(path, curator(LockOptions::new()))?.read().clone()))
        },
        open_with,
        rival: |keeper, path, options| write_with(keeper, path, curator(options)),
        marker: "-__WRIT__",
        ..read_lock()
    }
}

fn curator(options: LockOptions) -> LockOptions {
    options.dialect(Dialect::Curator)
}

/// A semaphore with one permit.
pub fn semaphore() -> Kind {
    let open_with: Open = |keeper, path, options| Ok(Arc::new(keeper.semaphore_with(path, 1, options)?));
    Kind {
        open: |keeper, path| Ok(Arc::new(keeper.semaphore(path, 1)?)),
        open_with,
        rival: open_with,
        // Holders of permits are not in the queue.
        ahead: |_, waiting| waiting,
        leases: true,
        ..lock()
    }
}

/// Two paths at once. The rival names them in the opposite order.
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
        // The count adds up both queues.
        ahead: |rivals, waiting| 2 * (rivals + waiting),
        ..lock()
    }
}

fn second(path: &str) -> String {
    format!("{path}-too")
}

fn write_with(keeper: &Keeper, path: &str, options: LockOptions) -> Result<AnyLock, InvalidHandle> {
    Ok(Arc::new(keeper.read_write_with(path, options)?.write().clone()))
}

/// Generates the tests: for each set of kinds, the promises that hold for it.
///
/// | set | what the promise requires of the kind |
/// |---|---|
/// | `every_kind` | nothing |
/// | `own_nodes` | each request has a node of its own |
/// | `exclusive` | it excludes itself |
/// | `in_order` | requests of several keepers are granted one at a time, in request order |
/// | `queued` | contender nodes in the path itself, which can be listed, matched by patterns and outlive sessions |
/// | `[lock, semaphore]` | anything else; used for a single kind, or where a few kinds represent all |
macro_rules! promises {
    ($($set:tt: $($promise:ident),+ $(,)?;)+) => { $($( for_kinds!($set $promise); )+)+ };
}

/// Defines the sets. Add new kinds here.
macro_rules! for_kinds {
    (every_kind $promise:ident) => {
        for_kinds!([
            lock, write_lock, read_lock, semaphore, multi_lock, lingering_lock, lingering_read_lock,
            curator_lock, curator_read_lock
        ] $promise);
    };
    (own_nodes $promise:ident) => {
        for_kinds!([
            lock, write_lock, read_lock, semaphore, multi_lock, curator_lock, curator_read_lock
        ] $promise);
    };
    (exclusive $promise:ident) => {
        for_kinds!([lock, write_lock, semaphore, multi_lock, lingering_lock, curator_lock] $promise);
    };
    (in_order $promise:ident) => { for_kinds!([lock, write_lock, multi_lock, curator_lock] $promise); };
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

/// The operations that handles of all kinds share.
pub trait Locking: ByMessage + Send + Sync + 'static {
    fn acquire(&self) -> BoxFuture<'static, Result<AnyGuard, AcquireError>>;
    fn try_acquire(&self) -> BoxFuture<'static, Result<AnyGuard, TryAcquireError>>;
    fn acquire_timeout(&self, timeout: Duration)
    -> BoxFuture<'static, Result<AnyGuard, AcquireTimeoutError>>;
    fn listen(&self, wait: Wait, on_event: OnEvent) -> Ticket;
    fn forward(&self, wait: Wait, actor: &ActorRef<Recorded>) -> Ticket;
    fn cancel(&self, ticket: Ticket);
    /// How many contenders (or, for a semaphore, lease holders) the handle lists.
    fn listed(&self) -> BoxFuture<'_, Result<usize, QueryError>>;
}

pub type OnEvent = Box<dyn FnMut(LockEvent<AnyGuard>) + Send>;

/// Which of the three acquire calls to make.
#[derive(Clone, Copy)]
pub enum Wait {
    Forever,
    Try,
    For(Duration),
}

/// The operations that guards of all kinds share.
pub trait Holding: Send + Sync + 'static {
    fn paths(&self) -> Vec<String>;
    fn nodes(&self) -> Vec<String>;
    fn token(&self) -> FencingToken;
    fn ticket(&self) -> Ticket;
    fn state(&self) -> LeaseState;
    fn valid_until(&self) -> Option<Instant>;
    fn lost(&self) -> BoxFuture<'_, ()>;
    fn protect<'a>(&'a self, work: BoxFuture<'a, u32>) -> BoxFuture<'a, Result<u32, LostError>>;
    fn release_it(self: Box<Self>) -> BoxFuture<'static, Result<(), ReleaseError>>;
}

/// A guard of any kind. Dropping it releases the lock.
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

    fn protect<'a>(&'a self, work: BoxFuture<'a, u32>) -> BoxFuture<'a, Result<u32, LostError>> {
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
        self.tokens().next().expect("at least one path").1
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

    fn protect<'a>(&'a self, work: BoxFuture<'a, u32>) -> BoxFuture<'a, Result<u32, LostError>> {
        MultiGuard::protect(self, work).boxed()
    }

    fn release_it(self: Box<Self>) -> BoxFuture<'static, Result<(), ReleaseError>> {
        MultiGuard::release(*self).boxed()
    }
}

/// Implements [`Locking`] for a handle. The handles' methods have the same names, but the library has no trait for
/// them. `$lock` is what the acquire calls go to, and `$listed` lists the contenders.
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

            fn listen(&self, wait: Wait, mut on_event: OnEvent) -> Ticket {
                let $this = self;
                let on_event = move |event: LockEvent<_>| on_event(event.map_guard(AnyGuard::from));
                match wait {
                    Wait::Forever => $lock.acquire().listen(on_event),
                    Wait::Try => $lock.try_acquire().listen(on_event),
                    Wait::For(timeout) => $lock.acquire_timeout(timeout).listen(on_event),
                }
            }

            fn forward(&self, wait: Wait, actor: &ActorRef<Recorded>) -> Ticket {
                let $this = self;
                let convert = |event: LockEvent<_>| Recorded(event.map_guard(AnyGuard::from));
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

            fn listed(&self) -> BoxFuture<'_, Result<usize, QueryError>> {
                let $this = self;
                async { $listed.await.map(|who| who.len()) }.boxed()
            }
        }
    };
}

locking!([M: Access] Lock<M>, |this| this, this.contenders());
// A multi-lock cannot list contenders, so a plain lock on the first path does.
locking!([](MultiLock, Lock), |this| this.0, this.1.contenders());
locking!([] Semaphore, |this| this, this.lease_holders());
