use lockkeeper::error::InvalidHandle;
use lockkeeper::{Dialect, Keeper, Lock, LockOptions, ReadWriteLock};

/// As `new InterProcessMutex(client, path)`, and in one queue with it.
pub fn mutex(keeper: &Keeper, path: &str) -> Result<Lock, InvalidHandle> {
    keeper.lock_with(path, LockOptions::new().dialect(Dialect::Curator))
}

/// As `new InterProcessReadWriteLock(client, path)`, and in one queue with it.
pub fn read_write(keeper: &Keeper, path: &str) -> Result<ReadWriteLock, InvalidHandle> {
    keeper.read_write_with(path, LockOptions::new().dialect(Dialect::Curator))
}
