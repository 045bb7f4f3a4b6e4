//! The callers' side of a path: their requests, their events, and their leases.

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use tracing::{Span, debug, warn};

use super::Path;
use crate::api::error::{AcquireError, PermitsError, ReleaseError};
use crate::api::event::{EventSink, LockEvent, Refused};
use crate::api::grant::{Grant, Hold};
use crate::api::keep_alive::KeepAlive;
use crate::api::lease::{FencingToken, Lease, LeaseState, ReleasePort};
use crate::api::request::{AcquireRequest, ContenderOptions};
use crate::api::resource::Resource;
use crate::machine::{Denied, Moment, PathMachine, Refusal, Reply, Ticket, Wait};
use crate::metrics::{RefusedFor, RequestMetrics};
use crate::runtime::log::{Identifier, SessionId};
use crate::zookeeper::NoAuth;

/// The part of a request that the machine does not need.
pub(super) struct Entry {
    /// It is counted among the waiting requests.
    waits: bool,
    metrics: RequestMetrics,
    span: Span,
    /// When it was requested, and from the grant on, when it was granted.
    since: Moment,
    options: Arc<ContenderOptions>,
    /// `None` after the last event.
    sink: Option<EventSink>,
    /// `None` once granted: the lease has taken it.
    keep_alive: Option<Arc<KeepAlive>>,
    hold: Option<Hold>,
    release: Vec<ReleasePort>,
    /// It was released, and transactions under its lease have not been answered.
    writing: bool,
    /// It was granted, and has no lease of its own any more: that was lost, or merged into that of another request.
    ended: bool,
    /// The requests whose leases were merged into this one. They are told what happens to this one.
    merged: Vec<Ticket>,
    /// The number of those that were left when they were last checked.
    followed: usize,
    /// The newest persistent node that was requested for it, without its sequence number.
    persistent: Option<String>,
}

impl Entry {
    /// Whether it has neither been granted nor refused.
    fn is_waiting(&self) -> bool {
        self.keep_alive.is_some() && self.sink.is_some()
    }

    /// Whether its lease has ended, and nobody was told.
    fn is_over(&self) -> bool {
        !self.ended && self.hold.as_ref().is_some_and(|hold| hold.0.state() == LeaseState::Lost)
    }

    /// Removes it from the number of waiting requests, once.
    fn wait_ends(&mut self, waiting: &mut usize) {
        *waiting -= usize::from(std::mem::take(&mut self.waits));
    }
}

