//! What can be done with the record of a run (`KeeperOptions::record`).

pub mod replay;

pub use replay::{Count, Difference, Replay, kind};
