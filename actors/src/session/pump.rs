//! Delivers what comes over a session's connection to its actor, in order.

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{BoxStream, FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

use super::SessionMessage;
use crate::zookeeper::LinkState;

/// Delivers changes of the connection's state and answers to heartbeats. State changes come first: if an answer that
/// came over a new connection were delivered before the reconnect, it would count as an answer of the old connection.
pub(super) async fn pump(
    mut states: BoxStream<'static, LinkState>,
    mut heartbeats: mpsc::UnboundedReceiver<BoxFuture<'static, SessionMessage>>,
    tell: impl Fn(SessionMessage) -> bool,
) {
    let (mut answers, mut linked) = (FuturesUnordered::new(), true);
    loop {
        let message = tokio::select! {
            biased;
            link = states.next(), if linked => match link {
                Some(link) => SessionMessage::Link(link),
                None => {
                    linked = false;
                    continue;
                }
            },
            Some(answer) = answers.next() => {
                // A state change may have arrived since it was polled above, and before the answer.
                while let Some(link) = linked.then(|| states.next().now_or_never()).flatten() {
                    linked = link.is_some();
                    if link.is_some_and(|link| !tell(SessionMessage::Link(link))) {
                        return;
                    }
                }
                answer
            }
            Some(heartbeat) = heartbeats.recv() => {
                answers.push(heartbeat);
                continue;
            }
            else => return,
        };
        if !tell(message) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures::stream;

    use super::*;
    use crate::machine::Moment;

    /// The client reports a new connection before it returns an answer that came over it.
    #[tokio::test]
    async fn a_reconnect_is_delivered_before_the_answers_that_came_over_the_new_connection() {
        let (heartbeats, answers) = mpsc::unbounded_channel::<BoxFuture<'static, SessionMessage>>();
        let (connected, reconnected) = futures::channel::oneshot::channel::<()>();
        let links = stream::once(async move {
            let _ = reconnected.await;
            LinkState::Up
        });
        let (answered, answer) = futures::channel::oneshot::channel::<()>();
        let told = RefCell::new(Vec::new());
        let tell = |message: SessionMessage| {
            told.borrow_mut().push(match message {
                SessionMessage::Link(_) => "link",
                SessionMessage::HeartbeatAnswered { .. } => "answer",
                _ => "something else",
            });
            true
        };
        let heartbeat = async move {
            let _ = answer.await;
            SessionMessage::HeartbeatAnswered { sent: Moment(1), batch: Vec::new(), result: Ok(()) }
        };
        heartbeats.send(Box::pin(heartbeat)).expect("the pump receives it");
        drop(heartbeats);
        let mut pump = Box::pin(pump(links.boxed(), answers, tell));
        assert!(futures::poll!(pump.as_mut()).is_pending());
        // Both are ready when the pump polls again.
        connected.send(()).expect("the pump awaits the link");
        answered.send(()).expect("the pump awaits the answer");
        pump.await;
        assert_eq!(*told.borrow(), ["link", "answer"]);
    }
}
