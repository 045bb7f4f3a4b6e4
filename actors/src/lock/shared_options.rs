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
    /// The number of these options. Equal options have the same number, as long as some handle or request has them.
    pub fn number(&mut self, options: &Arc<ContenderOptions>) -> u64 {
        let equal = |known: &Arc<ContenderOptions>| Arc::ptr_eq(known, options) || known == options;
        if let Some((number, _)) = self.known.iter().find(|(_, known)| equal(known)) {
            return *number;
        }
        self.known.retain(|(_, known)| Arc::strong_count(known) > 1);
        self.known.push((self.next, options.clone()));
        self.next += 1;
        self.next - 1
    }
}
