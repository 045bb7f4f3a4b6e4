//! Validation of paths (`PathUtils.validatePath` in the real server).

/// Whether this is a valid path of a node.
pub(super) fn is_valid(path: &str) -> bool {
    let Some(names) = path.strip_prefix('/') else { return false };
    names.is_empty()
        || names.split('/').all(|name| !matches!(name, "" | "." | "..") && name.chars().all(allowed))
}

/// Whether a path may contain this character. The real server checks UTF-16 code units and rejects surrogates, so
/// characters that need two units are not allowed.
fn allowed(c: char) -> bool {
    !matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..)
}

/// Splits a path into the path of the parent and the name. The parent of the root's children is `""`, which
/// [`super::tree::Tree`] accepts as the root, like the real server. Returns `None` if the path has no `/` or contains a
/// null character.
pub(super) fn split(path: &str) -> Option<(&str, &str)> {
    if path.contains('\0') { None } else { path.rsplit_once('/') }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_validated_like_in_the_real_server() {
        for valid in ["/", "/a", "/a/b.c", "/a/...", "/ü/\u{f900}", "/a b", "/a/.b", "/\u{ffef}"] {
            assert!(is_valid(valid), "{valid:?}");
        }
        for invalid in [
            "",
            "a",
            "/a/",
            "//",
            "/a//b",
            "/.",
            "/a/../b",
            "/\0",
            "/\u{1f}",
            "/\u{7f}",
            "/\u{fff0}",
            "/😀",
            "/\u{e000}",
        ] {
            assert!(!is_valid(invalid), "{invalid:?}");
        }
    }
}
