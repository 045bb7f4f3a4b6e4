//! Requests that change nodes (`PrepRequestProcessor` in the real server). The checks are in the same order as in the
//! real server, because a request with two errors is answered with the first one.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::server::Server;
use super::session::Caller;
use super::tree::{MAX_TTL, Node, Owner, Stamp, Undo};
use super::{ConnectionId, Moment, Output, acl, path};
use crate::wire::{Acl, CreateKind, Data, ErrorCode, EventKind, OpResult, Reply, Write};

/// The effect of a write: how to undo it, the change that watches are about, and the result.
struct Applied {
    undo: Undo,
    change: Option<Change>,
    result: OpResult,
}

/// A change for which watches fire. The access control lists are those at the time of the change. Later changes of the
/// same multi do not affect them.
struct Change {
    kind: EventKind,
    path: String,
    acl: Arc<[Acl]>,
    /// The parent's list. `None` if the change does not affect the parent's children.
    parent_acl: Option<Arc<[Acl]>>,
}

impl Server {
    /// Executes a single write. As in the real server, it uses up a transaction id even if it fails.
    pub(super) fn write(
        &mut self,
        caller: Caller,
        write: Write,
        now: Moment,
        out: &mut Vec<Output>,
    ) -> Result<Reply, ErrorCode> {
        let at = self.next_stamp(now);
        let applied = self.apply(caller, write, at)?;
        self.fire_watches(applied.change, at.zxid, out);
        Ok(match applied.result {
            OpResult::Create(path) => Reply::Path(path),
            OpResult::CreateStat(path, stat) => Reply::PathStat(path, stat),
            OpResult::SetData(stat) | OpResult::SetAcl(stat) => Reply::Stat(stat),
            // The real server never answers a successful check outside of a multi. No client sends one.
            OpResult::Delete | OpResult::Check => Reply::Empty,
            OpResult::GetData(..) | OpResult::GetChildren(_) | OpResult::Error(_) => Reply::Empty,
        })
    }

    /// Executes writes that succeed or fail together. The reply itself is always a success and has the result of each
    /// write.
    pub(super) fn multi(
        &mut self,
        caller: Caller,
        writes: Vec<Write>,
        now: Moment,
        out: &mut Vec<Output>,
    ) -> Result<Reply, ErrorCode> {
        let at = self.next_stamp(now);
        let count = writes.len();
        let (mut undo, mut changes, mut results) = (Vec::new(), Vec::new(), Vec::with_capacity(count));
        for write in writes {
            match self.apply(caller, write, at) {
                Ok(applied) => {
                    undo.push(applied.undo);
                    changes.push(applied.change);
                    results.push(applied.result);
                }
                Err(error) => {
                    undo.into_iter().rev().for_each(|change| self.tree.undo(change));
                    let failed = results.len();
                    return Ok(Reply::Multi((0..count).map(|at| rolled_back(at, failed, error)).collect()));
                }
            }
        }
        for change in changes {
            self.fire_watches(change, at.zxid, out);
        }
        Ok(Reply::Multi(results))
    }

    /// Removes expired container and TTL nodes, each in its own transaction.
    pub(super) fn remove_expired_nodes(&mut self, now: Moment, out: &mut Vec<Output>) {
        while let Some(path) = self.tree.expired(self.wall_clock(now)) {
            let at = self.next_stamp(now);
            self.remove_node(&path, at, out);
        }
    }

    /// Removes a node and fires watches. The node must exist and have no children.
    pub(super) fn remove_node(&mut self, path: &str, at: Stamp, out: &mut Vec<Output>) {
        let Some((parent, name)) = path::split(path) else { return };
        let acl_of = |path| self.tree.get(path).map(|node| Arc::clone(&node.acl));
        let (Some(acl), parent_acl) = (acl_of(path), acl_of(parent)) else { return };
        let change = Change { kind: EventKind::Deleted, path: path.to_owned(), acl, parent_acl };
        self.tree.delete(parent, name, at);
        self.fire_watches(Some(change), at.zxid, out);
    }

