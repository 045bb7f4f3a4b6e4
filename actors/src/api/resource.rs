//! The resource that a path actor is responsible for.

use std::sync::Arc;

/// A lock or a semaphore, identified by its path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// A lock or read/write lock, with the path of its directory.
    Lock(Arc<str>),
    /// A semaphore, with the path of its root.
    Semaphore(Arc<str>),
}

impl Resource {
    /// The lock at this path.
    pub fn lock(path: &str) -> Resource {
        Resource::Lock(path.into())
    }

    /// The semaphore at this path.
    pub fn semaphore(path: &str) -> Resource {
        Resource::Semaphore(path.into())
    }

    /// The lock's directory, or the semaphore's root.
    pub fn path(&self) -> &Arc<str> {
        match self {
            Resource::Lock(path) | Resource::Semaphore(path) => path,
        }
    }

    /// The directory with the contenders: the lock's own, or that of the semaphore's mutex, which is next to the root.
    pub fn queue(&self) -> Arc<str> {
        match self {
            Resource::Lock(path) => path.clone(),
            Resource::Semaphore(root) => format!("{root}{MUTEX}").into(),
        }
    }

    /// All resources that could have nodes in this directory.
    pub(crate) fn owners(directory: &str) -> impl Iterator<Item = Resource> {
        let mutex = directory.strip_suffix(MUTEX).map(Resource::semaphore);
        [Resource::lock(directory), Resource::semaphore(directory)].into_iter().chain(mutex)
    }

    /// All directories that could contain nodes of this resource.
    pub(crate) fn directories(&self) -> Vec<Arc<str>> {
        match self {
            Resource::Lock(path) => vec![path.clone()],
            Resource::Semaphore(root) => vec![root.clone(), self.queue()],
        }
    }
}

/// kazoo appends this to a semaphore's path to get the path of its mutex.
const MUTEX: &str = "-__lock__";
