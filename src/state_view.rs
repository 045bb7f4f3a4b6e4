//! A view of the state of a keeper's session.

use std::fmt;

use lockkeeper_actors::api::keeper_state::{KeeperState, SessionStatus};
use tokio::sync::watch;

/// A view of the state of a keeper's session, from [`Keeper::state`](crate::Keeper::state). It does not keep the keeper
/// open, and can be used in any task.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
/// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
/// let mut state = keeper.state();
/// let logged = tokio::spawn(async move {
///     while let Some(now) = state.changed().await {
///         println!("the session is {:?}", now.status);
///     }
/// });
/// keeper.close().await;
/// logged.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct StateView {
    states: watch::Receiver<KeeperState>,
    /// The newest state that was looked at is the last one.
    over: bool,
}

impl StateView {
    /// A view that has seen the current state.
    pub(crate) fn new(states: watch::Receiver<KeeperState>) -> StateView {
        let mut view = StateView { states, over: false };
        view.look();
        view
    }

    /// The state at this moment.
    pub fn get(&self) -> KeeperState {
        *self.states.borrow()
    }

    /// Waits until the state changes, and returns the new one. States of short duration may be missed, but never the
    /// newest: [`Keeper::events`](crate::Keeper::events) has them all. The last one has the status
    /// [`Closed`](SessionStatus::Closed). After that, and if the keeper was closed before, this returns `None` at once.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the next call returns a change that was not returned.
    pub async fn changed(&mut self) -> Option<KeeperState> {
        if self.over {
            return None;
        }
        self.states.changed().await.ok()?;
        Some(self.look())
    }

    /// Waits for a state that is `wanted`, and returns it, at once if the current state is. `None` if the keeper was
    /// closed, or gave up, and that is not `wanted`. States of short duration may be missed, as by
    /// [`changed`](StateView::changed), which regards each state that was passed to `wanted` as seen.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// use lockkeeper::session::SessionStatus;
    ///
    /// let mut state = keeper.state();
    /// let connected = state.wait_for(|state| state.status == SessionStatus::Connected).await;
    /// assert_eq!(connected.map(|state| state.epoch), Some(1));
    /// keeper.close().await;
    /// assert_eq!(state.wait_for(|state| state.status == SessionStatus::Connected).await, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the next call looks at the current state first.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(KeeperState) -> bool) -> Option<KeeperState> {
        let mut state = self.look();
        while !wanted(state) {
            state = self.changed().await?;
        }
        Some(state)
    }

    /// The state at this moment, which then counts as seen.
    fn look(&mut self) -> KeeperState {
        let state = *self.states.borrow_and_update();
        self.over = state.status == SessionStatus::Closed;
        state
    }
}

impl fmt::Debug for StateView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StateView").field(&self.get()).finish()
    }
}
