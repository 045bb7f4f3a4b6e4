//! Decodes requests. Every length is checked against the available bytes before any memory is allocated for it, so the
//! memory for a frame is at most a few times its real size, no matter what lengths it contains.

use std::sync::Arc;

use super::{Acl, ConnectRequest, CreateKind, Data, Id, Read, Request, SetWatches, Write};

/// Why a frame could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The frame is shorter than its content requires.
    #[error("malformed frame: it ends too early")]
    Truncated,
    /// A length is negative and not −1, which means null.
    #[error("malformed frame: it contains a negative length")]
    BadLength,
    /// A required string is null.
    #[error("malformed frame: a required string is null")]
    Null,
    /// A multi contains an operation that is not allowed in it.
    #[error("malformed frame: a multi contains an operation that is not allowed in it")]
    BadOperation,
}

/// Decodes the first frame of a connection.
pub fn connect_request(frame: &[u8]) -> Result<ConnectRequest, Malformed> {
    let mut input = Input(frame);
    let _protocol_version = input.int()?;
    let last_zxid_seen = input.long()?;
    let timeout_ms = input.int()?;
    let session = input.long()?;
    let password = input.buffer()?.unwrap_or_default().to_vec();
    let read_only = input.bool().ok();
    Ok(ConnectRequest { last_zxid_seen, timeout_ms, session, password, read_only })
}

/// Decodes any later frame. Returns the number that the client gave the request, and the request. If the body is
/// malformed, the request is [`Request::Malformed`].
///
/// After an error the connection must be closed: either the frame has no complete header, so that it cannot be
/// answered, or it is a malformed authentication request.
pub fn request(frame: &[u8]) -> Result<(i32, Request), Malformed> {
    let mut input = Input(frame);
    let xid = input.int()?;
    let kind = input.int()?;
    match body(kind, &mut input) {
        Err(malformed) if kind == op::AUTH => Err(malformed),
        body => Ok((xid, body.unwrap_or(Request::Malformed { multi: kind == op::MULTI }))),
    }
}

mod op {
    pub const CREATE: i32 = 1;
    pub const DELETE: i32 = 2;
    pub const EXISTS: i32 = 3;
    pub const GET_DATA: i32 = 4;
    pub const SET_DATA: i32 = 5;
    pub const GET_ACL: i32 = 6;
    pub const SET_ACL: i32 = 7;
    pub const GET_CHILDREN: i32 = 8;
    pub const SYNC: i32 = 9;
    pub const PING: i32 = 11;
    pub const GET_CHILDREN2: i32 = 12;
    pub const CHECK: i32 = 13;
    pub const MULTI: i32 = 14;
    pub const CREATE2: i32 = 15;
    pub const RECONFIG: i32 = 16;
    pub const CHECK_WATCHES: i32 = 17;
    pub const REMOVE_WATCHES: i32 = 18;
    pub const CREATE_CONTAINER: i32 = 19;
    pub const CREATE_TTL: i32 = 21;
    pub const MULTI_READ: i32 = 22;
    pub const AUTH: i32 = 100;
    pub const SET_WATCHES: i32 = 101;
    pub const GET_EPHEMERALS: i32 = 103;
    pub const GET_ALL_CHILDREN_NUMBER: i32 = 104;
    pub const SET_WATCHES2: i32 = 105;
    pub const ADD_WATCH: i32 = 106;
    pub const WHO_AM_I: i32 = 107;
    pub const CLOSE_SESSION: i32 = -11;
}

fn body(kind: i32, input: &mut Input<'_>) -> Result<Request, Malformed> {
    Ok(match kind {
        op::PING => Request::Ping,
        op::CLOSE_SESSION => Request::CloseSession,
        op::AUTH => {
            let _kind = input.int()?;
            let scheme = input.string()?.unwrap_or_default();
            Request::Auth { scheme, auth: input.buffer()?.map(<[u8]>::to_vec) }
        }
        op::CREATE
        | op::CREATE2
        | op::CREATE_CONTAINER
        | op::CREATE_TTL
        | op::DELETE
        | op::SET_DATA
        | op::CHECK => Request::Write(write(kind, input)?),
        op::SET_ACL => {
            Request::Write(Write::SetAcl { path: input.path()?, acl: input.acl()?, version: input.int()? })
        }
        op::MULTI => Request::Multi(input.multi(write)?),
        op::GET_DATA => {
            let path = input.path()?;
            Request::Read { op: Read::GetData { path }, watch: input.bool()? }
        }
        op::GET_CHILDREN => {
            let path = input.path()?;
            Request::Read { op: Read::GetChildren { path }, watch: input.bool()? }
        }
        op::MULTI_READ => Request::MultiRead(input.multi(read)?),
        op::EXISTS => Request::Exists { path: input.path()?, watch: input.bool()? },
        op::GET_CHILDREN2 => Request::GetChildren2 { path: input.path()?, watch: input.bool()? },
        op::GET_ACL => Request::GetAcl { path: input.path()? },
        op::SYNC => Request::Sync { path: input.path()? },
        op::GET_EPHEMERALS => Request::GetEphemerals { prefix: input.string()? },
        op::GET_ALL_CHILDREN_NUMBER => Request::GetAllChildrenNumber { path: input.path()? },
        op::SET_WATCHES => Request::SetWatches(input.set_watches()?),
        op::SET_WATCHES2 => {
            let older = input.set_watches()?;
            let (persistent, recursive) = (input.strings()?, input.strings()?);
            Request::SetWatches(SetWatches { persistent, recursive, ..older })
        }
        op::ADD_WATCH => Request::AddWatch { path: input.path()?, mode: input.int()? },
        op::CHECK_WATCHES => Request::CheckWatches { path: input.path()?, kind: input.int()? },
        op::REMOVE_WATCHES => Request::RemoveWatches { path: input.path()?, kind: input.int()? },
        op::WHO_AM_I => Request::WhoAmI,
        op::RECONFIG => Request::Reconfig,
        other => Request::Unsupported(other),
    })
}

