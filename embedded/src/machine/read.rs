//! Requests that read nodes or manage watches (`FinalRequestProcessor` in the real server).

use std::sync::Arc;

use super::server::Server;
use super::session::Caller;
use super::tree::Node;
use super::watch::Mode;
use super::{ConnectionId, Output, acl};
use crate::wire::{ErrorCode, EventKind, OpResult, Read, Reply, Request, SetWatches};

/// The maximum size of a `multiRead` reply. The real server has no limit, so a small request that reads one large node
/// many times can make it run out of memory.
const MAX_MULTI_READ: usize = 64 << 20;

impl Server {
    /// Answers a request that changes no node.
    pub(super) fn read(
        &mut self,
        caller: Caller,
        request: Request,
        out: &mut Vec<Output>,
    ) -> Result<Reply, ErrorCode> {
        let Caller { connection, session } = caller;
        match request {
            Request::Read { op, watch } => {
                let reply = match self.read_one(connection, &op)? {
                    OpResult::GetData(data, stat) => Reply::Data(data, stat),
                    OpResult::GetChildren(names) => Reply::Children(names),
                    _ => Reply::Empty,
                };
                match op {
                    Read::GetData { path } if watch => self.watch_data(&path, connection),
                    Read::GetChildren { path } if watch => self.watch_children(&path, connection),
                    Read::GetData { .. } | Read::GetChildren { .. } => {}
                }
                Ok(reply)
            }
            Request::MultiRead(reads) => self.multi_read(connection, &reads),
            Request::Exists { path, watch } => {
                if path.contains('\0') {
                    return Err(ErrorCode::BadArguments);
                }
                let stat = match self.readable(connection, &path, acl::READ) {
                    Ok(node) => Ok(Reply::Stat(node.stat())),
                    Err(ErrorCode::NoNode) => Err(ErrorCode::NoNode),
                    // Servers since 3.8.4 and 3.9.2 require the read permission here (ZOOKEEPER-2590).
                    Err(refused) => return Err(refused),
                };
                if watch {
                    self.watch_data(&path, connection);
                }
                stat
            }
            Request::GetChildren2 { path, watch } => {
                let node = self.readable(connection, &path, acl::READ)?;
                let reply = Reply::ChildrenStat(node.children(), node.stat());
                if watch {
                    self.watch_children(&path, connection);
                }
                Ok(reply)
            }
            Request::GetAcl { path } => {
                let node = self.readable(connection, &path, acl::READ | acl::ADMIN)?;
                let administers = acl::check(&node.acl, acl::ADMIN, self.identities(connection)).is_ok();
                let list = if administers { node.acl.to_vec() } else { acl::masked(&node.acl) };
                Ok(Reply::Acl(list, node.stat()))
            }
            Request::Sync { path } => Ok(Reply::Path(path)),
            Request::GetEphemerals { prefix } => {
                let prefix = prefix.filter(|prefix| !matches!(prefix.trim(), "" | "/"));
                let prefix = prefix.as_deref().unwrap_or_default();
                let paths = self.tree.ephemerals(session);
                Ok(Reply::Paths(paths.filter(|path| path.starts_with(prefix)).cloned().collect()))
            }
            Request::GetAllChildrenNumber { path } => {
                self.readable(connection, &path, acl::READ)?;
                Ok(Reply::Number(i32::try_from(self.tree.descendants(&path)).unwrap_or(i32::MAX)))
            }
            Request::SetWatches(watches) => {
                self.set_watches(connection, &watches, out);
                Ok(Reply::Empty)
            }
            Request::AddWatch { path, mode } => {
                match mode {
                    0 => {
                        self.data_watches.add(&path, connection, Mode::Persistent);
                        self.child_watches.add(&path, connection, Mode::Persistent);
                    }
                    1 => self.data_watches.add(&path, connection, Mode::Recursive),
                    _ => return Err(ErrorCode::MarshallingError),
                }
                Ok(Reply::Number(0))
            }
            Request::CheckWatches { path, kind } => {
                let (data, mode, child) = watch_kind(kind)?;
                let found = data && self.data_watches.contains(&path, connection, mode)
                    || child && self.child_watches.contains(&path, connection, mode);
                if found { Ok(Reply::Empty) } else { Err(ErrorCode::NoWatcher) }
            }
            Request::RemoveWatches { path, kind } => {
                let (data, mode, child) = watch_kind(kind)?;
                let data = data && self.data_watches.remove(&path, connection, mode);
                let child = child && self.child_watches.remove(&path, connection, mode);
                if data || child { Ok(Reply::Empty) } else { Err(ErrorCode::NoWatcher) }
            }
            Request::WhoAmI => {
                Ok(Reply::Clients(self.identities(connection).iter().map(acl::without_hash).collect()))
            }
            Request::Ping
            | Request::CloseSession
            | Request::Auth { .. }
            | Request::Write(_)
            | Request::Multi(_)
            | Request::Reconfig
            | Request::Malformed { .. }
            | Request::Unsupported(_) => Err(ErrorCode::Unimplemented),
        }
    }

