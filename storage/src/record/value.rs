//! One value as bytes: a tag and a payload. Log entries hold values in the same form, so applying one copies bytes.
//!
//! The tag's high four bits are the kind, its low four bits the size `s`:
//!
//! | kind | content | `s` | payload |
//! | --- | --- | --- | --- |
//! | 0 | constant | 0 null, 1 false, 2 true, 3 nothing: only in patches, takes the field out of the record | none |
//! | 1 | integer | 0 to 8 | `s` bytes: the folded number, little-endian, without zero bytes at its end |
//! | 2 | integer above `i64::MAX` | 8 | 8 bytes, little-endian |
//! | 3 | double | 0 to 8 | `s` bytes: its IEEE 754 bits, big-endian, without zero bytes at their end |
//! | 4 | decimal | 0 to 15 | a byte for the scale, then the mantissa, see below |
//! | 5 | decimal of scale 2 | 0 to 15 | the mantissa |
//! | 6 | timestamp, microseconds | 0 to 8 | `s` bytes, as an integer |
//! | 7 | timestamp, whole seconds | 0 to 6 | `s` bytes, as an integer |
//! | 8 | date, days | 0 to 4 | `s` bytes, as an integer |
//! | 9 | text that stands in JSON as it is | length | UTF-8 |
//! | 10 | text that JSON must escape | length | UTF-8, not yet escaped |
//! | 11 | binary | length | bytes |
//! | 12 | list | length | its JSON text |
//! | 13 | object | length | its JSON text |
//! | 14 | text that stands in its field's pool, see `intern` | 0 to 2 | its id, `s` bytes, as an integer is but not folded |
//! | 15 | free | | |
//!
//! A mantissa is folded and written like an integer, in `s` bytes; 15 stands for 16. A length up to 14 is `s` itself;
//! 15 says that a varint follows, to which 15 must be added.
//!
//! Invariant: a value has one encoding only, and what decodes is that encoding; but a text that is stored has a second
//! one, the id that its field's pool gives it. So values are equal when their bytes are, and a patch is compared with
//! what is stored without decoding either, if it is compared in both encodings that its texts have. Log entries have
//! texts as they are only.

use larder_types::decimal::Decimal;
#[cfg(test)]
use larder_types::json::Fragment;
use larder_types::json::needs_escape;
use larder_types::value::Value;

use super::cursor::{Cursor, Malformed, fold, put_varint, unfold};

pub(super) const CONSTANT: u8 = 0;
pub(super) const INT: u8 = 1;
pub(super) const UINT: u8 = 2;
pub(super) const FLOAT: u8 = 3;
pub(super) const DECIMAL: u8 = 4;
pub(super) const CENTS: u8 = 5;
pub(super) const MICROS: u8 = 6;
pub(super) const SECONDS: u8 = 7;
pub(super) const DATE: u8 = 8;
pub(super) const PLAIN: u8 = 9;
pub(super) const ESCAPED: u8 = 10;
pub(super) const BINARY: u8 = 11;
pub(super) const LIST: u8 = 12;
pub(super) const STRUCT: u8 = 13;
pub(super) const INTERNED: u8 = 14;

/// The size of the constant that stands for no value.
const NOTHING: u8 = 3;

/// The scale of most money.
const CENTS_SCALE: u8 = 2;
/// The size that says that a length follows, or that a mantissa has 16 bytes.
pub(super) const LONG: u8 = 15;
pub(super) const MICROS_PER_SECOND: i64 = 1_000_000;

/// One encoded value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Encoded<'a> {
    /// Tag and payload.
    pub(crate) bytes: &'a [u8],
    pub(super) payload: &'a [u8],
}

