//! Sessions: their passwords, and when their time runs out (`SessionTrackerImpl`, `ExpiryQueue`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{ConnectionId, Moment, SessionId};

/// All live sessions.
pub(super) struct Sessions {
    sessions: BTreeMap<SessionId, Session>,
    /// When each one's time runs out, by the next.
    ends: BTreeSet<(Moment, SessionId)>,
    /// Ends are rounded up to multiples of this.
    tick: Duration,
    next_id: i64,
    secret: u64,
}

pub(super) struct Session {
    pub timeout: Duration,
    pub ends: Moment,
    pub connection: Option<ConnectionId>,
}

impl Sessions {
    /// Session numbers come from the wall clock, in milliseconds, so that those of an earlier run are not met again;
    /// the highest byte stays zero, which is the number of the one server there is.
    pub fn new(tick: Duration, wall_clock: Duration, secret: u64) -> Sessions {
        let next_id = (((wall_clock.as_millis() as u64) << 24 >> 8) as i64).max(1);
        Sessions { sessions: BTreeMap::new(), ends: BTreeSet::new(), tick, next_id, secret }
    }

    pub fn create(&mut self, timeout: Duration, connection: ConnectionId, now: Moment) -> SessionId {
        let id = SessionId(self.next_id);
        self.next_id += 1;
        let ends = (now + timeout).next_multiple_of(self.tick);
        self.ends.insert((ends, id));
        self.sessions.insert(id, Session { timeout, ends, connection: Some(connection) });
        id
    }

    /// Binds a session to a connection, with a newly negotiated timeout; the connection it had.
    pub fn resume(
        &mut self,
        id: SessionId,
        timeout: Duration,
        connection: ConnectionId,
        now: Moment,
    ) -> Option<ConnectionId> {
        let session = self.sessions.get_mut(&id)?;
        session.timeout = timeout;
        let earlier = session.connection.replace(connection);
        self.touch(id, now);
        earlier
    }

    /// The client was heard from.
    pub fn touch(&mut self, id: SessionId, now: Moment) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let ends = (now + session.timeout).next_multiple_of(self.tick);
        if ends != session.ends {
            self.ends.remove(&(session.ends, id));
            self.ends.insert((ends, id));
            session.ends = ends;
        }
    }

    /// Gives every session its whole timeout again, and no connection: the server starts anew with what it kept.
    pub fn restart(&mut self, now: Moment) {
        let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        for id in ids {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.connection = None;
            }
            self.touch(id, now);
        }
    }

    pub fn disconnect(&mut self, id: SessionId, connection: ConnectionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            if session.connection == Some(connection) {
                session.connection = None;
            }
        }
    }

    pub fn remove(&mut self, id: SessionId) -> Option<Session> {
        let session = self.sessions.remove(&id)?;
        self.ends.remove(&(session.ends, id));
        Some(session)
    }

    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.sessions.iter().map(|(id, session)| (*id, session))
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// When the next session's time runs out.
    pub fn next_end(&self) -> Option<Moment> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// A session whose time has run out.
    pub fn expired(&self, now: Moment) -> Option<SessionId> {
        self.ends.first().filter(|(end, _)| *end <= now).map(|(_, id)| *id)
    }

    /// What proves that a client has been this session's before. It is computed, not kept, as in the real server.
    pub fn password(&self, id: SessionId) -> [u8; 16] {
        let first = mix(self.secret ^ u64::from_be_bytes(id.0.to_be_bytes()));
        let second = mix(first ^ self.secret.rotate_left(32));
        let mut password = [0; 16];
        password[..8].copy_from_slice(&first.to_be_bytes());
        password[8..].copy_from_slice(&second.to_be_bytes());
        password
    }
}

/// The finalizer of splitmix64: enough to keep tests from resuming a session by accident. It is no cryptography.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
