//! The watchdog: a process that ends the command when the process that holds the lock cannot.
//!
//! It is told the end of the lease, again after every heartbeat. If nobody extends it, because the holder is stopped,
//! hangs or is starved, the watchdog sends TERM and KILL itself. If the holder dies, its end of the pipe closes, and the
//! watchdog kills the group at once.

use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::timeout;

use super::policy::Order;
use super::program::ourselves;
use crate::exit::Exit;

#[derive(Args, Debug)]
pub struct WatchdogArgs {
    /// The first order
    order: Option<String>,
}

/// The watchdog, as the process that holds the lock sees it.
pub struct Watchdog {
    process: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// When a command is to be ended, on [the clock](now) that all processes of the machine share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// When to send TERM; `None` if that is done.
    pub term: Option<Duration>,
    /// When to send KILL.
    pub kill: Duration,
}

impl Watchdog {
    /// Starts it. It does nothing until it gets a group to watch.
    pub fn start() -> io::Result<Watchdog> {
        Watchdog::start_with(None)
    }

    /// Starts it for a group that has none. It watches from its first moment on, also if we are stopped in this one.
    pub fn start_watching(group: Pid, bounds: Bounds) -> io::Result<Watchdog> {
        Watchdog::start_with(Some(watch(group, bounds)))
    }

    fn start_with(order: Option<String>) -> io::Result<Watchdog> {
        let mut command = ourselves();
        // A group of its own, which the terminal's signals do not reach.
        command.arg("__watchdog").args(order).process_group(0);
        let mut command = tokio::process::Command::from(command);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let closed = || io::Error::other("the watchdog has no pipe");
        let orders = process.stdin.take().ok_or_else(closed)?;
        let answers = BufReader::new(process.stdout.take().ok_or_else(closed)?).lines();
        Ok(Watchdog { process, orders, answers })
    }

    /// Whether it has ended, so that another one is needed.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// Tells it what to watch, and waits until it knows.
    pub async fn watch(&mut self, group: Pid, bounds: Bounds) -> io::Result<()> {
        self.send(format!("{}\n", watch(group, bounds))).await?;
        self.answered().await
    }

    /// Tells it new bounds.
    pub async fn update(&mut self, bounds: Bounds) -> io::Result<()> {
        self.send(format!("until {}\n", bounds.text())).await
    }

    /// Tells it that the group has ended, and waits until it knows.
    pub async fn forget(&mut self) -> io::Result<()> {
        self.send("forget\n".to_owned()).await?;
        self.answered().await
    }

    /// Ends it. It kills nobody.
    pub async fn kill(&mut self) {
        // Fails if it has ended.
        let _ = self.process.kill().await;
    }

    /// A watchdog that is stopped does not empty its pipe, and must not keep us from our work.
    async fn send(&mut self, line: String) -> io::Result<()> {
        const LIMIT: Duration = Duration::from_millis(100);
        timeout(LIMIT, self.orders.write_all(line.as_bytes())).await?
    }

