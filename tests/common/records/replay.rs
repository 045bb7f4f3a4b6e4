//! Replays a record: passes the recorded events to machines of the same beginning, and compares their commands.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};

use lockkeeper_actors::machine::candidate::Candidate;
use lockkeeper_actors::machine::linger::LingeringLock;
use lockkeeper_actors::machine::multi_lock::MultiLock;
use lockkeeper_actors::machine::run::Run;
use lockkeeper_actors::machine::semaphore::Semaphore;
use lockkeeper_actors::machine::session::Session;
use lockkeeper_actors::machine::{Machine, Moment};
use lockkeeper_actors::record::{Exchange, Origin, Step};

/// The machines of a record, made anew. A long record can be fed in parts.
#[derive(Default)]
pub struct Replay {
    /// Each with the number of its events so far.
    twins: BTreeMap<u64, (Twin, usize)>,
    counts: BTreeMap<&'static str, Count>,
}

/// What was replayed of one kind of machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub events: usize,
    pub commands: usize,
}

/// The first event to which a machine gives other commands than it has recorded.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The number of the machine in the record.
    pub machine: u64,
    /// The number of the event among those of the machine, from one; zero is its beginning.
    pub event: usize,
    pub what: String,
    pub given: String,
    pub recorded: String,
}

impl Replay {
    /// Replays the next steps of a record. Steps of machines whose beginning is not in the record are left out.
    pub fn feed(&mut self, steps: &[Step]) -> Result<(), Difference> {
        for step in steps {
            let number = step.machine;
            let difference =
                |event, what, (given, recorded)| Difference { machine: number, event, what, given, recorded };
            if let Exchange::Begun(origin) = &step.exchange {
                let twin = Twin::begin(origin, step.at);
                let twin = twin.map_err(|differ| difference(0, format!("{origin:?}"), differ))?;
                self.twins.insert(number, (twin, 0));
                continue;
            }
            let Some((twin, events)) = self.twins.get_mut(&number) else { continue };
            *events += 1;
            let handled = twin.handle(&step.exchange, step.at);
            let commands = handled.map_err(|(what, differ)| difference(*events, what, differ))?;
            let count = self.counts.entry(kind(&step.exchange)).or_default();
            count.events += 1;
            count.commands += commands;
        }
        Ok(())
    }

    /// What was replayed so far, by the kind of machine.
    pub fn counts(&self) -> &BTreeMap<&'static str, Count> {
        &self.counts
    }

    /// The machine with this number, if its beginning is in the record.
    pub(super) fn twin(&self, machine: u64) -> Option<&Twin> {
        self.twins.get(&machine).map(|(twin, _)| twin)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { machine, event, what, given, recorded } = self;
        write!(f, "machine {machine}, event {event}, {what}: gives {given}, and gave {recorded}")
    }
}

/// The kind of machine that a step belongs to.
pub fn kind(exchange: &Exchange) -> &'static str {
    match exchange {
        Exchange::Begun(Origin::Lock { .. }) | Exchange::Lock(..) => "lock",
        Exchange::Begun(Origin::Semaphore { .. }) | Exchange::Semaphore(..) => "semaphore",
        Exchange::Begun(Origin::MultiLock { .. }) | Exchange::MultiLock(..) => "multi-lock",
        Exchange::Begun(Origin::Session { .. }) | Exchange::Session(..) => "session",
        Exchange::Begun(Origin::Candidate { .. }) | Exchange::Candidate(..) => "candidate",
        Exchange::Begun(Origin::Run { .. }) | Exchange::Run(..) => "run",
    }
}

/// A machine of the same beginning as a recorded one.
#[derive(Clone, PartialEq)]
pub(super) enum Twin {
    Lock(Box<LingeringLock>),
    Semaphore(Box<Semaphore>),
    MultiLock(MultiLock),
    Session(Session),
    Candidate(Candidate),
    Run(Run),
}

/// The commands that were given, and those that are recorded.
type Differ = (String, String);

impl Twin {
    fn begin(origin: &Origin, at: Moment) -> Result<Twin, Differ> {
        Ok(match origin {
            Origin::Lock { instance, .. } => Twin::Lock(LingeringLock::new(*instance).into()),
            Origin::Semaphore { instance, .. } => Twin::Semaphore(Semaphore::new(*instance).into()),
            Origin::MultiLock { paths } => Twin::MultiLock(MultiLock::new(paths.len())),
            Origin::Session { begun, timeout, tick, commands, .. } => {
                let mut given = Vec::new();
                let session = Session::new(*begun, at, *timeout, *tick, &mut given);
                same(&given, commands)?;
                Twin::Session(session)
            }
            Origin::Candidate { proven_after, .. } => {
                Twin::Candidate(Candidate::new(*proven_after, &mut Vec::new()))
            }
            Origin::Run { limits, .. } => Twin::Run(Run::new(limits.clone())),
        })
    }

    /// Returns the number of commands, or the event and how its commands differ.
    fn handle(&mut self, exchange: &Exchange, at: Moment) -> Result<usize, (String, Differ)> {
        match (self, exchange) {
            (Twin::Lock(twin), Exchange::Lock(event, commands)) => compare(&mut **twin, event, at, commands),
            (Twin::Semaphore(twin), Exchange::Semaphore(event, commands)) => {
                compare(&mut **twin, event, at, commands)
            }
            (Twin::MultiLock(twin), Exchange::MultiLock(event, commands)) => {
                compare(twin, event, at, commands)
            }
            (Twin::Session(twin), Exchange::Session(event, commands)) => compare(twin, event, at, commands),
            (Twin::Candidate(twin), Exchange::Candidate(event, commands)) => {
                compare(twin, event, at, commands)
            }
            (Twin::Run(twin), Exchange::Run(until, event, commands)) => {
                twin.set_until(*until);
                compare(twin, event, at, commands)
            }
            (_, exchange) => Err((format!("{exchange:?}"), ("nothing".into(), "another kind".into()))),
        }
    }
}

fn compare<M: Machine<Event: Clone + Debug, Command: PartialEq>>(
    machine: &mut M,
    event: &M::Event,
    at: Moment,
    commands: &[M::Command],
) -> Result<usize, (String, Differ)> {
    let mut given = Vec::new();
    machine.handle(event.clone(), at, &mut given);
    same(&given, commands).map(|()| given.len()).map_err(|differ| (format!("{event:?}"), differ))
}

fn same<C: Debug + PartialEq>(given: &[C], recorded: &[C]) -> Result<(), Differ> {
    match given == recorded {
        true => Ok(()),
        false => Err((format!("{given:?}"), format!("{recorded:?}"))),
    }
}
