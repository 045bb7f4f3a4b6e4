//! The actor of one request for several paths: carries out what its machine decides.
//!
//! It does no I/O. It asks the paths' own actors, collects what they say, and lets one of them send the transaction that
//! makes all nodes.

use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorProcessingErr, ActorRef};
use tracing::{Span, debug, debug_span};

use crate::api::error::AcquireError;
use crate::api::lease::{Lease, LeaseState};
use crate::api::messages::{
    AcquireRequest, ContenderOptions, Lifeline, Listener, LockEvent, LockMessage, Place, Refused,
};
pub use crate::api::multi_lease::MultiLease;
use crate::lock::{Entrant, Together};
use crate::machine::backoff::Rests;
use crate::machine::lock::protocol::{Ticket, Wait};
use crate::machine::multi_lock::{Multi, MultiCommand, MultiEvent, Reason};
use crate::registry::PrimitivesMessage;
use crate::runtime::clock::Clock;

/// To whoever acquires several paths at once.
#[non_exhaustive]
pub enum MultiMessage {
    /// Wants all of them. What becomes of it is told to the request's listener.
    Acquire(MultiRequest),
    /// Does not want them any more. A ticket that is held, has not been used, or is done, is passed over.
    Cancel(Ticket),
}

/// A request for several paths, all or none.
pub struct MultiRequest {
    ticket: Ticket,
    parts: Arc<[MultiPart]>,
    wait: Wait,
    listener: Listener<MultiLease>,
    lifeline: Arc<Lifeline>,
}

/// One path of several.
#[derive(Clone, Debug)]
pub struct MultiPart {
    /// The lock's path.
    pub path: Arc<str>,
    /// How it is wanted. Its node is ephemeral, whatever is said here.
    pub options: Arc<ContenderOptions>,
}

impl MultiRequest {
    /// What a handle fills in. The paths differ from each other.
    pub fn new(
        ticket: Ticket,
        parts: Arc<[MultiPart]>,
        wait: Wait,
        listener: Listener<MultiLease>,
        lifeline: Arc<Lifeline>,
    ) -> MultiRequest {
        MultiRequest { ticket, parts, wait, listener, lifeline }
    }

    /// Names the request, to cancel it.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Answers it.
    pub fn refuse(self, error: AcquireError) {
        self.listener.conclude(LockEvent::Refused(self.ticket, Refused::Failed(error)));
    }
}

pub(crate) struct MultiActor;

pub(crate) struct MultiArguments {
    pub request: MultiRequest,
    pub primitives: ActorRef<PrimitivesMessage>,
    pub clock: Clock,
    /// A random number.
    pub spread: u32,
}

/// What is numbered counts rounds first, then parts.
pub(crate) enum MultiActorMessage {
    Start,
    /// The pause before this round is over.
    Ask(u64),
    /// Whatever is asked for from now on is refused, so that there is nothing to rest for.
    Close,
    /// What a part's listener hears.
    Heard(u64, usize, LockEvent),
    /// A part's node can be made.
    Named(u64, usize, Entrant),
    /// The transaction is answered. These can still be entered.
    Made(u64, Vec<(usize, Entrant)>),
    /// A part's listener is gone.
    Over(u64, usize),
    Cancel,
}

#[cfg(feature = "cluster")]
impl ractor::Message for MultiActorMessage {}

pub(crate) struct State {
    primitives: ActorRef<PrimitivesMessage>,
    machine: Multi,
    ticket: Ticket,
    wait: Wait,
    parts: Vec<Part>,
    round: u64,
    /// Before rounds that follow upon one that failed.
    rests: Rests,
    /// Before this round.
    resting: bool,
    clock: Clock,
    /// Until the last word is said.
    listener: Option<Listener<MultiLease>>,
    /// Until the leases have it.
    lifeline: Option<Arc<Lifeline>>,
    span: Span,
}

/// What a part needs besides its place in the machine.
struct Part {
    about: MultiPart,
    /// Of this round.
    ticket: Option<Ticket>,
    entrant: Option<Entrant>,
    lease: Option<Lease>,
    refused: Option<Refused>,
}

