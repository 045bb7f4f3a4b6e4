//! The command's process group: starting it, signals to it, and what happens to it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process_group, test_kill_process_group, waitid,
};

use super::launcher;
use super::policy::Order;
use crate::exit::Exit;

/// A command, at the head of a process group of its own.
///
/// The command is not reaped before the group is empty. As long as it is not, no other process can get its number, so a
/// signal cannot reach a stranger.
///
/// Dropping it kills what is left of the group, waits until it has ended, and reaps the command. So it has ended before
/// the lock is released even if this process panics.
pub struct Group {
    leader: Pid,
    ended: Option<(Exit, Instant)>,
}

/// What has happened to the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// This signal has stopped it.
    Stopped(Option<i32>),
    /// It has ended.
    Ended,
}

impl Group {
    /// Starts the launcher, which stops itself before it becomes the command: see [`launcher`]. The kernel kills the
    /// command when the calling thread ends, so that has to be one that lives as long as the process.
    pub fn launch(command: &[OsString], variables: &[(&str, String)]) -> io::Result<Group> {
        let mut launch = launcher::command(command);
        launch.envs(variables.iter().map(|(name, value)| (name, value)));
        let child = launch.process_group(0).spawn()?;
        Ok(Group { leader: Pid::from_child(&child), ended: None })
    }

    /// The number of the group, which is that of the command.
    pub fn id(&self) -> Pid {
        self.leader
    }

    /// Sends a signal to all processes of the group.
    pub fn signal(&self, signal: Signal) {
        // Fails if none is left.
        let _ = kill_process_group(self.leader, signal);
    }

    pub fn obey(&self, order: Order) {
        match order {
            Order::Terminate => {
                self.signal(Signal::TERM);
                self.signal(Signal::CONT);
            }
            Order::Kill => self.signal(Signal::KILL),
        }
    }

    /// What has happened to the command since the last call.
    pub fn change(&mut self) -> Option<Change> {
        if self.ended.is_some() {
            return None;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        match waitid(WaitId::Pid(self.leader), options) {
            Ok(Some(status)) => {
                let exit = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Exit::Code(code as u8),
                    (None, signal) => Exit::Signal(signal.unwrap_or_default()),
                };
                self.ended = Some((exit, Instant::now()));
                return Some(Change::Ended);
            }
            Ok(None) => {}
            // Nobody else reaps it, so this does not happen. If it does, there is nothing left to wait for.
            Err(_) => {
                self.ended = Some((Exit::Failure, Instant::now()));
                return Some(Change::Ended);
            }
        }
        match waitid(WaitId::Pid(self.leader), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) if status.stopped() => Some(Change::Stopped(status.stopping_signal())),
            Ok(_) | Err(_) => None,
        }
    }

    /// The exit code of the command, if it has ended.
    pub fn exit(&self) -> Option<Exit> {
        self.ended.map(|(exit, _)| exit)
    }

    /// How long ago the command has ended, if it has.
    pub fn alone(&self) -> Option<Duration> {
        self.ended.map(|(_, at)| at.elapsed())
    }

    /// Whether the command has ended, and no process of its group is left.
    pub fn is_over(&mut self) -> bool {
        self.ended.is_some() && !self.has_others()
    }

    /// Whether a process other than the command, which has ended, is left in the group.
    fn has_others(&mut self) -> bool {
        self.has_others_in(Path::new("/proc"))
    }

    fn has_others_in(&mut self, proc: &Path) -> bool {
        if let Some(mut entries) = processes(proc) {
            return entries.any(|entry| self.is_member(&entry));
        }
        // Only the signal tells, and it also finds processes that are not reaped. As the first process of a namespace,
        // this one also has those that the command has left.
        let group = WaitId::Pgid(Some(self.leader));
        while let Ok(Some(_)) = waitid(group.clone(), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {}
        test_kill_process_group(self.leader).is_ok()
    }

    /// Whether an entry of `/proc` is a process of the group that has not ended.
    fn is_member(&self, entry: &fs::DirEntry) -> bool {
        let is_process = entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
        let stat = is_process.then(|| fs::read_to_string(entry.path().join("stat")).ok()).flatten();
        // The name of the program, in parentheses, may contain anything. The state and two numbers follow.
        let fields = stat.as_deref().and_then(|stat| stat.rsplit_once(')')).map(|(_, fields)| fields);
        let mut fields = fields.unwrap_or_default().split_ascii_whitespace();
        let (state, group) = (fields.next(), fields.nth(1));
        let has_ended = matches!(state, None | Some("Z" | "X"));
        !has_ended && group == Some(&*self.leader.as_raw_nonzero().to_string())
    }
}

