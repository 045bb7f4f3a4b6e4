//! Which requests have the same options, so that they may share a node.

use std::sync::Arc;

use crate::api::request::ContenderOptions;

/// Numbers the different options of the requests for one path.
#[derive(Default)]
pub(super) struct SharedOptions {
    known: Vec<(u64, Arc<ContenderOptions>)>,
    next: u64,
}

impl SharedOptions {
    /// The number of these options. Equal options have the same number, as long as some handle has them, or a line with
    /// this number is `used`.
    pub fn number(&mut self, options: &Arc<ContenderOptions>, used: impl Fn(u64) -> bool) -> u64 {
        let equal = |known: &Arc<ContenderOptions>| Arc::ptr_eq(known, options) || known == options;
        if let Some((number, _)) = self.known.iter().find(|(_, known)| equal(known)) {
            return *number;
        }
        // The handle that came first may be gone, but not the line of another one with equal options.
        self.known.retain(|(number, known)| Arc::strong_count(known) > 1 || used(*number));
        self.known.push((self.next, options.clone()));
        self.next += 1;
        self.next - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::exclusion::{Dialect, Mode};
    use crate::machine::patterns::Patterns;

    fn options(identifier: &str) -> Arc<ContenderOptions> {
        Arc::new(ContenderOptions {
            mode: Mode::Read,
            dialect: Dialect::Kazoo,
            identifier: identifier.as_bytes().into(),
            patterns: Patterns::default(),
            ephemeral: true,
            container: false,
            acl: Arc::new([]),
            max_waiting: None,
            linger: None,
            chroot: 0,
            counted: true,
        })
    }

    #[test]
    fn equal_options_keep_their_number_while_a_line_has_it_though_the_first_handle_is_gone() {
        let mut shared = SharedOptions::default();
        let (first, second, other) = (options("a"), options("a"), options("b"));
        let number = shared.number(&first, |_| false);
        drop(first);
        assert_eq!(shared.number(&second, |_| false), number);
        assert_ne!(shared.number(&other, |used| used == number), number);
        assert_eq!(shared.number(&second, |_| false), number);
    }

    #[test]
    fn options_that_nobody_has_any_more_are_forgotten() {
        let mut shared = SharedOptions::default();
        for identifier in ["a", "b", "c"] {
            shared.number(&options(identifier), |_| false);
        }
        assert_eq!(shared.known.len(), 1);
    }
}
