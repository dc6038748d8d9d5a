//! A record as JSON: the walk over its bytes, straight into the response.
//!
//! Everything that a lookup costs beside its cache misses is here, so the walk goes over the record's bytes by position
//! and takes windows of fixed width from them, instead of cutting out each value by its own length. The window of a
//! number *ends* where the number does: before it there always stand the record's header, its key and the group's own
//! header, so that many bytes are there to be read, while behind the last value the record ends and the writer may be
//! appending the next one. The window of a text begins with it, and is taken where the record is long enough.
//!
//! Invariants:
//! 1. Nothing outside the record is read, whatever its bytes: positions are checked against its slice. A record that
//!    has not passed [`Row::check`] may panic or show nonsense, and no more than that.
//! 2. What is shown of a value is what `Value::write_json` would show.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use larder_types::ids::{FieldId, SyncSlot};
use larder_types::json::write_string;

use super::clears::Clears;
use super::cursor::{Cursor, unfold};
use super::dictionary::Dictionary;
use super::digits;
use super::field_set::FieldSet;
use super::intern::Pools;
use super::json_out::JsonOut;
use super::padded_text::PaddedText;
use super::row::Row;
use super::value::{
    BINARY, CENTS, CONSTANT, DATE, DECIMAL, ESCAPED, Encoded, FLOAT, INT, INTERNED, LIST, LONG, MICROS,
    MICROS_PER_SECOND, PLAIN, SECONDS, STRUCT, UINT, mantissa_len,
};

/// Bytes of text that are taken in one window.
const WINDOW: usize = 32;
/// Bytes of JSON for each byte of a record, more or less: what the buffer is made ready for.
const EXPANSION: usize = 4;
/// Bytes of the time at which a group was touched.
const SECONDS_BYTES: usize = 4;
/// The constants and their lengths, by size.
const CONSTANTS: [([u8; 8], usize); 4] = [(*b"null    ", 4), (*b"false   ", 5), (*b"true    ", 4), (*b"true    ", 4)];
/// The lowest bytes of a word, by their number.
const LOWEST: [u64; 16] = {
    let mut masks = [u64::MAX; 16];
    let mut size = 0;
    while size < 8 {
        masks[size] = (1 << (8 * size)) - 1;
        size += 1;
    }
    masks
};
/// The tags whose size is that of the payload: nearly all. A branch on this is foreseen, so that where the next value
/// begins waits for no more than its tag; a table of the sizes would be waited for.
#[allow(clippy::cast_possible_truncation, reason = "tags are bytes")]
const SIZED: [bool; 256] = {
    let mut sized = [true; 256];
    let mut tag = 0;
    while tag < 256 {
        let (kind, size) = ((tag >> 4) as u8, (tag & 15) as u8);
        sized[tag] = match kind {
            CONSTANT => size == 0,
            DECIMAL => false,
            _ => size != LONG,
        };
        tag += 1;
    }
    sized
};

/// What is shown of records, and what it takes.
pub(super) struct Projection<'a> {
    /// Fields that it does not know are left out.
    pub(super) names: &'a Dictionary,
    /// Limits it to some fields.
    pub(super) only: Option<&'a FieldSet>,
    pub(super) clears: &'a Clears,
    pub(super) pools: &'a Pools,
}

impl Projection<'_> {
    /// Appends a record as a JSON object: fields in order of slot and field id.
    pub(super) fn write(&self, row: Row<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        let mut json = JsonOut::new(out, row.bytes.len() * EXPANSION);
        let mut walk = Walk { bytes: row.bytes, at: row.groups_at(), pools: self.pools };
        let names = self.names.rendered();
        while walk.at < walk.bytes.len() {
            let (is_live, end) = walk.group(self.clears);
            match self.only {
                _ if !is_live => walk.at = end,
                None => walk.fields(end, names, Some, &mut json),
                Some(only) => walk.fields(end, names, |id| only.next(id), &mut json),
            }
        }
        json.put(b"}", 1);
        json.finish();
        // Each field brings a comma before it. The first one's is where the object opens.
        if out.len() == start + 1 {
            out.insert(start, b'{');
        } else {
            out[start] = b'{';
        }
    }
}