/// Appends a value's encoding.
pub(crate) fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(tag(CONSTANT, 0)),
        Value::Bool(yes) => out.push(tag(CONSTANT, 1 + u8::from(*yes))),
        Value::Int(number) => put_trimmed(INT, fold(*number), out),
        // A number has one form, whoever made the value.
        Value::UInt(number) => match i64::try_from(*number) {
            Ok(small) => put_trimmed(INT, fold(small), out),
            Err(_) => put_trimmed(UINT, *number, out),
        },
        Value::Float(float) => {
            let bits = float.to_bits().to_be_bytes();
            let size = 8 - float.to_bits().trailing_zeros() as usize / 8;
            out.push(tag(FLOAT, low(size)));
            out.extend_from_slice(&bits[..size]);
        }
        Value::Decimal(decimal) => put_decimal(*decimal, out),
        Value::String(text) => put_sized(if needs_escape(text) { ESCAPED } else { PLAIN }, text.as_bytes(), out),
        Value::Binary(bytes) => put_sized(BINARY, bytes, out),
        Value::Date(days) => put_trimmed(DATE, fold(i64::from(*days)), out),
        Value::Timestamp(micros) if micros % MICROS_PER_SECOND == 0 => {
            put_trimmed(SECONDS, fold(micros / MICROS_PER_SECOND), out);
        }
        Value::Timestamp(micros) => put_trimmed(MICROS, fold(*micros), out),
        Value::List(fragment) => put_sized(LIST, fragment.as_str().as_bytes(), out),
        Value::Struct(fragment) => put_sized(STRUCT, fragment.as_str().as_bytes(), out),
    }
}

/// Appends what stands in a patch for a field that is to be taken out of the record.
pub(crate) fn put_nothing(out: &mut Vec<u8>) {
    out.push(tag(CONSTANT, NOTHING));
}

/// Appends the encoding of a text that has this id in its field's pool.
pub(crate) fn put_interned(id: u32, out: &mut Vec<u8>) {
    put_trimmed(INTERNED, id.into(), out);
}

impl<'a> Encoded<'a> {
    /// Takes the next value, checking lengths only: enough for what [`Encoded::check`] has passed before.
    pub(crate) fn read(cursor: &mut Cursor<'a>) -> Result<Self, Malformed> {
        let start = cursor.rest();
        let tag = cursor.u8()?;
        let size = tag & 15;
        let length = match tag >> 4 {
            CONSTANT => 0,
            DECIMAL => 1 + mantissa_len(size),
            CENTS => mantissa_len(size),
            PLAIN..=STRUCT if size == LONG => usize::try_from(cursor.varint()?)
                .ok()
                .and_then(|more| more.checked_add(usize::from(LONG)))
                .ok_or(Malformed("a length exceeds the address space"))?,
            INT..=INTERNED => usize::from(size),
            _ => return Err(Malformed("a value is of an unknown kind")),
        };
        let payload = cursor.take(length)?;
        Ok(Self { bytes: &start[..start.len() - cursor.rest().len()], payload })
    }

    pub(super) fn kind(self) -> u8 {
        self.bytes[0] >> 4
    }

    fn size(self) -> u8 {
        self.bytes[0] & 15
    }

    /// True of what [`put_nothing`] writes, which [`Encoded::check`] refuses: it is no value.
    pub(crate) fn is_nothing(self) -> bool {
        self.bytes == [tag(CONSTANT, NOTHING)]
    }

