//! Answers that no ZooKeeper server gives become errors. The outcome of their requests is unknown.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use zookeeper_client as zk;

/// The id of the transaction that created a node, which becomes a fencing token. ZooKeeper's ids are positive.
pub(super) fn created_by(stat: &zk::Stat) -> Result<i64, zk::Error> {
    match stat.czxid {
        czxid @ 1.. => Ok(czxid),
        czxid => Err(zk::Error::UnexpectedError(format!("a node created by the transaction {czxid}"))),
    }
}

/// Commits a transaction of this number of operations. An answer that does not fit to them does not tell the outcome.
pub(super) async fn commit(
    mut multi: zk::MultiWriter<'_>,
    operations: usize,
) -> Result<Vec<zk::MultiWriteResult>, zk::MultiWriteError> {
    let strange = |what| Err(zk::MultiWriteError::RequestFailed { source: zk::Error::UnexpectedError(what) });
    match caught(multi.commit()).await {
        Ok(results) if results.len() != operations => {
            strange(format!("{} results of a transaction of {operations} operations", results.len()))
        }
        Err(zk::MultiWriteError::OperationFailed { index, .. }) if index >= operations => {
            strange(format!("operation {index} of a transaction of {operations} operations has failed"))
        }
        outcome => outcome,
    }
}

/// Turns a panic of the client into an error. It panics at some answers that are too short.
pub(super) fn caught<T, E: From<zk::Error>>(
    answer: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<T, E>> {
    AssertUnwindSafe(answer).catch_unwind().map(|outcome| {
        outcome.unwrap_or_else(|_| {
            Err(zk::Error::UnexpectedError("the client panicked at an answer".into()).into())
        })
    })
}
