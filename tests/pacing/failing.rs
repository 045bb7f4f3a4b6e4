//! A wrapper around the real client that fails requests on demand, or holds them back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::{self, BoxFuture, FutureExt};
use lockkeeper_actors::machine::Failure;
use lockkeeper_actors::machine::semaphore::{Leases, Root, TakeFailure};
use lockkeeper_actors::zookeeper::inspection::{Inspection, Status};
use lockkeeper_actors::zookeeper::{
    Acl, Answer, CheckFailure, Connect, Connected, Connector, CreatedNode, CreatedNodes, NewNode, Node,
    NotCreated, TakeRequest, TransactionFailure, Unconnected, Watching, Write, ZooKeeper,
};
use tokio::sync::oneshot;

/// The kind of a request. Heartbeats are not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Create,
    CreateAll,
    MakeDirectories,
    Children,
    Sync,
    Read,
    Watch,
    ReadRoot,
    WatchRoot,
    Leases,
    WatchChildren,
    Make,
    Write,
    Take,
    Delete,
    /// A list by an inspector.
    List,
}

/// Configures which requests fail, and counts them.
pub struct Failing {
    connector: Connector,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared(Mutex<State>);

#[derive(Default)]
struct State {
    fault: Option<(Kind, Failure, usize)>,
    failed: usize,
    counts: BTreeMap<Kind, usize>,
    /// Pending reads: their number now, and the largest so far.
    reading: (usize, usize),
    /// The next request of this kind waits for this before it is sent.
    gate: Option<(Kind, oneshot::Receiver<()>)>,
}

impl Failing {
    pub fn new(address: &str) -> Arc<Failing> {
        let connector = Connector::new(address, Duration::from_secs(20));
        Arc::new(Failing { connector, shared: Arc::default() })
    }

    /// From now on every request of this kind fails with this error and is not sent.
    pub fn fail(&self, kind: Kind, failure: Failure) {
        self.fail_times(kind, failure, usize::MAX);
    }

    pub fn fail_times(&self, kind: Kind, failure: Failure, times: usize) {
        let mut state = self.shared.state();
        (state.fault, state.failed) = (Some((kind, failure, times)), 0);
    }

    /// How many requests have failed since then.
    pub fn failed(&self) -> usize {
        self.shared.state().failed
    }

    /// How many requests of this kind there were, failed or not.
    pub fn count(&self, kind: Kind) -> usize {
        self.shared.state().counts.get(&kind).copied().unwrap_or_default()
    }

    /// The largest number of concurrent reads.
    pub fn most_reads(&self) -> usize {
        self.shared.state().reading.1
    }

    /// Delays the next request of this kind until the returned sender is dropped. The sender is closed once nobody waits
    /// for the answer. Not all kinds can be delayed: see the calls of `gate`.
    pub fn hold(&self, kind: Kind) -> oneshot::Sender<()> {
        let (sender, receiver) = oneshot::channel();
        self.shared.state().gate = Some((kind, receiver));
        sender
    }
}

impl Connect for Failing {
    fn connect(&self) -> BoxFuture<'static, Result<Connected, Unconnected>> {
        let (shared, connecting) = (self.shared.clone(), self.connector.connect());
        Box::pin(async move {
            let Connected { client, states } = connecting.await?;
            Ok(Connected { client: Arc::new(Client { client, shared }), states })
        })
    }

    fn address(&self) -> &str {
        self.connector.address()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no thread panics while holding it")
    }

    fn gate(&self, kind: Kind) -> Option<oneshot::Receiver<()>> {
        self.state().gate.take_if(|(of, _)| *of == kind).map(|(_, gate)| gate)
    }

    /// Sends a request, or fails it, or holds it back.
    fn answer<T: Send + 'static, C: Send + Sync + ?Sized + 'static>(
        &self,
        kind: Kind,
        client: &Arc<C>,
        send: impl FnOnce(&C) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        if let Some(failure) = self.failure(kind) {
            return future::ready(Err(failure)).boxed();
        }
        let Some(gate) = self.gate(kind) else { return send(client) };
        let client = client.clone();
        Box::pin(async move {
            let _ = gate.await;
            let answer = send(&client);
            answer.await
        })
    }

    fn failure(&self, kind: Kind) -> Option<Failure> {
        let mut state = self.state();
        *state.counts.entry(kind).or_default() += 1;
        let (of, failure, times) = state.fault.clone()?;
        if of != kind || state.failed >= times {
            return None;
        }
        state.failed += 1;
        Some(failure)
    }
}

struct Client {
    client: Arc<dyn ZooKeeper>,
    shared: Arc<Shared>,
}

impl Client {
    fn answer<T: Send + 'static>(
        &self,
        kind: Kind,
        send: impl FnOnce(&dyn ZooKeeper) -> Answer<T>,
    ) -> Answer<T> {
        match self.shared.failure(kind) {
            Some(failure) => future::ready(Err(failure)).boxed(),
            None => send(&*self.client),
        }
    }
}

impl ZooKeeper for Client {
    fn session(&self) -> i64 {
        self.client.session()
    }

    fn timeout(&self) -> Duration {
        self.client.timeout()
    }

    fn chroot(&self) -> &str {
        self.client.chroot()
    }

