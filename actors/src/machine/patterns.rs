//! Extra lock patterns: regular expressions for the names of further contenders, as kazoo's `extra_lock_patterns`.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use regex::{Error, Regex, RegexBuilder};
use thiserror::Error;

/// Extra lock patterns, compiled. Cheap to clone.
///
/// A pattern matches a name if one of its matches is followed by a sequence number, and that ends the name. kazoo
/// compiles `(?:pattern)(-?\d{10})$` and searches the name, so the same names match here. The exceptions are numbers of
/// nine digits with a minus sign, which kazoo does not find: the server writes them once its counter has wrapped.
#[derive(Clone, Debug, Default)]
pub struct Patterns(Arc<[Regex]>);

impl Patterns {
    /// Compiles these patterns. Refuses the first one that is not valid.
    pub fn new<S: Into<String>>(patterns: impl IntoIterator<Item = S>) -> Result<Patterns, InvalidPattern> {
        patterns.into_iter().map(|pattern| compile(pattern.into())).collect::<Result<_, _>>().map(Patterns)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a node's name matches one of them.
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.is_match(name))
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Regex::as_str)
    }
}

// Machines are compared and hashed, and keep kinds of contenders in order. A pattern is its text.
impl PartialEq for Patterns {
    fn eq(&self, other: &Patterns) -> bool {
        self.texts().eq(other.texts())
    }
}

impl Eq for Patterns {}

impl PartialOrd for Patterns {
    fn partial_cmp(&self, other: &Patterns) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Patterns {
    fn cmp(&self, other: &Patterns) -> Ordering {
        self.texts().cmp(other.texts())
    }
}

impl Hash for Patterns {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.len().hash(state);
        self.texts().for_each(|text| text.hash(state));
    }
}

/// An extra lock pattern that cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the lock pattern {pattern:?} is invalid: {reason}")]
#[non_exhaustive]
pub struct InvalidPattern {
    /// The invalid pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The sequence number at the end of a name.
const NUMBER: &str = "(?:-?[0-9]{10}|-[0-9]{9})$";

/// The limit for one compiled pattern, in bytes. 32 repeated `\w` need half of it, with all letters of Unicode.
const SIZE_LIMIT: usize = 4 * 1024 * 1024;

fn compile(pattern: String) -> Result<Regex, InvalidPattern> {
    if pattern.is_empty() {
        return Err(InvalidPattern { pattern, reason: "it is empty".to_owned() });
    }
    let build = |text: &str| RegexBuilder::new(text).size_limit(SIZE_LIMIT).build();
    // First alone, because `a)|(?:b` is valid only between the parentheses.
    let compiled = build(&pattern).and_then(|_| build(&format!("(?:{pattern}){NUMBER}")));
    compiled.map_err(|error| InvalidPattern { pattern, reason: reason(&error) })
}

fn reason(error: &Error) -> String {
    match error {
        Error::CompiledTooBig(limit) => format!("it needs more than {limit} bytes when compiled"),
        // The lines before the last one show the pattern again.
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matching(pattern: &str, names: &[&'static str]) -> Vec<&'static str> {
        let patterns = Patterns::new([pattern]).expect("a valid pattern");
        names.iter().copied().filter(|name| patterns.matches(name)).collect()
    }

    #[test]
    fn a_pattern_is_searched_before_the_number() {
        let names = ["x-lock-0000000007", "x-lock-7", "-lock-0000000007", "x-lock-y0000000007", "x-lock-"];
        for (pattern, count) in
            [("-lock-", 2), ("lock", 2), ("^-lock-", 1), ("-lock-y?", 3), ("[a-z]", 3), ("mutex", 0)]
        {
            let found = matching(pattern, &names);
            assert_eq!(found.len(), count, "{pattern}: {found:?}");
        }
    }

    #[test]
    fn a_pattern_is_a_regular_expression_unless_it_is_escaped() {
        let names = ["x.lock-0000000001", "x-lock-0000000001", "y.lock-0000000001"];
        assert_eq!(matching("x.lock-", &names), names[..2]);
        assert_eq!(matching(&regex::escape("x.lock-"), &names), names[..1]);
        assert_eq!(matching("x.lock-|^y", &names), names[..2], "alternatives end at the number");
        assert_eq!(matching("(?i)LOCK-", &names), names);
    }

    #[test]
    fn numbers_that_have_wrapped_are_found() {
        let names = ["x-2147483648", "x-999999999", "x-99999999", "x999999999"];
        assert_eq!(matching("x", &names), names[..2]);
    }

    #[test]
    fn invalid_patterns_are_refused_with_a_reason() {
        for (pattern, reason) in [
            ("", "empty"),
            ("a[", "unclosed character class"),
            ("a{", "unclosed counted repetition"),
            ("*", "repetition operator missing expression"),
            ("a)|(?:b", "unopened group"),
            ("(?x)a #", "unclosed group"),
            ("(?=a)", "look-ahead"),
            (r"(a)\1", "backreferences"),
            (r"(?:\w{100}){100}", "4194304 bytes"),
        ] {
            let error = Patterns::new(["-lock-", pattern]).expect_err(pattern);
            assert_eq!(error.pattern, pattern);
            assert!(error.reason.contains(reason) && !error.reason.contains('\n'), "{error}");
            assert!(error.to_string().contains(&format!("{pattern:?}")), "{error}");
        }
    }

    #[test]
    fn equal_texts_are_equal_patterns() {
        let patterns = |texts: &[&str]| Patterns::new(texts.iter().copied()).expect("valid patterns");
        assert_eq!(patterns(&["a", "b"]), patterns(&["a", "b"]));
        assert_ne!(patterns(&["a", "b"]), patterns(&["a|b"]));
        assert_ne!(patterns(&["a"]), Patterns::default());
        assert!(Patterns::default().is_empty() && !patterns(&["a"]).is_empty());
    }
}
