//! The records of the measurement: made-up customers of 15 fields, the same in every run, 286 bytes of JSON on average.
//!
//! Names, places and plans come from lists of the sizes that such columns have; what identifies a customer is its own.
//! Every value reads the same whether the engine writes it or serde_json, so both write the same bytes.

use larder_storage::record::Dictionary;
use larder_types::decimal::Decimal;
use larder_types::hash::KeyHash;
use larder_types::ids::{FieldId, Micros};
use larder_types::value::Value;
use serde::Serialize;

use super::SEED;
use crate::random::Random;

/// Bytes of a key: eight digits.
const KEY_BYTES: usize = 8;
/// The first customer's key. All keys have the same length.
const FIRST_KEY: u64 = 10_000_000;
/// The most customers whose keys have that length.
pub(crate) const MAX_CUSTOMERS: u64 = 90_000_000;

/// The fields in order of their ids.
pub(crate) const FIELDS: [&str; 15] = [
    "id", "email", "first", "last", "country", "city", "plan", "status", "balance", "revenue", "orders", "score",
    "created", "seen", "vip",
];

/// The three fields that a small patch changes: a money value, a count and a time.
pub(crate) const FEW: [FieldId; 3] = [FieldId(8), FieldId(10), FieldId(13)];
/// The three fields that a projection asks for: e-mail, plan and a money value.
pub(crate) const SHOWN: [FieldId; 3] = [FieldId(1), FieldId(6), FieldId(8)];

/// The syllables of 1536 first names, 20 000 last names and 768 cities.
const FIRST: [&[&str]; 3] = [
    &[
        "A", "Be", "Ca", "Da", "E", "Fi", "Ga", "He", "I", "Ja", "Ka", "Le", "Ma", "Na", "O", "Pa", "Ra", "Sa", "Ta",
        "U", "Vi", "Wa", "Xe", "Yo",
    ],
    &["bri", "del", "fa", "la", "ni", "ro", "sa", "ve"],
    &["", "da", "ette", "l", "n", "na", "ra", "s"],
];
const LAST: [&[&str]; 3] = [
    &[
        "Al", "An", "Ba", "Be", "Bo", "Bra", "Ca", "Co", "Da", "De", "Do", "Fa", "Fi", "Ga", "Go", "Ha", "Hol", "Hu",
        "Ja", "Ka", "Ko", "Kra", "La", "Le", "Lo", "Ma", "Mo", "Na", "No", "Or", "Pa", "Pe", "Ra", "Ro", "Sa", "Ste",
        "Ta", "To", "Va", "Wi",
    ],
    &[
        "b", "ck", "d", "ff", "g", "k", "l", "lb", "ld", "ll", "lm", "m", "n", "nd", "ng", "nk", "p", "r", "rb", "rg",
        "rn", "s", "st", "t", "v",
    ],
    &[
        "a", "aker", "an", "ard", "bach", "berg", "by", "e", "ell", "en", "er", "feld", "ham", "i", "ik", "ins", "man",
        "o", "quist", "son",
    ],
];
const CITY: [&[&str]; 2] = [
    &[
        "Ash", "Bad", "Birk", "Bran", "Burg", "Dorn", "Eich", "Falk", "Ger", "Gold", "Hag", "Ham", "Hoch", "Kirch",
        "Kron", "Lind", "Mar", "Mil", "Neu", "Nord", "Ober", "Ost", "Ric", "Rot", "Sal", "San", "Stein", "Sund", "Tal",
        "Wald", "West", "Wolf",
    ],
    &[
        "au", "berg", "born", "brook", "bury", "by", "dale", "dam", "dorf", "feld", "ford", "furt", "hafen", "ham",
        "heim", "hill", "holm", "mond", "port", "stadt", "stett", "ton", "ville", "wick",
    ],
];
const COUNTRIES: [&str; 24] = [
    "AT", "AU", "BE", "BR", "CA", "CH", "CZ", "DE", "DK", "ES", "FI", "FR", "GB", "IE", "IN", "IT", "JP", "MX", "NL",
    "NO", "PL", "PT", "SE", "US",
];
const PLANS: [&str; 4] = ["free", "team", "business", "enterprise"];
const STATUSES: [&str; 4] = ["active", "paused", "trial", "closed"];

