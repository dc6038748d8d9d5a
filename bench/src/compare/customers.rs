//! The records of the comparison: made-up customers, the same in every run, about 300 bytes of JSON each.

use std::ops::Range;

use serde_json::{Value, json};

use crate::random::Random;

/// The fields of a customer, in the order in which the collection declares them.
pub(crate) const FIELDS: [&str; 10] = [
    "email",
    "first_name",
    "last_name",
    "country",
    "segment",
    "lifetime_value",
    "orders",
    "last_order_at",
    "favourites",
    "consent",
];

/// The first key. All keys have the same length, so that all requests have.
const FIRST_KEY: u64 = 10_000_000;

const FIRST_NAMES: [&str; 8] = ["Ada", "Grace", "Linus", "Margaret", "Dennis", "Barbara", "Edsger", "Frances"];
const LAST_NAMES: [&str; 8] =
    ["Lovelace", "Hopper", "Andersen", "Hamilton", "Ritchie", "Lindqvist", "van der Berg", "Allenby"];
const COUNTRIES: [&str; 6] = ["DE", "US", "FR", "GB", "JP", "BR"];
const SEGMENTS: [&str; 4] = ["new customer", "loyal customer", "at risk of leaving", "win back"];
const CATEGORIES: [&str; 6] = ["garden furniture", "running shoes", "coffee", "board games", "kitchen knives", "lamps"];

/// The keys of `count` customers.
pub(crate) fn keys(count: u64) -> Range<u64> {
    FIRST_KEY..FIRST_KEY + count
}

/// The customer with this key: the same at every call.
pub(crate) fn customer(key: u64) -> Value {
    let mut random = Random::new(key);
    let (first, last) = (pick(&mut random, &FIRST_NAMES), pick(&mut random, &LAST_NAMES));
    let mut below = |bound| random.below(bound);
    let cents = below(500_000);
    let moment = format!("2024-{:02}-{:02}T{:02}:{:02}:00Z", 1 + below(12), 1 + below(28), below(24), below(60));
    json!({
        "email": format!("{}.{}.{key}@example.com", first.to_lowercase(), last.replace(' ', "").to_lowercase()),
        "first_name": first,
        "last_name": last,
        "country": pick(&mut random, &COUNTRIES),
        "segment": pick(&mut random, &SEGMENTS),
        "lifetime_value": format!("{}.{:02}", cents / 100, cents % 100),
        "orders": random.below(200),
        "last_order_at": moment,
        "favourites": [pick(&mut random, &CATEGORIES), pick(&mut random, &CATEGORIES)],
        "consent": {"email": random.below(2) == 1, "sms": random.below(2) == 1},
    })
}

/// The patches that make these customers, one JSON object a line.
pub(crate) fn patches(keys: Range<u64>) -> String {
    let mut lines = String::new();
    for key in keys {
        let patch = json!({"op": "upsert", "key": key.to_string(), "set": customer(key)});
        lines.push_str(&patch.to_string());
        lines.push('\n');
    }
    lines
}

fn pick(random: &mut Random, words: &[&'static str]) -> &'static str {
    let at = usize::try_from(random.below(words.len() as u64)).unwrap_or_default();
    words[at]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn customers_are_stable_and_of_the_promised_size() {
        let sizes: Vec<usize> = keys(500).map(|key| customer(key).to_string().len()).collect();
        let mean = sizes.iter().sum::<usize>() / sizes.len();
        assert!((280..=320).contains(&mean), "mean {mean}");
        assert!(sizes.iter().all(|size| (240..=380).contains(size)), "{sizes:?}");
        assert_eq!(customer(FIRST_KEY + 7), customer(FIRST_KEY + 7));
        assert_ne!(customer(FIRST_KEY + 7)["email"], customer(FIRST_KEY + 8)["email"]);
    }

    #[test]
    fn customers_have_just_the_declared_fields() {
        let customer = customer(FIRST_KEY);
        let mut names: Vec<&str> = customer.as_object().unwrap().keys().map(String::as_str).collect();
        let mut declared = FIELDS.to_vec();
        names.sort_unstable();
        declared.sort_unstable();
        assert_eq!(names, declared);
    }

    #[test]
    fn every_patch_is_a_line() {
        let text = patches(keys(3));
        assert_eq!(text.lines().count(), 3);
        for (line, key) in text.lines().zip(keys(3)) {
            let patch: Value = serde_json::from_str(line).unwrap();
            assert_eq!(patch["key"], key.to_string());
            assert_eq!(patch["set"], customer(key));
        }
    }
}
