//! The actor of one multi-lock, a request for several locks: carries out its machine's commands.
//!
//! It does no I/O. It sends requests to the actors of the locks, collects their answers, and asks one of them to send
//! the transaction that creates all nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use ractor::{ActorProcessingErr, ActorRef, DerivedActorRef};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::{Span, debug, debug_span};

use crate::api::error::ReleaseError;
use crate::api::event::{EventSink, LockEvent, Refused};
use crate::api::keep_alive::KeepAlive;
use crate::api::lease::{Lease, LeaseState, ReleasePort};
use crate::api::lease_view::LeaseView;
use crate::api::multi_lease::{LeaseDropped, MultiLease, ReportsDrop};
use crate::api::request::{AcquireRequest, MultiLockPart, MultiLockRequest};
use crate::lock::joint_create::{Entrant, GivenBack, JointCreate, LockPart};
use crate::machine::backoff::Rests;
use crate::machine::multi_lock::{Cause, Command, Event, MultiLock};
use crate::machine::{Ticket, Wait};
use crate::metrics::{PathMetrics, RequestMetrics};
use crate::record::{self, Origin, Recorder, Recording};
use crate::runtime::clock::Clock;

/// To the registry.
pub(crate) enum MultiLockReport {
    /// Keeps the actor of this lock running for as long as this actor lives.
    Open(Arc<str>),
    /// Requests one part.
    Acquire(Arc<str>, AcquireRequest, LockPart),
    /// Cancels one part.
    Cancel(Arc<str>, Ticket),
    /// Releases one part.
    Release(Arc<str>, Ticket, ReleasePort),
    /// This actor no longer needs the actor of this lock.
    Dropped(Arc<str>),
}

#[cfg(feature = "cluster")]
impl ractor::Message for MultiLockReport {}

pub(crate) struct MultiLockActor;

pub(crate) struct MultiLockArguments {
    pub request: MultiLockRequest,
    pub registry: DerivedActorRef<MultiLockReport>,
    pub clock: Clock,
    pub metrics: PathMetrics,
    /// A random number.
    pub spread: u32,
    pub recording: Option<Recording>,
}

/// Messages to the actor. The numbers are those of the round and the part, in this order.
pub(crate) enum MultiLockActorMessage {
    Start,
    /// The pause before this round is over.
    Ask(u64),
    /// The registry refuses all requests from now on, so the next round starts without a pause.
    Close,
    /// An event of a part's request.
    PartEvent(u64, usize, LockEvent),
    /// A part's node can be created.
    Ready(u64, usize, Entrant),
    /// The transaction was answered. These parts can be tried again.
    Made(u64, Vec<GivenBack>),
    /// A part's request has ended.
    Over(u64, usize),
    Cancel,
    Release(ReleasePort),
    LeaseDropped(LeaseDropped),
}

accepts!(MultiLockActorMessage: LeaseDropped(LeaseDropped));

pub(crate) struct State {
    registry: DerivedActorRef<MultiLockReport>,
    machine: MultiLock,
    recorder: Option<Recorder>,
    ticket: Ticket,
    wait: Wait,
    parts: Vec<Part>,
    /// `None` before the grant.
    granted: Option<Granted>,
    round: u64,
    /// The pauses before rounds that follow a failed one.
    rests: Rests,
    /// Whether this round has not begun yet, because of a pause.
    resting: bool,
    clock: Clock,
    /// `None` after the last event.
    sink: Option<EventSink<MultiLease>>,
    /// `None` once granted.
    keep_alive: Option<Arc<KeepAlive>>,
    metrics: RequestMetrics,
    span: Span,
}

/// One lock of the request: the state that the machine does not need.
struct Part {
    spec: MultiLockPart,
    /// The ticket of its request in this round.
    ticket: Option<Ticket>,
    entrant: Option<Entrant>,
    lease: Option<Lease>,
    refused: Option<Refused>,
}

/// What is left of the request once it is granted.
struct Granted {
    ticket: Ticket,
    /// The tickets of the parts.
    parts: Vec<(Arc<str>, Ticket)>,
    view: LeaseView,
    /// Whether the lease was released or dropped.
    dropped: Arc<AtomicBool>,
}

