//! The scope of a run: which of the query's rows it takes in.

use std::collections::HashSet;
use std::sync::Arc;

use crate::diff::join::Absence;
use crate::state::requests::KeySalt;

/// Which rows a run takes in. With anything but all of them, a row that does not come in has not left.
#[derive(Debug, Clone, Default)]
pub enum Scope {
    /// All of them.
    #[default]
    All,
    /// So many of the first.
    First(u64),
    /// Those with these primary keys.
    Keys(Arc<KeySet>),
    /// All that the query returns, but nothing follows from those that it does not.
    Additions,
}

/// Primary keys, some of which may be known by their pseudonyms alone, because the project does not want keys to be kept.
#[derive(Debug)]
pub struct KeySet {
    keys: HashSet<String>,
    /// Makes the pseudonyms; nothing, if no key has one.
    salt: Option<KeySalt>,
}

impl KeySet {
    pub(super) fn new(keys: HashSet<String>, salt: KeySalt) -> Self {
        let has_pseudonyms = keys.iter().any(|key| KeySalt::may_be_pseudonym(key));
        Self { keys, salt: has_pseudonyms.then_some(salt) }
    }

    fn has(&self, key: &str) -> bool {
        self.keys.contains(key) || self.salt.is_some_and(|salt| self.keys.contains(&salt.pseudonym(key)))
    }
}

impl Scope {
    pub(super) fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    pub(super) fn absence(&self) -> Absence {
        if self.is_all() { Absence::Removed } else { Absence::Unknown }
    }

    /// Whether a run that has read so many rows has read enough.
    pub(super) fn is_enough(&self, read: u64) -> bool {
        matches!(self, Self::First(most) if read >= *most)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        match self {
            Self::Keys(keys) => keys.has(key),
            _ => true,
        }
    }

    /// Whether a row without a usable key is any of this run's business.
    pub(super) fn has_keyless(&self) -> bool {
        !matches!(self, Self::Keys(_))
    }
}
