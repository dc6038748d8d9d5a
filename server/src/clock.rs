//! Wall-clock time, read in one place.

use std::time::{SystemTime, UNIX_EPOCH};

use larder_types::ids::Micros;
use larder_types::time::write_timestamp;

/// Now, in microseconds since 1970. A clock before 1970 counts as 1970.
#[must_use]
pub fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros::try_from(since.as_micros()).unwrap_or(Micros::MAX)
}

/// A point in time as RFC 3339.
#[must_use]
pub fn rfc3339(at: Micros) -> String {
    let mut text = String::new();
    write_timestamp(at, &mut text);
    text
}
