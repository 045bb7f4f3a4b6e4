//! The same cycles with kazoo, a Python client, in a separate process, which measures its own time so that its start
//! does not count.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use crate::{Bench, Result, SESSION_TIMEOUT, common};

/// A running `kazoo.py`. Dropping it kills it.
pub struct Kazoo {
    pipes: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
    _child: Child,
}

/// The clients and threads, and what they acquire and release.
#[derive(Clone)]
pub struct Crowd {
    /// The name of the recipe in kazoo's client.
    pub recipe: &'static str,
    pub path: String,
    /// The limit of a semaphore.
    pub limit: Option<u32>,
    pub clients: usize,
    /// The threads use the clients in turn.
    pub threads: usize,
}

impl Kazoo {
    /// Starts the process, and installs kazoo first if necessary.
    pub async fn start(bench: &Bench) -> Result<Kazoo> {
        let python = tokio::task::spawn_blocking(common::python).await?;
        let mut child = Command::new(python)
            .args(["-c", include_str!("kazoo.py"), &bench.address])
            .arg(SESSION_TIMEOUT.as_secs().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let pipes = stdin.zip(stdout).ok_or("kazoo's process has no pipes")?;
        let pipes = Mutex::new((pipes.0, BufReader::new(pipes.1).lines()));
        Ok(Kazoo { pipes, _child: child })
    }

    /// Runs `cycles` cycles in each thread and returns how long all of them took.
    pub async fn cycles(&self, crowd: &Crowd, cycles: usize) -> Result<Duration> {
        let Crowd { recipe, path, limit, clients, threads } = crowd;
        let request = json!({
            "recipe": recipe, "path": path, "limit": limit, "clients": clients, "threads": threads, "cycles": cycles,
        });
        let (stdin, answers) = &mut *self.pipes.lock().await;
        stdin.write_all(format!("{request}\n").as_bytes()).await?;
        let answer = answers.next_line().await?.ok_or("kazoo's process has ended")?;
        let answer: Value = serde_json::from_str(&answer)?;
        let seconds = answer["seconds"].as_f64().ok_or_else(|| format!("kazoo: {}", answer["error"]))?;
        Ok(Duration::from_secs_f64(seconds))
    }
}
