//! Intents: changes of the catalog that shards must hear of.
//!
//! An intent is made by the command that causes it, in the same step, and stays until [`IntentDone`] says that every
//! shard has applied it. Whoever carries it out may be interrupted anywhere and begins again from the start; the
//! entries are idempotent. Ids ascend and are never used twice, so an id that is not pending is done.
//!
//! Invariants: no two pending intents mean the same, and none is pending that a later one makes pointless. So a sync
//! has at most one fence and one sweep, and a dropped sync or collection nothing but its own clearing.
//!
//! [`IntentDone`]: super::CatalogCommand::IntentDone

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use larder_types::ids::{CollectionId, Generation, SyncSlot};
use larder_types::patch::ExitMode;
use serde::{Deserialize, Serialize};

/// Something that all shards must hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Its id. Intents of one sync are to be carried out in order of id.
    pub id: u64,
    /// What to do in every shard.
    pub action: IntentAction,
}

/// What an intent does in every shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum IntentAction {
    /// Drop the collection with all that the shard knows of it.
    DropCollection {
        /// The collection.
        collection: CollectionId,
    },
    /// Refuse the patches of a sync from now on, whatever their generation, and clear its fields in all records.
    ClearSync {
        /// The collection.
        collection: CollectionId,
        /// The sync.
        slot: SyncSlot,
    },
    /// Refuse patches of older generations of a sync from now on.
    Fence {
        /// The collection.
        collection: CollectionId,
        /// The sync.
        slot: SyncSlot,
        /// The oldest generation that is still taken.
        generation: Generation,
    },
    /// Apply the exit mode to the records that the sync wrote before this generation and that it did not confirm in it.
    /// The records that it cleared or deleted are reported by `IntentDone` and count for the run of that generation as
    /// `swept`, and as `removed` too.
    Sweep {
        /// The collection.
        collection: CollectionId,
        /// The sync.
        slot: SyncSlot,
        /// The generation of the full run.
        generation: Generation,
        /// The exit mode when the commit began: `clear` or `delete`.
        mode: ExitMode,
    },
}

impl IntentAction {
    /// The collection that it is about.
    pub(crate) fn collection(&self) -> CollectionId {
        match self {
            Self::DropCollection { collection }
            | Self::ClearSync { collection, .. }
            | Self::Fence { collection, .. }
            | Self::Sweep { collection, .. } => *collection,
        }
    }

    fn slot(&self) -> Option<SyncSlot> {
        match self {
            Self::DropCollection { .. } => None,
            Self::ClearSync { slot, .. } | Self::Fence { slot, .. } | Self::Sweep { slot, .. } => Some(*slot),
        }
    }

    /// Tells whether `older`, which is pending, need not be carried out if this is.
    fn covers(&self, older: &Self) -> bool {
        if self.collection() != older.collection() {
            return false;
        }
        match self {
            Self::DropCollection { .. } => true,
            Self::ClearSync { .. } => self.slot() == older.slot(),
            // A newer fence is the stricter one.
            Self::Fence { .. } => matches!(older, Self::Fence { .. }) && self.slot() == older.slot(),
            // A newer sweep reaches every record that the older would reach, by the exit mode that holds now.
            Self::Sweep { .. } => matches!(older, Self::Sweep { .. }) && self.slot() == older.slot(),
        }
    }
}

type Pending = BTreeMap<u64, IntentAction>;

/// The pending intents, owned by the state machine.
#[derive(Debug)]
pub(crate) struct Intents {
    next: u64,
    pending: Arc<RwLock<Pending>>,
}

/// Reads the pending intents. Cheap to clone; stays valid when a snapshot is installed.
#[derive(Debug, Clone)]
pub struct IntentsReader {
    pending: Arc<RwLock<Pending>>,
}

impl IntentsReader {
    /// The pending intents in order of id.
    #[must_use]
    pub fn list(&self) -> Vec<Intent> {
        let pending = self.pending.read().unwrap_or_else(PoisonError::into_inner);
        pending.iter().map(|(&id, action)| Intent { id, action: action.clone() }).collect()
    }

    /// The intent with this id, or `None` if it is done or has become pointless.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<Intent> {
        let pending = self.pending.read().unwrap_or_else(PoisonError::into_inner);
        pending.get(&id).map(|action| Intent { id, action: action.clone() })
    }
}

impl Default for Intents {
    fn default() -> Self {
        Self { next: 1, pending: Arc::default() }
    }
}

impl Intents {
    pub(crate) fn reader(&self) -> IntentsReader {
        IntentsReader { pending: Arc::clone(&self.pending) }
    }

    /// Adds an intent, drops those that it makes pointless, and returns its id.
    pub(crate) fn add(&mut self, action: IntentAction) -> u64 {
        let id = self.next;
        self.next += 1;
        let mut pending = self.pending.write().unwrap_or_else(PoisonError::into_inner);
        pending.retain(|_, older| !action.covers(older));
        pending.insert(id, action);
        id
    }

    /// Removes a pending intent; `None` if it is not pending.
    pub(crate) fn remove(&mut self, id: u64) -> Option<IntentAction> {
        self.pending.write().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }

    /// The id of the pending sweep for this generation of a sync.
    pub(crate) fn sweep_of(&self, of: (CollectionId, SyncSlot, Generation)) -> Option<u64> {
        let pending = self.pending.read().unwrap_or_else(PoisonError::into_inner);
        pending.iter().find_map(|(&id, action)| match *action {
            IntentAction::Sweep { collection, slot, generation, .. } if (collection, slot, generation) == of => {
                Some(id)
            }
            _ => None,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The id that the next intent gets.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// What a snapshot keeps.
    pub(crate) fn pending(&self) -> Pending {
        self.pending.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces all by what a snapshot kept; readers see it at once.
    pub(crate) fn replace(&mut self, next: u64, pending: Pending) {
        self.next = next;
        *self.pending.write().unwrap_or_else(PoisonError::into_inner) = pending;
    }
}
