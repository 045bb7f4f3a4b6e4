//! Requests that change the tree (`PrepRequestProcessor`). Their checks stand in the real server's order, because
//! a request that is wrong in two ways is answered by the first.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::read::Watching;
use super::server::Server;
use super::tree::{MAX_TTL, Node, Owner, Stamp, Undo};
use super::{ConnectionId, Moment, Output, acl, path};
use crate::wire::{Acl, CreateKind, Data, ErrorCode, EventKind, OpResult, Reply, Write};

/// What a write did: how to take it back, whom it concerns, and the answer.
struct Done {
    undo: Undo,
    change: Option<Change>,
    result: OpResult,
}

/// A change, and who could see it. The lists are those at the change: later ones of the same multi do not count.
struct Change {
    kind: EventKind,
    path: String,
    acl: Arc<[Acl]>,
    /// The parent's; none where the change is not one of its children.
    parent_acl: Option<Arc<[Acl]>>,
}

impl Server {
    /// A write by itself. It takes a transaction id even when it fails, as in the real server.
    pub(super) fn write(
        &mut self,
        caller: Watching,
        write: Write,
        now: Moment,
        out: &mut Vec<Output>,
    ) -> Result<Reply, ErrorCode> {
        let at = self.next_stamp(now);
        let done = self.apply(caller, write, at)?;
        self.announce(done.change, at.zxid, out);
        Ok(match done.result {
            OpResult::Create(path) => Reply::Path(path),
            OpResult::CreateStat(path, stat) => Reply::PathStat(path, stat),
            OpResult::SetData(stat) | OpResult::SetAcl(stat) => Reply::Stat(stat),
            // The real server never answers a check outside of a multi that holds; no client sends one.
            OpResult::Delete | OpResult::Check => Reply::Empty,
            OpResult::GetData(..) | OpResult::GetChildren(_) | OpResult::Error(_) => Reply::Empty,
        })
    }

    /// Writes that succeed or fail together. The reply is a success even when they fail: it says for each what it
    /// came to.
    pub(super) fn multi(
        &mut self,
        caller: Watching,
        writes: Vec<Write>,
        now: Moment,
        out: &mut Vec<Output>,
    ) -> Result<Reply, ErrorCode> {
        let at = self.next_stamp(now);
        let count = writes.len();
        let (mut undo, mut changes, mut results) = (Vec::new(), Vec::new(), Vec::with_capacity(count));
        for write in writes {
            match self.apply(caller, write, at) {
                Ok(done) => {
                    undo.push(done.undo);
                    changes.push(done.change);
                    results.push(done.result);
                }
                Err(error) => {
                    undo.into_iter().rev().for_each(|change| self.tree.undo(change));
                    let failed = results.len();
                    return Ok(Reply::Multi((0..count).map(|at| after_failure(at, failed, error)).collect()));
                }
            }
        }
        for change in changes {
            self.announce(change, at.zxid, out);
        }
        Ok(Reply::Multi(results))
    }

    /// Removes the containers and nodes with a time to live whose end has come, each in a transaction.
    pub(super) fn remove_ended(&mut self, now: Moment, out: &mut Vec<Output>) {
        while let Some(path) = self.tree.ended(self.wall_clock(now)) {
            let at = self.next_stamp(now);
            self.remove_node(&path, at, out);
        }
    }

    /// Removes a node that is there and has no children.
    pub(super) fn remove_node(&mut self, path: &str, at: Stamp, out: &mut Vec<Output>) {
        let Some((parent, name)) = path::split(path) else { return };
        let acl = |path| self.tree.get(path).map(|node| Arc::clone(&node.acl));
        let (Some(own), parent_acl) = (acl(path), acl(parent)) else { return };
        let change = Change { kind: EventKind::Deleted, path: path.to_owned(), acl: own, parent_acl };
        self.tree.delete(parent, name, at);
        self.announce(Some(change), at.zxid, out);
    }

    fn apply(&mut self, caller: Watching, write: Write, at: Stamp) -> Result<Done, ErrorCode> {
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
        caller: Watching,
        kind: CreateKind,
        mut path: String,
        data: Data,
        acl: &[Acl],
        flags: i32,
        at: Stamp,
    ) -> Result<Done, ErrorCode> {
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
        // The flags decide about the name, the operation about the node's life.
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
        Ok(Done { undo, change, result })
    }

