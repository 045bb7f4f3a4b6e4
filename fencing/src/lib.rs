//! A resource refuses a writer that was paused for longer than its lock lasts: the same story with three resources.
//!
//! | program | resource | what refuses |
//! |---|---|---|
//! | `fenced_row` | a row in PostgreSQL | the row's token, in the `WHERE` of the `UPDATE` |
//! | `fenced_object` | an object in an object store | the object's token, and its tag in a conditional put |
//! | `fenced_znode` | a node in ZooKeeper | ZooKeeper, which checks the lock's node in the transaction that writes |
//!
//! The first holder runs in a process of its own, which is stopped with `SIGSTOP` after its first write. When its
//! session has ended, the next holder writes. Then the first one goes on as if nothing had happened, and writes again.

use std::env;
use std::error;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use lockkeeper::error::ConnectError;
use lockkeeper::{Keeper, LockGuard};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Any error of a program.
pub type Error = Box<dyn error::Error + Send + Sync>;

/// Tells the story. `arguments` make this program [the first holder](first), and `write` returns whether the resource
/// accepted the text.
pub async fn tell(
    zookeeper: &str,
    lock: &str,
    arguments: &[&str],
    write: impl AsyncFn(&LockGuard, &str) -> Result<bool, Error>,
) -> Result<(), Error> {
    let mut first = Process::start(arguments)?;
    println!("the first holder writes: {}", first.answer().await?);
    first.signal(Signal::STOP)?;

    let next = connect(zookeeper).await?.lock(lock)?.acquire().await?;
    println!("the next holder writes: {}", write(&next, "from the next").await?);

    first.signal(Signal::CONT)?;
    first.go_on().await?;
    println!("the first holder, late, writes: {}", first.answer().await?);
    next.release().await?;
    Ok(())
}

/// The first holder. It writes, and writes again when it is told to go on. In between it is stopped.
pub async fn first(
    zookeeper: &str,
    lock: &str,
    write: impl AsyncFn(&LockGuard, &str) -> Result<bool, Error>,
) -> Result<(), Error> {
    let guard = connect(zookeeper).await?.lock(lock)?.acquire().await?;
    println!("{}", write(&guard, "from the first").await?);
    io::stdin().read_line(&mut String::new())?;
    // It does not look at the lease again: it could be paused after that, too.
    println!("{}", write(&guard, "from the first, late").await?);
    Ok(())
}

async fn connect(zookeeper: &str) -> Result<Keeper, ConnectError> {
    Keeper::options().session_timeout(Duration::from_secs(4)).connect(zookeeper).await
}

/// The process of the first holder.
struct Process {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(arguments: &[&str]) -> io::Result<Process> {
        let mut command = Command::new(env::current_exe()?);
        let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the process has no pipes"));
        };
        Ok(Process { child, orders, answers: BufReader::new(answers).lines() })
    }

    /// The next line that it prints.
    async fn answer(&mut self) -> io::Result<String> {
        self.answers.next_line().await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    async fn go_on(&mut self) -> io::Result<()> {
        self.orders.write_all(b"\n").await
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let id = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let id = id.ok_or_else(|| io::Error::other("the process has ended"))?;
        Ok(kill_process(id, signal)?)
    }
}
