//! What happens by itself between the processes and the server, when no caller asks for anything and nothing more goes
//! wrong.

use std::collections::BTreeSet;

use lockkeeper_actors::machine::{LeaseState, Machine, PathEvent, PathMachine};

use super::Data;
use super::clients::{Clients, DEADLINE, News};
use super::gates::Gate;
use super::replicas::Replicas;
use super::session::{Call, No, Session, Wire};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The server carries out the oldest request of a session that has no answer yet.
    Serve(u8),
    /// The same for one whose answer is lost.
    ServeUnheard(u8),
    /// The answers to the oldest command reach the actor.
    Hear(u8),
    HearNews(usize),
    /// A heartbeat finds out which nodes are gone.
    Heartbeat(u8),
    HearMissing(usize),
    /// To a server that has this state, as a place in the past.
    Reconnect(u8, usize),
    Resume(u8),
    /// The server drops a session whose lease has ended.
    Expire(u8),
    Connect(usize),
    /// Time goes on to what the process waits for next.
    Tick(usize),
    Wake(usize),
    CatchUp(u8),
}

/// Serves every session at one of its replicas.
pub trait Server {
    type Tree: Data;

    fn replicas(&self) -> &Replicas<Self::Tree>;
    fn replicas_mut(&mut self) -> &mut Replicas<Self::Tree>;
    /// The session and all that goes with it.
    fn expire(&mut self, session: u8);

    /// The session's actor has let go of it.
    fn let_go(&mut self, session: u8) {
        self.replicas_mut().unfollow(session);
    }

    /// The session's follower learns of the next of the transactions that it missed.
    fn catch_up(&mut self, session: u8) {
        self.replicas_mut().catch_up(session);
    }

    /// After a reconnect the session is served by a follower that has this state.
    fn lead(&mut self, session: u8, place: usize) {
        self.replicas_mut().lead(session, place);
    }
}

pub type Event<W> = <<W as World>::Machine as Machine>::Event;
pub type Command<W> = <<W as World>::Machine as Machine>::Command;
pub type Ask<W> = <<W as World>::Wire as Wire>::Ask;

/// What made a machine give a command.
pub struct Cause<'a, W: World + ?Sized> {
    /// As the machine got it.
    pub event: &'a Event<W>,
    /// The request that was refused, if that is what the event says.
    pub refused: Option<&'a Ask<W>>,
}

/// A model of processes with a machine each, and of the server that they share.
pub trait World {
    type Machine: PathMachine<Event: Clone + PartialEq>;
    type Wire: Wire;
    type Asked;
    type Server: Server;
    type Scenario;
    type Action: From<Step>;

    fn clients(&self) -> &Clients<Self::Machine, Self::Wire, Self::Asked>;
    fn clients_mut(&mut self) -> &mut Clients<Self::Machine, Self::Wire, Self::Asked>;
    fn server(&self) -> &Self::Server;
    fn server_mut(&mut self) -> &mut Self::Server;

    /// Whether there is such a node.
    fn has(&self, name: &<Self::Wire as Wire>::Name) -> bool;
    /// The watches of this session whose events may reach its actor.
    fn firing(&self, id: u8, actions: &mut Vec<Self::Action>);

    /// The server carries out a request.
    fn carry_out(
        &mut self,
        scenario: &Self::Scenario,
        id: u8,
        ask: &Ask<Self>,
    ) -> <Self::Wire as Wire>::Answer;
    /// All answers to a call have come: what the actor makes of them, if anything.
    fn hear(&mut self, scenario: &Self::Scenario, id: u8, call: Call<Self::Wire>) -> Option<Event<Self>>;
    /// What the machine gets: a twin may change it.
    fn event(&self, scenario: &Self::Scenario, process: usize, event: Event<Self>) -> Option<Event<Self>>;
    /// The actor carries out what the machine commanded on this event; a twin may change it.
    fn execute(
        &mut self,
        scenario: &Self::Scenario,
        process: usize,
        cause: Cause<'_, Self>,
        command: Command<Self>,
    );

    /// What stands before every machine.
    fn gate(&self, scenario: &Self::Scenario) -> Gate;

    /// Whether a process has not crashed.
    fn is_alive(&self, _process: usize) -> bool {
        true
    }

    /// Whether a process that has no session gets a new one.
    fn connects(&self, _process: usize) -> bool {
        true
    }

    /// The server is about to answer the session's oldest request.
    fn serving(&mut self, _id: u8) {}

    // ---- what may happen ----

