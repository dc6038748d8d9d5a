//! The interner with its pools: what it decides, what readers find, and what a snapshot keeps of it.

use std::sync::Arc;

use larder_types::ids::FieldId;
use larder_types::value::Value;
use proptest::prelude::*;

use super::frozen::FrozenField;
use super::pools::Text;
use super::*;
use crate::record::cursor::{Cursor, Malformed};
use crate::record::value::{Encoded, encode};

const SEED: u64 = 5;
const FIELD: FieldId = FieldId(3);

/// An interner that has pools with these texts.
pub(crate) fn pooled(fields: &[(FieldId, &[&str])]) -> Interner {
    let pools = Pools::default();
    let mut frozen = Vec::new();
    for (field, texts) in fields {
        (0..).zip(*texts).for_each(|(id, text)| _ = pools.add(*field, id, text));
        frozen.push((*field, FrozenField::Pooled(u32::try_from(texts.len()).unwrap())));
    }
    Interner::thaw(&FrozenTexts::new(Arc::new(pools), frozen), SEED).unwrap()
}

fn encoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&Value::String(text.into()), &mut bytes);
    bytes
}

/// The id that stands for the text, which is written to the field in place of another.
fn intern(interner: &mut Interner, field: FieldId, text: &str) -> Option<u32> {
    intern_over(interner, field, text, None)
}

fn intern_over(interner: &mut Interner, field: FieldId, text: &str, before: Option<&[u8]>) -> Option<u32> {
    let bytes = encoded(text);
    let value = Encoded::read(&mut Cursor::new(&bytes)).unwrap();
    let id = interner.intern(field, value, before).map(<[u8]>::to_vec)?;
    let id = Encoded::read(&mut Cursor::new(&id)).unwrap().interned();
    assert_eq!(id.and_then(|id| interner.pools().text(field, id)).map(Text::as_str), Some(text));
    id
}

fn bytes_of(frozen: &FrozenTexts) -> Vec<u8> {
    let mut bytes = Vec::new();
    frozen.encode(&mut bytes);
    bytes
}

fn decoded(bytes: &[u8]) -> Result<Interner, Malformed> {
    Interner::thaw(&FrozenTexts::decode(&mut Cursor::new(bytes))?, SEED)
}

#[test]
fn the_text_that_proves_a_field_repetitive_is_the_first_in_its_pool() {
    let mut interner = Interner::new(SEED);
    for count in 1..MIN_WRITTEN {
        assert_eq!(intern(&mut interner, FIELD, ["free", "team"][count as usize % 2]), None, "text {count}");
    }
    assert_eq!(interner.held_bytes(), 16, "two hashes");
    assert_eq!(intern(&mut interner, FIELD, "team"), Some(0));
    assert_eq!(intern(&mut interner, FIELD, "free"), Some(1));
    assert_eq!(intern(&mut interner, FIELD, "never \"seen\""), Some(2));
    assert_eq!(intern(&mut interner, FIELD, "team"), Some(0));
    assert_eq!(intern(&mut interner, FieldId(4), "team"), None, "another field is another matter");
}

#[test]
fn a_field_of_too_many_texts_stays_plain_for_good() {
    let mut interner = Interner::new(SEED);
    for number in 0..=MAX_TEXTS {
        assert!(interner.held_bytes() == 8 * number as u64);
        assert_eq!(intern(&mut interner, FIELD, &format!("text {number}")), None);
    }
    assert_eq!(interner.held_bytes(), 0, "its sample is gone");
    for _ in 0..2 * MIN_WRITTEN {
        assert_eq!(intern(&mut interner, FIELD, "the same"), None);
    }
    assert_eq!(interner.held_bytes(), 0);
}

#[test]
fn a_full_pool_takes_no_more() {
    let mut interner = pooled(&[(FIELD, &["text 0"])]);
    for id in 0..4096 {
        assert_eq!(intern(&mut interner, FIELD, &format!("text {id}")), Some(id));
    }
    let full = interner.held_bytes();
    assert_eq!(intern(&mut interner, FIELD, "one more"), None);
    assert_eq!(interner.held_bytes(), full);
    assert_eq!(intern(&mut interner, FIELD, "text 4095"), Some(4095));
    assert_eq!(intern(&mut decoded(&bytes_of(&interner.freeze())).unwrap(), FIELD, "one more"), None);
}

#[test]
fn texts_too_short_or_too_long_are_left_alone() {
    let mut interner = pooled(&[(FIELD, &["text"])]);
    for (len, is_interned) in [(0, false), (1, false), (2, true), (64, true), (65, false)] {
        assert_eq!(intern(&mut interner, FIELD, &"x".repeat(len)).is_some(), is_interned, "{len} bytes");
    }
    // Bytes are counted, and not those that JSON adds.
    assert!(intern(&mut interner, FIELD, &"\u{1}".repeat(64)).is_some());
    assert!(intern(&mut interner, FIELD, &"é".repeat(33)).is_none());
    let mut bytes = Vec::new();
    encode(&Value::Binary(b"text".to_vec()), &mut bytes);
    assert_eq!(interner.intern(FIELD, Encoded::read(&mut Cursor::new(&bytes)).unwrap(), None), None);
}