#[ractor::actor(message = MultiActorMessage, state = State, arguments = MultiArguments)]
impl MultiActor {
    async fn pre_start(
        &self,
        myself: ActorRef<MultiActorMessage>,
        MultiArguments { request, primitives, clock, spread }: MultiArguments,
    ) -> Result<State, ActorProcessingErr> {
        let paths: Vec<&str> = request.parts.iter().map(|part| &*part.path).collect();
        let span = debug_span!("multi_lock", paths = paths.join(","), ticket = %request.ticket);
        for part in request.parts.iter() {
            // As long as this lives, so do the actors of its paths.
            let _ = primitives.cast(PrimitivesMessage::Open(Place::lock(&part.path)));
        }
        let part = |about: &MultiPart| Part {
            about: about.clone(),
            ticket: None,
            entrant: None,
            lease: None,
            refused: None,
        };
        myself.cast(MultiActorMessage::Start)?;
        Ok(State {
            primitives,
            machine: Multi::new(request.parts.len()),
            ticket: request.ticket,
            wait: request.wait,
            parts: request.parts.iter().map(part).collect(),
            round: 0,
            rests: Rests::new(spread),
            resting: false,
            clock,
            listener: Some(request.listener),
            lifeline: Some(request.lifeline),
            span,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<MultiActorMessage>,
        message: MultiActorMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.handle(message, &myself);
        Ok(())
    }
}

impl State {
    /// What belongs to an earlier round is dropped, and so given back.
    fn handle(&mut self, message: MultiActorMessage, myself: &ActorRef<MultiActorMessage>) {
        match message {
            MultiActorMessage::Start => self.feed(MultiEvent::Start, myself),
            MultiActorMessage::Ask(round) if round == self.round && self.resting => self.ask(myself),
            MultiActorMessage::Close if self.resting => self.ask(myself),
            MultiActorMessage::Heard(round, part, event) if round == self.round => {
                self.heard(part, event, myself)
            }
            MultiActorMessage::Named(round, part, entrant) if round == self.round => {
                let epoch = entrant.epoch;
                self.parts[part].entrant = Some(entrant);
                self.feed(MultiEvent::Named { part, epoch }, myself);
            }
            MultiActorMessage::Made(round, entrants) if round == self.round => {
                let back = entrants.iter().map(|(part, _)| *part).collect();
                for (part, entrant) in entrants {
                    self.parts[part].entrant = Some(entrant);
                }
                self.feed(MultiEvent::Made { back }, myself);
            }
            MultiActorMessage::Over(round, part) if round == self.round => {
                self.feed(MultiEvent::Over(part), myself)
            }
            MultiActorMessage::Ask(_)
            | MultiActorMessage::Close
            | MultiActorMessage::Heard(..)
            | MultiActorMessage::Named(..)
            | MultiActorMessage::Made(..)
            | MultiActorMessage::Over(..) => {}
            MultiActorMessage::Cancel => self.feed(MultiEvent::Cancel, myself),
        }
    }

    fn heard(&mut self, part: usize, event: LockEvent, myself: &ActorRef<MultiActorMessage>) {
        let event = match event {
            LockEvent::Queued { ahead, .. } => MultiEvent::Queued { part, ahead },
            LockEvent::Acquired { guard, .. } => {
                self.parts[part].lease = Some(guard);
                // A lease's own word is ahead of the message that tells of its loss.
                let is_lost = |p: &Part| p.lease.as_ref().is_some_and(|l| l.state() == LeaseState::Lost);
                match self.parts.iter().position(is_lost) {
                    Some(lost) => MultiEvent::Lost(lost),
                    None => MultiEvent::Held(part),
                }
            }
            LockEvent::Suspended(_) => MultiEvent::Suspended(part),
            LockEvent::Resumed(_) => MultiEvent::Resumed(part),
            LockEvent::Lost(_) => MultiEvent::Lost(part),
            // Its listener goes next.
            LockEvent::Released(_) => return,
            LockEvent::Refused(_, refused) => {
                self.parts[part].refused = Some(refused);
                MultiEvent::Refused(part)
            }
        };
        self.feed(event, myself);
    }

    fn feed(&mut self, event: MultiEvent, myself: &ActorRef<MultiActorMessage>) {
        let mut commands = Vec::new();
        self.machine.handle(event, &mut commands);
        for command in commands {
            self.execute(command, myself);
        }
    }

    fn execute(&mut self, command: MultiCommand, myself: &ActorRef<MultiActorMessage>) {
        let ticket = self.ticket;
        self.span.in_scope(|| debug!(round = self.round, ?command));
        match command {
            MultiCommand::Ask => {
                self.round += 1;
                match self.round {
                    1 => self.ask(myself),
                    // Its places did not last: not again and again without a pause.
                    round => {
                        self.resting = true;
                        drop(myself.send_after(self.rest(), move || MultiActorMessage::Ask(round)));
                    }
                }
            }
            MultiCommand::Submit => self.submit(myself),
            MultiCommand::GiveBack => self.give_back(),
            MultiCommand::Queued(ahead) => {
                self.rests.end();
                self.tell(LockEvent::Queued { ticket, ahead }, myself)
            }
            MultiCommand::Grant => {
                self.lifeline = None;
                self.parts.iter_mut().for_each(|part| part.ticket = None);
                let leases = self.parts.iter_mut().filter_map(|part| part.lease.take()).collect();
                let guard = MultiLease::new(ticket, leases);
                // The guard travels in the event: a caller that has gone away drops it, and that releases all.
                self.tell(LockEvent::Acquired { ticket, guard }, myself);
            }
            MultiCommand::Suspend => self.tell(LockEvent::Suspended(ticket), myself),
            MultiCommand::Resume => self.tell(LockEvent::Resumed(ticket), myself),
            MultiCommand::Lose => self.conclude(LockEvent::Lost(ticket)),
            MultiCommand::Released => self.conclude(LockEvent::Released(ticket)),
            MultiCommand::Refuse(reason) => {
                let refused = match reason {
                    Reason::Cancelled => Refused::Cancelled,
                    Reason::Part(part) => self.parts[part].refused.take().unwrap_or(Refused::Cancelled),
                };
                self.conclude(LockEvent::Refused(ticket, refused));
            }
            MultiCommand::End => myself.stop(None),
        }
    }

    /// Not beyond the deadline, which the paths keep.
    fn rest(&mut self) -> Duration {
        let rest = self.rests.next();
        match self.wait {
            Wait::Until(deadline) => rest.min(deadline.since(self.clock.now())),
            Wait::Try | Wait::Forever => rest,
        }
    }

    fn ask(&mut self, myself: &ActorRef<MultiActorMessage>) {
        self.resting = false;
        let Some(lifeline) = &self.lifeline else { return };
        for (number, part) in self.parts.iter_mut().enumerate() {
            let (ticket, MultiPart { path, options }) = (Ticket::new(), part.about.clone());
            part.ticket = Some(ticket);
            let port = Port { actor: myself.clone(), round: self.round, part: number };
            let (actor, round) = (myself.clone(), self.round);
            let joint = Box::new(move |entrant| {
                let _ = actor.cast(MultiActorMessage::Named(round, number, entrant));
            });
            let listener = Listener::new(ticket, path.clone(), move |event| port.tell(event));
            let request = self.span.in_scope(|| {
                AcquireRequest::new(ticket, options, self.wait, listener, lifeline.clone())
                    .joint(joint, round > 1)
            });
            let _ = self
                .primitives
                .cast(PrimitivesMessage::Lock(Place::lock(&path), LockMessage::Acquire(request)));
        }
    }

    fn submit(&mut self, myself: &ActorRef<MultiActorMessage>) {
        let entrants: Vec<Entrant> = self.parts.iter_mut().filter_map(|part| part.entrant.take()).collect();
        let Some(actor) = entrants.first().map(Entrant::actor) else { return };
        let (myself, round) = (myself.clone(), self.round);
        let answer = Box::new(move |back| {
            let _ = myself.cast(MultiActorMessage::Made(round, back));
        });
        Entrant::submit(&actor, Together { entrants, answer });
    }

    fn give_back(&mut self) {
        for part in &mut self.parts {
            // What nobody has made is withdrawn, what is held is released, and the rest is cancelled.
            (part.entrant, part.lease) = (None, None);
            if let Some(ticket) = part.ticket.take() {
                let cancel = LockMessage::Cancel(ticket);
                let _ = self.primitives.cast(PrimitivesMessage::Lock(Place::lock(&part.about.path), cancel));
            }
        }
    }

    fn tell(&mut self, event: LockEvent<MultiLease>, myself: &ActorRef<MultiActorMessage>) {
        if self.listener.as_mut().is_some_and(|listener| !listener.tell(event)) {
            self.listener = None;
            let _ = myself.cast(MultiActorMessage::Cancel);
        }
    }

    fn conclude(&mut self, event: LockEvent<MultiLease>) {
        if let Some(listener) = self.listener.take() {
            listener.conclude(event);
        }
    }
}

impl Drop for State {
    /// However this actor ends, nothing that was asked for stays behind.
    fn drop(&mut self) {
        self.give_back();
        if let Some(listener) = self.listener.take() {
            match self.lifeline {
                // Not granted: it says that the actor was stopped.
                Some(_) => drop(listener),
                None => listener.leave(),
            }
        }
        for part in &self.parts {
            let _ = self.primitives.cast(PrimitivesMessage::Dropped(Place::lock(&part.about.path)));
        }
    }
}

/// A part's way to its request's actor.
struct Port {
    actor: ActorRef<MultiActorMessage>,
    round: u64,
    part: usize,
}

impl Port {
    fn tell(&self, event: LockEvent) {
        // An actor that has gone drops the lease in it, and that releases the path.
        let _ = self.actor.cast(MultiActorMessage::Heard(self.round, self.part, event));
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let _ = self.actor.cast(MultiActorMessage::Over(self.round, self.part));
    }
}