    fn multi_read(&self, connection: ConnectionId, reads: &[Read]) -> Result<Reply, ErrorCode> {
        let mut results = Vec::with_capacity(reads.len());
        let mut size = 0_usize;
        for read in reads {
            let result = self.read_one(connection, read);
            size += match &result {
                Ok(OpResult::GetData(Some(data), _)) => data.len(),
                Ok(OpResult::GetChildren(names)) => names.iter().map(|name| name.len() + 16).sum(),
                _ => 0,
            };
            if size > MAX_MULTI_READ {
                return Err(ErrorCode::MarshallingError);
            }
            results.push(result.unwrap_or_else(|error| OpResult::Error(error as i32)));
        }
        Ok(Reply::Multi(results))
    }

    fn read_one(&self, connection: ConnectionId, read: &Read) -> Result<OpResult, ErrorCode> {
        Ok(match read {
            Read::GetData { path } => {
                let node = self.readable(connection, path, acl::READ)?;
                OpResult::GetData(node.data.as_ref().map(Arc::clone), node.stat())
            }
            Read::GetChildren { path } => {
                OpResult::GetChildren(self.readable(connection, path, acl::READ)?.children())
            }
        })
    }

    /// Finds a node and checks that the client has one of the permissions.
    fn readable(&self, connection: ConnectionId, path: &str, perms: i32) -> Result<&Node, ErrorCode> {
        let node = self.tree.get(path).ok_or(ErrorCode::NoNode)?;
        acl::check(&node.acl, perms, self.identities(connection))?;
        Ok(node)
    }

    fn watch_data(&mut self, path: &str, connection: ConnectionId) {
        self.data_watches.add(path, connection, Mode::Standard);
    }

    fn watch_children(&mut self, path: &str, connection: ConnectionId) {
        self.child_watches.add(path, connection, Mode::Standard);
    }

    /// Re-arms the watches of the client's previous connection. If a watched node has changed since, the client gets
    /// the event at once.
    fn set_watches(&mut self, connection: ConnectionId, watches: &SetWatches, out: &mut Vec<Output>) {
        let seen = watches.relative_zxid;
        for path in &watches.data {
            let missed = match self.tree.get(path) {
                None => Some(EventKind::Deleted),
                Some(node) => (node.mzxid() > seen).then_some(EventKind::DataChanged),
            };
            match missed {
                Some(kind) => self.event(connection, -1, kind, path, out),
                None => self.watch_data(path, connection),
            }
        }
        for path in &watches.exist {
            match self.tree.get(path) {
                Some(_) => self.event(connection, -1, EventKind::Created, path, out),
                None => self.watch_data(path, connection),
            }
        }
        for path in &watches.child {
            let missed = match self.tree.get(path) {
                None => Some(EventKind::Deleted),
                Some(node) => (node.pzxid() > seen).then_some(EventKind::ChildrenChanged),
            };
            match missed {
                Some(kind) => self.event(connection, -1, kind, path, out),
                None => self.watch_children(path, connection),
            }
        }
        for path in &watches.persistent {
            self.data_watches.add(path, connection, Mode::Persistent);
            self.child_watches.add(path, connection, Mode::Persistent);
        }
        for path in &watches.recursive {
            self.data_watches.add(path, connection, Mode::Recursive);
        }
    }
}

/// Decodes the watcher type of a request: whether it includes watches on nodes, their mode (`None` for all modes), and
/// whether it includes watches on children.
fn watch_kind(kind: i32) -> Result<(bool, Option<Mode>, bool), ErrorCode> {
    Ok(match kind {
        1 => (false, Some(Mode::Standard), true),
        2 => (true, Some(Mode::Standard), false),
        3 => (true, None, true),
        4 => (true, Some(Mode::Persistent), true),
        5 => (true, Some(Mode::Recursive), false),
        _ => return Err(ErrorCode::MarshallingError),
    })
}
