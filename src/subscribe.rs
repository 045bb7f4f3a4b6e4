//! Streams that go on as an actor's messages.

use std::pin::pin;

use futures::future::select;
use futures::{Stream, StreamExt};
use ractor::{ActorRef, Message};

/// Every item, in order, for as long as the actor lives and the stream goes on. A converter that panics ends it.
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
