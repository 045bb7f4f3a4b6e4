//! Validation of paths.

use std::ops::RangeInclusive;

use thiserror::Error;

/// A path that ZooKeeper would reject, or that cannot be locked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{path:?} cannot be locked: {reason}")]
#[non_exhaustive]
pub struct InvalidPath {
    /// The invalid path.
    pub path: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Checks a path by the rules of ZooKeeper's `PathUtils.validatePath`, and that nodes can be created below it.
pub fn check_path(path: &str) -> Result<(), InvalidPath> {
    let refuse = |reason| Err(InvalidPath { path: path.to_owned(), reason });
    if path.is_empty() {
        return refuse("it is empty");
    }
    if !path.starts_with('/') {
        return refuse("it is relative, and must begin with `/`");
    }
    if path == "/" {
        return refuse("it is the root");
    }
    if path.ends_with('/') {
        return refuse("it ends with `/`");
    }
    for part in path[1..].split('/') {
        match part {
            "" => return refuse("it contains an empty part between two `/`"),
            "." | ".." => return refuse("it contains a part `.` or `..`"),
            _ => {}
        }
    }
    if path.len() > MAX_PATH {
        return refuse("it is longer than 32 KiB");
    }
    if path == "/zookeeper" || path.starts_with("/zookeeper/") {
        return refuse("`/zookeeper` is reserved for the server");
    }
    // `PathUtils` checks UTF-16 code units, and rejects surrogates, so all characters above the basic plane.
    const FORBIDDEN: [RangeInclusive<char>; 5] = [
        '\u{0}'..='\u{1f}',
        '\u{7f}'..='\u{9f}',
        '\u{e000}'..='\u{f8ff}',
        '\u{fff0}'..='\u{ffff}',
        '\u{10000}'..=char::MAX,
    ];
    if path.contains('\0') {
        return refuse("it contains a NUL character");
    }
    if path.chars().any(|c| FORBIDDEN.iter().any(|range| range.contains(&c))) {
        return refuse("it contains a character that ZooKeeper does not allow in paths");
    }
    Ok(())
}

/// The path of any node must fit into a heartbeat, which checks it.
const MAX_PATH: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_zookeeper_would_reject_are_invalid_with_a_reason() {
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
            ("/zookeeper", "server"),
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

    #[test]
    fn a_path_is_at_most_32_kib_long() {
        let path = |bytes: usize| format!("/{}", "a".repeat(bytes - 1));
        assert_eq!(check_path(&path(32 * 1024)), Ok(()));
        let error = check_path(&path(32 * 1024 + 1)).expect_err("too long");
        assert!(error.reason.contains("longer"), "{}", error.reason);
    }
}