/// Microseconds of 2020-01-01T00:00:00Z.
const SINCE: Micros = 1_577_836_800_000_000;
/// Seconds in five years.
const SECONDS: u64 = 157_000_000;

/// A key as bytes, with its hash.
#[derive(Clone, Copy)]
pub(crate) struct CustomerKey {
    pub(crate) hash: KeyHash,
    bytes: [u8; KEY_BYTES],
}

/// One customer at one version.
pub(crate) struct Customer {
    id: i64,
    email: String,
    first: String,
    last: String,
    country: &'static str,
    city: String,
    plan: &'static str,
    status: &'static str,
    balance_cents: u32,
    revenue_cents: u32,
    orders: i64,
    score: f64,
    created: Micros,
    seen: Micros,
    vip: bool,
}

/// The same customer as serde_json takes it.
///
/// Doubles stand for decimals, which it can write faster. `T` is a time, or the text of one.
#[derive(Serialize)]
pub(crate) struct Plain<T> {
    id: i64,
    email: String,
    first: String,
    last: String,
    country: &'static str,
    city: String,
    plan: &'static str,
    status: &'static str,
    balance: f64,
    revenue: f64,
    orders: i64,
    score: f64,
    created: T,
    seen: T,
    vip: bool,
}

/// The names of all fields.
pub(crate) fn dictionary() -> Dictionary {
    Dictionary::new((0..).map(FieldId).zip(FIELDS))
}

impl CustomerKey {
    /// The key of the customer with this number, which is below [`MAX_CUSTOMERS`].
    pub(crate) fn of(number: u64) -> Self {
        assert!(number < MAX_CUSTOMERS, "all keys have eight digits");
        let mut rest = FIRST_KEY + number;
        let mut bytes = [0; KEY_BYTES];
        for byte in bytes.iter_mut().rev() {
            *byte = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
        }
        Self { hash: KeyHash::of(SEED, &bytes), bytes }
    }

    /// The key's bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The key as text.
    pub(crate) fn text(number: u64) -> String {
        (FIRST_KEY + number).to_string()
    }
}

impl Customer {
    /// The customer with this number as it was made.
    pub(crate) fn new(number: u64) -> Self {
        Self::at(number, 0)
    }

