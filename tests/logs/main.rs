//! What the log says: every span and event is in the table of `docs/logs.md`, and each trouble of an operator is in it.

mod capture;
#[path = "../common/mod.rs"]
mod common;
mod source;
mod troubles;

use std::collections::BTreeSet;

/// A row of the table, without its last column: the level, the module, the message and the names of the fields.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    level: String,
    module: String,
    message: String,
    fields: BTreeSet<String>,
}

#[test]
fn the_table_has_what_stands_in_the_source_and_nothing_else() {
    let (table, source) = (table(), source::rows());
    assert!(table.len() > 40, "{table:?}");
    let missing: Vec<&Row> = source.difference(&table).collect();
    let outdated: Vec<&Row> = table.difference(&source).collect();
    assert!(missing.is_empty() && outdated.is_empty(), "missing: {missing:#?}\noutdated: {outdated:#?}");
}

/// The table of spans and that of events.
fn table() -> BTreeSet<Row> {
    let (_, tables) =
        include_str!("../../docs/logs.md").split_once("## All spans and events\n").expect("a heading");
    let tables = tables.split("\n## ").next().unwrap_or_default();
    tables.lines().filter_map(|line| line.strip_prefix("| `")).map(row).collect()
}

fn row(line: &str) -> Row {
    let columns: Vec<&str> = line.split(" | ").collect();
    let [level, module, message, fields, _] = columns[..] else { panic!("five columns: {line}") };
    Row {
        level: level.trim_matches('`').to_owned(),
        module: module.trim_matches('`').to_owned(),
        message: message.to_owned(),
        fields: fields.split('`').skip(1).step_by(2).map(str::to_owned).collect(),
    }
}