    /// The bytes of the text, if it is one that is not interned.
    pub(crate) fn text_bytes(self) -> Option<&'a [u8]> {
        matches!(self.kind(), PLAIN | ESCAPED).then_some(self.payload)
    }

    /// The id of an interned text. The bytes must have passed [`Encoded::check`].
    pub(crate) fn interned(self) -> Option<u32> {
        (self.kind() == INTERNED).then(|| u32::try_from(self.number()).ok())?
    }

    /// Checks that the bytes are what [`encode`] or [`put_interned`] writes. Whether the text of an id is there is for
    /// others to know.
    pub(crate) fn check(self) -> Result<(), Malformed> {
        let size = self.size();
        let fits = match self.kind() {
            CONSTANT => size <= 2,
            INT => size <= 8 && is_trimmed(self.payload),
            UINT => size == 8 && self.number() > i64::MAX.unsigned_abs(),
            FLOAT => size <= 8 && is_trimmed(self.payload),
            DECIMAL => self.payload[0] != CENTS_SCALE && self.is_decimal(),
            CENTS => self.is_decimal(),
            MICROS => size <= 8 && is_trimmed(self.payload) && unfold(self.number()) % MICROS_PER_SECOND != 0,
            SECONDS => {
                size <= 6 && is_trimmed(self.payload) && unfold(self.number()).checked_mul(MICROS_PER_SECOND).is_some()
            }
            DATE => size <= 4 && is_trimmed(self.payload) && i32::try_from(unfold(self.number())).is_ok(),
            PLAIN => !needs_escape(self.text()?),
            ESCAPED => needs_escape(self.text()?),
            BINARY => true,
            LIST => is_fragment(self.text()?, '[', ']'),
            STRUCT => is_fragment(self.text()?, '{', '}'),
            INTERNED => size <= 2 && is_trimmed(self.payload),
            _ => return Err(Malformed("a value is of an unknown kind")),
        };
        if fits { Ok(()) } else { Err(Malformed("a value breaks the rules of its kind")) }
    }

    /// The value itself, which must not be interned. The bytes must have passed [`Encoded::check`].
    #[cfg(test)]
    pub(crate) fn decode(self) -> Result<Value, Malformed> {
        Ok(match self.kind() {
            CONSTANT => match self.size() {
                0 => Value::Null,
                other => Value::Bool(other == 2),
            },
            INT => Value::Int(unfold(self.number())),
            UINT => Value::UInt(self.number()),
            FLOAT => Value::Float(self.float()),
            DECIMAL | CENTS => {
                let (mantissa, scale) = self.decimal();
                Value::Decimal(Decimal::new(mantissa, scale).map_err(|_| Malformed("a decimal has too many digits"))?)
            }
            MICROS | SECONDS => Value::Timestamp(self.micros()),
            DATE => Value::Date(self.days()),
            PLAIN | ESCAPED => Value::String(self.text()?.into()),
            BINARY => Value::Binary(self.payload.into()),
            LIST => Value::List(Fragment::trusted(self.text()?)),
            STRUCT => Value::Struct(Fragment::trusted(self.text()?)),
            _ => return Err(Malformed("an id says nothing without its pool")),
        })
    }

    pub(super) fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.payload).map_err(|_| Malformed("a text is not UTF-8"))
    }

    pub(super) fn number(self) -> u64 {
        let mut bytes = [0; 8];
        bytes[..self.payload.len()].copy_from_slice(self.payload);
        u64::from_le_bytes(bytes)
    }

    #[cfg(test)]
    fn float(self) -> f64 {
        let mut bytes = [0; 8];
        bytes[..self.payload.len()].copy_from_slice(self.payload);
        f64::from_bits(u64::from_be_bytes(bytes))
    }

    #[cfg(test)]
    fn micros(self) -> i64 {
        let number = unfold(self.number());
        if self.kind() == SECONDS { number * MICROS_PER_SECOND } else { number }
    }

    #[cfg(test)]
    #[allow(clippy::cast_possible_truncation, reason = "a date that was checked fits")]
    fn days(self) -> i32 {
        unfold(self.number()) as i32
    }

    fn mantissa(self) -> &'a [u8] {
        if self.kind() == CENTS { self.payload } else { &self.payload[1..] }
    }

    fn is_decimal(self) -> bool {
        let (mantissa, scale) = self.decimal();
        self.is_mantissa() && Decimal::new(mantissa, scale).is_ok()
    }

    fn is_mantissa(self) -> bool {
        let mantissa = self.mantissa();
        // Fifteen bytes have no size of their own: such a mantissa is written in sixteen, with a zero at the end.
        match mantissa {
            [.., last, 0] if mantissa.len() == 16 => *last != 0,
            _ => is_trimmed(mantissa),
        }
    }

    /// Mantissa and scale.
    pub(super) fn decimal(self) -> (i128, u8) {
        let scale = if self.kind() == CENTS { CENTS_SCALE } else { self.payload[0] };
        let mut bytes = [0; 16];
        let mantissa = self.mantissa();
        bytes[..mantissa.len()].copy_from_slice(mantissa);
        let folded = u128::from_le_bytes(bytes);
        ((folded >> 1).cast_signed() ^ -(folded & 1).cast_signed(), scale)
    }
}

fn tag(kind: u8, size: u8) -> u8 {
    kind << 4 | size
}

