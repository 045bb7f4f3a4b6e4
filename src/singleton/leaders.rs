//! Who leads.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use lockkeeper_actors::Randomness;
use lockkeeper_actors::api::contender::{Contender, Known};
use lockkeeper_actors::api::error::QueryError;
use lockkeeper_actors::api::messages::LockMessage;
use lockkeeper_actors::backoff::Backoff;
use tokio::sync::oneshot;

use crate::handle::Handle;

/// The leader of a singleton, as a stream: the current one, then each change, also of the data that it advertises. An
/// item is `None` when there is no candidate.
///
/// The stream may miss leaders, because a watch reports that something has changed, not what. A leader may be missed if
/// it serves for less than a few round trips, or while the stream is not polled or not connected. If every leader must
/// be known, let the leaders announce themselves. The stream never goes back: no item is older than the one before,
/// even if a new session is at a server that lags.
///
/// The path need not exist: its first leader is reported as soon as there is one. If the session has no room for
/// another watch, the stream reads once per second. If ZooKeeper refuses or does not answer, it retries after a pause
/// that doubles from 100 milliseconds to five seconds. Without a connection it waits. The stream ends when the keeper
/// is closed, or after an error if an access list does not permit reading.
///
/// # Panics
///
/// The stream panics when it must pause and is polled outside a Tokio runtime with time enabled.
pub struct Leaders(BoxStream<'static, Result<Option<Contender>, QueryError>>);

impl Leaders {
    pub(crate) fn new(handle: &Handle) -> Leaders {
        Leaders(stream::unfold((handle.clone(), Some(Known::Nothing)), next_leader).boxed())
    }
}

impl Stream for Leaders {
    type Item = Result<Option<Contender>, QueryError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl fmt::Debug for Leaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaders").finish_non_exhaustive()
    }
}

/// The handle, and what the last item told. `None` after an error: the stream ends.
type Following = (Handle, Option<Known>);

/// The front of the queue.
pub(crate) fn ask_leader(handle: &Handle) -> BoxFuture<'static, Result<Option<Contender>, QueryError>> {
    let (reply, answer) = oneshot::channel();
    let first = LockMessage::First(handle.options().patterns.clone(), Known::Nothing, reply);
    handle.shared().send(handle.to_lock(first));
    let handle = handle.clone();
    Box::pin(async move { handle.shared().answered(answer.await) })
}

async fn next_leader(
    (handle, known): Following,
) -> Option<(Result<Option<Contender>, QueryError>, Following)> {
    let known = known?;
    let ask = || {
        let (reply, answer) = oneshot::channel();
        let message = LockMessage::First(handle.options().patterns.clone(), known.clone(), reply);
        let sent = handle.shared().send(handle.to_lock(message));
        sent.then_some(async { answer.await.unwrap_or(Err(QueryError::Disconnected)) })
    };
    match insist(ask).await? {
        Ok(leader) => {
            let known = leader.clone().map_or(Known::Nobody, Known::First);
            Some((Ok(leader), (handle, Some(known))))
        }
        Err(error) => Some((Err(error), (handle, None))),
    }
}

/// Repeats a question until there is an answer, or an error that will not change. `None` if the keeper is closed.
async fn insist<T, F>(mut ask: impl FnMut() -> Option<F>) -> Option<Result<T, QueryError>>
where
    F: Future<Output = Result<T, QueryError>>,
{
    let (backoff, randomness, mut failures) = (Backoff::default(), Randomness::default(), 0);
    loop {
        match ask()?.await {
            Ok(answer) => return Some(Ok(answer)),
            Err(error @ QueryError::NoAuth { .. }) => return Some(Err(error)),
            Err(QueryError::Closed) => return None,
            // There is no session, so nothing was sent to a server.
            Err(QueryError::Disconnected) => tokio::time::sleep(RETRY).await,
            Err(_) => {
                tokio::time::sleep(backoff.rest(failures, randomness.next())).await;
                failures += 1;
            }
        }
    }
}

/// The pause between two checks for a session.
const RETRY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_refuses_is_asked_less_and_less_often() {
        let mut asked = 0;
        let ask = || {
            asked += 1;
            Some(async {
                Err::<(), _>(QueryError::Rejected { path: "/a".into(), reason: "throttled".into() })
            })
        };
        let two_seconds = tokio::time::timeout(Duration::from_secs(2), insist(ask)).await;
        assert!(two_seconds.is_err(), "it must go on asking");
        assert!(asked <= 9, "asked {asked} times in two seconds");
    }
}