/// A place in a record.
struct Walk<'a> {
    /// The whole record.
    bytes: &'a [u8],
    at: usize,
    /// Where its interned texts are.
    pools: &'a Pools,
}

impl<'a> Walk<'a> {
    /// Goes to the fields of the group here. Tells whether no clear has made it absent, and where it ends.
    #[inline(always)]
    fn group(&mut self, clears: &Clears) -> (bool, usize) {
        let (slot, seen) = (self.byte(), self.byte());
        let _generation = self.varint();
        self.at += SECONDS_BYTES;
        let len = self.varint();
        (clears.after(SyncSlot(slot), seen).is_none(), self.at + len)
    }

    /// Appends the fields of the group that ends at `end`, those that have a name and are wanted, and goes there.
    /// `next` gives the first id that is wanted and not below another one.
    #[inline(always)]
    fn fields(
        &mut self,
        end: usize,
        names: &[Option<PaddedText>],
        next: impl Fn(usize) -> Option<usize>,
        out: &mut JsonOut<'_>,
    ) {
        let mut id = 0;
        while self.at < end {
            id += self.varint();
            let behind = id + usize::from(self.byte());
            while id < behind {
                let Some(wanted) = next(id) else {
                    self.at = end;
                    return;
                };
                self.skip(wanted.min(behind) - id);
                id = behind;
                if wanted < behind {
                    match names.get(wanted) {
                        Some(Some(name)) => {
                            out.padded(name);
                            self.value(wanted, out);
                        }
                        _ => self.skip(1),
                    }
                    id = wanted + 1;
                }
            }
        }
    }

    /// Appends the value here, of the field with this id, and goes behind it.
    #[inline(always)]
    fn value(&mut self, field: usize, out: &mut JsonOut<'_>) {
        let tag = self.byte();
        match tag >> 4 {
            CONSTANT => {
                let (word, len) = &CONSTANTS[usize::from(tag & 3)];
                out.put(word, *len);
            }
            INT => {
                let number = unfold(self.number(tag));
                out.value(|room| digits::signed(number, room));
            }
            FLOAT => {
                let double = self.double(tag);
                if double.is_finite() {
                    out.value(|room| digits::double(double, room));
                } else {
                    out.put(b"null", 4);
                }
            }
            CENTS if tag & 15 <= 8 => {
                let number = unfold(self.number(tag));
                out.value(|room| digits::hundredths(number, room));
            }
            MICROS => {
                let micros = unfold(self.number(tag));
                out.value(|room| digits::moment(micros.div_euclid(MICROS_PER_SECOND), part(micros), room));
            }
            SECONDS => {
                let seconds = unfold(self.number(tag));
                out.value(|room| digits::moment(seconds, 0, room));
            }
            DATE => {
                let days = unfold(self.number(tag));
                out.value(|room| digits::date(days, room));
            }
            PLAIN => {
                let len = self.len(tag);
                self.quoted(len, out);
            }
            INTERNED => {
                let id = self.number(tag);
                out.padded(self.interned(field, id));
            }
            LIST | STRUCT => {
                let len = self.len(tag);
                let text = self.text(len);
                out.aside(|out| out.text(text));
            }
            _ => {
                let value = self.rare();
                out.aside(|out| write_rare(value, out));
            }
        }
    }

    /// Goes behind so many values.
    #[inline(always)]
    fn skip(&mut self, values: usize) {
        for _ in 0..values {
            let tag = self.byte();
            self.at += match tag >> 4 {
                _ if SIZED[usize::from(tag)] => usize::from(tag & 15),
                CONSTANT => 0,
                DECIMAL => 1 + mantissa_len(tag & 15),
                CENTS => mantissa_len(tag & 15),
                _ => self.len(tag),
            };
        }
    }

    /// The length of a payload that is as long as the tag says, or as the number behind it.
    #[inline(always)]
    fn len(&mut self, tag: u8) -> usize {
        match tag & 15 {
            LONG => usize::from(LONG) + self.varint(),
            size => usize::from(size),
        }
    }

    /// The next byte.
    #[inline(always)]
    fn byte(&mut self) -> u8 {
        let byte = self.bytes[self.at];
        self.at += 1;
        byte
    }

