//! The message protocol: locks, semaphores, multi-locks and candidates as actors.
//!
//! [`Lock::actor`](crate::Lock::actor), [`Semaphore::actor`](crate::Semaphore::actor),
//! [`MultiLock::actor`](crate::MultiLock::actor) and [`Candidate::actor`](crate::singleton::Candidate::actor) return a
//! ractor reference that takes the messages of this module, so that `cast!`, `call!` and `call_t!` work. The reference
//! is valid while a clone of its handle exists. It is local to this process.
//!
//! Every message with a reply port is answered, also by a keeper that is closing or closed.

mod candidate;
mod lock;
mod multi_lock;
mod semaphore;

use std::future::Future;

#[doc(inline)]
pub use lockkeeper_actors::api::event::LockEvent;
#[doc(inline)]
pub use lockkeeper_actors::api::request::Ticket;
use ractor::RpcReplyPort;

pub use self::candidate::CandidateMessage;
pub use self::lock::LockMessage;
pub use self::multi_lock::MultiLockMessage;
pub use self::semaphore::SemaphoreMessage;
pub use crate::wait::Wait;

/// Sends the result of `answer` once it is there.
fn reply_with<T: Send + 'static>(reply: RpcReplyPort<T>, answer: impl Future<Output = T> + Send + 'static) {
    tokio::spawn(async move {
        // The caller may no longer wait.
        let _ = reply.send(answer.await);
    });
}
