//! Readers beside each other, writers alone.

use std::sync::Arc;

use lockkeeper_actors::machine::znode::InvalidName;

use crate::guard::{Read, Write};
use crate::handle::Shared;
use crate::lock::Lock;
use crate::options::LockOptions;

/// Waits for writers ahead, and never for readers.
pub type ReadLock = Lock<Read>;
/// Waits for everybody ahead.
pub type WriteLock = Lock<Write>;

/// The two sides of a read/write lock on one path, on the wire of kazoo's `ReadLock` and `WriteLock`.
///
/// The order is strict: a reader that comes behind a waiting writer waits for it, so that a stream of readers does
/// not keep a writer out, and all readers between two writers hold together. A guard of one side does not become one
/// of the other: whoever reads and acquires to write waits for itself.
///
/// An exclusive [`Lock`] on the same path shares the queue, but does not wait for readers, and readers wait for it:
/// that is kazoo's table. Do not mix them with readers on one path.
#[derive(Clone, Debug)]
pub struct ReadWriteLock {
    read: ReadLock,
    write: WriteLock,
}

impl ReadWriteLock {
    /// The options have been checked.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        path: &str,
        options: LockOptions,
    ) -> Result<ReadWriteLock, InvalidName> {
        let read = Lock::new(shared, path, options.clone())?;
        Ok(ReadWriteLock { read, write: Lock::new(shared, path, options)? })
    }

    /// The side that is shared.
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

    /// The side that is exclusive. Its tokens grow; so does a reader's against the writers before it, and a resource
    /// compares a reader's token with the largest *writer's* only.
    pub fn write(&self) -> &WriteLock {
        &self.write
    }
}
