//! A path actor's handle of a session: answers in order, and tasks that end with the session.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use ractor::DerivedActorRef;
use tokio::task::AbortHandle;

use super::Connection;
use crate::runtime::tasks::Tasks;

/// A session as one actor uses it. Dropping it ends all its tasks. `T` is the message that the actor receives.
pub(crate) struct SessionHandle<T> {
    pub connection: Connection,
    answers: Arc<Mutex<Answers<T>>>,
    tasks: Option<Tasks>,
    /// The number of questions not yet answered.
    questions: usize,
}

/// The answers that are expected. A task delivers them one after the other, and ends when there are none.
struct Answers<T> {
    queue: VecDeque<BoxFuture<'static, T>>,
    delivery: Option<AbortHandle>,
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
    pub fn new(connection: Connection) -> SessionHandle<T> {
        let answers = Answers { queue: VecDeque::new(), delivery: None };
        let answers = Arc::new(Mutex::new(answers));
        SessionHandle { connection, answers, tasks: None, questions: 0 }
    }

    /// Sends this answer to the actor, in the order of the requests.
    pub fn expect(&self, actor: &DerivedActorRef<T>, answer: impl Future<Output = T> + Send + 'static) {
        let mut answers = lock(&self.answers);
        if answers.delivery.is_some() {
            return answers.queue.push_back(Box::pin(answer));
        }
        let task = tokio::spawn(deliver(answer, self.answers.clone(), actor.clone()));
        answers.delivery = Some(task.abort_handle());
    }

    /// Runs a task for as long as the session is used.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let tasks = self.tasks.get_or_insert_default();
        tasks.spawn(task);
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

impl<T> Drop for SessionHandle<T> {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.answers).delivery.take() {
            task.abort();
        }
    }
}

/// An actor keeps room for so many answers. A path that one caller uses again and again needs no more.
const FEW: usize = 4;

async fn deliver<T: Send + 'static>(
    first: impl Future<Output = T>,
    answers: Arc<Mutex<Answers<T>>>,
    actor: DerivedActorRef<T>,
) {
    let mut delivered = send(first, &actor).await;
    while delivered {
        let next = {
            let mut answers = lock(&answers);
            let next = answers.queue.pop_front();
            if next.is_none() {
                answers.delivery = None;
                answers.queue.shrink_to(FEW);
            }
            next
        };
        let Some(answer) = next else { return };
        delivered = send(answer, &actor).await;
    }
}

/// Returns whether the actor is there for further answers.
async fn send<T: Send + 'static>(answer: impl Future<Output = T>, actor: &DerivedActorRef<T>) -> bool {
    match AssertUnwindSafe(answer).catch_unwind().await {
        Ok(answer) => actor.send_message(answer).is_ok(),
        Err(_) => {
            // No further answer would be delivered, and all requests would wait forever. So the actor is killed, and
            // its supervisor cleans up.
            actor.kill();
            false
        }
    }
}

fn lock<T>(answers: &Mutex<Answers<T>>) -> MutexGuard<'_, Answers<T>> {
    // The queue is consistent even after a panic under the lock.
    answers.lock().unwrap_or_else(PoisonError::into_inner)
}