    fn delete(&mut self, caller: Watching, path: String, version: i32, at: Stamp) -> Result<Done, ErrorCode> {
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
        Ok(Done { undo, change, result: OpResult::Delete })
    }

    fn set_data(
        &mut self,
        caller: Watching,
        path: String,
        data: Data,
        version: i32,
        at: Stamp,
    ) -> Result<Done, ErrorCode> {
        let node = self.permitted(caller, &path, acl::WRITE)?;
        let next = next_version(node.version, version)?;
        let acl = Arc::clone(&node.acl);
        let undo = self.tree.set_data(&path, data, next, at);
        let stat = self.tree.get(&path).map(Node::stat).unwrap_or_default();
        let change = Some(Change { kind: EventKind::DataChanged, path, acl, parent_acl: None });
        Ok(Done { undo, change, result: OpResult::SetData(stat) })
    }

    fn set_acl(
        &mut self,
        caller: Watching,
        path: &str,
        acl: &[Acl],
        version: i32,
    ) -> Result<Done, ErrorCode> {
        if !path::is_valid(path) {
            return Err(ErrorCode::BadArguments);
        }
        let fixed = acl::fix_up(acl, self.identities(caller.connection))?;
        let node = self.permitted(caller, path, acl::ADMIN)?;
        let next = next_version(node.aversion(), version)?;
        self.tree.set_acl(path, fixed, next);
        let stat = self.tree.get(path).map(Node::stat).unwrap_or_default();
        // Nothing to take back: a multi carries no setACL.
        Ok(Done { undo: Undo::Nothing, change: None, result: OpResult::SetAcl(stat) })
    }

    fn check(&self, caller: Watching, path: &str, version: i32) -> Result<Done, ErrorCode> {
        let node = self.permitted(caller, path, acl::READ)?;
        next_version(node.version, version)?;
        Ok(Done { undo: Undo::Nothing, change: None, result: OpResult::Check })
    }

    fn permitted(&self, caller: Watching, path: &str, perms: i32) -> Result<&Node, ErrorCode> {
        if !path::is_valid(path) {
            return Err(ErrorCode::BadArguments);
        }
        let node = self.tree.get(path).ok_or(ErrorCode::NoNode)?;
        acl::check(&node.acl, perms, self.identities(caller.connection))?;
        Ok(node)
    }

    /// Tells those who watch, and who might read the node (as servers since 3.8.4 and 3.9.2 have it). To the others
    /// nothing is said, but a watch that fires once is spent all the same.
    fn announce(&mut self, change: Option<Change>, zxid: i64, out: &mut Vec<Output>) {
        let Some(Change { kind, path, acl, parent_acl }) = change else { return };
        let mut told = self.data_watches.trigger(&path);
        if kind == EventKind::Deleted {
            // Whoever watches both the node and its children hears of its end once.
            told.append(&mut self.child_watches.trigger(&path));
        }
        self.tell(told, &acl, kind, &path, zxid, out);
        let Some(parent_acl) = parent_acl else { return };
        let parent = match path::split(&path) {
            Some(("", _)) | None => "/",
            Some((parent, _)) => parent,
        };
        let told = self.child_watches.trigger(parent);
        self.tell(told, &parent_acl, EventKind::ChildrenChanged, parent, zxid, out);
    }

    fn tell(
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

/// What the operation at a place of a failed multi is answered: nothing before the one that failed, its error, and
/// behind it that a former one failed.
fn after_failure(at: usize, failed: usize, error: ErrorCode) -> OpResult {
    OpResult::Error(match at.cmp(&failed) {
        std::cmp::Ordering::Less => 0,
        std::cmp::Ordering::Equal => error as i32,
        std::cmp::Ordering::Greater => ErrorCode::RuntimeInconsistency as i32,
    })
}

/// The version behind this one, if it is the expected one. −1 expects any, so no node ever gets that version
/// (as servers since 3.9.2 have it).
fn next_version(current: i32, expected: i32) -> Result<i32, ErrorCode> {
    if expected != -1 && expected != current {
        return Err(ErrorCode::BadVersion);
    }
    Ok(match current.wrapping_add(1) {
        -1 => 0,
        next => next,
    })
}