    async fn answered(&mut self) -> io::Result<()> {
        const LIMIT: Duration = Duration::from_secs(1);
        let answer = timeout(LIMIT, self.answers.next_line()).await??;
        answer.map(drop).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// The order to watch a group.
fn watch(group: Pid, bounds: Bounds) -> String {
    format!("watch {} {}", group.as_raw_nonzero(), bounds.text())
}

impl Bounds {
    /// Whether these differ from what it was told by more than the time that it takes to compute them.
    pub fn differ(self, told: Bounds) -> bool {
        const JITTER: Duration = Duration::from_millis(1);
        self.term.is_some() != told.term.is_some() || self.kill.abs_diff(told.kill) > JITTER
    }

    fn text(self) -> String {
        let term = self.term.map_or_else(|| "-".to_owned(), |term| term.as_nanos().to_string());
        format!("{term} {}", self.kill.as_nanos())
    }

    fn parse<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Bounds> {
        let term = match words.next()? {
            "-" => None,
            nanos => Some(Duration::from_nanos(nanos.parse().ok()?)),
        };
        Some(Bounds { term, kill: Duration::from_nanos(words.next()?.parse().ok()?) })
    }
}

/// The time since boot. Like a lease, it goes on while the machine sleeps.
pub fn now() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = ClockId::Monotonic;
    clock_gettime(clock).try_into().unwrap_or_default()
}

/// The life of the watchdog: it ends when its parent does, and kills what it watches then.
pub fn watchdog(args: &WatchdogArgs) -> Exit {
    let (sender, orders) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut state = State::default();
    if let Some(order) = &args.order {
        state.told(order);
    }
    loop {
        if let (Some(order), Some(group)) = (state.due(now()), state.group) {
            obey(order, group);
        }
        match orders.recv_timeout(state.rest(now())) {
            Ok(line) if state.told(&line) => {
                // If the parent has died, the next order is the end of its pipe.
                let _ = writeln!(io::stdout(), "{line}");
            }
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    if let Some(group) = state.group {
        kill_all(group);
    }
    Exit::Success
}

/// What the watchdog knows.
#[derive(Debug, Default)]
struct State {
    group: Option<Pid>,
    bounds: Bounds,
}

impl State {
    /// Takes an order. Returns whether it has to be confirmed.
    fn told(&mut self, line: &str) -> bool {
        let mut words = line.split(' ');
        match words.next() {
            Some("watch") => {
                self.group = words.next().and_then(|group| Pid::from_raw(group.parse().ok()?));
                self.bounds = Bounds::parse(&mut words).unwrap_or_default();
                true
            }
            Some("until") => {
                self.bounds = Bounds::parse(&mut words).unwrap_or_default();
                false
            }
            Some("forget") => {
                self.group = None;
                true
            }
            Some(_) | None => false,
        }
    }

    /// What is due now. TERM is due once, KILL again and again until there is no group.
    fn due(&mut self, now: Duration) -> Option<Order> {
        self.group?;
        if now >= self.bounds.kill {
            return Some(Order::Kill);
        }
        self.bounds.term.filter(|term| now >= *term)?;
        self.bounds.term = None;
        Some(Order::Terminate)
    }

    /// How long to wait for the next order.
    fn rest(&self, now: Duration) -> Duration {
        // Timers stop while the machine sleeps, so no rest is long.
        const SLICE: Duration = Duration::from_millis(100);
        if self.group.is_none() {
            return SLICE * 100;
        }
        let next = self.bounds.term.unwrap_or(self.bounds.kill).min(self.bounds.kill);
        match now < next {
            true => (next - now).min(SLICE),
            false => SLICE,
        }
    }
}

fn obey(order: Order, group: Pid) {
    // Each fails if no process is left.
    match order {
        Order::Terminate => {
            let _ = kill_process_group(group, Signal::TERM);
            let _ = kill_process_group(group, Signal::CONT);
        }
        Order::Kill => drop(kill_process_group(group, Signal::KILL)),
    }
}

/// Kills a group whose parent is dead, until it is gone.
fn kill_all(group: Pid) {
    for _ in 0..1000 {
        obey(Order::Kill, group);
        if test_kill_process_group(group).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn watching(line: &str) -> State {
        let mut state = State::default();
        assert!(state.told(line));
        state
    }

    #[test]
    fn without_new_bounds_it_is_term_once_and_kill_for_ever() {
        let mut state = watching("watch 42 10000000000 15000000000");
        assert_eq!(state.group, Pid::from_raw(42));
        let orders = [9, 10, 12, 15, 20].map(|seconds| state.due(at(seconds)));
        assert_eq!(orders, [None, Some(Order::Terminate), None, Some(Order::Kill), Some(Order::Kill)]);
    }

    #[test]
    fn new_bounds_put_it_off() {
        let mut state = watching("watch 42 10000000000 15000000000");
        assert!(!state.told("until 20000000000 25000000000"));
        assert_eq!(state.due(at(15)), None);
        assert_eq!(state.due(at(20)), Some(Order::Terminate));
    }

    #[test]
    fn a_group_that_has_been_asked_to_end_is_not_asked_again() {
        let mut state = watching("watch 42 - 15000000000");
        assert_eq!((state.due(at(14)), state.due(at(15))), (None, Some(Order::Kill)));
    }

    #[test]
    fn a_group_that_has_ended_is_forgotten() {
        let mut state = watching("watch 42 10000000000 15000000000");
        assert!(state.told("forget"));
        assert_eq!(state.due(at(99)), None);
    }

    #[test]
    fn bounds_that_cannot_be_read_are_over() {
        let mut state = watching("watch 42 10000000000 15000000000");
        state.told("until soon");
        assert_eq!(state.due(at(1)), Some(Order::Kill));
    }

    #[test]
    fn it_rests_until_the_next_bound_but_never_long() {
        let state = watching("watch 42 10000000000 15000000000");
        assert_eq!(state.rest(Duration::from_millis(9_990)), Duration::from_millis(10));
        assert_eq!(state.rest(at(1)), Duration::from_millis(100));
        assert_eq!(state.rest(at(99)), Duration::from_millis(100));
    }
}
