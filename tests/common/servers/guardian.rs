//! A child process that cannot outlive the test process, however that one ends.
//!
//! Destructors do not run for statics, nor in a process killed with SIGKILL. The one thing that
//! always happens is that the system closes the pipes of a process that is gone. So the child
//! is started by a small shell script, the guardian, whose standard input is such a pipe: it
//! takes orders from there, and when the pipe closes it kills the child and removes the child's
//! directory.
//!
//! The guardian is also the child's parent for as long as the child may be signalled, so the
//! process id cannot have passed to somebody else in the meantime.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub struct Guardian {
    directory: PathBuf,
    shell: Mutex<Shell>,
}

impl Guardian {
    /// Starts the guardian and makes the directory, which vanishes with it. The child isn't
    /// started yet: `command` receives the directory and says what will be.
    pub fn new(name: &str, command: impl FnOnce(&Path) -> Vec<OsString>) -> Guardian {
        let directory = std::env::temp_dir().join(format!(
            "{name}-{}-{:016x}",
            std::process::id(),
            super::random_number()
        ));
        let mut process = Command::new("sh")
            .args(["-c", SCRIPT, "guardian"])
            .arg(&directory)
            .args(command(&directory))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // What a terminal or a test runner sends to the whole group of the tests must not
            // end the guardian before it has done its work.
            .process_group(0)
            .spawn()
            .expect("starting sh");
        let orders = process.stdin.take();
        let answers = process.stdout.take().expect("the guardian's stdout");
        // Only now that somebody is there to remove it.
        fs::create_dir(&directory).unwrap_or_else(|error| panic!("making {}: {error}", directory.display()));
        Guardian {
            directory,
            shell: Mutex::new(Shell { process, orders, answers: BufReader::new(answers), child: None }),
        }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts the child, whose output goes to the file `log` in the directory.
    pub fn launch(&self, log: &str) {
        let mut shell = self.shell();
        assert!(shell.child.is_none(), "the child is running already");
        let answer = shell.order(&format!("launch {log}"));
        shell.child = Some(answer.parse().expect("the child's process id"));
    }

    /// Kills the child with SIGKILL, if there is one; it is gone when this returns.
    pub fn kill(&self) {
        let mut shell = self.shell();
        if shell.child.take().is_some() {
            shell.order("kill");
        }
    }

    /// Stops the child with SIGSTOP; it does nothing any more when this returns.
    pub fn pause(&self) {
        let mut shell = self.shell();
        let child = shell.child.expect("a child to pause");
        shell.order("pause");
        // The signal reaches one thread after the other.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !thread_states(child).iter().all(|state| *state == 'T') {
            assert!(Instant::now() < deadline, "{child} does not stop");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets a paused child go on.
    pub fn resume(&self) {
        self.shell().order("resume");
    }

    /// Whether the child has ended by itself. Where there is no `/proc` this isn't known, and
    /// the answer is no.
    pub fn child_has_ended(&self) -> bool {
        let child = self.shell().child;
        child.is_some_and(|child| {
            let stat = fs::read_to_string(format!("/proc/{child}/stat"));
            stat.is_ok_and(|stat| state(&stat) == Some('Z'))
        })
    }

    fn shell(&self) -> MutexGuard<'_, Shell> {
        // A test that panicked is no reason for the others not to end their servers.
        self.shell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        let mut shell = self.shell();
        shell.orders = None;
        // Nobody can do anything about a failure here, least of all in a destructor.
        let _ = shell.process.wait();
    }
}

struct Shell {
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    child: Option<u32>,
}

impl Shell {
    /// Gives an order and waits for its one line of answer.
    fn order(&mut self, order: &str) -> String {
        let orders = self.orders.as_mut().expect("the guardian's stdin");
        let mut answer = String::new();
        orders
            .write_all(format!("{order}\n").as_bytes())
            .and_then(|()| self.answers.read_line(&mut answer))
            .unwrap_or_else(|error| panic!("the guardian does not take `{order}`: {error}"));
        assert!(answer.ends_with('\n'), "the guardian is gone, it was told `{order}`");
        answer.trim_end().to_owned()
    }
}

/// `sh -c SCRIPT guardian <directory> <command>...`
///
/// `wait` follows each kill so that nothing writes to the directory when it is removed, and so
/// that the next launch finds the ports free.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
directory=$1
shift
child=
while read -r order log; do
    case $order in
        launch)
            "$@" </dev/null >"$directory/$log" 2>&1 &
            child=$!
            echo "$child"
            ;;
        kill)
            kill -KILL "$child"
            wait "$child"
            child=
            echo killed
            ;;
        pause)
            kill -STOP "$child"
            echo paused
            ;;
        resume)
            kill -CONT "$child"
            echo resumed
            ;;
    esac
done
if [ -n "$child" ]; then
    kill -KILL "$child"
    wait "$child"
fi
rm -rf "${directory:?}"
"#;

/// The state letter of each thread of a process; none at all where there is no `/proc`.
fn thread_states(process: u32) -> Vec<char> {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        // A thread can be gone again between listing and reading.
        .filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok())
        .filter_map(|stat| state(&stat))
        .collect()
}

/// The state letter in a `stat` file. It follows the program's name, which is in parentheses
/// and may itself contain any character.
fn state(stat: &str) -> Option<char> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.trim_start().chars().next()
}
