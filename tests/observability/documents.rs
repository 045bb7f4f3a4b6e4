//! The documented tables, and the dashboard and the rules that are made from them.

use std::collections::{BTreeMap, BTreeSet};

use metrics::Unit;

use crate::scrape::BUCKETS;

const PAGE: &str = include_str!("../../docs/observability.md");

/// A row of the table of metrics.
pub struct Row {
    pub kind: String,
    pub unit: String,
    pub labels: BTreeSet<String>,
}

/// The table of metrics, by name.
pub fn metrics() -> BTreeMap<String, Row> {
    let row = |columns: Vec<&str>| {
        let row = Row {
            kind: columns[1].to_owned(),
            unit: columns[2].to_owned(),
            labels: code(columns[3]).collect(),
        };
        (code(columns[0]).next().expect("a name"), row)
    };
    rows("## Metrics").map(row).collect()
}

/// The values of each label.
pub fn labels() -> BTreeMap<String, BTreeSet<String>> {
    rows("## Labels")
        .map(|columns| (code(columns[0]).next().expect("a label"), code(columns[1]).collect()))
        .collect()
}

pub fn unit(unit: Option<Unit>) -> &'static str {
    unit.map_or("none", |unit| unit.as_str())
}

/// The rows of the table under a heading, as columns.
fn rows(heading: &str) -> impl Iterator<Item = Vec<&'static str>> {
    let (_, section) = PAGE.split_once(heading).expect("the heading");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `").map(|_| line));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
}

fn code(column: &str) -> impl Iterator<Item = String> + '_ {
    column.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// The names of metrics in a text, without what Prometheus adds to those of histograms.
fn named_in(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let names = text
        .match_indices("lockkeeper_")
        .map(|(at, _)| text[at..].split(|c| !is_name(c)).next().unwrap_or_default());
    let bare = |name: &str| {
        let suffix = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix));
        suffix.unwrap_or(name).to_owned()
    };
    names.map(bare).collect()
}

#[test]
fn the_dashboard_and_the_rules_name_documented_metrics_only() {
    let documented: BTreeSet<String> = metrics().into_keys().collect();
    let dashboard = include_str!("../../docs/observability/grafana.json");
    let rules = include_str!("../../docs/observability/alerts.yml");
    for (file, text, at_least) in [("the dashboard", dashboard, 15), ("the rules", rules, 10)] {
        let named = named_in(text);
        assert!(named.len() >= at_least, "{file}: {named:?}");
        assert_eq!(named.difference(&documented).collect::<Vec<_>>(), Vec::<&String>::new(), "{file}");
    }
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).expect("valid JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    for panel in panels {
        let targets = panel["targets"].as_array().map_or(0, Vec::len);
        assert!(panel["title"].is_string() && (targets > 0 || panel["type"] == "row"), "{panel}");
    }
}

#[test]
fn every_trouble_in_bold_has_a_rule() {
    let rules = include_str!("../../docs/observability/alerts.yml");
    let (_, table) = PAGE.split_once("## Metrics").expect("the heading");
    let troubles: Vec<&str> =
        table.split("\n## ").next().unwrap_or_default().split("**").skip(1).step_by(2).collect();
    assert_eq!(troubles.len(), 6, "{troubles:?}");
    for trouble in troubles {
        assert!(rules.contains(&format!("trouble: {trouble}\n")), "no rule for a {trouble}");
    }
}

#[test]
fn the_documented_buckets_are_those_of_the_tests_and_of_the_example() {
    let buckets = format!("{BUCKETS:?}");
    for (file, text) in [("the page", PAGE), ("the example", include_str!("../../examples/metrics.rs"))] {
        assert!(text.contains(&buckets), "{file} has not {buckets}");
    }
}
