//! Authentication and access control (`PrepRequestProcessor.fixupACL`, `ZooKeeperServer.checkACL` and the two default
//! authentication providers in the real server).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::wire::{Acl, ErrorCode, Id, MAX_FRAME};

pub(super) const READ: i32 = 1;
pub(super) const WRITE: i32 = 2;
pub(super) const CREATE: i32 = 4;
pub(super) const DELETE: i32 = 8;
pub(super) const ADMIN: i32 = 16;
const ALL: i32 = 31;
const SUPER: &str = "super";

/// The maximum number of entries in a stored list. Every `auth` entry is replaced by all identities of the client. The
/// real server has no limit, so there a request of one megabyte can take gigabytes of memory.
const MAX_ENTRIES: usize = 1 << 16;
/// The maximum total length of the names in a stored list, in bytes: as much as fits into one request.
const MAX_LIST_SIZE: usize = MAX_FRAME;
/// The maximum total length of the names of a connection's identities, in bytes. This is enough for about five hundred
/// short ones. The real server has no limit here either.
pub(super) const MAX_IDENTITIES_SIZE: usize = 16 << 10;

/// The list that grants all permissions to everyone.
pub(super) fn open() -> Arc<[Acl]> {
    world(ALL)
}

/// The list that grants only the read permission, to everyone.
pub(super) fn read_only() -> Arc<[Acl]> {
    world(READ)
}

fn world(perms: i32) -> Arc<[Acl]> {
    Arc::from([Acl { perms, id: Id { scheme: "world".into(), id: "anyone".into() } }])
}

/// Checks whether a client with these identities has at least one of the permissions. The super user has all of them.
pub(super) fn check(list: &[Acl], perms: i32, identities: &[Id]) -> Result<(), ErrorCode> {
    if identities.iter().any(|identity| identity.scheme == SUPER) {
        return Ok(());
    }
    let granted = list
        .iter()
        .filter(|entry| entry.perms & perms != 0)
        .any(|entry| is_anyone(&entry.id) || identities.iter().any(|identity| matches(&entry.id, identity)));
    if granted { Ok(()) } else { Err(ErrorCode::NoAuth) }
}

/// Returns the list as it is stored: without duplicates, and with each `auth` entry replaced by the client's digest
/// identities.
pub(super) fn fix_up(list: &[Acl], identities: &[Id]) -> Result<Arc<[Acl]>, ErrorCode> {
    let mut fixed: Vec<Acl> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut size = 0;
    for entry in list {
        if !seen.insert((entry.perms, &entry.id.scheme, &entry.id.id)) {
            continue;
        }
        let before = fixed.len();
        match entry.id.scheme.as_str() {
            "world" if is_anyone(&entry.id) => fixed.push(entry.clone()),
            "auth" => {
                let authenticated = identities.iter().filter(|identity| identity.scheme == "digest");
                fixed.extend(authenticated.map(|id| Acl { perms: entry.perms, id: id.clone() }));
                if fixed.len() == before {
                    return Err(ErrorCode::InvalidAcl);
                }
            }
            "digest" if is_digest(&entry.id.id) => fixed.push(entry.clone()),
            "ip" if network(&entry.id.id).is_some() => fixed.push(entry.clone()),
            _ => return Err(ErrorCode::InvalidAcl),
        }
        size += fixed[before..].iter().map(|entry| entry.id.size()).sum::<usize>();
        if fixed.len() > MAX_ENTRIES || size > MAX_LIST_SIZE {
            return Err(ErrorCode::InvalidAcl);
        }
    }
    if fixed.is_empty() { Err(ErrorCode::InvalidAcl) } else { Ok(fixed.into()) }
}

/// Returns the identities that the credentials prove, or none if authentication fails. Credentials that match the super
/// user's digest also prove the super user's identity.
pub(super) fn authenticate(
    scheme: &str,
    credentials: Option<&[u8]>,
    peer: IpAddr,
    super_digest: Option<&str>,
) -> Vec<Id> {
    match (scheme, credentials) {
        ("digest", Some(credentials)) => {
            let credentials = String::from_utf8_lossy(credentials);
            let name = credentials.split(':').next().unwrap_or_default();
            let hash = STANDARD.encode(Sha1::digest(credentials.as_bytes()));
            let digest = Id { scheme: scheme.to_owned(), id: format!("{name}:{hash}") };
            let super_user = Id { scheme: SUPER.into(), id: String::new() };
            if super_digest == Some(&digest.id) { vec![super_user, digest] } else { vec![digest] }
        }
        ("ip", _) => vec![address(peer)],
        _ => Vec::new(),
    }
}

