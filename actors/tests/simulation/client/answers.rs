//! The requests that several methods send, and what the answers mean.

use lockkeeper_actors::machine::Failure;
use lockkeeper_actors::machine::semaphore::{Leases, Root};
use lockkeeper_embedded::wire::{self, CreateKind, ErrorCode, OpResult, Read, Reply, Request, Write};

pub(super) const NO_NODE: i32 = ErrorCode::NoNode as i32;

pub(super) fn create(path: &str, data: &[u8], flags: i32) -> Request {
    Request::Write(creation(path, data, flags))
}

pub(super) fn creation(path: &str, data: &[u8], flags: i32) -> Write {
    let anyone = wire::Id { scheme: "world".into(), id: "anyone".into() };
    Write::Create {
        kind: CreateKind::WithStat,
        path: path.to_owned(),
        data: Some(data.into()),
        acl: vec![wire::Acl { perms: 31, id: anyone }],
        flags,
    }
}

/// A request for the children of a directory.
pub(super) fn children(path: &str) -> Request {
    Request::Read { op: Read::GetChildren { path: path.to_owned() }, watch: false }
}

pub(super) fn root(reply: Reply) -> Result<Root, Failure> {
    match reply {
        Reply::Data(data, stat) => {
            let data = data.map(|data| data.to_vec()).unwrap_or_default();
            Ok(Root { version: stat.version, written: stat.mzxid, data })
        }
        other => Err(unexpected(&other)),
    }
}

pub(super) fn leases(reply: Reply) -> Result<Leases, Failure> {
    match reply {
        Reply::ChildrenStat(names, stat) => {
            let names = names.iter().map(|name| name.to_string()).collect();
            Ok(Leases { names, written: stat.mzxid })
        }
        other => Err(unexpected(&other)),
    }
}

/// The results of a transaction, or the index and error code of the write that made it fail.
pub(super) fn all(reply: Reply) -> Result<Result<Vec<OpResult>, (usize, i32)>, Failure> {
    let Reply::Multi(results) = reply else { return Err(unexpected(&reply)) };
    let failed = results.iter().enumerate().find_map(|(index, result)| match result {
        OpResult::Error(code) if *code != 0 => Some((index, *code)),
        _ => None,
    });
    Ok(failed.map_or(Ok(results), Err))
}

pub(super) fn refusal(code: i32) -> Failure {
    match code {
        NO_NODE => Failure::NoNode,
        code => Failure::Refused(format!("error {code}").into()),
    }
}

/// Treats a node that already exists as created.
pub(super) fn created_or_exists<T>(made: Result<T, Failure>) -> Result<(), Failure> {
    match made {
        Ok(_) => Ok(()),
        Err(Failure::Refused(reason)) if reason == ErrorCode::NodeExists.to_string().into() => Ok(()),
        Err(failure) => Err(failure),
    }
}

pub(super) fn failure(error: ErrorCode) -> Failure {
    match error {
        ErrorCode::NoNode => Failure::NoNode,
        ErrorCode::NoAuth => Failure::NoAuth,
        other => Failure::Refused(other.to_string().into()),
    }
}

pub(super) fn unexpected(answer: &impl std::fmt::Debug) -> Failure {
    Failure::Unknown(format!("unexpected answer: {answer:?}").into())
}
