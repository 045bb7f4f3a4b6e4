//! What a client does with the record of its keeper: it replays the record through the machines and checks it against
//! the specification, in parts, while it works. So a client that is killed has checked all but its last second. At its
//! end, it alters single steps of the record, to see that the two notice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lockkeeper::record::Recording;
use lockkeeper_actors::machine::session;
use lockkeeper_actors::record::{Exchange, Step, take};

use super::dice::Dice;
use super::history::Entry;
use super::records::{Change, Count, Replay, Specification, Verdict, alter, judge, kind, refused};

pub struct Audit {
    recording: Recording,
    replay: Replay,
    specification: Specification,
    /// The first steps, which are altered at the end.
    kept: Vec<Step>,
    due: Instant,
    /// After a first difference everything would differ.
    over: bool,
}

/// The kinds of machines that clients use.
pub const MACHINES: [&str; 6] = ["lock", "semaphore", "multi-lock", "session", "candidate", "run"];

/// Many times the record of a second, in bytes.
const ROOM: usize = 64 << 20;
const PERIOD: Duration = Duration::from_secs(1);

/// Enough for a run of the usual length.
const KEPT: usize = 20_000;

/// How many times a step is altered.
const ALTERED: usize = 200;

/// After this time, a client stops at fewer of them.
const LONGEST: Duration = Duration::from_secs(3);
const FEWEST: usize = 40;

impl Audit {
    pub fn new() -> Audit {
        Audit {
            recording: Recording::new(ROOM),
            replay: Replay::default(),
            specification: Specification::default(),
            kept: Vec::new(),
            due: Instant::now() + PERIOD,
            over: false,
        }
    }

    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Checks what was recorded since the last time, once a second.
    pub fn check(&mut self) -> Vec<Entry> {
        if Instant::now() < self.due {
            return Vec::new();
        }
        let entries = self.check_now();
        self.due = Instant::now() + PERIOD;
        entries
    }

    /// Checks the rest of the record of a keeper that is closed.
    pub fn finish(mut self, dice: &mut Dice) -> Vec<Entry> {
        let mut entries = self.check_now();
        let ended = if self.over { Ok(()) } else { self.specification.finish() };
        entries.extend(ended.err().map(|broken| Entry::Failed(broken.to_string())));
        if self.recording.dropped() > 0 {
            entries.push(Entry::Failed("the record was too small".into()));
        }
        entries.extend(counted(alterations(&self.kept, dice)));
        entries
    }

    fn check_now(&mut self) -> Vec<Entry> {
        let steps = take(&self.recording);
        if self.over {
            return Vec::new();
        }
        let before = self.replay.counts().clone();
        let replayed = self.replay.feed(&steps).map_err(|differs| format!("its replay differs: {differs}"));
        let judged = self.specification.feed(&steps).map_err(|broken| broken.to_string());
        let mut counts = BTreeMap::new();
        for (kind, Count { events, commands }) in self.replay.counts() {
            let before = before.get(kind).copied().unwrap_or_default();
            counts.insert(format!("{kind}.events"), events - before.events);
            counts.insert(format!("{kind}.commands"), commands - before.commands);
        }
        for step in &steps {
            if let Exchange::Session(event, commands) = &step.exchange {
                let reconnected = *event == session::Event::Reconnected;
                let lost = commands.contains(&session::Command::Lose);
                *counts.entry("reconnects".into()).or_default() += usize::from(reconnected);
                *counts.entry("losses".into()).or_default() += usize::from(lost);
            }
        }
        self.kept.extend(steps.into_iter().take(KEPT - self.kept.len()));
        let failed: Vec<String> = [replayed, judged].into_iter().filter_map(Result::err).collect();
        self.over = !failed.is_empty();
        counted(counts).chain(failed.into_iter().map(Entry::Failed)).collect()
    }
}

/// What the clients have counted, in words.
pub fn report(counts: &BTreeMap<String, u64>) -> String {
    let counted = |what: &str| counts.get(what).copied().unwrap_or(0);
    let of =
        |machine: &&str| (counted(&format!("{machine}.events")), counted(&format!("{machine}.commands")));
    let replayed: Vec<_> = MACHINES.iter().map(|machine| (machine, of(machine))).collect();
    let accepted = counts.iter().filter(|(what, _)| what.matches('.').count() > 1);
    format!(
        "replayed events and commands: {replayed:?}, with {} reconnects and {} lost sessions\n\
         altered steps: {}, refused: {}, {} of them by the specification; without a difference: {} at once, {} \
         soon, {} until the end: {:?}\n",
        counted("reconnects"),
        counted("losses"),
        counted("altered"),
        counted("altered.refused"),
        counted("altered.broken"),
        counted("altered.same"),
        counted("altered.overtaken"),
        counted("altered.open"),
        accepted.collect::<Vec<_>>(),
    )
}

fn counted(counts: BTreeMap<String, usize>) -> impl Iterator<Item = Entry> {
    let counts = counts.into_iter().filter(|(_, number)| *number > 0);
    counts.map(|(what, number)| Entry::Counted { what, number: number as u64 })
}

/// Alters steps at random places, one at a time, and counts what follows.
fn alterations(steps: &[Step], dice: &mut Dice) -> BTreeMap<String, usize> {
    let mut machines: BTreeMap<u64, Vec<Step>> = BTreeMap::new();
    let mut places = Vec::new();
    for step in steps {
        let of_it = machines.entry(step.machine).or_default();
        if !matches!(step.exchange, Exchange::Begun(_)) {
            places.push((step.machine, of_it.len()));
        }
        of_it.push(step.clone());
    }
    let mut counts = BTreeMap::new();
    if places.is_empty() {
        return counts;
    }
    let mut count = |what: String| *counts.entry(what).or_default() += 1;
    let begun = Instant::now();
    for tried in 0..ALTERED {
        // A busy machine alters fewer of them, and ends in time all the same.
        if tried >= FEWEST && begun.elapsed() > LONGEST {
            break;
        }
        let (machine, place) = places[dice.index(places.len())];
        let (steps, change) = (&machines[&machine], *dice.pick(&Change::ALL));
        let Some(altered) = alter(steps, place, change) else { continue };
        count("altered".into());
        if refused(steps, &altered).is_some() {
            count("altered.broken".into());
        }
        let why = match judge(steps, &altered, place) {
            Verdict::Differs(_) | Verdict::Broken(_) => {
                count("altered.refused".into());
                continue;
            }
            Verdict::Same => "same",
            Verdict::Overtaken => "overtaken",
            Verdict::Open => "open",
        };
        count(format!("altered.{why}"));
        let exchange = &steps[place].exchange;
        count(format!("altered.{why}.{}.{}.{change:?}", kind(exchange), event(exchange)));
    }
    counts
}

/// The name of a step's event.
fn event(exchange: &Exchange) -> String {
    let text = match exchange {
        Exchange::Begun(origin) => format!("{origin:?}"),
        Exchange::Lock(event, _) => format!("{event:?}"),
        Exchange::Semaphore(event, _) => format!("{event:?}"),
        Exchange::MultiLock(event, _) => format!("{event:?}"),
        Exchange::Session(event, _) => format!("{event:?}"),
        Exchange::Candidate(event, _) => format!("{event:?}"),
        Exchange::Run(_, event, _) => format!("{event:?}"),
    };
    let inner = ["Queue(", "Mutex(", "Path("]
        .iter()
        .fold(&*text, |text, outer| text.strip_prefix(outer).unwrap_or(text));
    inner.chars().take_while(char::is_ascii_alphabetic).collect()
}
