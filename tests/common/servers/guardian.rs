//! A child process that cannot outlive the test process, however the latter ends.
//!
//! Destructors do not run for statics, nor in a process killed with SIGKILL. What always happens is that the system
//! closes the pipes of a dead process. So the child is started by a small shell script, the guardian, whose standard
//! input is such a pipe. It takes commands from the pipe, and when the pipe closes it kills the child and removes the
//! child's directory.
//!
//! The guardian is the child's parent for as long as the child may be signalled, so the process id cannot be reused by
//! another process meanwhile.

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
    /// Starts the guardian and creates the directory, which is removed with it. The child is not started yet; `command`
    /// gets the directory and returns the command line for it.
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
            // A signal to the process group of the tests must not end the guardian before it has cleaned up.
            .process_group(0)
            .spawn()
            .expect("starting sh");
        let orders = process.stdin.take();
        let answers = process.stdout.take().expect("the guardian's stdout");
        // Created only now, because the guardian must exist to remove it.
        fs::create_dir(&directory).unwrap_or_else(|error| panic!("making {}: {error}", directory.display()));
        Guardian {
            directory,
            shell: Mutex::new(Shell { process, orders, answers: BufReader::new(answers), child: None }),
        }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts the child. Its output goes to the file `log` in the directory.
    pub fn launch(&self, log: &str) {
        let mut shell = self.shell();
        assert!(shell.child.is_none(), "the child is already running");
        let answer = shell.order(&format!("launch {log}"));
        shell.child = Some(answer.parse().expect("the child's process id"));
    }

    /// Kills the child with SIGKILL if it runs. It has ended when this returns.
    pub fn kill(&self) {
        let mut shell = self.shell();
        if shell.child.take().is_some() {
            shell.order("kill");
        }
    }

    /// Stops the child with SIGSTOP. All its threads have stopped when this returns.
    pub fn pause(&self) {
        let mut shell = self.shell();
        let child = shell.child.expect("a child to pause");
        shell.order("pause");
        // The threads do not all stop at the same moment.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !thread_states(child).iter().all(|state| *state == 'T') {
            assert!(Instant::now() < deadline, "{child} does not stop");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Resumes a paused child.
    pub fn resume(&self) {
        self.shell().order("resume");
    }

    /// Whether the child has ended by itself. Without `/proc` this is unknown, and the answer is no.
    pub fn child_has_ended(&self) -> bool {
        let child = self.shell().child;
        child.is_some_and(|child| {
            let stat = fs::read_to_string(format!("/proc/{child}/stat"));
            stat.is_ok_and(|stat| state(&stat) == Some('Z'))
        })
    }

    fn shell(&self) -> MutexGuard<'_, Shell> {
        // After a panic in one test the others must still be able to end their servers.
        self.shell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        let mut shell = self.shell();
        shell.orders = None;
        // A destructor cannot handle a failure.
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
    /// Sends a command and waits for the one-line answer.
    fn order(&mut self, order: &str) -> String {
        let orders = self.orders.as_mut().expect("the guardian's stdin");
        let mut answer = String::new();
        orders
            .write_all(format!("{order}\n").as_bytes())
            .and_then(|()| self.answers.read_line(&mut answer))
            .unwrap_or_else(|error| panic!("the guardian does not accept `{order}`: {error}"));
        assert!(answer.ends_with('\n'), "the guardian has ended, after the command `{order}`");
        answer.trim_end().to_owned()
    }
}

/// `sh -c SCRIPT guardian <directory> <command>...`
///
/// `wait` follows each kill so that nothing writes to the directory while it is removed, and so that the next launch
/// finds the ports free.
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

/// The state letter of each thread of a process; empty without `/proc`.
fn thread_states(process: u32) -> Vec<char> {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        // A thread may end between listing and reading.
        .filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok())
        .filter_map(|stat| state(&stat))
        .collect()
}

/// The state letter in a `stat` file. It follows the program name, which is in parentheses and may contain any
/// character.
fn state(stat: &str) -> Option<char> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.trim_start().chars().next()
}
