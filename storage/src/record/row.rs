//! The row: one record's bytes, its key and groups of fields. See [`super`] for the layout.

use larder_types::ids::{Generation, Micros, SyncSlot};
use larder_types::limits::{MAX_KEY_BYTES, MAX_RECORD_BYTES};

use super::clears::Clears;
use super::cursor::{Cursor, Malformed, put_varint, varint_len};
use super::fields::Fields;
use super::intern::Pools;

/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = 4;

/// Bytes that a record takes beside its key and groups: the header, a version, and some padding.
const OVERHEAD_BYTES: usize = HEADER_BYTES + 4 + 4;

const LENGTH_BITS: u32 = 19;
const LENGTH_MASK: u32 = (1 << LENGTH_BITS) - 1;
const KEY_BITS: u32 = 10;
const KEY_MASK: u32 = (1 << KEY_BITS) - 1;
const _: () = assert!(MAX_RECORD_BYTES <= LENGTH_MASK as usize && MAX_KEY_BYTES == 1 << KEY_BITS);

const MICROS_PER_SECOND: i64 = 1_000_000;

/// The bytes of the record that begins with this header.
pub(crate) fn record_len(header: [u8; HEADER_BYTES]) -> usize {
    (u32::from_le_bytes(header) & LENGTH_MASK) as usize
}

/// The key of a record that was checked.
pub(crate) fn key_of(record: &[u8]) -> &[u8] {
    let header = u32::from_le_bytes([record[0], record[1], record[2], record[3]]);
    &record[HEADER_BYTES..HEADER_BYTES + 1 + (header >> LENGTH_BITS & KEY_MASK) as usize]
}

/// One record's bytes, split.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    /// The key.
    pub(crate) key: &'a [u8],
    /// The log index of the last patch that changed a value.
    pub(crate) version: u64,
    /// All of it.
    pub(crate) bytes: &'a [u8],
    groups: &'a [u8],
}

/// The fields of one sync in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group<'a> {
    /// The sync.
    pub(crate) slot: SyncSlot,
    /// The sync's number of clears when the group was written.
    pub(crate) clears: u8,
    /// The run that last touched the group.
    pub(crate) generation: Generation,
    /// When it did, in seconds since 1970-01-01T00:00:00Z.
    pub(crate) seconds: u32,
    /// See [`Fields`].
    pub(crate) fields: &'a [u8],
}

impl<'a> Row<'a> {
    /// Splits bytes that may be anything, checking lengths only, and those of key and record alone.
    pub(crate) fn split(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let header = cursor.u32()?;
        if (header & LENGTH_MASK) as usize != bytes.len() {
            return Err(Malformed("a record's length is wrong"));
        }
        let key = cursor.take((header >> LENGTH_BITS & KEY_MASK) as usize + 1)?;
        let version = cursor.varint()?;
        Ok(Self { key, version, bytes, groups: cursor.rest() })
    }

    /// Splits a record that has passed [`Row::check`].
    #[allow(clippy::expect_used, reason = "only records that were checked are kept")]
    pub(crate) fn of_checked(bytes: &'a [u8]) -> Self {
        Self::split(bytes).expect("a record that was checked can be split")
    }

    /// Splits bytes that may be anything and checks that they are what [`RowWriter`] writes, and that every interned text
    /// is in these pools.
    pub(crate) fn check(bytes: &'a [u8], pools: &Pools) -> Result<Self, Malformed> {
        let row = Self::check_frame(bytes)?;
        row.groups().try_for_each(|group| Fields::check(group.fields, pools))?;
        Ok(row)
    }

