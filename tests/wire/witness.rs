//! Compares what all guards of a scenario say, with each other and with what the server has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lockkeeper::{FencingToken, LeaseState};

use crate::common::kinds::AnyGuard;

/// How a guard uses a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Nobody else may hold.
    Exclusive,
    /// Only others that share may hold.
    Shared,
    /// At most this number may hold.
    Permit(usize),
}

/// The place that is used, by its number, and how.
pub type Claim = (usize, Use);

/// All guards that are held.
#[derive(Default)]
pub struct Witness(Mutex<State>);

#[derive(Default)]
struct State {
    next: u64,
    held: BTreeMap<u64, Held>,
    newest: BTreeMap<usize, Newest>,
    grants: u64,
    lost: u64,
    violations: Vec<String>,
}

struct Held {
    who: String,
    guard: AnyGuard,
    claims: Vec<Claim>,
    lost: bool,
}

/// The largest tokens at a place, with the nodes of the guards: a node that lingers has one token for all its guards.
#[derive(Default)]
struct Newest {
    exclusive: Option<(FencingToken, String)>,
    any: Option<(FencingToken, String)>,
}

impl Witness {
    /// Keeps a guard while it is held. `None` if it is lost already.
    pub fn granted(&self, who: &str, guard: AnyGuard, claims: Vec<Claim>) -> Option<u64> {
        let mut state = self.lock();
        state.grants += 1;
        if guard.state() == LeaseState::Lost {
            state.lost += 1;
            return None;
        }
        // Whoever conflicts with it and was granted later has not been granted yet.
        state.check_token(who, &guard, &claims);
        let id = state.next;
        state.next += 1;
        state.held.insert(id, Held { who: who.to_owned(), guard, claims, lost: false });
        state.check();
        Some(id)
    }

    /// Returns the guard, to release it.
    pub fn take(&self, id: u64) -> Option<AnyGuard> {
        let mut state = self.lock();
        state.check();
        let held = state.held.remove(&id)?;
        state.lost += u64::from(held.guard.state() == LeaseState::Lost);
        Some(held.guard)
    }

    /// Compares the guards with each other.
    pub fn check(&self) {
        self.lock().check();
    }

    /// The nodes of each guard that is held.
    pub fn nodes(&self) -> Vec<(u64, Vec<String>)> {
        self.lock().held.iter().map(|(id, held)| (*id, held.guard.nodes())).collect()
    }

    /// Compares guards with the server. `known` are those that were held before it was asked for its nodes.
    pub fn compare(&self, known: Vec<(u64, Vec<String>)>, nodes: &BTreeSet<String>) {
        let mut state = self.lock();
        for (id, own) in known {
            let Some(held) = state.held.get(&id) else { continue };
            let lease = held.guard.state();
            if lease != LeaseState::Lost && !own.iter().all(|node| nodes.contains(node)) {
                let text = format!("{} reads {lease:?}, but the server has not all of {own:?}", held.who);
                state.violations.push(text);
            }
        }
    }

    pub fn violation(&self, text: String) {
        self.lock().violations.push(text);
    }

    /// The number of grants, how many of them were lost, and what was wrong.
    pub fn findings(&self) -> (u64, u64, Vec<String>) {
        let state = self.lock();
        (state.grants, state.lost, state.violations.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check(&mut self) {
        // One that is not lost now was not lost earlier either: so of two that are read one after the other, both held
        // at the first reading.
        let mut found = Vec::new();
        let mut places: BTreeMap<usize, Vec<(Use, &str)>> = BTreeMap::new();
        for held in self.held.values_mut() {
            match held.guard.state() {
                LeaseState::Lost => held.lost = true,
                state if held.lost => found.push(format!("{} reads {state:?} after Lost", held.who)),
                LeaseState::Held | LeaseState::Suspended => {
                    for (place, usage) in &held.claims {
                        places.entry(*place).or_default().push((*usage, &held.who));
                    }
                }
            }
        }
        for (place, users) in places {
            let allowed = users.iter().all(|(usage, _)| match usage {
                Use::Exclusive => users.len() == 1,
                Use::Shared => users.iter().all(|(other, _)| *other == Use::Shared),
                Use::Permit(limit) => users.len() <= *limit,
            });
            if !allowed {
                found.push(format!("all of {users:?} hold at place {place}"));
            }
        }
        self.violations.extend(found);
    }

    fn check_token(&mut self, who: &str, guard: &AnyGuard, claims: &[Claim]) {
        let (token, nodes) = (guard.token(), guard.nodes());
        for (place, usage) in claims {
            let newest = self.newest.entry(*place).or_default();
            let before = match usage {
                Use::Exclusive => &newest.any,
                Use::Shared => &newest.exclusive,
                Use::Permit(_) => continue,
            };
            if let Some((largest, node)) = before {
                if token < *largest || (token == *largest && !nodes.contains(node)) {
                    self.violations.push(format!("{who} has {token} at place {place} after {largest}"));
                }
            }
            let Some(node) = nodes.get(claims.iter().position(|claim| claim.0 == *place).unwrap_or(0)) else {
                continue;
            };
            let mine = Some((token, node.clone()));
            if *usage == Use::Exclusive {
                newest.exclusive.clone_from(&mine);
            }
            if newest.any.as_ref().is_none_or(|(largest, _)| *largest < token) {
                newest.any = mine;
            }
        }
    }
}
