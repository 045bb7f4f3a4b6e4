//! Contenders' nodes, as the leader knows them, and those that are left behind.

use lockkeeper_embedded::wire::{ErrorCode, OpResult, Reply, Request, Write};

use super::{Ensemble, SESSION_TIMEOUT, Time};

/// A contender's node, as known to the leader.
#[derive(Clone, Debug)]
pub struct Node {
    /// Zero if it outlives sessions.
    pub owner: i64,
    /// The session that created it.
    pub author: i64,
    /// Whether the client had given up that session before.
    pub late: bool,
    /// When it was created, or a heartbeat last named it.
    pub named: Time,
    /// Zero for a semaphore's lease, which has no sequence number.
    pub sequence: i64,
    /// The transaction that created it.
    pub made: i64,
}

/// After this time without a heartbeat that names it, nobody knows a node that was created late.
const UNKNOWN: Time = 2 * SESSION_TIMEOUT;

/// A contender's node that was deleted.
#[derive(Clone, Copy, Debug)]
pub struct Gone {
    pub at: Time,
    /// Whether an operator deleted it or ended its session by hand.
    pub tampered: bool,
    /// The transaction that created it.
    pub made: i64,
}

/// The beginning of the path of a node with kazoo's name, which all nodes of its actor have in common: the directory, and
/// a random number.
pub fn actor_of(node: &str) -> &str {
    let name = node.rfind('/').map_or(0, |slash| slash + 1);
    node.get(..name + 20).unwrap_or(node)
}

impl Ensemble {
    /// The client will not use this session any more.
    pub fn give_up(&mut self, session: i64) {
        self.given_up.insert(session);
    }

    /// An actor that creates nodes with this prefix has died with its keeper, in this session.
    pub fn died(&mut self, prefix: String, session: i64) {
        self.dead.push((prefix, session));
    }

    /// The nodes that outlive sessions and that nobody will delete: their owners have crashed, or do not know them.
    pub fn left_behind(&self) -> Vec<String> {
        let is_dead = |path: &str| {
            let mut dead = self.dead.iter().filter(|(_, session)| self.given_up.contains(session));
            dead.any(|(prefix, _)| path.starts_with(prefix))
        };
        let is_left = |path: &str, node: &Node| {
            let is_unknown = node.late && self.now > node.named + UNKNOWN;
            node.owner == 0 && (is_unknown || is_dead(path))
        };
        self.nodes.iter().filter(|(path, node)| is_left(path, node)).map(|(path, _)| path.clone()).collect()
    }

    /// Notes what a request did to contenders' nodes, if the leader carried it out.
    pub(super) fn note(&mut self, session: i64, request: Request, answer: Option<Result<Reply, ErrorCode>>) {
        let writes = match request {
            Request::Write(write) => vec![write],
            Request::Multi(writes) => writes,
            Request::CloseSession => {
                self.sessions.remove(&session);
                return self.session_gone(session, false);
            }
            _ => return,
        };
        let Some(Ok(reply)) = answer else { return };
        self.operated += u64::from(session == self.operator);
        let results = match reply {
            Reply::Multi(results) => results,
            Reply::PathStat(path, stat) => vec![OpResult::CreateStat(path, stat)],
            _ => vec![OpResult::Delete],
        };
        for (write, result) in writes.into_iter().zip(results) {
            match (write, result) {
                (Write::Create { path: prefix, flags: 1..=3, .. }, OpResult::CreateStat(path, stat)) => {
                    let sequence = path[prefix.len()..].parse().unwrap_or_default();
                    let node = Node {
                        owner: stat.ephemeral_owner,
                        author: session,
                        late: self.given_up.contains(&session),
                        named: self.now,
                        sequence,
                        made: stat.czxid,
                    };
                    self.nodes.insert(path, node);
                }
                (Write::Check { path, .. }, _) => {
                    if let Some(node) = self.nodes.get_mut(&path) {
                        node.named = self.now;
                    }
                }
                (Write::Delete { path, .. }, OpResult::Delete) => {
                    if let Some(Node { made, .. }) = self.nodes.remove(&path) {
                        let gone = Gone { at: self.now, tampered: session == self.operator, made };
                        self.gone.insert(path, gone);
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) fn session_gone(&mut self, session: i64, tampered: bool) {
        let at = self.now;
        let gone = |(path, node): (&String, &Node)| (node.owner == session).then(|| path.clone());
        for path in self.nodes.iter().filter_map(gone).collect::<Vec<_>>() {
            if let Some(Node { made, .. }) = self.nodes.remove(&path) {
                self.gone.insert(path, Gone { at, tampered, made });
            }
        }
    }
}
