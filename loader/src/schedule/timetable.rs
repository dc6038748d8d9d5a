//! The times at which a schedule fires.
//!
//! A schedule's own times are *nominal*: they follow from the schedule alone. A fire is *due* at its nominal time and
//! the jitter on top, which follows from the sync and the nominal time alone. So every loader, also a restarted one,
//! comes to the same times.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use larder_types::names::SyncName;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::project::schedule::{Schedule, When};

/// The first nominal time after an instant; `None` if the schedule has none, or none any more.
pub(crate) fn next_nominal(when: &When, after: Timestamp) -> Option<Timestamp> {
    match when {
        When::Manual | When::After { .. } => None,
        When::Every(span) => {
            let span = i64::try_from(span.as_micros()).ok()?;
            let passed = after.as_microsecond().div_euclid(span);
            Timestamp::from_microsecond(passed.checked_add(1)?.checked_mul(span)?).ok()
        }
        When::Cron(cron) => cron.next(after),
    }
}

/// When the fire of a nominal time is due.
pub(crate) fn due(sync: &SyncName, schedule: &Schedule, nominal: Timestamp) -> Timestamp {
    let jitter = u64::try_from(schedule.jitter.as_millis()).unwrap_or(u64::MAX);
    if jitter == 0 {
        return nominal;
    }
    let seed = nominal.as_microsecond().cast_unsigned();
    let delay = xxh3_64_with_seed(sync.as_str().as_bytes(), seed) % jitter;
    later(nominal, Duration::from_millis(delay))
}

/// An instant so much later, or the last one there is.
pub(crate) fn later(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

/// An instant so much earlier, or the first one there is.
pub(crate) fn earlier(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_sub(by).ok()).unwrap_or(Timestamp::MIN)
}
