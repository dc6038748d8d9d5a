//! Numbers that stand for things: each its own type, so that one cannot be taken for another.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $type:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(pub $repr);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id!(
    /// A collection. Given by the catalog, never used twice.
    CollectionId(u32)
);
id!(
    /// A field of one collection. Given by the catalog, never used twice within the collection.
    FieldId(u16)
);
id!(
    /// A sync of one collection. Given by the catalog, never used twice within the collection.
    SyncSlot(u8)
);
id!(
    /// A shard: one slice of the key space of all collections.
    ShardId(u16)
);
id!(
    /// A Raft group of a node's log: 0 is the catalog, shard `s` is group `s + 1`.
    GroupId(u16)
);
id!(
    /// A node of the cluster.
    NodeId(u32)
);
id!(
    /// One replica of one group. Given by the catalog, never used twice, not even for the same node.
    ReplicaId(u64)
);
id!(
    /// The number that fences runs of one sync: a newer run has a greater one. 0 stands for "no run yet".
    Generation(u32)
);

impl Generation {
    /// Greater than that of any run: what fences a sync for good.
    pub const LAST: Self = Self(u32::MAX);

    /// The one after it; the last has none but itself.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl GroupId {
    /// The group of the catalog.
    pub const CATALOG: Self = Self(0);
}

impl From<ShardId> for GroupId {
    fn from(shard: ShardId) -> Self {
        Self(shard.0 + 1)
    }
}

/// A point in time: microseconds since 1970-01-01T00:00:00Z.
pub type Micros = i64;
