//! What can be done with the record of a run (`KeeperOptions::record`): replay it through the machines, check it against
//! a specification that does not know them, and alter it to see that both notice.
// Each test uses some of it.
#![allow(dead_code, unused_imports)]

pub mod altered;
mod gaps;
mod leases;
mod locks;
mod permits;
mod queue;
mod reads;
pub mod replay;
mod requests;
pub mod specification;

pub use altered::{Change, Verdict, alter, judge, refused};
pub use replay::{Count, Difference, Replay, kind};
pub use specification::{Broken, Specification};
