//! A request that was sent: what it watches, and the task that receives its answer.

use lockkeeper_actors::machine::Failure;
use lockkeeper_actors::zookeeper::Watching;
use lockkeeper_embedded::wire::{Read, Reply, Request, Write};
use tokio::sync::oneshot;

use crate::coverage::Stage;

pub(super) struct Flight {
    pub(super) xid: i32,
    pub(super) request: Request,
    pub(super) stage: Option<Stage>,
    pub(super) waiter: Waiter,
}

pub(super) enum Waiter {
    Reply(oneshot::Sender<Result<Reply, Failure>>),
    Watch(Watched, oneshot::Sender<Result<(Reply, Watching), Failure>>),
    Nobody,
}

impl Flight {
    pub(super) fn new(request: Request, stage: Option<Stage>, waiter: Waiter) -> Flight {
        Flight { xid: 0, request, stage, waiter }
    }

    pub(super) fn fail(self, failure: Failure, deferred: &mut Deferred) {
        match self.waiter {
            Waiter::Reply(waiter) => deferred.send(waiter, Err(failure)),
            Waiter::Watch(_, waiter) => deferred.send(waiter, Err(failure)),
            Waiter::Nobody => {}
        }
    }
}

/// What is watched.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Watched {
    pub(super) path: String,
    /// Whether its children are watched; otherwise the node itself.
    pub(super) children: bool,
}

impl Watched {
    pub(super) fn data(path: &str) -> Watched {
        Watched { path: path.to_owned(), children: false }
    }

    pub(super) fn children(path: &str) -> Watched {
        Watched { path: path.to_owned(), children: true }
    }
}

/// Notifications to send once the session is unlocked, because the receivers may drop things that lock it again.
#[derive(Default)]
pub(super) struct Deferred(Vec<Box<dyn FnOnce()>>);

impl Deferred {
    pub(super) fn send<T: 'static>(&mut self, to: oneshot::Sender<T>, value: T) {
        self.0.push(Box::new(move || drop(to.send(value))));
    }

    pub(super) fn run(self) {
        self.0.into_iter().for_each(|tell| tell());
    }
}

/// The paths that a request of the actors is about.
pub(super) fn paths_of(request: &Request) -> Vec<&str> {
    match request {
        Request::Write(write) => vec![written(write)],
        Request::Multi(writes) => writes.iter().map(written).collect(),
        Request::Read { op: Read::GetData { path } | Read::GetChildren { path }, .. }
        | Request::Exists { path, .. }
        | Request::GetChildren2 { path, .. }
        | Request::Sync { path } => vec![path],
        _ => Vec::new(),
    }
}

fn written(write: &Write) -> &str {
    match write {
        Write::Create { path, .. }
        | Write::Delete { path, .. }
        | Write::SetData { path, .. }
        | Write::SetAcl { path, .. }
        | Write::Check { path, .. } => path,
    }
}
