//! Reads locks and semaphores from the servers, those of kazoo's and Curator's clients as well as this library's.

use std::fmt;
use std::sync::Arc;

#[doc(inline)]
pub use lockkeeper_actors::api::contender::{Contender, LeaseHolder};
use lockkeeper_actors::api::error::QueryError;
#[doc(inline)]
pub use lockkeeper_actors::api::inspection::{
    DeleteNodeError, Entry, Inventory, PathState, Pool, Queue, Taken,
};
use lockkeeper_actors::api::lease::FencingToken;
use lockkeeper_actors::api::messages::{InspectMessage, RegistryMessage};
use lockkeeper_actors::machine::path_rules::{InvalidPath, check_path};
use tokio::sync::oneshot;

use crate::handle::Shared;

/// Reads locks and semaphores, from [`Keeper::inspector`](crate::Keeper::inspector). Cheap to clone.
///
/// It reads what the connected server knows, which may lag behind its leader for a moment. It changes nothing, except
/// by [`delete_node`](Inspector::delete_node).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
/// # let keeper = lockkeeper::Keeper::options().identifier("billing-7").connect(&zookeeper.address()).await?;
/// use lockkeeper::inspect::PathState;
///
/// let guard = keeper.lock("/locks/ledger")?.acquire().await?;
/// let found = keeper.inspector().walk("/locks").await?;
/// let Some(PathState::Lock(queue)) = found.places.first() else { panic!("a lock is held") };
/// assert_eq!(queue.path, "/locks/ledger");
/// assert_eq!(queue.holders().next().map(|holder| &*holder.contender.identifier), Some("billing-7"));
/// # drop(guard);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Inspector {
    shared: Arc<Shared>,
}

impl Inspector {
    pub(crate) fn new(shared: Arc<Shared>) -> Inspector {
        Inspector { shared }
    }

    /// Finds all locks and semaphores at and below `prefix`, which may be `/`. Reads every directory there, so it takes
    /// some round trips for each level, and for each 64 nodes.
    ///
    /// The result is not that of one moment: directories are read one after the other. What is deleted meanwhile is left
    /// out.
    ///
    /// # Errors
    ///
    /// [`InspectError`] if the prefix is not valid or a request fails. A node that may not be read is not an error: see
    /// [`Inventory::unreadable`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn walk(&self, prefix: &str) -> Result<Inventory, InspectError> {
        self.walk_again(prefix, Inventory::default()).await
    }

    /// As [`walk`](Inspector::walk), but does not read again the contenders that `known` shows. So it notices neither
    /// their new data nor new access lists. For views of large queues that are refreshed often.
    ///
    /// Errors and cancel safety are as in [`walk`](Inspector::walk).
    pub async fn walk_again(&self, prefix: &str, known: Inventory) -> Result<Inventory, InspectError> {
        if prefix != "/" {
            check_path(prefix)?;
        }
        self.ask(|reply| InspectMessage::Walk(prefix.into(), Arc::new(known), reply)).await
    }

    /// What is at `path`; `None` if there is neither a lock that somebody holds or waits for, nor a semaphore.
    ///
    /// # Errors
    ///
    /// [`InspectError`] if the path is not valid or a request fails, for example because an access list denies it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn look(&self, path: &str) -> Result<Option<PathState>, InspectError> {
        check_path(path)?;
        self.ask(|reply| InspectMessage::Look(path.into(), reply)).await
    }

    /// Waits until what is at `path` differs from `known`, the result of an earlier look, and returns it.
    ///
    /// It watches who joins and leaves, and the number of permits, so it costs nothing while nothing happens. Changes that
    /// come fast may be reported together. New data of a contender or of a permit, and new access lists, do not end the
    /// wait: they are reported with the next change of the other kinds. For the data of a leader, see
    /// [`Singleton::leaders`](crate::singleton::Singleton::leaders).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// let inspector = keeper.inspector();
    /// let free = inspector.look("/locks/ledger").await?;
    /// assert_eq!(free, None);
    /// let guard = keeper.lock("/locks/ledger")?.acquire().await?;
    /// let held = inspector.changed("/locks/ledger", free).await?;
    /// assert!(held.is_some());
    /// # drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`look`](Inspector::look). [`QueryError::Disconnected`] if the session ends meanwhile: look again.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future removes the watches.
    pub async fn changed(
        &self,
        path: &str,
        known: Option<PathState>,
    ) -> Result<Option<PathState>, InspectError> {
        check_path(path)?;
        self.ask(|reply| InspectMessage::Changed(path.into(), known, reply)).await
    }

    /// Deletes a node of a contender or of a permit, if it was created by this transaction and its data do not change
    /// during the call. `node` is its full path; the transaction is a contender's token.
    ///
    /// **This breaks a lock.** If the node's owner is alive, it notices at a heartbeat, and two may hold the lock until
    /// then. Only their tokens distinguish them. Make sure that the owner has ended.
    ///
    /// # Errors
    ///
    /// [`DeleteNodeError`] if the path is not valid, the node no longer exists, is another one, or a request fails.
    ///
    /// # Cancel safety
    ///
    /// The node may have been deleted when this future is dropped.
    pub async fn delete_node(&self, node: &str, transaction: FencingToken) -> Result<(), DeleteNodeError> {
        check_path(node)?;
        self.ask(|reply| InspectMessage::Delete(node.into(), transaction, reply.into())).await
    }

    async fn ask<T, E, F>(
        &self,
        message: impl FnOnce(oneshot::Sender<Result<T, F>>) -> InspectMessage,
    ) -> Result<T, E>
    where
        E: From<F>,
        F: From<QueryError> + PartialEq,
    {
        let (reply, answer) = oneshot::channel();
        self.shared.send(RegistryMessage::Inspect(message(reply)));
        self.shared.answered(answer.await).map_err(E::from)
    }
}

impl fmt::Debug for Inspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspector").finish_non_exhaustive()
    }
}

/// Why a place was not inspected.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InspectError {
    /// The path is not valid.
    #[error(transparent)]
    Path(#[from] InvalidPath),
    /// A request failed.
    #[error(transparent)]
    Query(#[from] QueryError),
}

impl InspectError {
    /// Whether the same call can succeed later without a change to the code or the cluster.
    pub fn is_retryable(&self) -> bool {
        match self {
            InspectError::Query(error) => error.is_retryable(),
            InspectError::Path(_) => false,
        }
    }
}
