//! Finds all locks and semaphores below a path.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt};

use super::look::{Directory, join, list, mutex_of, pool, queue};
use crate::api::error::QueryError;
use crate::api::inspection::{Entry, Inventory, PathState};
use crate::machine::Failure;
use crate::zookeeper::inspection::Inspection;

/// Walks from `prefix` downwards. Nodes that `known` shows are not read again. A node that is deleted meanwhile is left
/// out. The result is not one moment's: the directories are read one after the other.
pub(crate) async fn walk(
    client: Arc<dyn Inspection>,
    prefix: Arc<str>,
    known: Arc<Inventory>,
) -> Result<Inventory, QueryError> {
    let mut found = Inventory::default();
    let mut level = vec![prefix.to_string()];
    let mut directories = BTreeMap::new();
    while !level.is_empty() {
        let mut next = Vec::new();
        let lists = stream::iter(level).map(|path| {
            let listed = list(&client, &path);
            async move { (path, listed.await) }
        });
        let mut lists = lists.buffered(DIRECTORIES);
        while let Some((path, listed)) = lists.next().await {
            match listed {
                Ok(directory) => {
                    next.extend(directory.directories(&path).map(|name| join(&path, name)));
                    // The mutex of a semaphore is beside it, so it is not below the prefix.
                    if path == *prefix && directory.has_number() {
                        next.push(mutex_of(&path));
                    }
                    if directory.is_empty() && path != *prefix {
                        found.empty.push(path.clone());
                    }
                    directories.insert(path, directory);
                }
                Err(Failure::NoNode) => {}
                Err(Failure::NoAuth) => found.unreadable.push(path),
                Err(failure) => return Err(QueryError::new(&path, failure)),
            }
        }
        level = next;
    }
    let known = entries_of(&known);
    let mut mutexes = BTreeSet::new();
    for (path, directory) in &directories {
        let mutex = mutex_of(path);
        if !directory.is_semaphore(directories.contains_key(&mutex)) {
            continue;
        }
        let queue = match directories.get(&mutex) {
            Some(directory) => queue(&client, &mutex, directory, &known).await?,
            None => queue(&client, &mutex, &Directory::default(), &known).await?,
        };
        found.places.push(PathState::Semaphore(pool(&client, path, directory, queue).await?));
        mutexes.insert(mutex);
    }
    for (path, directory) in &directories {
        let is_semaphore = mutexes.contains(&mutex_of(path));
        if !is_semaphore && !mutexes.contains(path) && directory.has_contenders() {
            found.places.push(PathState::Lock(queue(&client, path, directory, &known).await?));
        }
    }
    found.places.sort_by(|a, b| a.path().cmp(b.path()));
    let of_semaphores = |path: &String| !mutexes.contains(path) && !mutexes.contains(&mutex_of(path));
    found.empty.retain(of_semaphores);
    for place in &found.places {
        found.unreadable.extend(unreadable_nodes(place));
    }
    found.unreadable.sort();
    Ok(found)
}

/// How many directories are listed at a time.
const DIRECTORIES: usize = 64;

/// The nodes that are known already, by their paths.
fn entries_of(known: &Inventory) -> BTreeMap<String, Entry> {
    let queues = known.places.iter().map(PathState::queue);
    let entries = queues.flat_map(|queue| queue.entries.iter().map(|entry| (&queue.path, entry)));
    entries.map(|(path, entry)| (join(path, &entry.contender.name), entry.clone())).collect()
}

fn unreadable_nodes(place: &PathState) -> Vec<String> {
    let queue = place.queue();
    let in_queue = queue.entries.iter().filter(|entry| !entry.readable);
    let mut nodes: Vec<String> = in_queue.map(|entry| join(&queue.path, &entry.contender.name)).collect();
    if let PathState::Semaphore(pool) = place {
        let taken = pool.taken.iter().filter(|taken| !taken.readable);
        nodes.extend(taken.map(|taken| join(&pool.path, &taken.holder.name)));
    }
    nodes
}