/// Decodes a write that can be part of a multi. (`setACL` cannot.)
fn write(kind: i32, input: &mut Input<'_>) -> Result<Write, Malformed> {
    Ok(match kind {
        op::CREATE => input.create(CreateKind::Plain)?,
        op::CREATE2 => input.create(CreateKind::WithStat)?,
        op::CREATE_CONTAINER => input.create(CreateKind::Container)?,
        op::CREATE_TTL => match input.create(CreateKind::Ttl(0))? {
            Write::Create { kind: _, path, data, acl, flags } => {
                Write::Create { kind: CreateKind::Ttl(input.long()?), path, data, acl, flags }
            }
            other => other,
        },
        op::DELETE => Write::Delete { path: input.path()?, version: input.int()? },
        op::SET_DATA => Write::SetData { path: input.path()?, data: input.data()?, version: input.int()? },
        op::CHECK => Write::Check { path: input.path()?, version: input.int()? },
        _ => return Err(Malformed::BadOperation),
    })
}

fn read(kind: i32, input: &mut Input<'_>) -> Result<Read, Malformed> {
    let read = match kind {
        op::GET_DATA => Read::GetData { path: input.path()? },
        op::GET_CHILDREN => Read::GetChildren { path: input.path()? },
        _ => return Err(Malformed::BadOperation),
    };
    // A multiRead cannot set watches. The flag is present but ignored.
    input.bool()?;
    Ok(read)
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn int(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    fn long(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    fn bool(&mut self) -> Result<bool, Malformed> {
        self.array().map(|[byte]| byte != 0)
    }

    fn buffer(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.int()? {
            -1 => Ok(None),
            length => self.take(usize::try_from(length).map_err(|_| Malformed::BadLength)?).map(Some),
        }
    }

    fn data(&mut self) -> Result<Data, Malformed> {
        Ok(self.buffer()?.map(Arc::from))
    }

    /// Invalid UTF-8 is replaced by U+FFFD, which is not allowed in paths.
    fn string(&mut self) -> Result<Option<String>, Malformed> {
        Ok(self.buffer()?.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
    }

    fn path(&mut self) -> Result<String, Malformed> {
        self.string()?.ok_or(Malformed::Null)
    }

    /// A list whose elements take at least `smallest` bytes each. Like the real server, it decodes a negative count as
    /// an empty list.
    fn list<T>(
        &mut self,
        smallest: usize,
        element: impl Fn(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = usize::try_from(self.int()?).unwrap_or(0);
        if count > self.0.len() / smallest {
            return Err(Malformed::Truncated);
        }
        (0..count).map(|_| element(self)).collect()
    }

    fn strings(&mut self) -> Result<Vec<String>, Malformed> {
        self.list(4, Self::path)
    }

    fn acl(&mut self) -> Result<Vec<Acl>, Malformed> {
        self.list(12, |input| {
            let (perms, scheme) = (input.int()?, input.string()?.unwrap_or_default());
            let id = match (input.string()?, scheme.as_str()) {
                (Some(id), _) => id,
                (None, "world" | "digest" | "ip") => return Err(Malformed::Null),
                // An `auth` entry has no id. Some clients send it as null.
                (None, _) => String::new(),
            };
            Ok(Acl { perms, id: Id { scheme, id } })
        })
    }

    fn create(&mut self, kind: CreateKind) -> Result<Write, Malformed> {
        let (path, data) = (self.path()?, self.data()?);
        Ok(Write::Create { kind, path, data, acl: self.acl()?, flags: self.int()? })
    }

    fn set_watches(&mut self) -> Result<SetWatches, Malformed> {
        let relative_zxid = self.long()?;
        let (data, exist, child) = (self.strings()?, self.strings()?, self.strings()?);
        Ok(SetWatches { relative_zxid, data, exist, child, ..SetWatches::default() })
    }

    /// A list of operations, each after its own header. A header with the flag `done` ends the list.
    fn multi<T>(
        &mut self,
        operation: impl Fn(i32, &mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let mut operations = Vec::new();
        loop {
            let (kind, done, _error) = (self.int()?, self.bool()?, self.int()?);
            if done {
                return Ok(operations);
            }
            operations.push(operation(kind, self)?);
        }
    }
}