    fn due_steps(&self, actions: &mut Vec<Self::Action>) {
        let processes = self.clients().processes.iter().enumerate();
        for (number, process) in processes.filter(|(number, _)| self.is_alive(*number)) {
            let mut due = |step: Step| actions.push(step.into());
            if !process.news.is_empty() {
                due(Step::HearNews(number));
            }
            if !process.missing.is_empty() {
                due(Step::HearMissing(number));
            }
            if process.current.is_none() && self.connects(number) {
                due(Step::Connect(number));
            }
            match process.machine.wakeup() {
                Some(moment) if moment <= process.now => due(Step::Wake(number)),
                Some(moment) if moment < DEADLINE || process.now >= DEADLINE => due(Step::Tick(number)),
                Some(_) | None => {}
            }
        }
        for (&id, session) in &self.clients().sessions {
            self.due_in_session(id, session, actions);
        }
    }

    fn due_in_session(&self, id: u8, session: &Session<Self::Wire>, actions: &mut Vec<Self::Action>) {
        let (process, replicas) = (&self.clients().processes[session.process], self.server().replicas());
        if process.using == Some(id) {
            if session.connected && session.next().is_some() {
                actions.push(Step::Serve(id).into());
            }
            if session.is_answered() {
                actions.push(Step::Hear(id).into());
            }
            if !session.connected && session.lease != LeaseState::Lost {
                actions.extend(replicas.servers(id).map(|place| Step::Reconnect(id, place).into()));
            }
            self.firing(id, actions);
        }
        let mut due = |step: Step| actions.push(step.into());
        if process.current == Some(id) && session.connected {
            if session.tracked.iter().any(|name| !self.has(name)) {
                due(Step::Heartbeat(id));
            }
            if session.lease == LeaseState::Suspended {
                due(Step::Resume(id));
            }
        }
        if !session.unheard.is_empty() {
            due(Step::ServeUnheard(id));
        }
        if session.lease == LeaseState::Lost && !session.expired {
            due(Step::Expire(id));
        }
        if replicas.is_behind(id) {
            due(Step::CatchUp(id));
        }
    }

    // ---- and what it does ----

    fn step(&mut self, scenario: &Self::Scenario, step: Step) {
        match step {
            Step::Serve(id) => self.serve(scenario, id, None),
            Step::ServeUnheard(id) => {
                if let Some(ask) = self.clients_mut().session(id).unheard.pop_front() {
                    self.carry_out(scenario, id, &ask);
                }
                self.clients_mut().bury(id);
            }
            Step::Hear(id) => {
                if let Some(call) = self.clients_mut().session(id).calls.pop_front() {
                    let replicas = self.server_mut().replicas_mut();
                    call.shown.iter().for_each(|place| replicas.answered(id, *place));
                    let process = self.clients().sessions[&id].process;
                    let is_refused = call.answers.first() == Some(&No::Refused.into());
                    let refused = call.asks.first().filter(|_| is_refused).cloned();
                    if let Some(event) = self.hear(scenario, id, call) {
                        self.feed_refused(scenario, process, event, refused);
                    }
                }
            }
            Step::HearNews(process) => self.hear_news(scenario, process),
            Step::Heartbeat(id) => {
                let tracked = std::mem::take(&mut self.clients_mut().session(id).tracked);
                let (there, gone): (BTreeSet<_>, BTreeSet<_>) =
                    tracked.into_iter().partition(|name| self.has(name));
                let session = self.clients_mut().session(id);
                session.tracked = there;
                let process = session.process;
                self.clients_mut().processes[process].missing.push_back(gone.into_iter().collect());
            }
            Step::HearMissing(process) => {
                let names = self.clients_mut().processes[process].missing.pop_front().unwrap_or_default();
                let names = names.iter().map(Self::Wire::text).collect();
                self.feed(scenario, process, PathEvent::Missing(names));
            }
            Step::Reconnect(id, place) => {
                self.server_mut().lead(id, place);
                let session = self.clients_mut().session(id);
                session.connected = true;
                session.unheard.clear();
            }
            Step::Resume(id) => self.clients_mut().resume(id),
            Step::Expire(id) => {
                self.server_mut().expire(id);
                let session = self.clients_mut().session(id);
                session.expired = true;
                session.unheard.clear();
                self.clients_mut().bury(id);
            }
            Step::Connect(process) => {
                let id = self.clients_mut().connect(process);
                self.server_mut().replicas_mut().follow(id);
            }
            Step::Tick(process) => self.clients_mut().processes[process].tick(),
            Step::Wake(process) => self.feed(scenario, process, PathEvent::Wake),
            Step::CatchUp(id) => self.server_mut().catch_up(id),
        }
    }

    /// Passes an event through the gate to a process' machine, and carries out what comes of it.
    fn feed(&mut self, scenario: &Self::Scenario, process: usize, event: impl Into<Event<Self>>) {
        self.feed_refused(scenario, process, event.into(), None);
    }

