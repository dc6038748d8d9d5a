//! Reading entries, which may be anything.

use larder_types::hash::KeyHash;
use larder_types::ids::{CollectionId, Generation, SyncSlot};
use larder_types::limits::MAX_KEY_BYTES;
use larder_types::patch::ExitMode;

use super::{PatchOrigin, VERSION, kind, op};
use crate::record::cursor::{Cursor, Malformed, unfold};
use crate::record::fields::Fields;

/// An entry that was checked whole.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Command<'a> {
    Patches(Patches<'a>),
    Fence { collection: CollectionId, slot: SyncSlot, generation: Generation },
    Sweep(Sweep),
    ClearSync { collection: CollectionId, slot: SyncSlot },
    DropCollection { collection: CollectionId },
    DropRecords { collection: CollectionId, chunk: Chunk },
}

/// A part of the hash space: number `at`, which is below `of`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) at: u32,
    pub(crate) of: u32,
}

/// One part of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patches<'a> {
    pub(crate) origin: PatchOrigin,
    pub(crate) part: u32,
    /// The number of the first patch, counted over all parts.
    pub(crate) first: u32,
    count: u32,
    body: Cursor<'a>,
}

/// One change to one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patch<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) change: Change<'a>,
}

/// What a patch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    /// Sets these fields, see [`Fields`].
    Upsert(&'a [u8]),
    Clear,
    Delete,
}

/// An exit mode for a part of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sweep {
    pub(crate) collection: CollectionId,
    pub(crate) slot: SyncSlot,
    pub(crate) generation: Generation,
    pub(crate) mode: ExitMode,
    pub(crate) chunk: Chunk,
}

/// Reads and checks an entry.
pub(crate) fn decode(entry: &[u8]) -> Result<Command<'_>, Malformed> {
    let mut cursor = Cursor::new(entry);
    if cursor.u8()? != VERSION {
        return Err(Malformed("the entry's version is unknown"));
    }
    let kind = cursor.u8()?;
    let collection = CollectionId(cursor.varint_u32()?);
    let command = match kind {
        kind::PATCHES => return Ok(Command::Patches(patches(collection, cursor)?)),
        kind::FENCE => {
            Command::Fence { collection, slot: SyncSlot(cursor.u8()?), generation: Generation(cursor.varint_u32()?) }
        }
        kind::SWEEP => Command::Sweep(sweep(collection, &mut cursor)?),
        kind::CLEAR_SYNC => Command::ClearSync { collection, slot: SyncSlot(cursor.u8()?) },
        kind::DROP_COLLECTION => Command::DropCollection { collection },
        kind::DROP_RECORDS => Command::DropRecords { collection, chunk: chunk(&mut cursor)? },
        _ => return Err(Malformed("the entry's kind is unknown")),
    };
    if cursor.is_empty() { Ok(command) } else { Err(Malformed("the entry is longer than its content")) }
}

fn sweep(collection: CollectionId, cursor: &mut Cursor<'_>) -> Result<Sweep, Malformed> {
    Ok(Sweep {
        collection,
        slot: SyncSlot(cursor.u8()?),
        generation: Generation(cursor.varint_u32()?),
        mode: match cursor.u8()? {
            0 => ExitMode::Keep,
            1 => ExitMode::Clear,
            2 => ExitMode::Delete,
            _ => return Err(Malformed("an exit mode is unknown")),
        },
        chunk: chunk(cursor)?,
    })
}

fn chunk(cursor: &mut Cursor<'_>) -> Result<Chunk, Malformed> {
    let chunk = Chunk { at: cursor.varint_u32()?, of: cursor.varint_u32()? };
    if chunk.at < chunk.of { Ok(chunk) } else { Err(Malformed("a chunk does not exist")) }
}

fn patches<'a>(collection: CollectionId, mut cursor: Cursor<'a>) -> Result<Patches<'a>, Malformed> {
    let slot = SyncSlot(cursor.u8()?);
    let generation = Generation(cursor.varint_u32()?);
    let seq = cursor.varint_u32()?;
    let part = cursor.varint_u32()?;
    let at = unfold(cursor.varint()?);
    let first = cursor.varint_u32()?;
    let count = cursor.varint_u32()?;
    if first.checked_add(count).is_none() {
        return Err(Malformed("a batch has more patches than can be counted"));
    }
    let body = cursor;
    for _ in 0..count {
        patch(&mut cursor)?.check()?;
    }
    if !cursor.is_empty() {
        return Err(Malformed("the entry is longer than its content"));
    }
    let origin = PatchOrigin { collection, slot, generation, seq, at };
    Ok(Patches { origin, part, first, count, body })
}

fn patch<'a>(cursor: &mut Cursor<'a>) -> Result<Patch<'a>, Malformed> {
    let head = cursor.varint()?;
    let key_len = usize::try_from(head >> 2).unwrap_or(usize::MAX);
    if !(1..=MAX_KEY_BYTES).contains(&key_len) {
        return Err(Malformed("a key's length is out of bounds"));
    }
    let key = cursor.take(key_len)?;
    let change = match head & 3 {
        op::UPSERT => Change::Upsert(cursor.sized()?),
        op::CLEAR => Change::Clear,
        op::DELETE => Change::Delete,
        _ => return Err(Malformed("a patch does something unknown")),
    };
    Ok(Patch { key, change })
}

impl Patch<'_> {
    fn check(&self) -> Result<(), Malformed> {
        if std::str::from_utf8(self.key).is_err() {
            return Err(Malformed("a key is not UTF-8"));
        }
        match self.change {
            Change::Upsert(fields) => Fields::check_patch(fields),
            Change::Clear | Change::Delete => Ok(()),
        }
    }
}

/// Whether applying an entry may make records grow: it sets fields, or cannot be read.
#[must_use]
pub fn may_grow(entry: &[u8]) -> bool {
    match decode(entry) {
        Ok(Command::Patches(patches)) => patches.iter().any(|(_, patch)| matches!(patch.change, Change::Upsert(_))),
        Ok(_) => false,
        Err(_) => true,
    }
}

impl Command<'_> {
    /// The collection that it concerns.
    pub(crate) fn collection(&self) -> CollectionId {
        match self {
            Self::Patches(patches) => patches.origin.collection,
            Self::Sweep(sweep) => sweep.collection,
            Self::Fence { collection, .. }
            | Self::ClearSync { collection, .. }
            | Self::DropCollection { collection }
            | Self::DropRecords { collection, .. } => *collection,
        }
    }
}

impl<'a> Patches<'a> {
    /// A hash of the patches, by which a repeat is told from another part. The time of arrival is not in it: a repeat
    /// arrives later.
    pub(crate) fn fingerprint(&self) -> u64 {
        KeyHash::of(0, self.body.rest()).0
    }

    /// The patches with their numbers.
    #[allow(clippy::expect_used, reason = "an entry was checked when it was decoded")]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, Patch<'a>)> + use<'a> {
        let mut body = self.body;
        (self.first..self.first + self.count)
            .map(move |number| (number, patch(&mut body).expect("an entry that was checked can be walked")))
    }
}
