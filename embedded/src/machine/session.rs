//! Sessions: their passwords and their expiry (`SessionTrackerImpl` and `ExpiryQueue` in the real server).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{ConnectionId, Moment, SessionId};

/// The live sessions.
pub(super) struct Sessions {
    sessions: BTreeMap<SessionId, Session>,
    /// The sessions by the time when they expire.
    by_expiry: BTreeSet<(Moment, SessionId)>,
    /// Expiry times are rounded up to multiples of this.
    tick: Duration,
    next_id: i64,
    secret: u64,
}

pub(super) struct Session {
    pub timeout: Duration,
    pub expires_at: Moment,
    pub connection: Option<ConnectionId>,
}

/// The client that sent a request.
#[derive(Clone, Copy)]
pub(super) struct Caller {
    pub connection: ConnectionId,
    pub session: SessionId,
}

impl Sessions {
    /// Session ids start from the wall clock in milliseconds, so that they differ from those of earlier runs. The
    /// highest byte is the server's id, which is zero for a standalone server.
    pub fn new(tick: Duration, wall_clock: Duration, secret: u64) -> Sessions {
        let next_id = (((wall_clock.as_millis() as u64) << 24 >> 8) as i64).max(1);
        Sessions { sessions: BTreeMap::new(), by_expiry: BTreeSet::new(), tick, next_id, secret }
    }

    /// The same, with ids larger than those of these sessions: their passwords would be valid for an id that is used
    /// again.
    pub fn after(self, earlier: &Sessions) -> Sessions {
        Sessions { next_id: self.next_id.max(earlier.next_id), ..self }
    }

    pub fn create(&mut self, timeout: Duration, connection: ConnectionId, now: Moment) -> SessionId {
        let id = SessionId(self.next_id);
        self.next_id += 1;
        let expires_at = (now + timeout).next_multiple_of(self.tick);
        self.by_expiry.insert((expires_at, id));
        self.sessions.insert(id, Session { timeout, expires_at, connection: Some(connection) });
        id
    }

    /// Moves a session to a new connection, with a newly negotiated timeout. Returns its previous connection.
    pub fn resume(
        &mut self,
        id: SessionId,
        timeout: Duration,
        connection: ConnectionId,
        now: Moment,
    ) -> Option<ConnectionId> {
        let session = self.sessions.get_mut(&id)?;
        session.timeout = timeout;
        let previous = session.connection.replace(connection);
        self.touch(id, now);
        previous
    }

    /// Starts the session's timeout again, because the client has sent a packet.
    pub fn touch(&mut self, id: SessionId, now: Moment) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let expires_at = (now + session.timeout).next_multiple_of(self.tick);
        if expires_at != session.expires_at {
            self.by_expiry.remove(&(session.expires_at, id));
            self.by_expiry.insert((expires_at, id));
            session.expires_at = expires_at;
        }
    }

    /// Starts the timeout of every session again, as after a restart of the server.
    pub fn restart(&mut self, now: Moment) {
        let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        ids.into_iter().for_each(|id| self.touch(id, now));
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
        self.by_expiry.remove(&(session.expires_at, id));
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

    /// When the next session expires.
    pub fn next_expiry(&self) -> Option<Moment> {
        self.by_expiry.first().map(|(expires_at, _)| *expires_at)
    }

    /// A session that has expired, if there is one.
    pub fn expired(&self, now: Moment) -> Option<SessionId> {
        self.by_expiry.first().filter(|(expires_at, _)| *expires_at <= now).map(|(_, id)| *id)
    }

    /// The password that a client must send to resume the session. As in the real server, it is computed rather than
    /// stored.
    pub fn password(&self, id: SessionId) -> [u8; 16] {
        let first = mix(self.secret ^ u64::from_be_bytes(id.0.to_be_bytes()));
        let second = mix(first ^ self.secret.rotate_left(32));
        let mut password = [0; 16];
        password[..8].copy_from_slice(&first.to_be_bytes());
        password[8..].copy_from_slice(&second.to_be_bytes());
        password
    }
}

/// The finalizer of splitmix64. It is not cryptographic, but enough to keep a test from resuming a wrong session by
/// accident.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