    /// The same with the request that was refused, if that is what the event says.
    fn feed_refused(
        &mut self,
        scenario: &Self::Scenario,
        process: usize,
        event: Event<Self>,
        refused: Option<Ask<Self>>,
    ) {
        let (gate, clients) = (self.gate(scenario), self.clients());
        let lease = clients.lease(process);
        let admitted = gate.admit(&clients.processes[process].machine, lease, event);
        let mut commands = Vec::new();
        for event in admitted {
            let Some(event) = self.event(scenario, process, event) else { continue };
            let (state, mut out) = (&mut self.clients_mut().processes[process], Vec::new());
            state.machine.handle(event.clone(), state.now, &mut out);
            commands.push((event, out));
        }
        for (event, out) in commands {
            for command in out {
                let cause = Cause { event: &event, refused: refused.as_ref() };
                self.execute(scenario, process, cause, command);
            }
        }
    }

    /// The oldest request gets its answer, or is denied.
    fn serve(&mut self, scenario: &Self::Scenario, id: u8, denied: Option<No>) {
        let Some(ask) = self.clients().sessions[&id].next().cloned() else { return };
        self.serving(id);
        let answer = match denied {
            Some(no) => no.into(),
            None => self.carry_out(scenario, id, &ask),
        };
        let place = self.server().replicas().place(id);
        self.clients_mut().session(id).answer(answer, place);
    }

    fn hear_news(&mut self, scenario: &Self::Scenario, process: usize) {
        let state = &mut self.clients_mut().processes[process];
        let (using, Some(news)) = (state.using, state.news.pop_front()) else { return };
        match news {
            News::Connected(id) => {
                self.let_go(process);
                if using.is_some() {
                    self.feed(scenario, process, PathEvent::Lost);
                }
                self.clients_mut().processes[process].using = Some(id);
                self.feed(scenario, process, PathEvent::Connected { session: id.into() });
            }
            News::Suspended(id) if using == Some(id) => self.feed(scenario, process, PathEvent::Suspended),
            News::Resumed(id) if using == Some(id) => self.feed(scenario, process, PathEvent::Resumed),
            News::Lost(id) if using == Some(id) => {
                self.let_go(process);
                self.feed(scenario, process, PathEvent::Lost);
            }
            News::Suspended(_) | News::Resumed(_) | News::Lost(_) => {}
        }
    }

    fn let_go(&mut self, process: usize) {
        if let Some(id) = self.clients_mut().processes[process].using.take() {
            self.clients_mut().session(id).abandon();
            self.server_mut().let_go(id);
            self.clients_mut().bury(id);
        }
    }

    /// The connection goes. All but the first `kept` answers are lost, and so are requests, but for the last `unsent`.
    fn cut(&mut self, id: u8, kept: usize, unsent: usize) {
        if let Some(place) = self.clients_mut().session(id).cut(kept, unsent) {
            self.server_mut().replicas_mut().answered(id, place);
        }
    }

    /// A process is gone. Its sessions end some time later.
    fn crash(&mut self, process: usize) {
        let gone = &mut self.clients_mut().processes[process];
        (gone.using, gone.current) = (None, None);
        gone.news.clear();
        gone.missing.clear();
        let sessions = self.clients().sessions.iter().filter(|(_, session)| session.process == process);
        for id in sessions.map(|(id, _)| *id).collect::<Vec<u8>>() {
            let session = self.clients_mut().session(id);
            session.abandon();
            session.lease = LeaseState::Lost;
            self.server_mut().let_go(id);
            self.clients_mut().bury(id);
        }
    }

    /// The first sessions have begun.
    fn begin(&mut self, scenario: &Self::Scenario, has_cuts: bool) {
        for process in 0..self.clients().processes.len() {
            self.hear_news(scenario, process);
            if has_cuts {
                self.server_mut().replicas_mut().follow(process as u8 + 1);
            }
        }
    }

    /// What can no longer be seen makes no difference between two states.
    fn forget(&mut self, has_cuts: bool) {
        let sessions = &self.clients().sessions;
        let connected: Vec<u8> =
            sessions.iter().filter(|(_, session)| session.connected).map(|(id, _)| *id).collect();
        let replicas = self.server_mut().replicas_mut();
        if !has_cuts {
            connected.iter().for_each(|id| replicas.unfollow(*id));
        }
        let forgotten = replicas.forget();
        let calls = self.clients_mut().sessions.values_mut().flat_map(|session| &mut session.calls);
        for place in calls.flat_map(|call| &mut call.shown) {
            *place = if has_cuts { place.saturating_sub(forgotten) } else { 0 };
        }
    }
}