    #[inline(always)]
    fn varint(&mut self) -> usize {
        match self.byte() {
            byte @ ..0x80 => usize::from(byte),
            _ => {
                let number;
                (number, self.at) = long_varint(self.bytes, self.at - 1);
                number
            }
        }
    }

    /// The eight bytes that end with a payload of this size, and goes behind it.
    #[inline(always)]
    fn window(&mut self, size: u8) -> [u8; 8] {
        self.at += usize::from(size);
        match self.bytes[..self.at].last_chunk() {
            Some(window) => *window,
            None => unreachable!("a record begins with a header"),
        }
    }

    /// The number that the tag announces.
    #[inline(always)]
    fn number(&mut self, tag: u8) -> u64 {
        let size = tag & 15;
        // The payload goes from the top of the word to its bottom.
        u64::from_le_bytes(self.window(size)).rotate_left(8 * u32::from(size)) & LOWEST[usize::from(size)]
    }

    /// The double that the tag announces.
    #[inline(always)]
    fn double(&mut self, tag: u8) -> f64 {
        let size = tag & 15;
        let payload = u64::from_be_bytes(self.window(size)) & LOWEST[usize::from(size)];
        f64::from_bits(payload.rotate_right(8 * u32::from(size)))
    }

    /// So many bytes of text, and goes behind them.
    #[inline(always)]
    fn text(&mut self, len: usize) -> &'a [u8] {
        let start = self.at;
        self.at += len;
        &self.bytes[start..self.at]
    }

    /// Appends text in quotes and goes behind it.
    #[inline(always)]
    fn quoted(&mut self, len: usize, out: &mut JsonOut<'_>) {
        let start = self.at;
        let text = self.text(len);
        match self.bytes[start..].first_chunk::<WINDOW>() {
            Some(window) if len <= WINDOW => out.value(|room| {
                room[0] = b'"';
                room[1..=WINDOW].copy_from_slice(window);
                room[1 + len] = b'"';
                len + 2
            }),
            _ => out.aside(|out| {
                out.put(b"\"", 1);
                out.text(text);
                out.put(b"\"", 1);
            }),
        }
    }

    /// The text that an id stands for.
    #[inline(always)]
    #[allow(clippy::expect_used, reason = "only records that were checked are shown")]
    fn interned(&self, field: usize, id: u64) -> &'a PaddedText {
        let place = u16::try_from(field).ok().zip(u32::try_from(id).ok());
        let text = place.and_then(|(field, id)| self.pools.text(FieldId(field), id));
        text.expect("an interned text of a record that was checked is in its pool").json()
    }

    /// The value whose tag has just been read, and goes behind it.
    #[allow(clippy::expect_used, reason = "only records that were checked are shown")]
    fn rare(&mut self) -> Encoded<'a> {
        let mut cursor = Cursor::new(&self.bytes[self.at - 1..]);
        let value = Encoded::read(&mut cursor).expect("a value in a record that was checked can be read");
        self.at = self.bytes.len() - cursor.rest().len();
        value
    }
}

/// The number at a place, and the place behind it. By values, so that the place of the caller can stay in a register.
#[inline(never)]
#[allow(clippy::expect_used, reason = "only records that were checked are shown")]
fn long_varint(bytes: &[u8], at: usize) -> (usize, usize) {
    let mut cursor = Cursor::new(&bytes[at..]);
    let number = cursor.varint_u32().expect("a number in a record that was checked can be read");
    (number as usize, bytes.len() - cursor.rest().len())
}

/// What a number of microseconds has beside whole seconds.
#[allow(clippy::cast_possible_truncation, reason = "less than a second")]
fn part(micros: i64) -> u32 {
    micros.rem_euclid(MICROS_PER_SECOND).cast_unsigned() as u32
}

/// Appends a value of a kind, or of a size, that is seldom.
#[inline(never)]
fn write_rare(value: Encoded<'_>, out: &mut JsonOut<'_>) {
    match value.kind() {
        UINT => out.value(|room| digits::unsigned(value.number(), room)),
        DECIMAL | CENTS => write_decimal(value.decimal(), out),
        ESCAPED => write_string(value.text().unwrap_or_default(), out),
        BINARY => write_base64(value.payload, out),
        kind => unreachable!("values of kind {kind} are not seldom"),
    }
}

