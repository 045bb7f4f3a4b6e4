//! The processes that run the contenders, and what they are asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::Result;
use crate::host;
use crate::library::Library;
use crate::setup::Setup;

/// A driver. Dropping it kills the process.
pub struct Process {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
}

impl Process {
    pub fn start(mut command: Command) -> Result<Process> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (requests, output) = stdin.zip(stdout).ok_or("the process has no pipes")?;
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Process { child, requests, answers })
    }

    /// The numbers of the answer.
    pub fn ask(&mut self, request: &str) -> Result<Vec<u64>> {
        self.send(request)?;
        self.answer(LIMIT).map_err(|reason| format!("{request:.40}: {reason}").into())
    }

    pub fn send(&mut self, request: &str) -> Result<()> {
        Ok(self.requests.write_all(format!("{request}\n").as_bytes())?)
    }

    /// The numbers of the next answer.
    pub fn answer(&mut self, within: Duration) -> Result<Vec<u64>> {
        let line = self.answers.recv_timeout(within).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("no answer within {within:?}"),
            RecvTimeoutError::Disconnected => "the process has ended".to_owned(),
        })?;
        numbers(&line)
    }

    /// The bytes that are in memory.
    pub fn resident(&self) -> Result<usize> {
        Ok(host::resident(&self.child.id().to_string()).ok_or("the process has ended")?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The drivers that run, one for each library. What is compiled at run time stays compiled for later measurements.
pub struct Processes<'a> {
    setup: &'a Setup,
    running: BTreeMap<Library, Process>,
}

impl<'a> Processes<'a> {
    pub fn new(setup: &'a Setup) -> Processes<'a> {
        Processes { setup, running: BTreeMap::new() }
    }

    /// Another driver of this library, which nobody else uses.
    pub fn fresh(&self, library: Library) -> Result<Process> {
        Process::start(self.setup.command(library)?)
    }

    /// Calls `with` with the driver of the library, and ends the driver if that fails.
    pub fn with<T>(&mut self, library: Library, with: impl FnOnce(&mut Process) -> Result<T>) -> Result<T> {
        let mut process = match self.running.remove(&library) {
            Some(process) => process,
            None => self.fresh(library)?,
        };
        let outcome = with(&mut process)?;
        self.running.insert(library, process);
        Ok(outcome)
    }
}

/// More than any request needs on a machine that is not overloaded.
const LIMIT: Duration = Duration::from_secs(45);

fn numbers(answer: &str) -> Result<Vec<u64>> {
    if let Some(reason) = answer.strip_prefix("error ") {
        return Err(reason.into());
    }
    let numbers = answer.strip_prefix("ok").ok_or_else(|| format!("not an answer: {answer:?}"))?;
    Ok(numbers.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_numbers_or_a_reason() {
        assert!(numbers("ok").expect("an answer").is_empty());
        assert_eq!(numbers("ok 12 345").expect("an answer"), [12, 345]);
        assert_eq!(numbers("error no connection").expect_err("a failure").to_string(), "no connection");
        assert!(numbers("ok twelve").is_err());
        assert!(numbers("log4j:WARN").is_err());
    }

    #[test]
    fn a_process_that_ends_or_hangs_is_an_error() {
        let mut command = Command::new("sh");
        command.args(["-c", "read line; echo ok 7; read line"]);
        let mut process = Process::start(command).expect("a shell");
        assert_eq!(process.ask("one").expect("an answer"), [7]);
        let hanging = process.answer(Duration::from_millis(10)).expect_err("no answer").to_string();
        assert!(hanging.contains("no answer within"), "{hanging}");
        process.send("two").expect("it still reads");
        let ended = process.answer(Duration::from_secs(10)).expect_err("no answer").to_string();
        assert!(ended.contains("has ended"), "{ended}");
    }
}
