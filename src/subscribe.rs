//! Streams whose items are sent to an actor.

use std::pin::pin;

use futures::future::select;
use futures::{Stream, StreamExt};
use ractor::{ActorRef, Message};

/// Sends every item to the actor, in order, until the actor or the stream ends. A panic of `convert` ends it, too.
pub(crate) fn forward<S, T>(
    stream: S,
    actor: &ActorRef<T>,
    mut convert: impl FnMut(S::Item) -> T + Send + 'static,
) where
    S: Stream + Send + 'static,
    S::Item: Send,
    T: Message,
{
    let actor = actor.clone();
    tokio::spawn(async move {
        let pump = async {
            let mut stream = pin!(stream);
            while let Some(item) = stream.next().await {
                if actor.cast(convert(item)).is_err() {
                    return;
                }
            }
        };
        select(pin!(pump), pin!(actor.wait(None))).await;
    });
}
