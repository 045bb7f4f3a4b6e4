//! What is measured.

use std::fmt;

/// A library, or a way to use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Library {
    Lockkeeper,
    /// The release is not awaited.
    Dropped,
    /// Requests of one session share a node that lingers.
    Lingering,
    ZookeeperClient,
    Kazoo,
    Curator,
    Go,
    /// The requests without which there is no lock.
    Floor,
}

impl Library {
    pub const ALL: [Library; 8] = [
        Library::Lockkeeper,
        Library::Dropped,
        Library::Lingering,
        Library::ZookeeperClient,
        Library::Kazoo,
        Library::Curator,
        Library::Go,
        Library::Floor,
    ];

    /// The name on the command line of a driver.
    pub fn word(self) -> &'static str {
        match self {
            Library::Lockkeeper => "lockkeeper",
            Library::Dropped => "dropped",
            Library::Lingering => "lingering",
            Library::ZookeeperClient => "zookeeper-client",
            Library::Kazoo => "kazoo",
            Library::Curator => "curator",
            Library::Go => "go",
            Library::Floor => "floor",
        }
    }

    pub fn of(word: &str) -> Option<Library> {
        Library::ALL.into_iter().find(|library| library.word() == word)
    }

    /// Whether it is somebody else's lock.
    pub fn is_peer(self) -> bool {
        match self {
            Library::ZookeeperClient | Library::Kazoo | Library::Curator | Library::Go => true,
            Library::Lockkeeper | Library::Dropped | Library::Lingering | Library::Floor => false,
        }
    }

    /// Whether each contender that waits has a node of its own.
    pub fn queues(self) -> bool {
        !matches!(self, Library::Lingering | Library::Floor)
    }

    /// The name, without its number, of a foreign node that blocks a contender.
    pub fn stranger(self) -> &'static str {
        match self {
            Library::ZookeeperClient | Library::Curator | Library::Go => {
                "_c_00000000-0000-0000-0000-000000000000-lock-"
            }
            _ => "00000000000000000000000000000000__lock__",
        }
    }
}

/// The name on the page.
impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Library::Lockkeeper => "lockkeeper",
            Library::Dropped => "lockkeeper, release not awaited",
            Library::Lingering => "lockkeeper, lingering",
            Library::ZookeeperClient => "zookeeper-client's lock",
            Library::Kazoo => "kazoo",
            Library::Curator => "Curator",
            Library::Go => "go-zookeeper",
            Library::Floor => "floor",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_library_is_found_by_its_word() {
        assert_eq!(Library::ALL.map(|library| Library::of(library.word())), Library::ALL.map(Some));
        assert_eq!(Library::of("redis"), None);
    }
}
