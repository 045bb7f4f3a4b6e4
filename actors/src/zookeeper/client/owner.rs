//! Which session owns the nodes that a connection creates.

use std::collections::HashSet;
use std::iter;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;
use zookeeper_client as zk;

use super::{commit, parent};

/// The directories in which contenders were last created, or may have been. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct LastDirectories(Arc<Mutex<Last>>);

#[derive(Default)]
struct Last {
    /// Where the last create was sent to, which may have been refused.
    tried: String,
    /// Where the last one succeeded.
    succeeded: String,
}

impl LastDirectories {
    /// A create of a node with this path is about to be sent.
    pub fn tried(&self, path: &str) {
        set(&mut self.last().tried, path);
    }

    pub fn succeeded(&self, path: &str) {
        set(&mut self.last().succeeded, path);
    }

    /// First `directories`, then these two.
    pub fn after(&self, directories: &[String]) -> Vec<String> {
        let last = self.last();
        let two = [&last.succeeded, &last.tried].into_iter().filter(|directory| !directory.is_empty());
        directories.iter().chain(two).cloned().collect()
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn set(last: &mut String, path: &str) {
    let directory = parent(path);
    if last != directory {
        directory.clone_into(last);
    }
}

/// Asks in the first of these directories where it can, or else above them: any node will do, and the directory of a
/// contender that has left may be gone. `None` without a directory.
pub(super) async fn owner(client: &zk::Client, directories: &[String]) -> Result<Option<i64>, zk::Error> {
    let above = directories.iter().flat_map(|directory| ancestors(directory));
    let (mut asked, mut refused) = (HashSet::new(), None);
    let all = directories.iter().map(String::as_str).chain(above);
    for directory in all.filter(|directory| asked.insert(*directory)) {
        match owner_in(client, directory).await {
            Err(error @ (zk::Error::NoNode | zk::Error::NoAuth)) => refused = Some(error),
            answer => return answer,
        }
    }
    refused.map_or(Ok(None), Err)
}

/// The directories above this one, the nearest first.
fn ancestors(directory: &str) -> impl Iterator<Item = &str> {
    iter::successors(Some(directory), |below| (*below != "/").then(|| parent(below))).skip(1)
}

/// Creates and deletes a node in one transaction, so nobody else ever sees it, and returns the session that owned it.
///
/// `None` if the server leaves out the stat of a create in a transaction (ZOOKEEPER-4026). Only releases of ZooKeeper
/// itself do that, those before 3.7.2 and 3.8.2, and they never answer a reconnect with another session.
async fn owner_in(client: &zk::Client, directory: &str) -> Result<Option<i64>, zk::Error> {
    // This name matches no contender of any dialect.
    let path = format!("{}/session-check-{}", directory.trim_end_matches('/'), Uuid::new_v4().simple());
    let options = zk::CreateMode::Ephemeral.with_acls(zk::Acls::anyone_all());
    let mut multi = client.new_multi_writer();
    multi.add_create(&path, &[], &options)?;
    multi.add_delete(&path, None)?;
    match commit(multi, 2).await?.into_iter().next() {
        Some(zk::MultiWriteResult::Create { stat, .. }) => {
            Ok((!stat.is_invalid()).then_some(stat.ephemeral_owner))
        }
        Some(_) | None => Err(zk::Error::UnexpectedError("the answer to a create has another type".into())),
    }
}