    /// The same, but looks at no field.
    pub(crate) fn check_frame(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let row = Self::split(bytes)?;
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(Malformed("a record exceeds the largest size"));
        }
        if bytes[HEADER_BYTES - 1] >> (LENGTH_BITS + KEY_BITS - 24) != 0 {
            return Err(Malformed("a record has flags of a newer version"));
        }
        if std::str::from_utf8(row.key).is_err() {
            return Err(Malformed("a key is not UTF-8"));
        }
        let mut groups = row.groups();
        let mut last = None;
        while let Some(group) = groups.step()? {
            if last.is_some_and(|last| last >= group.slot) {
                return Err(Malformed("a record's groups are not in order"));
            }
            last = Some(group.slot);
        }
        Ok(row)
    }

    /// All groups, absent ones included.
    pub(crate) fn groups(&self) -> Groups<'a> {
        Groups(Cursor::new(self.groups))
    }

    /// Where in the record the groups begin.
    pub(crate) fn groups_at(&self) -> usize {
        self.bytes.len() - self.groups.len()
    }

    /// The groups that no clear has made absent.
    pub(crate) fn live(self, clears: &Clears) -> impl Iterator<Item = Group<'a>> {
        self.groups().filter(|group| group.is_live(clears))
    }

    /// The sync's group, unless there is none or a clear has made it absent.
    pub(crate) fn group(self, slot: SyncSlot, clears: &Clears) -> Option<Group<'a>> {
        self.live(clears).find(|group| group.slot == slot)
    }

    /// Bytes of the record's content: what it counts for in the shard's memory. Depends on what is stored in the record
    /// and not on where it stands: the version and the padding are counted at their usual size, and groups that a clear
    /// has made absent are not counted.
    pub(crate) fn content_len(self, clears: &Clears) -> usize {
        OVERHEAD_BYTES + self.key.len() + self.live(clears).map(|group| group.encoded_len()).sum::<usize>()
    }

    /// Bytes of the groups that a clear has made absent.
    pub(crate) fn stale_len(self, clears: &Clears) -> usize {
        self.groups().filter(|group| !group.is_live(clears)).map(|group| group.encoded_len()).sum()
    }

    /// Writes the record to `out`, which is emptied, without the groups that a clear has made absent.
    pub(crate) fn write_live(self, clears: &Clears, out: &mut Vec<u8>) {
        let mut writer = RowWriter::new(self.key, self.version(clears), out);
        self.live(clears).for_each(|group| writer.group(&group));
        assert!(writer.finish().is_some(), "a record does not grow by losing groups");
    }

    /// The log index of the record's last change, be it a patch or the clear of a sync in all records.
    pub(crate) fn version(self, clears: &Clears) -> u64 {
        let cleared = self.groups().filter_map(|group| clears.after(group.slot, group.clears));
        cleared.fold(self.version, u64::max)
    }
}

impl Group<'_> {
    pub(crate) fn is_live(&self, clears: &Clears) -> bool {
        clears.after(self.slot, self.clears).is_none()
    }

    /// Bytes that the group takes in a record.
    pub(crate) fn encoded_len(&self) -> usize {
        let fields = self.fields.len();
        6 + varint_len(self.generation.0.into()) + varint_len(fields as u64) + fields
    }

    /// When the group was last touched, to the second.
    pub(crate) fn updated_at(&self) -> Micros {
        i64::from(self.seconds) * MICROS_PER_SECOND
    }
}

/// Walks over a record's groups.
pub(crate) struct Groups<'a>(Cursor<'a>);

impl<'a> Groups<'a> {
    fn step(&mut self) -> Result<Option<Group<'a>>, Malformed> {
        let cursor = &mut self.0;
        if cursor.is_empty() {
            return Ok(None);
        }
        Ok(Some(Group {
            slot: SyncSlot(cursor.u8()?),
            clears: cursor.u8()?,
            generation: Generation(cursor.varint_u32()?),
            seconds: cursor.u32()?,
            fields: cursor.sized()?,
        }))
    }
}

impl<'a> Iterator for Groups<'a> {
    type Item = Group<'a>;

    #[allow(clippy::expect_used, reason = "only records that were checked are walked")]
    fn next(&mut self) -> Option<Group<'a>> {
        self.step().expect("a record that was checked can be walked")
    }
}

/// The whole second of a moment; the nearest one that a record can hold, if it lies before 1970 or after 2106.
pub(crate) fn seconds_of(at: Micros) -> u32 {
    let seconds = at.div_euclid(MICROS_PER_SECOND);
    u32::try_from(seconds).unwrap_or(if seconds < 0 { 0 } else { u32::MAX })
}

/// Writes one record into a buffer of its own.
pub(crate) struct RowWriter<'a> {
    out: &'a mut Vec<u8>,
    key_len: usize,
}

impl<'a> RowWriter<'a> {
    /// Begins a record in `out`, which is emptied. The key must be a key.
    pub(crate) fn new(key: &[u8], version: u64, out: &'a mut Vec<u8>) -> Self {
        assert!((1..=MAX_KEY_BYTES).contains(&key.len()), "a key's length must have been checked");
        out.clear();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        out.extend_from_slice(key);
        put_varint(version, out);
        Self { out, key_len: key.len() }
    }

    /// Appends a group. Slots must ascend.
    pub(crate) fn group(&mut self, group: &Group<'_>) {
        self.out.extend_from_slice(&[group.slot.0, group.clears]);
        put_varint(u64::from(group.generation.0), self.out);
        self.out.extend_from_slice(&group.seconds.to_le_bytes());
        self.out.reserve(group.fields.len() + varint_len(group.fields.len() as u64));
        put_varint(group.fields.len() as u64, self.out);
        self.out.extend_from_slice(group.fields);
    }

    /// Completes the record. `None` if it is larger than a record may be.
    pub(crate) fn finish(self) -> Option<()> {
        let length = u32::try_from(self.out.len()).ok().filter(|len| *len as usize <= MAX_RECORD_BYTES)?;
        let key_len = u32::try_from(self.key_len - 1).ok()?;
        self.out[..HEADER_BYTES].copy_from_slice(&(length | key_len << LENGTH_BITS).to_le_bytes());
        Some(())
    }
}
