//! The JSON of `ls` and `show`, which `docs/cli.md` describes. Members may be added; none is removed or changed.
//!
//! Tokens have up to 63 bits and sessions 64, more than many readers of JSON keep, so both are strings.

use std::time::SystemTime;

use lockkeeper::Dialect;
use lockkeeper::inspect::{Entry, Inventory, PathState, Pool, Queue, Taken};
use serde_json::{Value, json};

use super::{kind, mode, waiters};

pub fn list(found: &Inventory, now: SystemTime) -> Value {
    let places: Vec<Value> = found.places.iter().map(|place| summary(place, now)).collect();
    json!({ "places": places, "unreadable": found.unreadable })
}

pub fn show(path: &str, state: Option<&PathState>, now: SystemTime) -> Value {
    let queue =
        |queue: &Queue| -> Vec<Value> { queue.entries.iter().map(|it| entry(it, queue, now)).collect() };
    match state {
        None => json!({ "path": path, "kind": null, "queue": [] }),
        Some(PathState::Semaphore(pool)) => json!({
            "path": path,
            "kind": "semaphore",
            "permits": permits(pool),
            "taken": pool.taken.iter().map(|it| permit(it, now)).collect::<Vec<_>>(),
            "queue": queue(&pool.mutex),
        }),
        Some(state) => json!({ "path": path, "kind": kind(state), "queue": queue(state.queue()) }),
    }
}

fn summary(place: &PathState, now: SystemTime) -> Value {
    let waiting = waiters(place);
    let oldest = waiting.iter().filter_map(|entry| entry.created).min();
    let holders: Vec<Value> = match place {
        PathState::Semaphore(pool) => pool.taken.iter().map(|it| permit(it, now)).collect(),
        state => state.queue().holders().map(|it| entry(it, state.queue(), now)).collect(),
    };
    let permits = match place {
        PathState::Semaphore(pool) => permits(pool),
        _ => Value::Null,
    };
    json!({
        "path": place.path(),
        "kind": kind(place),
        "permits": permits,
        "holders": holders,
        "waiters": waiting.len(),
        "oldest_wait_ms": oldest.map(|created| age(created, now)),
    })
}

fn permits(pool: &Pool) -> Value {
    json!({ "limit": pool.limit, "taken": pool.taken.len() })
}

fn entry(entry: &Entry, queue: &Queue, now: SystemTime) -> Value {
    let contender = &entry.contender;
    let dialect = match entry.dialect {
        Dialect::Curator => "curator",
        _ => "kazoo",
    };
    let ahead = entry.waits_for.and_then(|position| queue.entries.get(position));
    json!({
        "position": contender.position,
        "node": contender.name,
        "mode": mode(entry),
        "dialect": dialect,
        "identifier": entry.readable.then_some(&contender.identifier),
        "session": contender.session.map(|session| format!("{session:#x}")),
        // It is zero if the server does not show the node.
        "token": entry.created.map(|_| contender.token.to_string()),
        "age_ms": entry.created.map(|created| age(created, now)),
        "waits_for": ahead.map(|ahead| &ahead.contender.name),
    })
}

fn permit(taken: &Taken, now: SystemTime) -> Value {
    json!({
        "node": taken.holder.name,
        "identifier": taken.readable.then_some(&taken.holder.identifier),
        "session": taken.holder.session.map(|session| format!("{session:#x}")),
        "age_ms": taken.created.map(|created| age(created, now)),
    })
}

fn age(created: SystemTime, now: SystemTime) -> u64 {
    now.duration_since(created).map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}