/// The identity that every connection has from the start: the client's IP address.
pub(super) fn address(peer: IpAddr) -> Id {
    Id { scheme: "ip".into(), id: peer.to_string() }
}

/// An identity as `whoAmI` returns it, without the password hash.
pub(super) fn without_hash(id: &Id) -> Id {
    let user = if id.scheme == "digest" { id.id.split(':').next().unwrap_or_default() } else { &id.id };
    Id { scheme: id.scheme.clone(), id: user.to_owned() }
}

/// A list as `getACL` returns it to a client without the admin permission, with the password hashes masked.
pub(super) fn masked(list: &[Acl]) -> Vec<Acl> {
    let mask = |entry: &Acl| match entry.id.id.split_once(':') {
        Some((name, _)) if entry.id.scheme == "digest" => {
            Acl { perms: entry.perms, id: Id { scheme: "digest".into(), id: format!("{name}:x") } }
        }
        _ => entry.clone(),
    };
    list.iter().map(mask).collect()
}

fn is_anyone(id: &Id) -> bool {
    id.scheme == "world" && id.id == "anyone"
}

fn matches(entry: &Id, identity: &Id) -> bool {
    entry.scheme == identity.scheme
        && match entry.scheme.as_str() {
            "ip" => network(&entry.id).is_some_and(|(network, mask)| {
                identity
                    .id
                    .parse()
                    .is_ok_and(|address: std::net::Ipv4Addr| u32::from(address) & mask == network & mask)
            }),
            _ => entry.id == identity.id,
        }
}

/// Whether the real server accepts this id in an entry: it has two parts according to Java's `split`, which ignores
/// empty parts at the end.
fn is_digest(id: &str) -> bool {
    id.trim_end_matches(':').split(':').count() == 2
}

/// Whether this is a valid password digest: a name, a colon, and the base64 of a SHA-1 hash.
pub(crate) fn is_password_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(_, hash)| STANDARD.decode(hash).is_ok_and(|hash| hash.len() == 20))
}

/// Parses an IPv4 address with an optional prefix length. Returns the address and the mask.
fn network(expression: &str) -> Option<(u32, u32)> {
    let (address, bits) = expression.split_once('/').unwrap_or((expression, "32"));
    let bits: u32 = bits.parse().ok().filter(|bits| *bits <= 32)?;
    let address: std::net::Ipv4Addr = address.parse().ok()?;
    Some((address.into(), u32::MAX.checked_shl(32 - bits).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(perms: i32, scheme: &str, id: &str) -> Acl {
        Acl { perms, id: Id { scheme: scheme.into(), id: id.into() } }
    }

    #[test]
    fn digests_match_those_of_zookeepers_own_tool() {
        let digest = "super:xQJmxLMiHGwaqBvst5y6rkB6HQs=";
        let local = IpAddr::from([127, 0, 0, 1]);
        let proven = |super_digest| authenticate("digest", Some(b"super:admin"), local, super_digest);
        let id = |scheme: &str, id: &str| Id { scheme: scheme.into(), id: id.into() };
        assert_eq!(proven(None), [id("digest", digest)]);
        assert_eq!(proven(Some(digest)), [id("super", ""), id("digest", digest)]);
    }

    #[test]
    fn auth_is_replaced_by_the_digests_and_requires_one() {
        let ip = address(IpAddr::from([127, 0, 0, 1]));
        let auth = [entry(3, "auth", "")];
        assert_eq!(fix_up(&auth, std::slice::from_ref(&ip)), Err(ErrorCode::InvalidAcl));
        let me = Id { scheme: "digest".into(), id: "me:hash".into() };
        let fixed = fix_up(&auth, &[ip, me]).expect("authenticated");
        assert_eq!(*fixed, [entry(3, "digest", "me:hash")]);
    }

    #[test]
    fn networks_match_by_prefix() {
        let local = address(IpAddr::from([127, 0, 0, 1]));
        for (expression, granted) in
            [("127.0.0.1", true), ("127.0.0.0/8", true), ("10.0.0.1", false), ("1.1.1.1/0", true)]
        {
            let list = [entry(READ, "ip", expression)];
            assert_eq!(check(&list, READ, std::slice::from_ref(&local)).is_ok(), granted, "{expression}");
        }
        assert_eq!(fix_up(&[entry(1, "ip", "127.0.0.1/33")], &[]), Err(ErrorCode::InvalidAcl));
    }

    #[test]
    fn a_digest_entry_has_two_parts() {
        for (id, valid) in
            [("a:b", true), (":b", true), ("a:", false), ("a", false), ("a:b:c", false), ("", false)]
        {
            assert_eq!(is_digest(id), valid, "{id:?}");
        }
    }
}