    fn apply(&mut self, caller: Caller, write: Write, at: Stamp) -> Result<Applied, ErrorCode> {
        match write {
            Write::Create { kind, path, data, acl, flags } => {
                self.create(caller, kind, path, data, &acl, flags, at)
            }
            Write::Delete { path, version } => self.delete(caller, path, version, at),
            Write::SetData { path, data, version } => self.set_data(caller, path, data, version, at),
            Write::SetAcl { path, acl, version } => self.set_acl(caller, &path, &acl, version),
            Write::Check { path, version } => self.check(caller, &path, version),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one request")]
    fn create(
        &mut self,
        caller: Caller,
        kind: CreateKind,
        mut path: String,
        data: Data,
        acl: &[Acl],
        flags: i32,
        at: Stamp,
    ) -> Result<Applied, ErrorCode> {
        let (sequential, ephemeral, wants_ttl) = match flags {
            0 | 4 => (false, false, false),
            1 => (false, true, false),
            2 => (true, false, false),
            3 => (true, true, false),
            5 => (false, false, true),
            6 => (true, false, true),
            _ => return Err(ErrorCode::BadArguments),
        };
        if wants_ttl && !self.config.extended_types {
            return Err(ErrorCode::Unimplemented);
        }
        // For containers and TTL nodes the operation determines the owner. For the other nodes the flags do.
        let owner = match kind {
            CreateKind::Ttl(ttl) if wants_ttl && (1..=MAX_TTL).contains(&ttl) => Owner::Ttl(ttl),
            CreateKind::Ttl(_) => return Err(ErrorCode::BadArguments),
            _ if wants_ttl => return Err(ErrorCode::BadArguments),
            CreateKind::Container => Owner::Container,
            CreateKind::Plain | CreateKind::WithStat if ephemeral => Owner::Session(caller.session),
            CreateKind::Plain | CreateKind::WithStat => Owner::Nobody,
        };
        let parent_path = path::split(&path).ok_or(ErrorCode::BadArguments)?.0.to_owned();
        let identities = self.identities(caller.connection);
        let fixed = acl::fix_up(acl, identities)?;
        let parent = self.tree.get(&parent_path).ok_or(ErrorCode::NoNode)?;
        acl::check(&parent.acl, acl::CREATE, identities)?;
        if sequential {
            path = format!("{path}{:010}", parent.creations);
        }
        if !path::is_valid(&path) {
            return Err(ErrorCode::BadArguments);
        }
        if self.tree.get(&path).is_some() {
            return Err(ErrorCode::NodeExists);
        }
        if matches!(parent.owner, Owner::Session(_)) {
            return Err(ErrorCode::NoChildrenForEphemerals);
        }
        let parent_acl = Some(Arc::clone(&parent.acl));
        let node = Node::new(data, Arc::clone(&fixed), owner, at);
        let stat = node.stat();
        let undo = self.tree.create(&parent_path, &path[parent_path.len() + 1..], node);
        let change = Some(Change { kind: EventKind::Created, path: path.clone(), acl: fixed, parent_acl });
        let result = match kind {
            CreateKind::Plain => OpResult::Create(path),
            CreateKind::WithStat | CreateKind::Container | CreateKind::Ttl(_) => {
                OpResult::CreateStat(path, stat)
            }
        };
        Ok(Applied { undo, change, result })
    }

    fn delete(
        &mut self,
        caller: Caller,
        path: String,
        version: i32,
        at: Stamp,
    ) -> Result<Applied, ErrorCode> {
        if matches!(path.as_str(), "/" | "/zookeeper" | "/zookeeper/quota" | "/zookeeper/config") {
            return Err(ErrorCode::BadArguments);
        }
        let (parent_path, name) = path::split(&path).ok_or(ErrorCode::BadArguments)?;
        let parent = self.tree.get(parent_path).ok_or(ErrorCode::NoNode)?;
        acl::check(&parent.acl, acl::DELETE, self.identities(caller.connection))?;
        let node = self.tree.get(&path).ok_or(ErrorCode::NoNode)?;
        next_version(node.version, version)?;
        if node.has_children() {
            return Err(ErrorCode::NotEmpty);
        }
        let (acl, parent_acl) = (Arc::clone(&node.acl), Some(Arc::clone(&parent.acl)));
        let undo = self.tree.delete(parent_path, name, at);
        let change = Some(Change { kind: EventKind::Deleted, path, acl, parent_acl });
        Ok(Applied { undo, change, result: OpResult::Delete })
    }

    fn set_data(
        &mut self,
        caller: Caller,
        path: String,
        data: Data,
        version: i32,
        at: Stamp,
    ) -> Result<Applied, ErrorCode> {
        let node = self.permitted(caller, &path, acl::WRITE)?;
        let next = next_version(node.version, version)?;
        let acl = Arc::clone(&node.acl);
        let undo = self.tree.set_data(&path, data, next, at);
        let stat = self.tree.get(&path).map(Node::stat).unwrap_or_default();
        let change = Some(Change { kind: EventKind::DataChanged, path, acl, parent_acl: None });
        Ok(Applied { undo, change, result: OpResult::SetData(stat) })
    }

    fn set_acl(
        &mut self,
        caller: Caller,
        path: &str,
        acl: &[Acl],
        version: i32,
    ) -> Result<Applied, ErrorCode> {
        if !path::is_valid(path) {
            return Err(ErrorCode::BadArguments);
        }
        let fixed = acl::fix_up(acl, self.identities(caller.connection))?;
        let node = self.permitted(caller, path, acl::ADMIN)?;
        let next = next_version(node.aversion(), version)?;
        self.tree.set_acl(path, fixed, next);
        let stat = self.tree.get(path).map(Node::stat).unwrap_or_default();
        // There is nothing to undo, because a multi cannot contain a setACL.
        Ok(Applied { undo: Undo::Nothing, change: None, result: OpResult::SetAcl(stat) })
    }

    fn check(&self, caller: Caller, path: &str, version: i32) -> Result<Applied, ErrorCode> {
        let node = self.permitted(caller, path, acl::READ)?;
        next_version(node.version, version)?;
        Ok(Applied { undo: Undo::Nothing, change: None, result: OpResult::Check })
    }

    /// Finds a node and checks that the client has one of the permissions.
    fn permitted(&self, caller: Caller, path: &str, perms: i32) -> Result<&Node, ErrorCode> {
        if !path::is_valid(path) {
            return Err(ErrorCode::BadArguments);
        }
        let node = self.tree.get(path).ok_or(ErrorCode::NoNode)?;
        acl::check(&node.acl, perms, self.identities(caller.connection))?;
        Ok(node)
    }

    /// Fires the watches affected by a change. Only clients that may read the node get an event, as in servers since
    /// 3.8.4 and 3.9.2. One-shot watches of the other clients are removed without an event.
    fn fire_watches(&mut self, change: Option<Change>, zxid: i64, out: &mut Vec<Output>) {
        let Some(Change { kind, path, acl, parent_acl }) = change else { return };
        let mut connections = self.data_watches.trigger(&path);
        if kind == EventKind::Deleted {
            // A client that watches both the node and its children gets only one event.
            connections.append(&mut self.child_watches.trigger(&path));
        }
        self.notify(connections, &acl, kind, &path, zxid, out);
        let Some(parent_acl) = parent_acl else { return };
        let parent = match path::split(&path) {
            Some(("", _)) | None => "/",
            Some((parent, _)) => parent,
        };
        let connections = self.child_watches.trigger(parent);
        self.notify(connections, &parent_acl, EventKind::ChildrenChanged, parent, zxid, out);
    }

    /// Sends an event to those of the connections whose clients may read the node.
    fn notify(
        &mut self,
        connections: BTreeSet<ConnectionId>,
        acl: &[Acl],
        kind: EventKind,
        path: &str,
        zxid: i64,
        out: &mut Vec<Output>,
    ) {
        for connection in connections {
            if acl::check(acl, acl::READ, self.identities(connection)).is_ok() {
                self.event(connection, zxid, kind, path, out);
            }
        }
    }
}

/// The result of the operation at index `at` of a multi whose operation at index `failed` failed: zero before the
/// failed one, `error` for the failed one, and `RuntimeInconsistency` after it.
fn rolled_back(at: usize, failed: usize, error: ErrorCode) -> OpResult {
    OpResult::Error(match at.cmp(&failed) {
        std::cmp::Ordering::Less => 0,
        std::cmp::Ordering::Equal => error as i32,
        std::cmp::Ordering::Greater => ErrorCode::RuntimeInconsistency as i32,
    })
}

/// Returns the next version if the current one is the expected one. The expected version −1 matches any version, so −1
/// is skipped as a version. The real server does that on its main branch only (ZOOKEEPER-4743), and not in 3.9.
fn next_version(current: i32, expected: i32) -> Result<i32, ErrorCode> {
    if expected != -1 && expected != current {
        return Err(ErrorCode::BadVersion);
    }
    Ok(match current.wrapping_add(1) {
        -1 => 0,
        next => next,
    })
}