#[test]
fn what_a_record_has_already_does_not_make_a_field_repetitive() {
    let mut interner = Interner::new(SEED);
    for _ in 0..2 * MIN_WRITTEN {
        assert_eq!(intern_over(&mut interner, FIELD, "same", Some(&encoded("same"))), None);
    }
    assert_eq!(interner.held_bytes(), 0);
    let mut interner = pooled(&[(FIELD, &["same"])]);
    assert_eq!(intern_over(&mut interner, FIELD, "same", Some(&encoded("same"))), Some(0), "it is stored as id now");
}

#[test]
fn a_frozen_pool_stays_as_it_was() {
    let mut interner = pooled(&[(FIELD, &["first"])]);
    intern(&mut interner, FieldId(9), "sampled");
    let frozen = interner.freeze();
    let before = bytes_of(&frozen);
    intern(&mut interner, FIELD, "second");
    intern(&mut interner, FieldId(9), "another");
    intern(&mut interner, FieldId(0), "unknown before");
    assert_eq!(bytes_of(&frozen), before);
    assert_ne!(interner.freeze(), frozen);
    assert_eq!(decoded(&before).unwrap().freeze(), frozen);
    let own = intern(&mut decoded(&before).unwrap(), FIELD, "third");
    assert_eq!((own, intern(&mut interner, FIELD, "fourth")), (Some(1), Some(2)), "pools of their own");
}

/// The format of what a snapshot keeps of texts. If this fails, old snapshots can no longer be read.
#[test]
fn the_bytes_of_a_snapshots_texts_are_fixed() {
    let mut interner = pooled(&[(FieldId(300), &["a\"b", "plain"])]);
    for number in 0..=MAX_TEXTS {
        intern(&mut interner, FieldId(2), &number.to_string().repeat(2));
    }
    intern(&mut interner, FieldId(7), "text");
    intern(&mut interner, FieldId(7), "text");
    let mut expected = vec![3, 2, 0];
    expected.extend_from_slice(&[7, 1, 2, 1, 0xfd, 0x3d, 0x29, 0xb1]);
    expected.extend_from_slice(b"\xac\x02\x02\x02\x03a\"b\x05plain");
    assert_eq!(bytes_of(&interner.freeze()), expected);
    assert_eq!(decoded(&expected).unwrap().held_bytes(), interner.held_bytes());
}

#[test]
fn texts_that_cannot_have_been_kept_are_refused() {
    let refused = |bytes: &[u8]| decoded(bytes).map(drop).unwrap_err().0;
    assert_eq!(refused(&[2, 3, 0, 3, 0]), "the fields whose texts are known are not in order");
    assert_eq!(refused(&[1, 0xff, 0xff, 4, 0]), "a field id exceeds 16 bits");
    assert_eq!(refused(&[1, 3, 3]), "what is known of a field's texts is unknown");
    assert_eq!(refused(&[1, 3, 2, 0]), "a pool has no text or too many");
    assert_eq!(refused(&[1, 3, 2, 0x81, 0x20, 2]), "a pool has no text or too many");
    assert_eq!(refused(b"\x01\x03\x02\x01\x01a"), "a text in a pool is too short or too long");
    assert_eq!(refused(b"\x01\x03\x02\x01\x02\xff\xff"), "a text is not UTF-8");
    assert_eq!(refused(b"\x01\x03\x02\x02\x02ab\x02ab"), "a pool has a text twice");
}

#[test]
fn no_cut_and_no_flipped_bit_of_frozen_texts_makes_thawing_panic() {
    let mut interner = pooled(&[(FIELD, &["first", "se\"cond", "third"])]);
    intern(&mut interner, FieldId(9), "sampled");
    let bytes = bytes_of(&interner.freeze());
    for len in 0..bytes.len() {
        assert!(decoded(&bytes[..len]).is_err(), "cut to {len} bytes");
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let _ = decoded(&flipped);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Fields of different variety, with a restart somewhere.
    #[test]
    fn an_interner_that_was_thawed_decides_as_if_it_had_not(
        variety in proptest::collection::vec(prop_oneof![1usize..80, 60usize..70, Just(10_000)], 1..4),
        texts in proptest::collection::vec((any::<prop::sample::Index>(), "[a-z\"é]{0,3}"), 64),
        order in proptest::collection::vec(any::<u16>(), 3000..5000),
        restart in any::<prop::sample::Index>(),
    ) {
        let (mut steady, mut restarted) = (Interner::new(SEED), Interner::new(SEED));
        let restart = restart.index(order.len());
        for (at, random) in order.iter().enumerate() {
            if at == restart {
                restarted = decoded(&bytes_of(&restarted.freeze())).unwrap();
            }
            let field = at % variety.len();
            let number = usize::from(*random) % variety[field];
            let (_, word) = &texts[number % texts.len()];
            let text = format!("{word}{}", number / texts.len());
            let field = FieldId(u16::try_from(field * 40).unwrap());
            let before = texts[at % texts.len()].0.index(2).eq(&0).then(|| encoded(&text));
            let ids = [&mut steady, &mut restarted].map(|i| intern_over(i, field, &text, before.as_deref()));
            prop_assert_eq!(ids[0], ids[1]);
        }
        prop_assert_eq!(steady.freeze(), restarted.freeze());
        prop_assert_eq!(steady.held_bytes(), restarted.held_bytes());
    }
}
