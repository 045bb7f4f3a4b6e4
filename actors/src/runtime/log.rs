//! How values are written in the log.

use std::fmt;

/// A session's id, as the server's commands show it.
pub(crate) struct SessionId(pub i64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The beginning of a contender's identifier, which may be large and need not be text.
pub(crate) struct Identifier<'a>(pub &'a [u8]);

impl fmt::Display for Identifier<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 64;
        let shown = &self.0[..self.0.len().min(SHOWN)];
        f.write_str(&String::from_utf8_lossy(shown))?;
        f.write_str(if shown.len() < self.0.len() { "…" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_identifier_only_the_beginning_is_logged() {
        assert_eq!(Identifier(b"billing-7").to_string(), "billing-7");
        assert_eq!(Identifier(&[b'a'; 900_000]).to_string().len(), 64 + '…'.len_utf8());
        assert_eq!(Identifier(b"\xff").to_string(), "\u{fffd}");
    }
}
