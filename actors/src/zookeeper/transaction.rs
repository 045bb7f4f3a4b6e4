//! A transaction of an application's writes.

use thiserror::Error;

use super::Acl;
use crate::machine::Failure;

/// One write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Creates a persistent node, whose parent must exist.
    Create {
        /// Its path.
        path: String,
        /// Its data.
        data: Vec<u8>,
        /// Its access list.
        acl: Vec<Acl>,
    },
    /// Replaces a node's data.
    Set {
        /// The node's path.
        path: String,
        /// The new data.
        data: Vec<u8>,
        /// The version that the data must have; `None` for any.
        version: Option<i32>,
    },
    /// Deletes a node, regardless of its version.
    Delete {
        /// The node's path.
        path: String,
    },
}

impl Write {
    /// The path of the node.
    pub fn path(&self) -> &str {
        match self {
            Write::Create { path, .. } | Write::Set { path, .. } | Write::Delete { path } => path,
        }
    }
}

/// Why a transaction wrote nothing, or may not have written anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionFailure {
    /// The condition about the node at this index is not met. Nothing was written.
    Condition(usize, WriteFailure),
    /// The write at this index failed. Nothing was written.
    Write(usize, WriteFailure),
    /// The whole request failed. If the session is gone, nothing was written.
    Request(Failure),
}

/// Why one write of a transaction failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteFailure {
    /// The node, or the parent of a node to create, does not exist.
    #[error("it or its parent does not exist")]
    NoNode,
    /// The node to create exists already.
    #[error("it exists already")]
    NodeExists,
    /// The data have another version than the expected one.
    #[error("its data have another version")]
    BadVersion,
    /// The node to delete has children.
    #[error("it has children")]
    NotEmpty,
    /// An access list denies the write.
    #[error("an access list denies it")]
    NoAuth,
    /// The parent of the node to create is ephemeral, and cannot have children.
    #[error("its parent is ephemeral, and cannot have children")]
    EphemeralParent,
    /// Another reason, in ZooKeeper's words.
    #[error("{0}")]
    Rejected(String),
}
