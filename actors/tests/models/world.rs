//! What the models share: a server whose followers lag, sessions that lose any part of what is in flight, what an actor
//! does around its machine, and the search for states in which a property does not hold.
//!
//! - [`search`]: the search and its tables. [`budget`]: how often things may go wrong.
//! - [`gates`]: the gate between a path's events and its machine, and broken twins of it.
//! - [`replicas`]: what a server shows. [`directory`]: the contenders of one path.
//! - [`session`]: requests and answers. [`clients`]: the processes that send them. [`steps`]: what happens by itself.

pub mod budget;
pub mod clients;
pub mod directory;
pub mod gates;
pub mod replicas;
pub mod search;
pub mod session;
pub mod steps;

use std::fmt::Debug;
use std::hash::Hash;

/// What a state is made of.
pub trait Data: Clone + Debug + Eq + Hash {}

impl<T: Clone + Debug + Eq + Hash> Data for T {}
