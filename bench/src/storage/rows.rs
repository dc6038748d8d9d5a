//! The records of the measurement: customers of 15 fields, the same in every run, about 290 bytes of JSON each.

use larder_storage::record::Dictionary;
use larder_types::ids::FieldId;
use larder_types::key::Key;
use larder_types::value::Value;
use serde::Serialize;

use crate::random::Random;

/// The fields in order of their ids.
pub(crate) const FIELDS: [&str; 15] = [
    "id",
    "email",
    "first_name",
    "last_name",
    "country",
    "city",
    "plan",
    "status",
    "balance",
    "lifetime_value",
    "orders",
    "score",
    "created_at",
    "last_order_at",
    "consent",
];

const FIRST_NAMES: [&str; 4] = ["Ada", "Grace", "Margaret", "Edsger"];
const LAST_NAMES: [&str; 4] = ["Lovelace", "Hopper", "Hamilton", "Lindqvist"];
const CITIES: [&str; 4] = ["Hamburg", "Lyon", "Sheffield", "Rotterdam"];
const PLANS: [&str; 3] = ["free", "team", "enterprise"];
const STATUSES: [&str; 2] = ["active", "paused"];
/// Microseconds of 2024-01-01T00:00:00Z.
const SINCE: i64 = 1_704_067_200_000_000;

/// The same record as a struct, for serde_json.
#[derive(Serialize)]
pub(crate) struct Customer {
    id: i64,
    email: String,
    first_name: &'static str,
    last_name: &'static str,
    country: &'static str,
    city: &'static str,
    plan: &'static str,
    status: &'static str,
    balance: i64,
    lifetime_value: i64,
    orders: i64,
    score: f64,
    created_at: String,
    last_order_at: String,
    consent: bool,
}

/// The names of all fields.
pub(crate) fn dictionary() -> Dictionary {
    Dictionary::new((0..).map(FieldId).zip(FIELDS))
}

pub(crate) fn key(number: u64) -> anyhow::Result<Key> {
    Ok(Key::new(&(10_000_000 + number).to_string())?)
}

/// The customer with this number: the same at every call.
#[allow(clippy::cast_possible_wrap, clippy::cast_precision_loss, reason = "the numbers are small")]
pub(crate) fn customer(number: u64) -> Customer {
    let mut random = Random::new(number);
    let mut below = |bound: u64| random.below(bound) as i64;
    let (first, last) = (pick(below(4), &FIRST_NAMES), pick(below(4), &LAST_NAMES));
    let mut moment = || format!("2024-{:02}-{:02}T{:02}:{:02}:00Z", 1 + below(12), 1 + below(28), below(24), below(60));
    let (created_at, last_order_at) = (moment(), moment());
    Customer {
        id: number as i64,
        email: format!("{}.{}{number}@example.com", first.to_lowercase(), last.to_lowercase()),
        first_name: first,
        last_name: last,
        country: "DE",
        city: pick(below(4), &CITIES),
        plan: pick(below(3), &PLANS),
        status: pick(below(2), &STATUSES),
        balance: below(1_000_000),
        lifetime_value: below(10_000_000),
        orders: below(200),
        score: below(1000) as f64 / 1000.0,
        created_at,
        last_order_at,
        consent: below(2) == 1,
    }
}

/// The fields of a customer.
pub(crate) fn fields(number: u64) -> Vec<(FieldId, Value)> {
    let customer = customer(number);
    let mut random = Random::new(number ^ u64::MAX);
    let mut moment = || Value::Timestamp(SINCE + 60_000_000 * i64::try_from(random.below(525_600)).unwrap_or_default());
    let text = |text: &str| Value::String(text.to_owned());
    let values = [
        Value::Int(customer.id),
        Value::String(customer.email),
        text(customer.first_name),
        text(customer.last_name),
        text(customer.country),
        text(customer.city),
        text(customer.plan),
        text(customer.status),
        Value::Int(customer.balance),
        Value::Int(customer.lifetime_value),
        Value::Int(customer.orders),
        Value::Float(customer.score),
        moment(),
        moment(),
        Value::Bool(customer.consent),
    ];
    (0..).map(FieldId).zip(values).collect()
}

fn pick(at: i64, words: &[&'static str]) -> &'static str {
    words[usize::try_from(at).unwrap_or_default()]
}
