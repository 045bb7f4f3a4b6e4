//! Records the panics of all threads, by the run that they belong to.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// Does some work on this thread. Returns its result and the panics of this thread meanwhile. `None` if the work itself
/// has panicked.
pub fn during<T>(run: &str, work: impl FnOnce() -> T) -> (Option<T>, Vec<String>) {
    install();
    RUN.set(run.to_owned());
    let done = panic::catch_unwind(AssertUnwindSafe(work)).ok();
    RUN.take();
    let mut panics = Vec::new();
    recorded().retain(|panic| {
        let ours = panic.run == run;
        if ours {
            panics.push(panic.text.clone());
        }
        !ours
    });
    (done, panics)
}

/// The panics of threads that belong to no run. Those of the tests themselves are not among them.
pub fn elsewhere() -> Vec<String> {
    let recorded = recorded();
    let strange = recorded.iter().filter(|panic| panic.run.is_empty() && !panic.text.starts_with("tests/"));
    strange.map(|panic| panic.text.clone()).collect()
}

struct Recorded {
    run: String,
    text: String,
}

static PANICS: Mutex<Vec<Recorded>> = Mutex::new(Vec::new());

thread_local! {
    /// What this thread runs at the moment.
    static RUN: RefCell<String> = const { RefCell::new(String::new()) };
}

fn recorded() -> MutexGuard<'static, Vec<Recorded>> {
    PANICS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or_default();
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            // A thread that is ending has no run any more.
            let run = RUN.try_with(|run| run.borrow().clone()).unwrap_or_default();
            recorded().push(Recorded { run, text: format!("{place}: {text}") });
            print(info);
        }));
    });
}
