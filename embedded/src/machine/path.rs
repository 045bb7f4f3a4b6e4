//! What a valid path is (`PathUtils.validatePath` of the real server).

/// Whether a node may have this path.
pub(super) fn is_valid(path: &str) -> bool {
    let Some(names) = path.strip_prefix('/') else { return false };
    names.is_empty()
        || names.split('/').all(|name| !matches!(name, "" | "." | "..") && name.chars().all(allowed))
}

/// The real server looks at UTF-16, so what takes two units there is refused as well.
fn allowed(c: char) -> bool {
    !matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..)
}

/// The parent's path, and the name. The root's children have the parent `""`, which [`super::tree::Tree`] knows as
/// another name of the root, as the real server does. `None` for what is no path at all.
pub(super) fn split(path: &str) -> Option<(&str, &str)> {
    if path.contains('\0') { None } else { path.rsplit_once('/') }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_the_real_servers() {
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