    fn create(
        &self,
        prefix: String,
        data: Arc<[u8]>,
        ephemeral: bool,
        acl: Arc<[Acl]>,
    ) -> Answer<CreatedNode> {
        self.answer(Kind::Create, |client| client.create(prefix, data, ephemeral, acl))
    }

    fn create_all(&self, prefixes: &[NewNode<'_>]) -> BoxFuture<'static, Result<CreatedNodes, NotCreated>> {
        if let Some(failure) = self.shared.failure(Kind::CreateAll) {
            return future::ready(Err(NotCreated { culprit: None, failure })).boxed();
        }
        let gate = self.shared.gate(Kind::CreateAll);
        let Some(gate) = gate else { return self.client.create_all(prefixes) };
        let own = |node: &NewNode<'_>| (node.path.to_owned(), node.data.to_vec(), node.acl.to_vec());
        let nodes: Vec<_> = prefixes.iter().map(own).collect();
        let client = self.client.clone();
        Box::pin(async move {
            let _ = gate.await;
            let nodes: Vec<_> = nodes.iter().map(|(path, data, acl)| NewNode { path, data, acl }).collect();
            let answer = client.create_all(&nodes);
            answer.await
        })
    }

    fn make_directories(&self, path: &str, container: bool, acl: &[Acl]) -> Answer<()> {
        self.answer(Kind::MakeDirectories, |client| client.make_directories(path, container, acl))
    }

    fn children(&self, path: &str) -> Answer<Vec<String>> {
        self.answer(Kind::Children, |client| client.children(path))
    }

    fn sync(&self, path: &str) -> Answer<()> {
        let path = path.to_owned();
        self.shared.answer(Kind::Sync, &self.client, move |client| client.sync(&path))
    }

    fn read(&self, path: &str) -> Answer<Node> {
        {
            let (now, most) = &mut self.shared.state().reading;
            *now += 1;
            *most = (*now).max(*most);
        }
        let (answer, shared) = (self.answer(Kind::Read, |client| client.read(path)), self.shared.clone());
        Box::pin(async move {
            let answer = answer.await;
            shared.state().reading.0 -= 1;
            answer
        })
    }

    fn watch(&self, path: &str) -> Answer<Watching> {
        let path = path.to_owned();
        self.shared.answer(Kind::Watch, &self.client, move |client| client.watch(&path))
    }

    fn watch_for(&self, path: &str) -> Answer<Option<Watching>> {
        self.answer(Kind::Watch, |client| client.watch_for(path))
    }

    fn read_root(&self, path: &str) -> Answer<Root> {
        self.answer(Kind::ReadRoot, |client| client.read_root(path))
    }

    fn watch_root(&self, path: &str) -> Answer<(Root, Watching)> {
        self.answer(Kind::WatchRoot, |client| client.watch_root(path))
    }

    fn leases(&self, path: &str) -> Answer<Leases> {
        self.answer(Kind::Leases, |client| client.leases(path))
    }

    fn watch_children(&self, path: &str) -> Answer<(Leases, Watching)> {
        self.answer(Kind::WatchChildren, |client| client.watch_children(path))
    }

    fn make(&self, path: &str, data: &[u8], acl: &[Acl]) -> Answer<()> {
        self.answer(Kind::Make, |client| client.make(path, data, acl))
    }

    fn write(&self, path: &str, data: &[u8]) -> Answer<()> {
        self.answer(Kind::Write, |client| client.write(path, data))
    }

    fn take(&self, take: TakeRequest<'_>) -> BoxFuture<'static, Result<(), TakeFailure>> {
        match self.shared.failure(Kind::Take) {
            Some(failure) => future::ready(Err(TakeFailure::Failed(failure))).boxed(),
            None => self.client.take(take),
        }
    }

    fn delete(&self, path: &str) -> Answer<()> {
        self.answer(Kind::Delete, |client| client.delete(path))
    }

    fn transact(
        &self,
        required: &[String],
        writes: Vec<Write>,
    ) -> BoxFuture<'static, Result<(), TransactionFailure>> {
        self.client.transact(required, writes)
    }

    fn inspection(&self) -> Option<Arc<dyn Inspection>> {
        let inspection = self.client.inspection()?;
        Some(Arc::new(Inspecting { inspection, shared: self.shared.clone() }))
    }

    fn owner(&self, directories: &[String]) -> Answer<Option<i64>> {
        self.client.owner(directories)
    }

    fn check(&self, paths: &[String]) -> BoxFuture<'static, Result<(), CheckFailure>> {
        self.client.check(paths)
    }
}

struct Inspecting {
    inspection: Arc<dyn Inspection>,
    shared: Arc<Shared>,
}

impl Inspection for Inspecting {
    fn status(&self, path: &str) -> Answer<Status> {
        self.inspection.status(path)
    }

    fn data(&self, path: &str) -> Answer<(Vec<u8>, Status)> {
        self.inspection.data(path)
    }

    fn list(&self, path: &str) -> Answer<(Vec<String>, Status)> {
        let path = path.to_owned();
        self.shared.answer(Kind::List, &self.inspection, move |inspection| inspection.list(&path))
    }

    fn delete_version(&self, path: &str, version: i32) -> Answer<()> {
        self.inspection.delete_version(path, version)
    }
}