#[ractor::actor(message = MultiLockActorMessage, state = State, arguments = MultiLockArguments)]
impl MultiLockActor {
    async fn pre_start(
        &self,
        myself: ActorRef<MultiLockActorMessage>,
        MultiLockArguments { request, registry, clock, metrics, spread, recording }: MultiLockArguments,
    ) -> Result<State, ActorProcessingErr> {
        let span = debug_span!("multi_lock", paths = paths(&request.parts), ticket = %request.ticket);
        let recorder = recording.map(|recording| {
            let paths = request.parts.iter().map(|part| part.path.clone()).collect();
            recording.machine(clock.now(), Origin::MultiLock { paths })
        });
        for part in request.parts.iter() {
            let _ = registry.send_message(MultiLockReport::Open(part.path.clone()));
        }
        let part = |spec: &MultiLockPart| Part {
            spec: spec.clone(),
            ticket: None,
            entrant: None,
            lease: None,
            refused: None,
        };
        myself.cast(MultiLockActorMessage::Start)?;
        Ok(State {
            registry,
            machine: MultiLock::new(request.parts.len()),
            recorder,
            ticket: request.ticket,
            wait: request.wait,
            parts: request.parts.iter().map(part).collect(),
            granted: None,
            round: 0,
            rests: Rests::new(spread),
            resting: false,
            clock,
            sink: Some(request.sink),
            keep_alive: Some(request.keep_alive),
            metrics: metrics.request(request.asked, request.wait != Wait::Try),
            span,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<MultiLockActorMessage>,
        message: MultiLockActorMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.handle(message, &myself);
        Ok(())
    }
}

impl State {
    /// A message from an earlier round is dropped, which releases or withdraws what it carries.
    fn handle(&mut self, message: MultiLockActorMessage, myself: &ActorRef<MultiLockActorMessage>) {
        match message {
            MultiLockActorMessage::Start => self.feed(Event::Start, myself),
            MultiLockActorMessage::Ask(round) if round == self.round && self.resting => self.ask(myself),
            MultiLockActorMessage::Close if self.resting => self.ask(myself),
            MultiLockActorMessage::PartEvent(round, part, event) if round == self.round => {
                self.part_event(part, event, myself)
            }
            MultiLockActorMessage::Ready(round, part, entrant) if round == self.round => {
                let epoch = entrant.epoch;
                self.parts[part].entrant = Some(entrant);
                self.feed(Event::Ready { part, epoch }, myself);
            }
            MultiLockActorMessage::Made(round, entrants) if round == self.round => {
                let back = entrants.iter().map(|(part, _)| *part).collect();
                for (part, entrant) in entrants {
                    self.parts[part].entrant = Some(entrant);
                }
                self.feed(Event::Made { back }, myself);
            }
            MultiLockActorMessage::Over(round, part) if round == self.round => {
                self.feed(Event::Over(part), myself)
            }
            MultiLockActorMessage::Ask(_)
            | MultiLockActorMessage::Close
            | MultiLockActorMessage::PartEvent(..)
            | MultiLockActorMessage::Ready(..)
            | MultiLockActorMessage::Made(..)
            | MultiLockActorMessage::Over(..) => {}
            MultiLockActorMessage::Cancel => self.feed(Event::Cancel, myself),
            MultiLockActorMessage::Release(reply) => self.release(reply),
            MultiLockActorMessage::LeaseDropped(LeaseDropped) => self.metrics.released(),
        }
    }

    /// Releases all parts at the same time. The reply follows when the server has confirmed each.
    fn release(&mut self, reply: ReleasePort) {
        let Some(granted) = &self.granted else {
            // The caller may no longer wait.
            let _ = reply.send(Err(ReleaseError::NotGranted));
            return;
        };
        self.metrics.released();
        let release = |(path, ticket): &(Arc<str>, Ticket)| {
            let (port, answer) = oneshot::channel();
            let report = MultiLockReport::Release(path.clone(), *ticket, port.into());
            let _ = self.registry.send_message(report);
            async { answer.await.unwrap_or(Err(ReleaseError::Lost)) }
        };
        let answers = join_all(granted.parts.iter().map(release));
        tokio::spawn(async move { reply.send(answers.await.into_iter().collect()) });
    }

    fn part_event(&mut self, part: usize, event: LockEvent, myself: &ActorRef<MultiLockActorMessage>) {
        let event = match event {
            LockEvent::Enqueued { ahead, .. } => Event::Queued { part, ahead },
            LockEvent::Acquired { guard, .. } => {
                self.parts[part].lease = Some(guard);
                // A lease's state changes before the message about its loss arrives.
                let is_lost = |p: &Part| p.lease.as_ref().is_some_and(|l| l.state() == LeaseState::Lost);
                match self.parts.iter().position(is_lost) {
                    Some(lost) => Event::Lost(lost),
                    None => Event::Held(part),
                }
            }
            LockEvent::Suspended(_) => Event::Suspended(part),
            LockEvent::Resumed(_) => Event::Resumed(part),
            LockEvent::Lost(_) => Event::Lost(part),
            // `Over` follows.
            LockEvent::Released(_) => return,
            LockEvent::Refused(_, refused) => {
                self.parts[part].refused = Some(refused);
                Event::Refused(part)
            }
        };
        self.feed(event, myself);
    }

    fn feed(&mut self, event: Event, myself: &ActorRef<MultiLockActorMessage>) {
        let mut commands = Vec::new();
        let now = self.clock.now();
        record::handle(self.recorder.as_ref(), &mut self.machine, event, now, &mut commands);
        for command in commands {
            self.execute(command, myself);
        }
    }

    fn execute(&mut self, command: Command, myself: &ActorRef<MultiLockActorMessage>) {
        let ticket = self.ticket;
        self.span.in_scope(|| debug!(round = self.round, ?command, "command"));
        match command {
            Command::Ask => {
                self.round += 1;
                match self.round {
                    1 => self.ask(myself),
                    // After a failed round, pause.
                    round => {
                        self.resting = true;
                        drop(myself.send_after(self.rest(), move || MultiLockActorMessage::Ask(round)));
                    }
                }
            }
            Command::Submit => self.submit(myself),
            Command::GiveBack => self.give_back(),
            Command::Queued(ahead) => {
                self.rests.end();
                self.tell(LockEvent::Enqueued { ticket, ahead }, myself)
            }
            Command::Grant => {
                self.keep_alive = None;
                self.metrics.granted();
                let granted = |part: &mut Part| Some((part.spec.path.clone(), part.ticket.take()?));
                let parts = self.parts.iter_mut().filter_map(granted).collect();
                let leases = self.parts.iter_mut().filter_map(|part| part.lease.take()).collect();
                let dropped = Arc::new(AtomicBool::new(false));
                let reports = ReportsDrop::new(dropped.clone(), myself.get_derived());
                let guard = MultiLease::new(ticket, leases, reports);
                self.granted = Some(Granted { ticket, parts, view: guard.view(), dropped });
                // The event carries the guard. If nobody receives it, the guard is dropped, which releases all locks.
                self.tell(LockEvent::Acquired { ticket, guard }, myself);
            }
            Command::Suspend => {
                self.metrics.suspended();
                self.tell(LockEvent::Suspended(ticket), myself)
            }
            Command::Resume => self.tell(LockEvent::Resumed(ticket), myself),
            Command::Lose => {
                self.metrics.lost();
                self.conclude(LockEvent::Lost(ticket))
            }
            Command::Released => {
                self.metrics.released();
                self.conclude(LockEvent::Released(ticket))
            }
            Command::Refuse(reason) => {
                let refused = match reason {
                    Cause::Cancelled => Refused::Cancelled,
                    Cause::Part(part) => self.parts[part].refused.take().unwrap_or(Refused::Cancelled),
                };
                self.metrics.refused(refused.metric());
                self.conclude(LockEvent::Refused(ticket, refused));
            }
            Command::End => myself.stop(None),
        }
    }

    /// The next pause. It ends no later than the deadline, which the paths' actors enforce.
    fn rest(&mut self) -> Duration {
        let rest = self.rests.next();
        match self.wait {
            Wait::Until(deadline) => rest.min(deadline.since(self.clock.now())),
            Wait::Try | Wait::Forever => rest,
        }
    }

    fn ask(&mut self, myself: &ActorRef<MultiLockActorMessage>) {
        self.resting = false;
        let Some(keep_alive) = &self.keep_alive else { return };
        for (number, part) in self.parts.iter_mut().enumerate() {
            let (ticket, MultiLockPart { path, options }) = (Ticket::new(), part.spec.clone());
            part.ticket = Some(ticket);
            let listener = PartListener { actor: myself.clone(), round: self.round, part: number };
            let (actor, round) = (myself.clone(), self.round);
            let offer = Box::new(move |entrant| {
                let _ = actor.cast(MultiLockActorMessage::Ready(round, number, entrant));
            });
            let sink = EventSink::new(ticket, path.clone(), move |event| listener.tell(event));
            let request = self
                .span
                .in_scope(|| AcquireRequest::new(ticket, options, self.wait, sink, keep_alive.clone()))
                .counted_as(None);
            let part = LockPart { again: round > 1, offer };
            let _ = self.registry.send_message(MultiLockReport::Acquire(path, request, part));
        }
    }

    fn submit(&mut self, myself: &ActorRef<MultiLockActorMessage>) {
        let entrants: Vec<Entrant> = self.parts.iter_mut().filter_map(|part| part.entrant.take()).collect();
        let Some(creates) = entrants.first().map(Entrant::creates) else { return };
        let (myself, round) = (myself.clone(), self.round);
        let answer = Box::new(move |back| {
            let _ = myself.cast(MultiLockActorMessage::Made(round, back));
        });
        // If that actor has died, the entrants are dropped, and report a failure to their locks.
        let _ = creates.send_message(JointCreate { entrants, answer });
    }

    fn give_back(&mut self) {
        for part in &mut self.parts {
            // Dropping an entrant withdraws its node, and dropping a lease releases it. All else is cancelled.
            (part.entrant, part.lease) = (None, None);
            if let Some(ticket) = part.ticket.take() {
                let _ = self.registry.send_message(MultiLockReport::Cancel(part.spec.path.clone(), ticket));
            }
        }
    }

    fn tell(&mut self, event: LockEvent<MultiLease>, myself: &ActorRef<MultiLockActorMessage>) {
        if self.sink.as_mut().is_some_and(|sink| !sink.tell(event)) {
            self.sink = None;
            let _ = myself.cast(MultiLockActorMessage::Cancel);
        }
    }

    fn conclude(&mut self, event: LockEvent<MultiLease>) {
        if let Some(sink) = self.sink.take() {
            sink.conclude(event);
        }
    }
}

impl Drop for State {
    /// Cancels and gives back everything, however the actor ends. A lease that was granted remains.
    fn drop(&mut self) {
        self.give_back();
        match (self.sink.take(), self.granted.take()) {
            (Some(sink), Some(granted)) => granted.outlive(sink, std::mem::take(&mut self.metrics)),
            // Not granted: dropping the sink reports that the actor has stopped.
            (sink, _) => drop(sink),
        }
        for part in &self.parts {
            let _ = self.registry.send_message(MultiLockReport::Dropped(part.spec.path.clone()));
        }
    }
}

impl Granted {
    /// Reports the loss of the lease, after the actor has died.
    fn outlive(self, sink: EventSink<MultiLease>, mut metrics: RequestMetrics) {
        // Without a runtime, all leases are lost, which dropping the sink reports.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            self.view.lost().await;
            // After a release, the view reads `Lost`, too.
            if self.dropped.load(Ordering::SeqCst) {
                metrics.released();
                sink.close_silently();
            } else {
                metrics.lost();
                sink.conclude(LockEvent::Lost(self.ticket));
            }
        });
    }
}

/// All paths, separated by commas.
fn paths(parts: &[MultiLockPart]) -> String {
    let paths: Vec<&str> = parts.iter().map(|part| &*part.path).collect();
    paths.join(",")
}

/// Passes a part's events to the actor of the multi-lock, and `Over` when it is dropped.
struct PartListener {
    actor: ActorRef<MultiLockActorMessage>,
    round: u64,
    part: usize,
}

impl PartListener {
    fn tell(&self, event: LockEvent) {
        // If the actor has ended, a lease inside the event is dropped, which releases the lock.
        let _ = self.actor.cast(MultiLockActorMessage::PartEvent(self.round, self.part, event));
    }
}

impl Drop for PartListener {
    fn drop(&mut self) {
        let _ = self.actor.cast(MultiLockActorMessage::Over(self.round, self.part));
    }
}
