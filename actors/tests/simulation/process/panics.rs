//! Panics that are injected: at requests, in listeners, and in supervisors when they log.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lockkeeper_actors::api::resource::Resource;

use super::{Hit, Host};
use crate::callers::resources;
use crate::coverage::Fault;

/// The panics to inject at the next opportunity.
#[derive(Default)]
pub struct ArmedPanics {
    pub listener: AtomicBool,
    pub lock: AtomicBool,
    /// The cleanup after a lock's actor.
    pub sweep: AtomicBool,
    pub session: AtomicBool,
    /// The supervisor of the actor that panics, when it logs that actor's end.
    pub supervisor: AtomicBool,
}

impl Host {
    pub fn listener_panics(&self) -> bool {
        self.armed.listener.swap(false, Ordering::Relaxed)
    }

    /// Called when a path's actor sends a request. Panics if that is armed.
    pub fn may_panic(&self, paths: &[&str]) {
        // The questions of an operator are asked beside the actor.
        if !self.operated.load(Ordering::Relaxed) && self.armed.lock.swap(false, Ordering::Relaxed) {
            let resources = resources();
            let path = resources
                .iter()
                .map(Resource::path)
                .find(|path| paths.iter().any(|other| other.starts_with(&***path)));
            let hit: Vec<&str> = match path {
                Some(path) => vec![&**path],
                None => paths.to_vec(),
            };
            if let Some(beginning) = path.and_then(|path| self.outliving.lock().unwrap().remove(&**path)) {
                self.orphaned.lock().unwrap().push(beginning);
            }
            let hit = Hit::Paths(&hit);
            self.panic(Fault::LockPanics, hit, Fault::RegistryPanics, "the actor of a path died");
        }
    }

    /// Called when a sync is sent, which the cleanup after an actor does first. Panics if that is armed.
    pub fn sweep_may_panic(&self, path: &str) {
        let lock_died = !self.armed.lock.load(Ordering::Relaxed);
        // A living actor can be hit, too. It must not have nodes that outlive sessions, because its death is not noted.
        let may_strike = lock_died && !self.outliving.lock().unwrap().contains_key(path);
        if may_strike && self.armed.sweep.swap(false, Ordering::Relaxed) {
            self.strike(Fault::SweepPanics, Hit::Paths(&[path]));
            panic!("injected: {:?}", Fault::SweepPanics);
        }
    }

    pub fn session_may_panic(&self) {
        if self.armed.session.swap(false, Ordering::Relaxed) {
            let all = Hit::Process;
            self.panic(Fault::SessionPanics, all, Fault::KeeperPanics, "the session actor ended");
        }
    }

    pub fn keeper_panics(&self) {
        self.panic_on_log(Fault::KeeperPanics, "the session actor ended");
    }

    /// Lets a supervisor panic when it logs this message.
    fn panic_on_log(&self, fault: Fault, message: &'static str) {
        PLANNED_PANIC.with_borrow_mut(|planned| {
            *planned = Some(PlannedPanic { process: self.index, message, fault });
        });
    }

    fn panic(&self, fault: Fault, hit: Hit<'_>, supervisor: Fault, message: &'static str) -> ! {
        self.strike(fault, hit);
        if self.armed.supervisor.swap(false, Ordering::Relaxed) {
            self.panic_on_log(supervisor, message);
        }
        panic!("injected: {fault:?}");
    }
}

/// Removes a planned panic that has not happened.
pub fn disarm() {
    PLANNED_PANIC.with_borrow_mut(|planned| *planned = None);
}

/// Injects panics into actors that send no requests: the subscriber runs inside the actor that logs.
pub struct PanicOnLog;

impl tracing::Subscriber for PanicOnLog {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        let target = metadata.target();
        metadata.is_event() && (target.ends_with("::keeper") || target.ends_with("::registry"))
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let Some(host) = CURRENT.with_borrow(|current| current.clone()) else { return };
        let planned = PLANNED_PANIC.with_borrow_mut(|planned| {
            let mut message = Message(String::new());
            event.record(&mut message);
            planned.take_if(|planned| planned.process == host.index && planned.message == message.0)
        });
        if let Some(PlannedPanic { fault, .. }) = planned {
            host.strike(fault, Hit::Process);
            drop(host);
            panic!("injected: {fault:?}");
        }
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

thread_local! {
    /// The process whose tasks run.
    pub(super) static CURRENT: RefCell<Option<Arc<Host>>> = const { RefCell::new(None) };
    static PLANNED_PANIC: RefCell<Option<PlannedPanic>> = const { RefCell::new(None) };
}

/// A panic when a process logs a message.
struct PlannedPanic {
    process: usize,
    message: &'static str,
    fault: Fault,
}

/// Extracts the message of a log event.
struct Message(String);

impl tracing::field::Visit for Message {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
