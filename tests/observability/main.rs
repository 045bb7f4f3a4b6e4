//! What an operator sees: the metrics that a run emits, the table that describes them, and troubles that show in them.

#[path = "../common/mod.rs"]
mod common;

mod documents;
mod scrape;
mod table;
mod troubles;
mod values;