fn write_decimal((mantissa, scale): (i128, u8), out: &mut JsonOut<'_>) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(mantissa.unsigned_abs()).as_bytes();
    out.put(b"-", usize::from(mantissa < 0));
    let scale = usize::from(scale);
    if scale == 0 {
        return out.text(digits);
    }
    match digits.split_at_checked(digits.len().wrapping_sub(scale)) {
        Some((whole @ [_, ..], fraction)) => {
            out.text(whole);
            out.put(b".", 1);
            out.text(fraction);
        }
        _ => {
            out.text(b"0.");
            (digits.len()..scale).for_each(|_| out.put(b"0", 1));
            out.text(digits);
        }
    }
}

fn write_base64(bytes: &[u8], out: &mut JsonOut<'_>) {
    out.put(b"\"", 1);
    for part in bytes.chunks(48) {
        let mut characters = [0; 64];
        // 48 bytes make 64 characters, so there is always room.
        let len = BASE64.encode_slice(part, &mut characters).unwrap_or_default();
        out.put(&characters, len);
    }
    out.put(b"\"", 1);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use larder_types::ids::Generation;
    use larder_types::value::Value;
    use proptest::prelude::*;

    use super::super::fields;
    use super::super::row::{Group, RowWriter};
    use super::super::value::tests::any_value;
    use super::*;

    /// A record with these fields in one group, in memory that ends with it.
    fn record(key: &str, fields: &BTreeMap<u16, Value>) -> Box<[u8]> {
        let fields = fields::tests::write(fields);
        let mut out = Vec::new();
        let mut writer = RowWriter::new(key.as_bytes(), 1, &mut out);
        writer.group(&Group { slot: SyncSlot(0), clears: 0, generation: Generation(1), seconds: 0, fields: &fields });
        writer.finish().unwrap();
        out.into()
    }

    fn name(id: u16) -> String {
        format!("n{}", "x".repeat(usize::from(id % 70)))
    }

    fn show(record: &[u8], only: Option<&FieldSet>) -> String {
        let names: Vec<_> = (0..200).map(name).collect();
        let names = Dictionary::new((0..).map(FieldId).zip(names.iter().map(String::as_str)));
        let mut out = Vec::new();
        let (clears, pools) = (Clears::none(), Pools::none());
        let row = Row::check(record, &pools).unwrap();
        Projection { names: &names, only, clears: &clears, pools: &pools }.write(row, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// What a plain encoder makes of it.
    fn plain<'v>(fields: impl IntoIterator<Item = (&'v u16, &'v Value)>) -> String {
        let mut out = String::from("{");
        for (id, value) in fields {
            if out.len() > 1 {
                out.push(',');
            }
            write_string(&name(*id), &mut out);
            out.push(':');
            value.write_json(&mut out);
        }
        out.push('}');
        out
    }

    #[test]
    fn what_json_has_no_word_for_is_null() {
        assert_eq!(show(&record("k", &[(0, Value::Float(f64::NAN))].into()), None), "{\"n\":null}");
    }

    #[test]
    fn texts_of_every_length_are_copied_whole_wherever_they_stand() {
        for len in 0..=70 {
            for behind in 0..=20 {
                let text = |len: usize| ('a'..='z').cycle().take(len).collect::<String>();
                let fields = [(1, Value::String(text(len))), (2, Value::String(text(behind)))].into();
                assert_eq!(show(&record("k", &fields), None), plain(&fields));
            }
        }
    }

    proptest! {
        #[test]
        fn values_are_shown_as_the_plain_encoder_shows_them(
            fields in proptest::collection::btree_map(0u16..200, any_value(), 0..12),
            wanted in proptest::collection::btree_set(0u16..200, 0..30),
        ) {
            let record = record("k", &fields);
            prop_assert_eq!(show(&record, None), plain(&fields));
            let only = wanted.iter().copied().map(FieldId).collect();
            let expected = plain(fields.iter().filter(|(id, _)| wanted.contains(id)));
            prop_assert_eq!(show(&record, Some(&only)), expected);
        }
    }
}
