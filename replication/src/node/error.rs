//! Why a node cannot start, and why a proposal was not carried out.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::catalog::CatalogError;

/// Why a node could not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The disk failed.
    #[error("cannot use the data directory {0}")]
    Io(PathBuf, #[source] std::io::Error),
    /// Another process uses the directory.
    #[error("the data directory {0} is in use by another process")]
    InUse(PathBuf),
    /// Something on disk is damaged.
    #[error("{0}")]
    Damaged(String),
    /// The cluster and this node do not go together.
    #[error("{0}")]
    Join(String),
    /// Other nodes cannot be listened to.
    #[error("{0}")]
    Peers(String),
    /// The Raft library refused.
    #[error("cannot start group {group}: {message}")]
    Raft {
        /// The group.
        group: u16,
        /// Why.
        message: String,
    },
}

/// Why a proposal was not carried out, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ProposeError {
    /// The group has no leader now, or the node is starting. Nothing was done: try later.
    #[error("the group has no leader now")]
    Unavailable,
    /// Too much is in flight. Nothing was done: try later.
    #[error("too many bytes of writes are in flight")]
    Overloaded,
    /// The disk has no room. Nothing was done.
    #[error("the disk is full")]
    DiskFull,
    /// Records and tables take what they may. Nothing was done: delete records or allow more.
    #[error(
        "records, tables and the batches of open runs take {used} bytes, and {usable} are allowed: 85 % of max_memory, \
         {max} bytes. Delete records or collections, or raise max_memory and restart"
    )]
    MemoryLimit {
        /// Bytes that they take.
        used: u64,
        /// Bytes that they may take.
        usable: u64,
        /// The limit of which that is a part.
        max: u64,
    },
    /// It may or may not have been carried out: repeat it.
    #[error("the outcome is not known")]
    Unknown,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The command was refused, by the catalog or for its size; nothing was changed.
    #[error(transparent)]
    Refused(#[from] CatalogError),
}
