//! Types that tell the kinds of locks and guards apart at compile time.

use lockkeeper_actors::machine::exclusion::Mode;

/// Marks the types of an exclusive lock.
#[derive(Debug)]
pub enum Exclusive {}
/// Marks the types of a read lock.
#[derive(Debug)]
pub enum Read {}
/// Marks the types of a write lock.
#[derive(Debug)]
pub enum Write {}
/// Marks the guard of a semaphore.
#[derive(Debug)]
pub enum Pooled {}

/// The mode in which a type of lock acquires its path. Sealed.
pub trait Access: sealed::Sealed + 'static {
    /// The mode of its contenders.
    const MODE: Mode;
}

impl Access for Exclusive {
    const MODE: Mode = Mode::Lock;
}

impl Access for Read {
    const MODE: Mode = Mode::Read;
}

impl Access for Write {
    const MODE: Mode = Mode::Write;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Exclusive {}
    impl Sealed for super::Read {}
    impl Sealed for super::Write {}
}
