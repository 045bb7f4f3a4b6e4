//! A live client of kazoo, a Python library for ZooKeeper, to contend with.
//!
//! Methods that send kazoo a request return the name of the exception that it raised as their error, such as
//! `LockTimeout` or `NoNodeError`.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::kazoo_process::Process;

/// One kazoo client with its own session and its own process. Dropping it kills the process; the session then lasts
/// until the server expires it.
pub struct Kazoo {
    process: Process,
    session: i64,
    handles: AtomicU64,
}

/// kazoo's kinds of locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Lock,
    ReadLock,
    WriteLock,
    Semaphore,
}

/// How to acquire a lock. The default waits without a time limit.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// The data of the node, which identifies the contender.
    pub identifier: String,
    pub timeout: Option<Duration>,
    /// If false, an acquire that would have to wait fails with `NotAcquired`.
    pub blocking: bool,
    /// Only for a `Semaphore`.
    pub max_leases: u32,
    /// Not for a `Semaphore`: name patterns of foreign contenders to respect.
    pub extra_lock_patterns: Vec<String>,
}

impl Default for Acquire {
    fn default() -> Self {
        Acquire {
            identifier: String::new(),
            timeout: None,
            blocking: true,
            max_leases: 1,
            extra_lock_patterns: Vec::new(),
        }
    }
}

impl Acquire {
    pub fn identified(identifier: &str) -> Acquire {
        Acquire { identifier: identifier.to_owned(), ..Acquire::default() }
    }
}

/// One lock object in the process of a `Kazoo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(u64);

/// A pending acquire; awaiting it yields what `Kazoo::acquire` returns. Dropping this does not cancel it.
pub struct Pending {
    handle: Handle,
    outcome: JoinHandle<Result<Handle, String>>,
}

impl Pending {
    /// For `Kazoo::cancel`.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    pub fn is_finished(&self) -> bool {
        self.outcome.is_finished()
    }
}

impl Future for Pending {
    type Output = Result<Handle, String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = Pin::new(&mut self.outcome).poll(context);
        outcome.map(|outcome| outcome.expect("waiting for an answer does not panic"))
    }
}

/// The fields of a node's stat that the tests need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub czxid: i64,
    pub mzxid: i64,
    pub pzxid: i64,
    pub version: i64,
    pub cversion: i64,
    pub ephemeral_owner: i64,
    pub num_children: i64,
}

/// Which kind of node `Kazoo::create` makes; a plain one by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Create {
    pub ephemeral: bool,
    pub sequence: bool,
}

impl Kazoo {
    /// Connects to `address` with kazoo's default session timeout of ten seconds.
    pub async fn start(address: &str) -> Kazoo {
        Kazoo::start_with_session(address, Duration::from_secs(10)).await
    }

    pub async fn start_with_session(address: &str, timeout: Duration) -> Kazoo {
        let process = Process::start(address, timeout).await;
        let session = process.first_answer().await.unwrap_or_else(|error| {
            panic!("kazoo cannot connect to {address}: {error}\n{}", process.stderr())
        });
        let session = session.as_i64().expect("a session id");
        Kazoo { process, session, handles: AtomicU64::new(1) }
    }

    /// The id of its first session.
    pub fn session(&self) -> i64 {
        self.session
    }

    /// What the process has written to standard error so far: kazoo's log, and the full text of each exception.
    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Acquires a lock and returns when kazoo holds it.
    pub async fn acquire(&self, path: &str, kind: Kind, options: Acquire) -> Result<Handle, String> {
        self.start_acquire(path, kind, options).await
    }

    /// Like `acquire`, without waiting for it. The request has been sent when this returns, but only the server shows
    /// whether kazoo has created its node.
    pub fn start_acquire(&self, path: &str, kind: Kind, options: Acquire) -> Pending {
        let handle = Handle(self.handles.fetch_add(1, Ordering::Relaxed));
        let answer = self.process.ask(json!({
            "op": "acquire",
            "handle": handle.0,
            "path": path,
            "kind": format!("{kind:?}"),
            "identifier": options.identifier,
            "timeout": options.timeout.map(|timeout| timeout.as_secs_f64()),
            "blocking": options.blocking,
            "max_leases": options.max_leases,
            "extra_lock_patterns": options.extra_lock_patterns,
        }));
        let outcome = tokio::spawn(async move {
            match answer.await? {
                Value::Bool(true) => Ok(handle),
                _ => Err("NotAcquired".to_owned()),
            }
        });
        Pending { handle, outcome }
    }

    /// Releases a lock; false if it was not held.
    pub async fn release(&self, handle: Handle) -> Result<bool, String> {
        Ok(self.request(json!({"op": "release", "handle": handle.0})).await? == true)
    }

    /// Cancels a pending acquire, which then fails with `CancelledError`.
    pub async fn cancel(&self, handle: Handle) -> Result<(), String> {
        self.request(json!({"op": "cancel", "handle": handle.0})).await.map(drop)
    }

    /// Whether kazoo believes that it holds the lock.
    pub async fn is_acquired(&self, handle: Handle) -> Result<bool, String> {
        Ok(self.request(json!({"op": "is_acquired", "handle": handle.0})).await? == true)
    }

