//! Streams whose items are sent to an actor.

use std::pin::pin;

use futures::future::select;
use futures::{Stream, StreamExt};
use ractor::{ActorCell, ActorRef, DerivedActorRef, Message};

/// Sends every item to the actor, in order, until the actor or the stream ends. A panic of `convert` ends it, too.
pub(crate) fn forward<S, T>(
    stream: S,
    actor: &ActorRef<T>,
    mut convert: impl FnMut(S::Item) -> T + Send + 'static,
) where
    S: Stream<Item: Send> + Send + 'static,
    T: Message,
{
    let (cell, actor) = (actor.get_cell(), actor.clone());
    spawn(stream, cell, move |item| actor.cast(convert(item)).is_ok());
}

/// As [`forward`], with the actor's own conversion.
pub(crate) fn forward_derived<S>(stream: S, actor: DerivedActorRef<S::Item>)
where
    S: Stream<Item: Send + 'static> + Send + 'static,
{
    spawn(stream, actor.get_cell(), move |item| actor.send_message(item).is_ok());
}

fn spawn<S>(stream: S, actor: ActorCell, mut send: impl FnMut(S::Item) -> bool + Send + 'static)
where
    S: Stream<Item: Send> + Send + 'static,
{
    tokio::spawn(async move {
        let pump = async {
            let mut stream = pin!(stream);
            while let Some(item) = stream.next().await {
                if !send(item) {
                    return;
                }
            }
        };
        select(pin!(pump), pin!(actor.wait(None))).await;
    });
}
