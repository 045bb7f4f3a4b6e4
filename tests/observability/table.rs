//! The documented table is what keepers describe, and what a run emits.

use std::collections::{BTreeMap, BTreeSet};

use lockkeeper::{Keeper, LockOptions};

use crate::common::{BRISK, Runner, SOON, connect_for, eventually, shared, unique_path};
use crate::documents::{self, labels, metrics};
use crate::scrape::Scrape;

#[tokio::test]
async fn the_table_is_what_a_keeper_describes() {
    let scrape = Scrape::start();
    let installed = scrape.installed();
    let keeper = connect_for(BRISK).await;
    let described = scrape.described().into_iter();
    let described: BTreeMap<_, _> = described
        .map(|(name, (kind, unit))| (name, (kind.to_owned(), documents::unit(unit).to_owned())))
        .collect();
    let documented: BTreeMap<_, _> =
        metrics().into_iter().map(|(name, row)| (name, (row.kind, row.unit))).collect();
    assert_eq!(described, documented);
    keeper.close().await;
    drop(installed);
}

#[tokio::test]
async fn a_run_emits_all_metrics_of_the_table_with_their_labels_and_no_others() {
    let scrape = Scrape::start();
    let installed = scrape.installed();
    let path = unique_path("metrics");
    let options = Keeper::options().session_timeout(BRISK).metric_paths([&path]);
    let keeper = options.connect(&shared().address()).await.expect("should connect");
    run_each_kind(&keeper, &path).await;
    eventually("the lease was extended", SOON, async || {
        scrape.value("lockkeeper_lease_margin_seconds_count", &[]) > Some(0.0)
    })
    .await;

    let (table, types) = (metrics(), scrape.types());
    let documented: BTreeMap<_, _> =
        table.iter().map(|(name, row)| (name.clone(), row.kind.clone())).collect();
    assert_eq!(types, documented);
    let mut emitted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for series in scrape.series() {
        let name = types.keys().filter(|name| series.name.starts_with(*name)).max_by_key(|name| name.len());
        let labels = series.labels.into_keys().filter(|label| label != "le");
        emitted.entry(name.expect("a documented metric").clone()).or_default().extend(labels);
    }
    let documented: BTreeMap<_, _> = table.into_iter().map(|(name, row)| (name, row.labels)).collect();
    assert_eq!(emitted, documented);
    for (label, values) in labels() {
        let emitted = scrape.label_values(&label);
        match label.as_str() {
            "path" => assert_eq!(emitted, [path.clone()].into()),
            _ => assert_eq!(emitted, values, "{label}"),
        }
    }
    keeper.close().await;
    drop(installed);
}

/// Every kind is granted once; a lingering lock twice.
async fn run_each_kind(keeper: &Keeper, path: &str) {
    let lingers = LockOptions::new().linger(SOON);
    let lock = keeper.lock_with(path, lingers).expect("a valid path");
    lock.acquire().await.expect("it is free").release().await.expect("it is held");
    lock.acquire().await.expect("it is free").release().await.expect("it is held");
    lock.let_go().await.expect("there is a session");
    let both = keeper.read_write(&format!("{path}-both")).expect("a valid path");
    drop(both.read().acquire().await.expect("it is free"));
    drop(both.write().acquire().await.expect("it is free"));
    let pool = keeper.semaphore(&format!("{path}-pool"), 2).expect("a valid path");
    drop(pool.acquire().await.expect("it is free"));
    let two = [format!("{path}-a"), format!("{path}-b")];
    drop(keeper.multi_lock(two).expect("valid paths").acquire().await.expect("they are free"));
    let singleton = keeper.singleton(&format!("{path}-singleton")).expect("a valid path");
    let mut candidate = singleton.run(|lease| (Runner, lease), Some);
    candidate.running().await.expect("it runs");
    candidate.shutdown().await;
}