/// The entries of a `/proc`, if it shows the processes by the numbers that this process knows. That of another PID
/// namespace, as after `unshare --pid`, or an empty one shows none of the group.
fn processes(proc: &Path) -> Option<impl Iterator<Item = fs::DirEntry> + use<>> {
    let ourselves = fs::read_link(proc.join("self")).ok()?;
    let is_ours =
        cfg!(target_os = "linux") && ourselves.as_os_str() == &*getpid().as_raw_nonzero().to_string();
    let entries = is_ours.then(|| fs::read_dir(proc).ok()).flatten()?;
    Some(entries.flatten())
}

impl Drop for Group {
    fn drop(&mut self) {
        while !self.is_over() {
            self.signal(Signal::KILL);
            thread::sleep(Duration::from_millis(1));
            self.change();
        }
        let _ = waitid(WaitId::Pid(self.leader), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_is_left_is_also_found_where_proc_does_not_show_it() {
        let directory = std::env::temp_dir().join(format!("lockkeeper-proc-{}", std::process::id()));
        let (empty, strange) = (directory.join("empty"), directory.join("strange"));
        for made in [&empty, &strange] {
            fs::create_dir_all(made).expect("made");
        }
        // As in the namespace of the parent, where this process has another number.
        std::os::unix::fs::symlink("1", strange.join("self")).expect("made");
        for proc in [&empty, &strange, &directory.join("missing"), Path::new("/proc")] {
            let start = |group| {
                let mut sleep = Command::new("sleep");
                sleep.arg("300").process_group(group).spawn().expect("it starts")
            };
            let mut leader = start(0);
            let id = Pid::from_child(&leader);
            let mut left = start(id.as_raw_nonzero().get());
            let mut group = Group { leader: id, ended: None };
            leader.kill().expect("it runs");
            while group.change().is_none() {
                thread::sleep(Duration::from_millis(1));
            }
            assert!(group.has_others_in(proc), "{proc:?}");
            left.kill().expect("it runs");
            let ended = Instant::now();
            while group.has_others_in(proc) {
                assert!(ended.elapsed() < Duration::from_secs(20), "{proc:?}");
                thread::sleep(Duration::from_millis(1));
            }
            // Where /proc does not show them, they have been reaped.
            let _ = (leader.wait(), left.wait());
        }
        let _ = fs::remove_dir_all(directory);
    }

    #[test]
    fn a_group_that_is_dropped_has_ended() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; (trap '' TERM; sleep 300) & echo $!; sleep 300"]);
        let mut leader = command.process_group(0).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        let output = leader.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("read");
        let other = Pid::from_raw(line.trim().parse().expect("a number")).expect("above zero");
        let group = Group { leader: Pid::from_child(&leader), ended: None };
        let stat = || fs::read_to_string(format!("/proc/{}/stat", other.as_raw_nonzero()));
        let other_runs = || stat().is_ok_and(|stat| !stat.contains(") Z "));
        assert!(other_runs() && leader.try_wait().is_ok_and(|status| status.is_none()));
        drop(group);
        assert!(!other_runs());
        assert!(leader.wait().is_err(), "it has been reaped");
    }
}