    /// The same customer later: all numbers, both states and the time of the last order are of this version.
    pub(crate) fn at(number: u64, version: u64) -> Self {
        let mut random = Random::new(number);
        let (first, last) = (name(&mut random, &FIRST), name(&mut random, &LAST));
        let (country, city) = (pick(&mut random, &COUNTRIES), name(&mut random, &CITY));
        let (digits, created) = (random.below(1000), moment(&mut random));
        let mut random = Random::new(number ^ version.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self {
            id: i64::try_from(FIRST_KEY + number).unwrap_or_default(),
            email: format!("{}.{digits}@example.com", last.to_ascii_lowercase()),
            first,
            last,
            country,
            city,
            plan: pick(&mut random, &PLANS),
            status: pick(&mut random, &STATUSES),
            balance_cents: cents(&mut random, 100_000),
            revenue_cents: cents(&mut random, 1_000_000),
            orders: i64::from(below(&mut random, 500)),
            score: f64::from(1 + below(&mut random, 999)) / 1000.0,
            created,
            seen: moment(&mut random),
            vip: random.below(2) == 1,
        }
    }

    /// All fields.
    pub(crate) fn fields(self) -> anyhow::Result<Vec<(FieldId, Value)>> {
        let values = [
            Value::Int(self.id),
            Value::String(self.email),
            Value::String(self.first),
            Value::String(self.last),
            Value::String(self.country.to_owned()),
            Value::String(self.city),
            Value::String(self.plan.to_owned()),
            Value::String(self.status.to_owned()),
            Value::Decimal(Decimal::new(self.balance_cents.into(), 2)?),
            Value::Decimal(Decimal::new(self.revenue_cents.into(), 2)?),
            Value::Int(self.orders),
            Value::Float(self.score),
            Value::Timestamp(self.created),
            Value::Timestamp(self.seen),
            Value::Bool(self.vip),
        ];
        Ok((0..).map(FieldId).zip(values).collect())
    }

    /// The three fields of [`FEW`].
    pub(crate) fn few_fields(self) -> anyhow::Result<Vec<(FieldId, Value)>> {
        let values = [
            Value::Decimal(Decimal::new(self.balance_cents.into(), 2)?),
            Value::Int(self.orders),
            Value::Timestamp(self.seen),
        ];
        Ok(FEW.into_iter().zip(values).collect())
    }

    /// What serde_json takes, with the times in a form of the caller's.
    pub(crate) fn plain<T>(self, time: impl Fn(Micros) -> T) -> Plain<T> {
        Plain {
            id: self.id,
            email: self.email,
            first: self.first,
            last: self.last,
            country: self.country,
            city: self.city,
            plan: self.plan,
            status: self.status,
            balance: f64::from(self.balance_cents) / 100.0,
            revenue: f64::from(self.revenue_cents) / 100.0,
            orders: self.orders,
            score: self.score,
            created: time(self.created),
            seen: time(self.seen),
            vip: self.vip,
        }
    }

    /// The customer as JSON text, written by serde_json.
    #[cfg(test)]
    pub(crate) fn json(self) -> String {
        serde_json::to_string(&self.plain(|micros| Value::Timestamp(micros).to_text())).unwrap()
    }
}

fn name(random: &mut Random, syllables: &[&[&'static str]]) -> String {
    syllables.iter().map(|choice| pick(random, choice)).collect()
}

fn pick(random: &mut Random, words: &[&'static str]) -> &'static str {
    words[usize::try_from(random.below(words.len() as u64)).unwrap_or_default()]
}

fn below(random: &mut Random, bound: u32) -> u32 {
    u32::try_from(random.below(bound.into())).unwrap_or_default()
}

/// Money whose last digit is not 0: a double of the same amount is then written with the same digits.
fn cents(random: &mut Random, dimes: u32) -> u32 {
    below(random, dimes) * 10 + 1 + below(random, 9)
}

fn moment(random: &mut Random) -> Micros {
    SINCE + i64::try_from(random.below(SECONDS)).unwrap_or_default() * 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_has_286_bytes_of_json() {
        let bytes: usize = (0..2000).map(|number| Customer::new(number).json().len()).sum();
        assert_eq!((bytes + 1000) / 2000, 286, "{bytes} bytes in 2000 records");
    }

    #[test]
    fn keys_are_the_ids_and_have_one_length() {
        for number in [0, 7, 89_999_999] {
            assert_eq!(CustomerKey::of(number).as_bytes(), CustomerKey::text(number).as_bytes());
        }
    }

    #[test]
    fn versions_differ_in_what_changes_and_in_nothing_else() {
        let values = |version| Customer::at(5, version).fields().unwrap();
        assert_eq!(values(3), values(3));
        let (old, new) = (values(0), values(1));
        for field in [0, 1, 2, 3, 4, 5, 12] {
            assert_eq!(old[field], new[field]);
        }
        for FieldId(field) in FEW {
            assert_ne!(old[usize::from(field)], new[usize::from(field)]);
        }
    }

    #[test]
    fn columns_have_as_many_values_as_such_columns_have() {
        let values: Vec<_> = (0..20_000).map(|number| Customer::new(number).fields().unwrap()).collect();
        let distinct = |field: usize| {
            let texts: std::collections::BTreeSet<_> = values.iter().map(|fields| fields[field].1.to_text()).collect();
            texts.len()
        };
        assert_eq!([2, 4, 5, 6, 7].map(distinct), [1536, 24, 768, 4, 4]);
        assert!(distinct(1) > 19_900 && distinct(3) > 10_000, "{} and {}", distinct(1), distinct(3));
    }
}
