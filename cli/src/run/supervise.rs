//! Runs the command under a lease: carries out what the [policy](super::policy) decides.

use std::io;
use std::time::{Duration, Instant};

use lockkeeper::run::LeaseView;
use rustix::process::Signal;
use tokio::signal::unix::{Signal as Arrivals, SignalKind, signal};
use tokio::time::timeout;

use super::acquire::Held;
use super::group::{Change, Group};
use super::options::{RunArgs, longest_margin, within};
use super::policy::{Lease, Order, Policy};
use super::signals::{Signals, ends};
use super::terminal::Terminal;
use super::watchdog::{Bounds, Watchdog, now};
use crate::exit::{Exit, Failure};

/// Runs commands, with a watchdog beside each.
pub struct Supervisor<'a> {
    args: &'a RunArgs,
    watchdog: Watchdog,
    terminal: Option<Terminal>,
}

/// How a run of the command ended. No process of its group is left.
pub enum Ended {
    /// By itself, or by a signal that was not ours.
    Exited(Exit),
    /// After a signal to us that asks for the end, or one from the terminal.
    Asked(Exit),
    /// Because of its lease, and perhaps also after such a signal.
    LeaseOver { asked: bool },
}

impl<'a> Supervisor<'a> {
    /// Starts the watchdog.
    pub fn start(args: &'a RunArgs) -> Result<Supervisor<'a>, Failure> {
        Ok(Supervisor { args, watchdog: Watchdog::start().map_err(no_watchdog)?, terminal: Terminal::open() })
    }

    /// Runs the command, and returns when its whole group has ended.
    pub async fn run(
        &mut self,
        held: &Held,
        session_timeout: Duration,
        signals: &mut Signals,
    ) -> Result<Ended, Failure> {
        // A later session may have another timeout than the one that the arguments were checked with.
        let margins = within(self.args.margins(session_timeout), longest_margin(session_timeout));
        let mut children = signal(SignalKind::child())?;
        let launched = Group::launch(&self.args.command, &held.variables());
        let group = launched.map_err(|error| Failure::new(Exit::Failure, format!("cannot fork: {error}")))?;
        let mut run = Run {
            group,
            lease: &held.lease,
            policy: Policy::new(self.args.stop_on, margins),
            margins,
            // Between the watchdog's TERM and ours: it is for the case that we cannot.
            slack: (session_timeout / 32).min((margins.0 - margins.1) / 2),
            watchdog: &mut self.watchdog,
            terminal: self.terminal.as_ref(),
            told: Bounds::default(),
            asked: false,
        };
        // Everything is looked at again after this time at the latest.
        let tick = (session_timeout / 64).clamp(Duration::from_millis(5), Duration::from_millis(250));
        let followed = run.follow(&mut children, signals, tick).await;
        if followed.is_err() {
            run.group.obey(Order::Kill);
            while !run.is_over() {
                let _ = timeout(tick, children.recv()).await;
            }
        }
        let ended = run.finish().await;
        followed.map(|()| ended)
    }
}

fn no_watchdog(error: io::Error) -> Failure {
    Failure::new(Exit::Failure, format!("cannot start the watchdog: {error}"))
}

/// One run of the command.
struct Run<'a> {
    group: Group,
    lease: &'a LeaseView,
    policy: Policy,
    margins: (Duration, Duration),
    slack: Duration,
    watchdog: &'a mut Watchdog,
    terminal: Option<&'a Terminal>,
    /// What the watchdog was told last.
    told: Bounds,
    asked: bool,
}

