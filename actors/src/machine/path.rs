//! Which paths may be locked.

use std::ops::RangeInclusive;

use thiserror::Error;

/// A path that ZooKeeper would refuse, or that cannot be locked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{path:?} cannot be locked: {reason}")]
pub struct InvalidName {
    /// What was given.
    pub path: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Checks a path by the rules of ZooKeeper's `PathUtils.validatePath`, and that something can be made below it.
pub fn check_path(path: &str) -> Result<(), InvalidName> {
    let refuse = |reason| Err(InvalidName { path: path.to_owned(), reason });
    if path.is_empty() {
        return refuse("it is empty");
    }
    if !path.starts_with('/') {
        return refuse("it is relative, and must begin with `/`");
    }
    if path == "/" {
        return refuse("the root is not a lock's directory");
    }
    if path.ends_with('/') {
        return refuse("it ends with `/`");
    }
    for part in path[1..].split('/') {
        match part {
            "" => return refuse("it has an empty part between two `/`"),
            "." | ".." => return refuse("it has a part `.` or `..`"),
            _ => {}
        }
    }
    if path.len() > MAX_PATH {
        return refuse("it is longer than 32 KiB");
    }
    if path == "/zookeeper" || path.starts_with("/zookeeper/") {
        return refuse("`/zookeeper` belongs to the server");
    }
    // `PathUtils` looks at UTF-16, in which everything above the basic plane is a pair of surrogates.
    const FORBIDDEN: [RangeInclusive<char>; 5] = [
        '\u{0}'..='\u{1f}',
        '\u{7f}'..='\u{9f}',
        '\u{e000}'..='\u{f8ff}',
        '\u{fff0}'..='\u{ffff}',
        '\u{10000}'..=char::MAX,
    ];
    if path.contains('\0') {
        return refuse("it has a NUL character");
    }
    if path.chars().any(|c| FORBIDDEN.iter().any(|range| range.contains(&c))) {
        return refuse("it has a character that ZooKeeper does not take in paths");
    }
    Ok(())
}

/// A heartbeat must have room for the path of a node that it checks.
const MAX_PATH: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_zookeeper_would_refuse_are_refused_with_the_reason() {
        for (path, reason) in [
            ("", "empty"),
            ("locks/a", "relative"),
            ("/", "root"),
            ("/locks/", "ends with"),
            ("/locks//a", "empty part"),
            ("/locks/./a", "`.`"),
            ("/locks/..", "`..`"),
            ("/locks/\0", "NUL"),
            ("/locks/\u{7f}", "character"),
            ("/locks/🔒", "character"),
            ("/zookeeper/a", "server"),
        ] {
            let error = check_path(path).expect_err(path);
            assert!(error.reason.contains(reason), "{path:?}: {error}");
            assert!(error.to_string().contains(&format!("{path:?}")), "{error}");
        }
        for path in ["/a", "/locks/ledger", "/locks/.a.", "/locks/路径", "/zookeepers"] {
            assert_eq!(check_path(path), Ok(()));
        }
    }
}
