//! The access list of what `run` creates, in the syntax of ZooKeeper's own shell: `scheme:id:permissions`.

use lockkeeper::auth::{Acl, AuthId, Permission};

use crate::exit::Failure;

/// Parses one entry.
pub fn entry(text: &str) -> Result<Acl, String> {
    let parts = text.split_once(':').and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once(':')?)));
    let Some((scheme, (id, letters))) = parts else {
        return Err("it must be scheme:id:permissions, for example auth::cdrwa or world:anyone:r".to_owned());
    };
    match (scheme, id) {
        ("", _) => return Err("it has no scheme, such as digest or world".to_owned()),
        ("world", "anyone") | ("auth", "") => {}
        ("world", _) => return Err("world has one id: write world:anyone:permissions".to_owned()),
        ("auth", _) => return Err("auth has no id: write auth::permissions".to_owned()),
        ("digest", id) if !is_digest(id) => {
            return Err(
                "digest has the id user:hash, where the hash is the base64 of the SHA-1 of user:password; a \
                        password is never an argument"
                    .to_owned(),
            );
        }
        (scheme, "") => return Err(format!("{scheme} has no id")),
        _ => {}
    }
    Ok(Acl::new(permissions(letters)?, AuthId::new(scheme, id)))
}

/// Checks a list. An empty one stands for the default, which is open to everyone.
pub fn check(list: &[Acl], has_credentials: bool) -> Result<(), Failure> {
    let needed = Permission::CREATE | Permission::DELETE | Permission::READ;
    let granted = list.iter().fold(Permission::NONE, |granted, entry| granted | entry.permission());
    if !list.is_empty() && !granted.has(needed) {
        return Err(Failure::usage(
            "--acl gives nobody all of c, d and r, which every contender needs in the directory of a lock",
        ));
    }
    if !has_credentials && list.iter().any(|entry| entry.scheme() == "auth") {
        return Err(Failure::usage(
            "--acl auth stands for the credentials of this command, and it has none: give them with --auth",
        ));
    }
    Ok(())
}

fn permissions(letters: &str) -> Result<Permission, String> {
    let mut permissions = Permission::NONE;
    for letter in letters.chars() {
        permissions = permissions
            | match letter {
                'c' => Permission::CREATE,
                'd' => Permission::DELETE,
                'r' => Permission::READ,
                'w' => Permission::WRITE,
                'a' => Permission::ADMIN,
                other => {
                    return Err(format!("{other:?} is no permission: they are the letters c, d, r, w and a"));
                }
            };
    }
    match letters.is_empty() {
        true => Err("it has no permissions: they are the letters c, d, r, w and a".to_owned()),
        false => Ok(permissions),
    }
}

/// Whether this can be a user and the hash of a password, and is not a user and a password.
fn is_digest(id: &str) -> bool {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    match id.split_once(':') {
        // 20 bytes are 27 letters and a sign that fills up.
        Some((user, hash)) => {
            let letters = hash.strip_suffix('=').unwrap_or_default();
            !user.is_empty() && letters.len() == 27 && letters.bytes().all(is_base64)
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_those_of_zookeepers_own_shell() {
        let digest = "me:xQJmxLMiHGwaqBvst5y6rkB6HQs=";
        for (text, expected) in [
            ("auth::cdrwa", Acl::new(Permission::ALL, AuthId::authed())),
            ("world:anyone:r", Acl::new(Permission::READ, AuthId::anyone())),
            (
                "ip:10.0.0.0/8:rc",
                Acl::new(Permission::READ | Permission::CREATE, AuthId::new("ip", "10.0.0.0/8")),
            ),
            ("ip:fe80::1:d", Acl::new(Permission::DELETE, AuthId::new("ip", "fe80::1"))),
            ("x509:CN=a,O=b:w", Acl::new(Permission::WRITE, AuthId::new("x509", "CN=a,O=b"))),
            (&format!("digest:{digest}:a"), Acl::new(Permission::ADMIN, AuthId::new("digest", digest))),
        ] {
            assert_eq!(entry(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn entries_that_no_server_takes_are_refused_with_what_to_write() {
        for (text, says) in [
            ("open", "scheme:id:permissions"),
            ("auth:cdrwa", "scheme:id:permissions"),
            (":me:r", "no scheme"),
            ("world:me:r", "world:anyone"),
            ("auth:me:r", "auth::permissions"),
            ("sasl::r", "sasl has no id"),
            ("world:anyone:", "no permissions"),
            ("world:anyone:rx", "'x' is no permission"),
            ("digest:me:secret:cdrwa", "never an argument"),
            ("digest:me:r", "never an argument"),
        ] {
            let error = entry(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_list_must_let_somebody_use_the_lock() {
        let list =
            |texts: &[&str]| texts.iter().map(|text| entry(text).expect("an entry")).collect::<Vec<_>>();
        assert!(check(&[], false).is_ok());
        assert!(check(&list(&["world:anyone:r", "ip:10.0.0.1:cd"]), false).is_ok());
        assert!(check(&list(&["auth::cdr"]), true).is_ok());
        let closed = check(&list(&["world:anyone:r"]), true).expect_err("nobody may create");
        assert!(closed.message.contains("c, d and r"), "{}", closed.message);
        let unproven = check(&list(&["auth::cdrwa"]), false).expect_err("there are no credentials");
        assert!(unproven.message.contains("--auth"), "{}", unproven.message);
    }
}