    /// The full path of the node that kazoo has created for the lock, if any.
    pub async fn node(&self, handle: Handle) -> Result<Option<String>, String> {
        let node = self.request(json!({"op": "node", "handle": handle.0})).await?;
        Ok(node.as_str().map(str::to_owned))
    }

    /// The identifiers of the holder and the waiters of a lock in queue order, as kazoo sees them. For a semaphore see
    /// `lease_holders`. This creates the lock's directory if it is missing.
    pub async fn contenders(&self, path: &str, kind: Kind) -> Result<Vec<String>, String> {
        self.contenders_with(path, kind, &[]).await
    }

    /// Like `contenders`, including the nodes that match these patterns.
    pub async fn contenders_with(
        &self,
        path: &str,
        kind: Kind,
        extra_lock_patterns: &[&str],
    ) -> Result<Vec<String>, String> {
        let contenders = self.request(json!({
            "op": "contenders",
            "path": path,
            "kind": format!("{kind:?}"),
            "extra_lock_patterns": extra_lock_patterns,
        }));
        Ok(strings(&contenders.await?))
    }

    /// The identifiers of a semaphore's lease holders, in no particular order.
    pub async fn lease_holders(&self, path: &str) -> Result<Vec<String>, String> {
        Ok(strings(&self.request(json!({"op": "lease_holders", "path": path})).await?))
    }

    /// Creates a node and returns its path, which ends with ten more digits if it is a `sequence`.
    pub async fn create(&self, path: &str, data: &[u8], create: Create) -> Result<String, String> {
        let path = self.request(json!({
            "op": "create",
            "path": path,
            "data": to_hex(data),
            "ephemeral": create.ephemeral,
            "sequence": create.sequence,
        }));
        Ok(path.await?.as_str().expect("a valid path").to_owned())
    }

    /// Creates a node and its missing parents.
    pub async fn ensure_path(&self, path: &str) -> Result<(), String> {
        self.request(json!({"op": "ensure_path", "path": path})).await.map(drop)
    }

    pub async fn delete(&self, path: &str) -> Result<(), String> {
        self.request(json!({"op": "delete", "path": path, "recursive": false})).await.map(drop)
    }

    /// Deletes a node and everything below it.
    pub async fn delete_all(&self, path: &str) -> Result<(), String> {
        self.request(json!({"op": "delete", "path": path, "recursive": true})).await.map(drop)
    }

    pub async fn get(&self, path: &str) -> Result<Vec<u8>, String> {
        let data = self.request(json!({"op": "get", "path": path})).await?;
        Ok(from_hex(data.as_str().expect("the data")))
    }

    /// Replaces the data and returns the node's new version.
    pub async fn set(&self, path: &str, data: &[u8]) -> Result<i64, String> {
        let version = self.request(json!({"op": "set", "path": path, "data": to_hex(data)})).await?;
        Ok(version.as_i64().expect("a version"))
    }

    /// The names of the children, sorted.
    pub async fn children(&self, path: &str) -> Result<Vec<String>, String> {
        Ok(strings(&self.request(json!({"op": "children", "path": path})).await?))
    }

    pub async fn exists(&self, path: &str) -> Result<bool, String> {
        Ok(self.stat(path).await?.is_some())
    }

    pub async fn stat(&self, path: &str) -> Result<Option<Stat>, String> {
        let stat = self.request(json!({"op": "stat", "path": path})).await?;
        let number = |name: &str| stat[name].as_i64().expect("a number in a stat");
        Ok((!stat.is_null()).then(|| Stat {
            czxid: number("czxid"),
            mzxid: number("mzxid"),
            pzxid: number("pzxid"),
            version: number("version"),
            cversion: number("cversion"),
            ephemeral_owner: number("ephemeralOwner"),
            num_children: number("numChildren"),
        }))
    }

    /// Closes the session, which removes kazoo's ephemeral nodes, and ends the process.
    pub async fn stop(self) {
        if let Err(error) = self.request(json!({"op": "stop"})).await {
            panic!("kazoo does not stop: {error}\n{}", self.stderr());
        }
        self.process.ended().await;
    }

    /// Kills the process with SIGKILL, as dropping does, and returns when it has ended.
    pub async fn kill(self) {
        self.process.kill().await;
    }

    /// Sends a request that kazoo answers without waiting for another client.
    async fn request(&self, request: Value) -> Result<Value, String> {
        const LIMIT: Duration = Duration::from_secs(60);
        match tokio::time::timeout(LIMIT, self.process.ask(request.clone())).await {
            Ok(answer) => answer,
            Err(_) => panic!("no answer from kazoo within {LIMIT:?} to {request}\n{}", self.stderr()),
        }
    }
}

fn strings(values: &Value) -> Vec<String> {
    let values = values.as_array().expect("a list");
    values.iter().map(|value| value.as_str().expect("a string").to_owned()).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let pairs = (0..text.len()).step_by(2).map(|at| &text[at..at + 2]);
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("a byte in hex")).collect()
}
