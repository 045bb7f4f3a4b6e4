//! How values are written in the log.

use std::fmt::{self, Debug, Display};
use std::panic::{AssertUnwindSafe, catch_unwind};

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

/// A value in which an error of the application may be. If the error's `Debug` or `Display` panics, a line of the log
/// says so, and the actor that writes it goes on.
pub(crate) struct Foreign<T>(pub T);

impl<T> Foreign<T> {
    fn write(f: &mut fmt::Formatter<'_>, text: impl FnOnce() -> String) -> fmt::Result {
        let text = catch_unwind(AssertUnwindSafe(text));
        f.write_str(text.as_deref().unwrap_or("an error that cannot be shown: formatting it panicked"))
    }
}

impl<T: Debug> Debug for Foreign<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Foreign::<T>::write(f, || format!("{:?}", self.0))
    }
}

impl<T: Display> Display for Foreign<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Foreign::<T>::write(f, || self.0.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken;

    impl Debug for Broken {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("on purpose")
        }
    }

    impl Display for Broken {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            Err(fmt::Error)
        }
    }

    #[test]
    fn an_error_of_the_application_is_logged_whatever_its_formatting_does() {
        assert_eq!(format!("{} {:?}", Foreign("late"), Foreign("late")), "late \"late\"");
        let shown = format!("{:?}", Foreign(Broken));
        assert!(shown.contains("formatting it panicked"), "{shown}");
        assert_eq!(Foreign(Broken).to_string(), shown);
    }

    #[test]
    fn of_a_long_identifier_only_the_beginning_is_logged() {
        assert_eq!(Identifier(b"billing-7").to_string(), "billing-7");
        assert_eq!(Identifier(&[b'a'; 900_000]).to_string().len(), 64 + '…'.len_utf8());
        assert_eq!(Identifier(b"\xff").to_string(), "\u{fffd}");
    }
}