impl<M: PathMachine> Path<M>
where
    M::Event: Send + 'static,
{
    /// Accepts or refuses a request. Returns whether it was accepted, and must be passed to the machine. `limit` is the
    /// number of waiting requests at which it is refused.
    pub fn accept(&mut self, request: AcquireRequest, limit: Option<usize>) -> bool {
        let ticket = request.ticket;
        if self.requests.contains_key(&ticket) {
            // Dropping the request reports an error to its sink. The first request with the ticket continues.
            warn!(path = %self.resource.path(), %ticket, "a ticket was used twice");
            return false;
        }
        let waits = request.wait != Wait::Try;
        let mut metrics = self.metrics.request(request.asked, waits);
        if let Some(limit) = limit.filter(|limit| self.waiting >= *limit) {
            metrics.refused(RefusedFor::TooManyWaiting);
            let path = self.resource.path().to_string();
            request.span.in_scope(|| debug!(limit, "refused because too many wait"));
            request.refuse(AcquireError::TooManyWaiting { path, limit });
            return false;
        }
        let identifier = Identifier(&request.options.identifier);
        request.span.in_scope(|| debug!(wait = ?request.wait, %identifier, "requested"));
        self.waiting += usize::from(waits);
        let entry = Entry {
            waits,
            metrics,
            span: request.span,
            since: self.clock.now(),
            options: request.options,
            sink: Some(request.sink),
            keep_alive: Some(request.keep_alive),
            hold: None,
            release: Vec::new(),
            writing: false,
            ended: false,
            merged: Vec::new(),
            followed: 0,
            persistent: None,
        };
        self.requests.insert(ticket, Box::new(entry));
        true
    }

    /// Marks the leases of this request as lost. Returns whether the release must be passed to the machine now. Otherwise
    /// it has been answered, or [`PathMessage::Written`](super::PathMessage::Written) follows.
    pub(super) fn begin_release(&mut self, ticket: Ticket, reply: Option<ReleasePort>) -> bool {
        // The session may not have reported its end yet.
        let is_over = self.requests.get(&ticket).is_some_and(|entry| entry.is_over());
        if is_over {
            self.reply(Reply::Lost(ticket));
        }
        // The node of a lost lease may still be being deleted, but that confirms nothing to its holder.
        let error = match self.requests.get_mut(&ticket).filter(|entry| !entry.ended) {
            Some(entry) if entry.is_waiting() => ReleaseError::NotGranted,
            Some(entry) if entry.keep_alive.is_none() => {
                let (clock, since) = (self.clock, entry.since);
                entry.span.in_scope(|| debug!(held = ?clock.now().since(since), "released"));
                entry.release.extend(reply);
                if entry.writing {
                    return false;
                }
                // The guard may still exist, and must not read `Held` while there is another holder.
                let grant = entry.hold.take().map(|hold| hold.0.clone());
                for ticket in self.with_merged(ticket) {
                    if let Some(entry) = self.requests.get_mut(&ticket) {
                        entry.hold = None;
                        entry.metrics.released();
                    }
                }
                return !grant.is_some_and(|grant| self.waits_for_writes(ticket, grant));
            }
            // It was refused, or there is none.
            Some(_) | None => ReleaseError::Lost,
        };
        if let Some(reply) = reply {
            let _ = reply.send(Err(error));
        }
        is_over
    }

    /// Waits for the transactions under a lock that was released, if there are any:
    /// [`PathMessage::Written`](super::PathMessage::Written) follows. A local contender is granted the lock before the
    /// server has deleted the node, and the server carries out a transaction as long as the node exists. A permit is taken
    /// by a request that comes after the transactions, so they need no wait.
    fn waits_for_writes(&mut self, ticket: Ticket, grant: Arc<Grant>) -> bool {
        if matches!(self.resource, Resource::Semaphore(_)) || !grant.has_writes() {
            return false;
        }
        if let Some(entry) = self.requests.get_mut(&ticket) {
            entry.writing = true;
        }
        let actor = self.actor.clone();
        tokio::spawn(async move {
            grant.written().await;
            // If the actor has ended, the registry cleans up.
            let _ = actor.send_message(super::PathMessage::Written(ticket));
        });
        true
    }

    /// All transactions under the lease of a released request are answered. Returns whether the release must be passed
    /// to the machine, as it must unless the lease was lost meanwhile.
    pub(super) fn written(&mut self, ticket: Ticket) -> bool {
        let Some(entry) = self.requests.get_mut(&ticket) else { return false };
        entry.writing = false;
        !entry.ended
    }

    /// Whether nothing is left to do.
    pub(super) fn is_idle(&self) -> bool {
        self.machine.is_idle() && !self.session.as_ref().is_some_and(|session| session.has_questions())
    }

    /// Whether a request has neither been granted nor refused.
    pub fn waits(&self, ticket: Ticket) -> bool {
        self.requests.get(&ticket).is_some_and(|entry| entry.is_waiting())
    }

    /// Changes the data of the nodes that are created for a request from now on.
    pub fn set_identifier(&mut self, ticket: Ticket, identifier: Arc<[u8]>) {
        if let Some(entry) = self.requests.get_mut(&ticket) {
            Arc::make_mut(&mut entry.options).identifier = identifier;
        }
    }

    pub fn options(&self, ticket: Ticket) -> Option<Arc<ContenderOptions>> {
        self.requests.get(&ticket).map(|entry| entry.options.clone())
    }

    /// Notes that a persistent node is being created, which could be left behind.
    pub fn note_persistent(&mut self, ticket: Ticket, prefix: String) {
        if let Some(entry) = self.requests.get_mut(&ticket) {
            entry.persistent = Some(prefix);
        }
    }

    /// `nodes` are all nodes of the lease, or none if `node` is the only one.
    pub fn grant(&mut self, ticket: Ticket, node: String, nodes: Vec<String>, czxid: i64) {
        let (Some(entry), Some(handle)) = (self.requests.get_mut(&ticket), &self.session) else { return };
        let Some(keep_alive) = entry.keep_alive.take() else { return };
        entry.wait_ends(&mut self.waiting);
        entry.metrics.granted();
        let (path, token) = (self.resource.path().clone(), FencingToken::new(czxid));
        let (now, (epoch, session)) = (self.now, self.newest);
        entry.span.in_scope(|| {
            let (waited, identifier) = (now.since(entry.since), Identifier(&entry.options.identifier));
            debug!(epoch, session = %SessionId(session), %token, ?waited, %identifier, "granted")
        });
        entry.since = now;
        let lease = entry.options.ephemeral.then(|| handle.connection.lease.clone());
        let client = Arc::downgrade(&handle.connection.client);
        let grant = Arc::new(Grant::new(ticket, path, node, token, lease, client));
        entry.hold = Some(Hold(grant.clone()));
        let acl = entry.options.acl.clone();
        let guard = Lease::new(grant, nodes, self.grantor.clone(), keep_alive, acl);
        // The event carries the guard. If nobody receives it, the guard is dropped, which releases the lock.
        self.tell(ticket, LockEvent::Acquired { ticket, guard });
    }

    /// Keeps the part that is split off the lease of a request, under its own ticket. Nobody is told its events. Returns
    /// whether the machine must be told. Otherwise the request is over, and dropping the part loses it too.
    pub fn split(&mut self, ticket: Ticket, part: Hold) -> bool {
        let Some(entry) = self.requests.get(&ticket) else { return false };
        entry.span.in_scope(|| debug!(part = %part.ticket(), "split"));
        let into = part.ticket();
        let entry = Entry {
            waits: false,
            metrics: entry.metrics.split(),
            span: entry.span.clone(),
            since: entry.since,
            options: entry.options.clone(),
            sink: None,
            keep_alive: None,
            hold: Some(part),
            release: Vec::new(),
            writing: false,
            ended: false,
            merged: Vec::new(),
            followed: 0,
            persistent: None,
        };
        self.requests.insert(into, Box::new(entry));
        true
    }

    /// From now on, what happens to `into` happens to `ticket` too.
    pub fn merged(&mut self, ticket: Ticket, into: Ticket) {
        self.in_span(ticket, || debug!(%into, "merged"));
        let merged = self.with_merged(ticket);
        if let Some(entry) = self.requests.get_mut(&ticket) {
            entry.ended = true;
            entry.metrics.merged();
        }
        let Some(entry) = self.requests.get_mut(&into) else { return };
        entry.merged.extend(merged);
        // Not at every merge, so that a merge does not cost more when there have been many.
        if entry.merged.len() > 2 * entry.followed {
            self.forget_parts(into);
        }
    }

    /// Forgets the parts that were split off and merged back, if no view shows them. A permit that is split and merged
    /// again and again would remember them all.
    fn forget_parts(&mut self, into: Ticket) {
        let Some(entry) = self.requests.get_mut(&into) else { return };
        let merged = std::mem::take(&mut entry.merged);
        let is_followed =
            |entry: &Entry| entry.sink.is_some() || entry.hold.as_ref().is_some_and(Hold::is_shared);
        let (kept, parts): (Vec<_>, Vec<_>) = (merged.into_iter())
            .partition(|ticket| self.requests.get(ticket).is_some_and(|entry| is_followed(entry)));
        for ticket in parts {
            self.requests.remove(&ticket);
        }
        if let Some(entry) = self.requests.get_mut(&into) {
            (entry.followed, entry.merged) = (kept.len(), kept);
        }
    }

    /// This request, and those that were merged into it.
    fn with_merged(&self, ticket: Ticket) -> impl Iterator<Item = Ticket> + use<M> {
        let merged = self.requests.get(&ticket).map(|entry| entry.merged.clone());
        iter::once(ticket).chain(merged.unwrap_or_default())
    }

    pub fn reply(&mut self, reply: Reply) {
        let (epoch, session) = self.newest;
        match reply {
            // It was released, of which the machine is told later. `Forgotten` follows.
            Reply::Suspended(ticket) | Reply::Resumed(ticket) | Reply::Lost(ticket)
                if self.requests.get(&ticket).is_some_and(|entry| entry.writing) => {}
            Reply::Queued(ticket, ahead) => {
                self.in_span(ticket, || debug!(epoch, session = %SessionId(session), ahead, "queued"));
                self.tell(ticket, LockEvent::Enqueued { ticket, ahead });
            }
            Reply::Refused(ticket, refusal) => {
                self.in_span(ticket, || debug!(?refusal, waited = ?self.since(ticket), "refused"));
                let refused = refused(self.resource.path(), &self.directory, refusal);
                if let Some(entry) = self.requests.get_mut(&ticket) {
                    entry.metrics.refused(refused.metric());
                }
                self.conclude(ticket, LockEvent::Refused(ticket, refused));
            }
            Reply::Suspended(ticket) => {
                for ticket in self.with_merged(ticket) {
                    self.in_span(ticket, || debug!(epoch, session = %SessionId(session), "suspended"));
                    self.change_hold(ticket, Hold::suspend);
                    if let Some(entry) = self.requests.get(&ticket) {
                        entry.metrics.suspended();
                    }
                    self.tell(ticket, LockEvent::Suspended(ticket));
                }
            }
            Reply::Resumed(ticket) => {
                let client = self.session.as_ref().map(|session| Arc::downgrade(&session.connection.client));
                for ticket in self.with_merged(ticket) {
                    self.in_span(ticket, || debug!(epoch, session = %SessionId(session), "resumed"));
                    if let Some(client) = &client {
                        self.change_hold(ticket, |hold| hold.resume(client.clone()));
                    }
                    self.tell(ticket, LockEvent::Resumed(ticket));
                }
            }
            Reply::Lost(ticket) => {
                for ticket in self.with_merged(ticket) {
                    self.in_span(ticket, || {
                        let (path, held) = (self.resource.path(), self.since(ticket));
                        warn!(%path, %ticket, epoch, session = %SessionId(session), ?held, "lost")
                    });
                    if let Some(entry) = self.requests.get_mut(&ticket) {
                        (entry.hold, entry.ended) = (None, true);
                        entry.metrics.lost();
                    }
                    self.conclude(ticket, LockEvent::Lost(ticket));
                }
            }
            Reply::Forgotten { ticket, confirmed } => {
                for ticket in self.with_merged(ticket) {
                    self.forget(ticket, confirmed);
                }
            }
        }
    }

    fn forget(&mut self, ticket: Ticket, confirmed: bool) {
        let Some(mut entry) = self.requests.remove(&ticket) else { return };
        entry.wait_ends(&mut self.waiting);
        if confirmed {
            entry.metrics.released();
        }
        entry.span.in_scope(|| debug!(confirmed, "done"));
        if let Some(node) = entry.persistent.filter(|_| !confirmed) {
            warn!(
                node,
                "a persistent node may be left behind: its name begins with this, followed by its number"
            );
        }
        for reply in entry.release {
            let _ = reply.send(if confirmed { Ok(()) } else { Err(ReleaseError::Lost) });
        }
        if let Some(sink) = entry.sink {
            let last = if confirmed { LockEvent::Released } else { LockEvent::Lost };
            sink.conclude(last(ticket));
        }
    }

    /// Logs inside the request's span.
    fn in_span(&self, ticket: Ticket, log: impl FnOnce()) {
        match self.requests.get(&ticket) {
            Some(entry) => entry.span.in_scope(log),
            None => log(),
        }
    }

    /// The time since a request was made or, if it was granted, since then.
    fn since(&self, ticket: Ticket) -> Duration {
        let since = self.requests.get(&ticket).map(|entry| entry.since);
        since.map_or(Duration::ZERO, |since| self.clock.now().since(since))
    }

    fn tell(&mut self, ticket: Ticket, event: LockEvent) {
        let Some(entry) = self.requests.get_mut(&ticket) else { return };
        if entry.sink.as_mut().is_some_and(|sink| !sink.tell(event)) {
            entry.sink = None;
            entry.wait_ends(&mut self.waiting);
            // Cancels the request, if it is not granted. A guard inside the event was dropped, which releases the lock.
            let _ = self.actor.send_message(super::PathMessage::SinkFailed(ticket));
        }
    }

    fn conclude(&mut self, ticket: Ticket, event: LockEvent) {
        let Some(entry) = self.requests.get_mut(&ticket) else { return };
        entry.wait_ends(&mut self.waiting);
        if let Some(sink) = entry.sink.take() {
            sink.conclude(event);
        }
    }

    fn change_hold(&self, ticket: Ticket, change: impl FnOnce(&Hold)) {
        if let Some(hold) = self.requests.get(&ticket).and_then(|entry| entry.hold.as_ref()) {
            change(hold);
        }
    }
}