impl Run<'_> {
    /// Follows the command and its lease until the whole group has ended.
    async fn follow(
        &mut self,
        children: &mut Arrivals,
        signals: &mut Signals,
        tick: Duration,
    ) -> Result<(), Failure> {
        self.begin(children).await?;
        while !self.step().await? {
            let state = self.lease.state();
            tokio::select! {
                _ = children.recv() => {}
                signal = signals.next() => self.forward(signal),
                _ = self.lease.changed(state) => {}
                () = tokio::time::sleep(tick) => {}
            }
        }
        Ok(())
    }

    /// Lets the launcher become the command, once it has stopped and the watchdog knows it.
    async fn begin(&mut self, children: &mut Arrivals) -> Result<(), Failure> {
        loop {
            match self.group.change() {
                Some(Change::Stopped(_)) => break,
                Some(Change::Ended) => return Ok(()),
                None if self.left().is_zero() => break,
                // It may be a signal of the watchdog's.
                None => drop(timeout(Duration::from_millis(10), children.recv()).await),
            }
        }
        self.told = self.bounds();
        if self.watchdog.watch(self.group.id(), self.told).await.is_err() {
            self.replace_watchdog().await?;
        }
        if let Some(terminal) = self.terminal {
            terminal.offer(self.group.id());
        }
        // A command whose lease is over is killed without ever running.
        if let Some(order) = self.policy.decide(self.lease_now(), None) {
            self.group.obey(order);
        }
        self.group.signal(Signal::CONT);
        Ok(())
    }

    /// Looks at the lease, then at the command. Returns whether the whole group has ended.
    async fn step(&mut self) -> Result<bool, Failure> {
        // The lease first: a command that was killed while we were stopped has ended because of its lease.
        self.follow_lease().await?;
        match self.group.change() {
            Some(Change::Stopped(signal)) => self.stopped(signal).await?,
            Some(Change::Ended) => self.follow_lease().await?,
            None => {}
        }
        Ok(self.group.is_over())
    }

    async fn stopped(&mut self, signal: Option<i32>) -> Result<(), Failure> {
        let goes_on = self.terminal.is_some_and(|terminal| terminal.stop_with(self.group.id(), signal));
        if goes_on {
            // We may have been stopped for long.
            self.follow_lease().await?;
            self.group.signal(Signal::CONT);
        }
        Ok(())
    }

    async fn follow_lease(&mut self) -> Result<(), Failure> {
        if let Some(order) = self.policy.decide(self.lease_now(), self.group.alone()) {
            self.group.obey(order);
        }
        let bounds = self.bounds();
        if bounds.differ(self.told) {
            self.told = bounds;
            if self.watchdog.update(bounds).await.is_err() {
                self.replace_watchdog().await?;
            }
        }
        if self.watchdog.has_ended() {
            self.replace_watchdog().await?;
        }
        Ok(())
    }

    /// Somebody has killed or stopped the watchdog.
    async fn replace_watchdog(&mut self) -> Result<(), Failure> {
        let next = Watchdog::start_watching(self.group.id(), self.told).map_err(no_watchdog)?;
        std::mem::replace(self.watchdog, next).kill().await;
        Ok(())
    }

    fn is_over(&mut self) -> bool {
        // Notices that the command has ended.
        self.group.change();
        self.group.is_over()
    }

    fn forward(&mut self, signal: Signal) {
        if signal == Signal::CONT {
            // The shell has put us into the foreground.
            if let Some(terminal) = self.terminal {
                terminal.offer(self.group.id());
            }
            return;
        }
        self.asked |= ends(signal);
        self.group.signal(signal);
    }

    async fn finish(self) -> Ended {
        if let Some(terminal) = self.terminal {
            terminal.take_back(self.group.id());
        }
        // Before the number of the group is free. The next group, if there is one, gets another watchdog.
        if self.watchdog.forget().await.is_err() {
            self.watchdog.kill().await;
        }
        let exit = self.group.exit().unwrap_or(Exit::Failure);
        let interrupted = [Signal::INT, Signal::QUIT].map(|signal| Exit::Signal(signal.as_raw()));
        // Who ends the command from the terminal does not want it again.
        let asked = self.asked || (self.terminal.is_some() && interrupted.contains(&exit));
        drop(self.group);
        match (self.policy.lease_is_over(), asked) {
            (true, asked) => Ended::LeaseOver { asked },
            (false, true) => Ended::Asked(exit),
            (false, false) => Ended::Exited(exit),
        }
    }

    fn lease_now(&self) -> Lease {
        Lease { state: self.lease.state(), left: self.left() }
    }

    /// The proven time that is left of the lease.
    fn left(&self) -> Duration {
        let until = self.lease.valid_until();
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// When the watchdog has to act. If this process is stopped while it computes, the result is too early, not too
    /// late: the clock is read first.
    fn bounds(&self) -> Bounds {
        let now = now();
        let end = now + self.left();
        let term = end.saturating_sub(self.margins.0) + self.slack;
        Bounds {
            term: (!self.policy.has_terminated()).then_some(term),
            kill: end.saturating_sub(self.margins.1),
        }
    }
}
