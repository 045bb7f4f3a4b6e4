//! What is acquired: a lock, one side of a read/write lock, permits of a semaphore, or several locks.

use std::fmt;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use lockkeeper::error::{AcquireError, AcquireTimeoutError, ReleaseError, TryAcquireError};
use lockkeeper::run::LeaseView;
use lockkeeper::{FencingToken, Guard, Keeper, Lock, Mode, MultiLock, ReadLock, Semaphore, WriteLock};
use tokio::time::timeout;

use super::options::RunArgs;
use crate::exit::{Exit, Failure, with_source};

/// What the arguments ask for.
pub struct Request<'a> {
    args: &'a RunArgs,
    keeper: &'a Keeper,
    target: Target,
}

enum Target {
    Lock(Lock),
    Read(ReadLock),
    Write(WriteLock),
    Permits(Semaphore, u32),
    Several(MultiLock),
}

/// What was acquired. Dropping it releases it.
pub struct Held {
    /// The lease of all of it.
    pub lease: LeaseView,
    tokens: Vec<(String, FencingToken)>,
    nodes: Vec<String>,
    release: BoxFuture<'static, Result<(), ReleaseError>>,
}

impl<'a> Request<'a> {
    pub fn new(args: &'a RunArgs, keeper: &'a Keeper) -> Result<Request<'a>, Failure> {
        let options = args.lock_options();
        let target = match (&*args.paths, args.permits, args.mode()) {
            ([path], Some(permits), _) => Target::Permits(
                match args.of {
                    Some(of) => keeper.semaphore(path, of)?,
                    None => keeper.semaphore_stored(path)?,
                },
                permits,
            ),
            ([path], None, Mode::Read) => Target::Read(keeper.read_write_with(path, options)?.read().clone()),
            ([path], None, Mode::Write) => {
                Target::Write(keeper.read_write_with(path, options)?.write().clone())
            }
            ([path], None, _) => Target::Lock(keeper.lock_with(path, options)?),
            (paths, _, mode) => {
                let parts = paths.iter().map(|path| (path, mode));
                Target::Several(keeper.multi_lock_with(parts, options)?)
            }
        };
        Ok(Request { args, keeper, target })
    }

    /// Acquires, waiting for as long as the arguments say. Cancel safe: dropping the future withdraws the request.
    pub async fn acquire(&self) -> Result<Held, Failure> {
        macro_rules! acquire {
            ($held:expr, $try:expr, $timeout:expr, $forever:expr) => {
                match (self.args.once, self.args.wait) {
                    (true, _) => $try.await.map($held).map_err(|error| self.not_tried(error)),
                    (false, Some(time)) => match $timeout(time).await {
                        Ok(guard) => Ok($held(guard)),
                        Err(error) => Err(self.not_in_time(error).await),
                    },
                    (false, None) => $forever.await.map($held).map_err(|error| refused(&error)),
                }
            };
        }
        macro_rules! acquire_lock {
            ($lock:expr, $held:expr) => {
                acquire!($held, $lock.try_acquire(), |time| $lock.acquire_timeout(time), $lock.acquire())
            };
        }
        match &self.target {
            Target::Lock(lock) => acquire_lock!(lock, Held::of),
            Target::Read(lock) => acquire_lock!(lock, Held::of),
            Target::Write(lock) => acquire_lock!(lock, Held::of),
            Target::Several(locks) => acquire_lock!(locks, Held::of_several),
            Target::Permits(semaphore, count) => acquire!(
                Held::of_permits,
                semaphore.try_acquire_many(*count),
                |time| semaphore.acquire_many_timeout(*count, time),
                semaphore.acquire_many(*count)
            ),
        }
    }

    fn not_tried(&self, error: TryAcquireError) -> Failure {
        match error {
            TryAcquireError::Failed(error) => refused(&error),
            TryAcquireError::Contended { .. } => self.not_acquired("another contender is ahead"),
            TryAcquireError::Suspended => no_server(),
            error => Failure::new(Exit::Failure, error),
        }
    }

    async fn not_in_time(&self, error: AcquireTimeoutError) -> Failure {
        match error {
            AcquireTimeoutError::Failed(error) => refused(&error),
            AcquireTimeoutError::TimedOut { .. } if !self.servers_answer().await => no_server(),
            AcquireTimeoutError::TimedOut { .. } => self.not_acquired(error),
            error => Failure::new(Exit::Failure, error),
        }
    }

    /// Whether a server answers a question, whatever the answer. A timeout does not tell a contender from an outage, and
    /// the keeper notices a silent connection only after a part of the session timeout.
    async fn servers_answer(&self) -> bool {
        const LIMIT: Duration = Duration::from_secs(2);
        // One read of one node, which need not be a semaphore.
        let Ok(node) = self.keeper.semaphore_stored(&self.args.paths[0]) else { return true };
        match timeout(LIMIT, node.limit()).await {
            Ok(Err(error)) => Failure::from(error).exit != Exit::NoServer,
            Ok(Ok(_)) => true,
            Err(_) => false,
        }
    }

    fn not_acquired(&self, why: impl fmt::Display) -> Failure {
        let exit = self.args.conflict_exit_code.map_or(Exit::NotAcquired, Exit::Code);
        Failure::new(exit, format!("not acquired: {why}"))
    }
}

fn no_server() -> Failure {
    Failure::new(Exit::NoServer, "not acquired: the connection to ZooKeeper broke, or no server answers")
}

impl Held {
    fn of<M: 'static>(guard: Guard<M>) -> Held {
        Held {
            lease: guard.view(),
            tokens: vec![(guard.path().to_owned(), guard.token())],
            nodes: vec![guard.node().to_owned()],
            release: async move { guard.release().await }.boxed(),
        }
    }

    fn of_permits(permit: lockkeeper::Permit) -> Held {
        let nodes = permit.nodes().to_vec();
        Held { nodes, ..Held::of(permit) }
    }

    fn of_several(guard: lockkeeper::MultiGuard) -> Held {
        Held {
            lease: guard.view(),
            tokens: guard.tokens().map(|(path, token)| (path.to_owned(), token)).collect(),
            nodes: guard.nodes().map(str::to_owned).collect(),
            release: async move { guard.release().await }.boxed(),
        }
    }

    /// The variables that the command finds in its environment.
    pub fn variables(&self) -> [(&'static str, String); 3] {
        let lines = |texts: Vec<String>| texts.join("\n");
        let (paths, tokens) =
            self.tokens.iter().map(|(path, token)| (path.clone(), token.to_string())).unzip();
        [
            ("LOCKKEEPER_TOKEN", lines(tokens)),
            ("LOCKKEEPER_PATH", lines(paths)),
            ("LOCKKEEPER_NODE", lines(self.nodes.clone())),
        ]
    }

    /// Releases, and waits until the server has confirmed it, or the lease has ended.
    pub async fn release(self) {
        // A lease that has ended before is released, too.
        let _ = self.release.await;
    }
}

/// A request that failed for another reason than a contender.
fn refused(error: &AcquireError) -> Failure {
    let exit = match error {
        AcquireError::NoAuth { .. } => Exit::Denied,
        _ => Exit::Failure,
    };
    Failure::new(exit, with_source(error))
}
