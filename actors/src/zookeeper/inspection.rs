//! What inspection asks a server, beyond what locks need.

use super::Answer;

/// Reads nodes with all that their stats show, and deletes one that has not changed since.
pub trait Inspection: Send + Sync {
    /// Reads a node's stat. No access list denies this.
    fn status(&self, path: &str) -> Answer<Status>;
    /// Reads a node's data and stat.
    fn data(&self, path: &str) -> Answer<(Vec<u8>, Status)>;
    /// Lists the names of a node's children, in no particular order, with the node's own stat.
    fn list(&self, path: &str) -> Answer<(Vec<String>, Status)>;
    /// Deletes a node whose data has this version.
    fn delete_version(&self, path: &str, version: i32) -> Answer<()>;
}

/// A node's stat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The transaction that created the node.
    pub czxid: i64,
    /// When the server created it, in milliseconds since 1970.
    pub created: i64,
    /// The session that owns the node; zero for a persistent node, and negative numbers for other kinds.
    pub owner: i64,
    /// How often the data were changed.
    pub version: i32,
    /// How often children were created or deleted. It wraps.
    pub child_changes: i32,
    /// The number of children.
    pub children: i32,
    /// The length of the data in bytes.
    pub bytes: i32,
}

impl Status {
    /// How many children were ever created, which is the next sequence number: the server shows creations and deletions
    /// together.
    pub fn creations(&self) -> u32 {
        (self.child_changes as u32).wrapping_add(self.children as u32) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creations_are_counted_past_the_wrap_of_the_changes() {
        let creations = |created: u32, children: u32| {
            let changes = created.wrapping_mul(2).wrapping_sub(children) as i32;
            let children = children as i32;
            let status = Status {
                czxid: 1,
                created: 0,
                owner: 0,
                version: 0,
                child_changes: changes,
                children,
                bytes: 0,
            };
            status.creations()
        };
        for created in [0, 1, 7, 1 << 29, (1 << 30) + 5, i32::MAX as u32 - 1] {
            assert_eq!((creations(created, 0), creations(created, created.min(3))), (created, created));
        }
    }
}