fn refused(path: &str, directory: &str, refusal: Refusal) -> Refused {
    let (path, node_path) = (path.to_owned(), |node: &str| format!("{directory}/{node}"));
    Refused::Failed(match refusal {
        Refusal::Contended => return Refused::Contended,
        Refusal::Suspended => return Refused::Suspended,
        Refusal::TimedOut => return Refused::TimedOut,
        Refusal::Cancelled => return Refused::Cancelled,
        Refusal::Closed => AcquireError::Closed,
        Refusal::Exhausted => AcquireError::SequenceExhausted { path: directory.to_owned() },
        Refusal::MixedDialects(node) => AcquireError::MixedDialects { contender: node_path(node.name()) },
        Refusal::NoAuth(Denied::Directory) => AcquireError::NoAuth { path: directory.to_owned() },
        Refusal::NoAuth(Denied::Root) => AcquireError::NoAuth { path },
        Refusal::NoAuth(Denied::Contender(node)) => AcquireError::NoAuth { path: node_path(node.name()) },
        Refusal::NoPermits => PermitsError::None { path }.into(),
        Refusal::TooMany { count, limit } => PermitsError::TooMany { path, count, limit }.into(),
        Refusal::LimitMismatch { stored, given } => {
            PermitsError::LimitMismatch { path, stored, given }.into()
        }
        Refusal::NoLimit => PermitsError::NoLimit { path }.into(),
        Refusal::Rejected(reason) => match NoAuth::in_reason(&reason) {
            Some(NoAuth { path }) => AcquireError::NoAuth { path: path.clone() },
            None => AcquireError::Rejected { path, reason },
        },
    })
}
