//! Read/write locks.

use std::sync::Arc;

use lockkeeper_actors::machine::path_rules::InvalidPath;

use crate::handle::Shared;
use crate::lock::Lock;
use crate::marker::{Read, Write};
use crate::options::LockOptions;

/// The read side. It waits for writers ahead in the queue, not for readers.
pub type ReadLock = Lock<Read>;
/// The write side. It waits for all contenders ahead in the queue.
pub type WriteLock = Lock<Write>;

/// A read/write lock on one path, compatible with kazoo's `ReadLock` and `WriteLock`. Many readers, or one writer, hold
/// it at a time.
///
/// The queue is strict: a reader waits for every writer ahead of it, so a stream of readers cannot starve a writer. All
/// readers between two writers hold together. A read guard cannot be upgraded: a task that holds one and acquires the
/// write side waits for itself.
///
/// Do not use an exclusive [`Lock`] and readers on the same path. As in kazoo, they share the queue and the reader
/// waits for the lock, but the lock does not wait for the reader.
#[derive(Clone, Debug)]
pub struct ReadWriteLock {
    read: ReadLock,
    write: WriteLock,
}

impl ReadWriteLock {
    /// Expects options that have been [checked](LockOptions::checked).
    pub(crate) fn new(
        shared: &Arc<Shared>,
        path: &str,
        options: LockOptions,
    ) -> Result<ReadWriteLock, InvalidPath> {
        let read = Lock::new(shared, path, options.clone())?;
        Ok(ReadWriteLock { read, write: Lock::new(shared, path, options)? })
    }

    /// The read side.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// let index = keeper.read_write("/locks/index")?;
    /// let (one, another) = (index.read().acquire().await?, index.read().acquire().await?);
    /// assert!(index.write().try_acquire().await.is_err());
    /// # drop((one, another));
    /// # Ok(())
    /// # }
    /// ```
    pub fn read(&self) -> &ReadLock {
        &self.read
    }

    /// The write side.
    ///
    /// A writer's fencing token is larger than those of all earlier readers, and not smaller than those of earlier
    /// writers: equal only if they share a node that [lingers](crate::LockOptions::linger). A reader's is larger than
    /// those of all earlier writers, so a resource must compare it only with the largest *writer's* token.
    pub fn write(&self) -> &WriteLock {
        &self.write
    }
}