#[allow(clippy::cast_possible_truncation, reason = "sizes in tags are at most 15")]
fn low(size: usize) -> u8 {
    debug_assert!(size <= 15, "a size must fit a tag");
    size as u8
}

fn put_trimmed(kind: u8, number: u64, out: &mut Vec<u8>) {
    let size = 8 - number.leading_zeros() as usize / 8;
    out.push(tag(kind, low(size)));
    out.extend_from_slice(&number.to_le_bytes()[..size]);
}

fn put_decimal(decimal: Decimal, out: &mut Vec<u8>) {
    let mantissa = decimal.mantissa();
    let folded = ((mantissa << 1) ^ (mantissa >> 127)).cast_unsigned();
    let size = 16 - folded.leading_zeros() as usize / 8;
    let (size, length) = if size >= usize::from(LONG) { (LONG, 16) } else { (low(size), size) };
    if decimal.scale() == CENTS_SCALE {
        out.push(tag(CENTS, size));
    } else {
        out.extend_from_slice(&[tag(DECIMAL, size), decimal.scale()]);
    }
    out.extend_from_slice(&folded.to_le_bytes()[..length]);
}

fn put_sized(kind: u8, bytes: &[u8], out: &mut Vec<u8>) {
    match bytes.len().checked_sub(usize::from(LONG)) {
        None => out.push(tag(kind, low(bytes.len()))),
        Some(more) => {
            out.push(tag(kind, LONG));
            put_varint(more as u64, out);
        }
    }
    out.extend_from_slice(bytes);
}

pub(super) fn mantissa_len(size: u8) -> usize {
    if size == LONG { 16 } else { usize::from(size) }
}

fn is_trimmed(bytes: &[u8]) -> bool {
    bytes.last() != Some(&0)
}

