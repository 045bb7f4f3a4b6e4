//! A path actor's handle of a session: answers in order, and tasks that end with the session.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use futures::future::BoxFuture;
use ractor::DerivedActorRef;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Connection;

/// A session as one actor uses it. Dropping it ends all its tasks. `T` is the message that the actor receives.
pub(crate) struct SessionHandle<T> {
    pub connection: Connection,
    answers: mpsc::UnboundedSender<BoxFuture<'static, T>>,
    tasks: JoinSet<()>,
    /// The number of questions not yet answered.
    questions: usize,
}

/// A question that is being answered. Sends `over` to the actor when it is dropped.
pub(crate) struct Question<T> {
    actor: DerivedActorRef<T>,
    over: Option<T>,
}

impl<T> Drop for Question<T> {
    fn drop(&mut self) {
        if let Some(over) = self.over.take() {
            // The actor may have ended.
            let _ = self.actor.send_message(over);
        }
    }
}

impl<T: Send + 'static> SessionHandle<T> {
    pub fn new(connection: Connection, actor: DerivedActorRef<T>) -> SessionHandle<T> {
        let (answers, mut queue) = mpsc::unbounded_channel::<BoxFuture<'static, T>>();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Some(answer) = queue.recv().await {
                let Ok(answer) = AssertUnwindSafe(answer).catch_unwind().await else {
                    // No further answer would be delivered, and all requests would wait forever. So the actor is
                    // killed, and its supervisor cleans up.
                    return actor.kill();
                };
                if actor.send_message(answer).is_err() {
                    return;
                }
            }
        });
        SessionHandle { connection, answers, tasks, questions: 0 }
    }

    /// Sends this answer to the actor, in the order of the requests.
    pub fn expect(&self, answer: impl Future<Output = T> + Send + 'static) {
        // Fails only when the actor has ended, and then nobody waits for the answer.
        let _ = self.answers.send(Box::pin(answer));
    }

    /// Runs a task for as long as the session is used.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(task);
    }

    /// Counts a question. When it ends, the actor receives `over`, and must call [`answered`](SessionHandle::answered).
    pub fn question(&mut self, actor: &DerivedActorRef<T>, over: T) -> Question<T> {
        self.questions += 1;
        Question { actor: actor.clone(), over: Some(over) }
    }

    /// Counts the end of a question.
    pub fn answered(&mut self) {
        self.questions = self.questions.saturating_sub(1);
    }

    pub fn has_questions(&self) -> bool {
        self.questions > 0
    }
}
