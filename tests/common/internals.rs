//! For tests that drive the actors directly instead of through the public API.

use std::sync::Arc;
use std::time::Duration;

use lockkeeper_actors::api::request::ContenderOptions;
use lockkeeper_actors::keeper::{KeeperSettings, RestartPolicy, Started};
use lockkeeper_actors::machine::exclusion::{Dialect, Mode};
use lockkeeper_actors::metrics::Metrics;
use lockkeeper_actors::zookeeper::{Acl, AuthId, Connect, Permission};
use lockkeeper_actors::{Clock, Randomness};

use super::client::catch_up;
use super::{SOON, eventually};

/// The default settings of a keeper that connects with this connector.
pub fn keeper_settings(connector: Arc<dyn Connect>) -> KeeperSettings {
    KeeperSettings {
        clock: Clock::start(),
        connector,
        connect_timeout: SOON,
        tick: None,
        randomness: Randomness::default(),
        restart: RestartPolicy::default(),
        close_timeout: None,
        metrics: Metrics::new(Vec::new()),
        recording: None,
    }
}

/// The default options of a lock's contender.
pub fn contender_options() -> Arc<ContenderOptions> {
    Arc::new(ContenderOptions {
        mode: Mode::Lock,
        dialect: Dialect::Kazoo,
        identifier: Arc::default(),
        patterns: Default::default(),
        ephemeral: true,
        container: false,
        acl: [Acl::new(Permission::ALL, AuthId::anyone())].into(),
        max_waiting: None,
        linger: None,
        chroot: 0,
        counted: true,
    })
}

/// Kills the actors of the session, but not those of the locks.
pub fn kill_session_actors(started: &Started) {
    let registry = started.registry.get_id();
    let children = started.keeper.get_children().into_iter();
    children.filter(|actor| actor.get_id() != registry).for_each(|actor| actor.kill());
}

/// Waits until a directory has no nodes.
pub async fn until_no_nodes(observer: &zookeeper_client::Client, directory: &str, within: Duration) {
    eventually(&format!("{directory} is empty"), within, async || {
        catch_up(observer).await;
        observer.list_children(directory).await.is_ok_and(|children| children.is_empty())
    })
    .await;
}