/// A sign that the text is JSON. Its whole grammar was checked when the value was made, and a checksum has stood over
/// it since.
fn is_fragment(text: &str, open: char, close: char) -> bool {
    text.len() >= 2 && text.starts_with(open) && text.ends_with(close)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Values of every kind, with the sizes at which encodings change drawn often.
    pub(crate) fn any_value() -> impl Strategy<Value = Value> {
        let number = (any::<i64>(), 0u32..64).prop_map(|(number, shift)| number >> shift);
        let text = prop_oneof!["[a-z]{0,20}", any::<String>(), "[a-z\"\\\\\n\u{1}]{0,18}"];
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            number.prop_map(Value::Int),
            (i64::MAX.unsigned_abs() + 1..=u64::MAX).prop_map(Value::UInt),
            prop_oneof![proptest::num::f64::NORMAL | proptest::num::f64::ZERO, (-9i16..9).prop_map(f64::from)]
                .prop_map(Value::Float),
            ((1 - 10i128.pow(38)..10i128.pow(38), 0u32..128), 0u8..=38)
                .prop_map(|((mantissa, shift), scale)| Value::Decimal(Decimal::new(mantissa >> shift, scale).unwrap())),
            text.prop_map(Value::String),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Binary),
            (larder_types::time::MIN_DAY..=larder_types::time::MAX_DAY).prop_map(Value::Date),
            (-62_135_596_800i64..253_402_300_800, prop_oneof![Just(0), Just(250_000), 0i64..1_000_000])
                .prop_map(|(seconds, micros)| Value::Timestamp(seconds * 1_000_000 + micros)),
            proptest::collection::vec(any::<i32>().prop_map(|n| Value::Int(n.into())), 0..5)
                .prop_map(|items| Value::List(Fragment::list(&items).unwrap())),
            "[a-z]{0,5}".prop_map(|name| Value::Struct(
                Fragment::object([(name.as_str(), &Value::String(name.clone()))]).unwrap()
            )),
        ]
    }

    fn encoded(value: &Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(value, &mut bytes);
        bytes
    }

    #[test]
    fn common_values_are_small() {
        let cents = |mantissa| Value::Decimal(Decimal::new(mantissa, 2).unwrap());
        for (value, length) in [
            (Value::Null, 1),
            (Value::Bool(true), 1),
            (Value::Int(0), 1),
            (Value::Int(-1), 2),
            (Value::Int(127), 2),
            (Value::Int(i64::MIN), 9),
            (Value::Float(1.5), 3),
            (cents(3350), 3),
            (cents(10i128.pow(38) - 1), 17),
            (Value::Decimal(Decimal::new(1, 3).unwrap()), 3),
            (Value::Timestamp(1_357_017_300_000_000), 5),
            (Value::Timestamp(1_357_017_300_250_000), 8),
            (Value::Date(15_706), 3),
            (Value::String("x".repeat(14)), 15),
            (Value::String("x".repeat(15)), 17),
        ] {
            assert_eq!(encoded(&value).len(), length, "{value:?}");
        }
    }

    #[test]
    fn a_value_of_a_free_kind_is_refused() {
        for tag in [0xf0, 0xf3] {
            assert!(Encoded::read(&mut Cursor::new(&[tag, 0, 0, 0])).is_err());
        }
    }

    #[test]
    fn second_forms_of_a_value_are_refused() {
        let longer_zero = [0x11, 0x00];
        let constant = [0x03];
        let seconds_as_micros = [0x63, 0x80, 0x84, 0x1e];
        let cents_as_decimal = [0x41, 0x02, 0x08];
        let plain_that_needs_escaping = [0x91, b'"'];
        let escaped_for_nothing = [0xa1, b'x'];
        let text_that_is_no_text = [0x91, 0xff];
        let small_number_as_large = [0x28, 1, 0, 0, 0, 0, 0, 0, 0];
        let scale_of_39 = [0x41, 39, 0x08];
        let list_without_end = [0xc2, b'[', b'}'];
        let longer_first_id = [0xe1, 0];
        let id_beyond_all_pools = [0xe3, 1, 1, 1];
        for bytes in [
            &longer_zero[..],
            &constant,
            &seconds_as_micros,
            &cents_as_decimal,
            &plain_that_needs_escaping,
            &escaped_for_nothing,
            &text_that_is_no_text,
            &small_number_as_large,
            &scale_of_39,
            &list_without_end,
            &longer_first_id,
            &id_beyond_all_pools,
        ] {
            let mut cursor = Cursor::new(bytes);
            let value = Encoded::read(&mut cursor).unwrap();
            assert!(cursor.is_empty(), "{bytes:?} was not read whole");
            assert!(value.check().is_err(), "{bytes:?} was accepted");
        }
    }

    #[test]
    fn small_numbers_have_one_form_whoever_made_them() {
        assert_eq!(encoded(&Value::UInt(7)), encoded(&Value::Int(7)));
    }

    #[test]
    fn ids_of_texts_are_small() {
        for (id, expected) in [(0, &[0xe0][..]), (1, &[0xe1, 1]), (255, &[0xe1, 255]), (4095, &[0xe2, 255, 15])] {
            let mut bytes = Vec::new();
            put_interned(id, &mut bytes);
            assert_eq!(bytes, expected);
            let read = Encoded::read(&mut Cursor::new(&bytes)).unwrap();
            assert_eq!((read.check(), read.interned(), read.text_bytes()), (Ok(()), Some(id), None));
        }
    }

    proptest! {
        #[test]
        fn values_survive(value in any_value()) {
            let bytes = encoded(&value);
            let mut cursor = Cursor::new(&bytes);
            let read = Encoded::read(&mut cursor).unwrap();
            prop_assert!(cursor.is_empty());
            prop_assert_eq!(read.check(), Ok(()));
            prop_assert_eq!(&read.decode().unwrap(), &value);
        }

        #[test]
        fn what_passes_the_check_is_what_would_be_written(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0u8..4, Just(b'{')], 1..24)
        ) {
            if let Ok(read) = Encoded::read(&mut Cursor::new(&bytes)) && read.check().is_ok() {
                let Some(id) = read.interned() else {
                    let value = read.decode().unwrap();
                    prop_assert_eq!(encoded(&value), read.bytes);
                    return Ok(());
                };
                let mut again = Vec::new();
                put_interned(id, &mut again);
                prop_assert_eq!(again, read.bytes);
            }
        }
    }
}
