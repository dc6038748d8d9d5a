//! Dates and timestamps as text.
//!
//! A date is a number of days, a timestamp a number of microseconds, both since 1970-01-01 in UTC, from year 0001 to
//! 9999: what RFC 3339 can write. Writing uses the days-to-civil algorithm of Howard Hinnant
//! (<https://howardhinnant.github.io/date_algorithms.html>), because it stands in the lookup path.

use std::fmt::Write;

use jiff::Timestamp;
use jiff::civil;
use jiff::tz::Offset;

use crate::ids::Micros;

/// Microseconds in a day.
pub const MICROS_PER_DAY: i64 = 86_400_000_000;
/// 0001-01-01 in days since 1970-01-01.
pub const MIN_DAY: i32 = -719_162;
/// 9999-12-31 in days since 1970-01-01.
pub const MAX_DAY: i32 = 2_932_896;

/// Tells whether a number of days is a date that can be written.
#[must_use]
pub fn is_date(days: i32) -> bool {
    (MIN_DAY..=MAX_DAY).contains(&days)
}

/// Tells whether a number of microseconds is a timestamp that can be written.
#[must_use]
pub fn is_timestamp(micros: Micros) -> bool {
    let days = micros.div_euclid(MICROS_PER_DAY);
    days >= i64::from(MIN_DAY) && days <= i64::from(MAX_DAY)
}

/// Year, month and day of a date; of the nearest one that can be written, if it is none.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "days are clamped, and halves of 64 bits have 32")]
pub fn year_month_day(days: i64) -> [u32; 3] {
    // Counted from March of the year 0, so that the leap day is the last one of a year.
    let days = (days.clamp(MIN_DAY.into(), MAX_DAY.into()) + 719_468) as u32;
    let quarters = 4 * days + 3;
    let (century, day_of_century) = (quarters / 146_097, quarters % 146_097 / 4);
    // Divides by 1461 by multiplying with 2^32 / 1461: the high half is the quotient, the low half gives the rest.
    let product = 2_939_745 * u64::from(4 * day_of_century + 3);
    let (year_of_century, rest) = ((product >> 32) as u32, product as u32);
    let year = 100 * century + year_of_century;
    let day_of_year = rest / 2_939_745 / 4;
    // Months have 30.6 days when a year ends with February: 2141 / 2^16 is one part of that.
    let scaled = 2141 * day_of_year + 197_913;
    let (month, day) = (scaled >> 16, (scaled & 0xffff) / 2141 + 1);
    if day_of_year >= 306 { [year + 1, month - 12, day] } else { [year, month, day] }
}

/// Appends a date as `YYYY-MM-DD`.
pub fn write_date(days: i32, out: &mut impl Write) {
    let [year, month, day] = year_month_day(days.into()).map(i64::from);
    pad(year, 4, out);
    put("-", out);
    pad(month, 2, out);
    put("-", out);
    pad(day, 2, out);
}

/// Appends a timestamp as RFC 3339 in UTC, with milli- or microseconds only where they are not zero:
/// `2013-01-01T05:15:00Z`, `2013-01-01T05:15:00.250Z`.
pub fn write_timestamp(micros: Micros, out: &mut impl Write) {
    let days = micros.div_euclid(MICROS_PER_DAY);
    let rest = micros.rem_euclid(MICROS_PER_DAY);
    let (second, fraction) = (rest / 1_000_000, rest % 1_000_000);
    let [year, month, day] = year_month_day(days).map(i64::from);
    pad(year, 4, out);
    for (mark, part) in [("-", month), ("-", day), ("T", second / 3600), (":", second / 60 % 60), (":", second % 60)] {
        put(mark, out);
        pad(part, 2, out);
    }
    if fraction != 0 {
        put(".", out);
        if fraction % 1000 == 0 {
            pad(fraction / 1000, 3, out);
        } else {
            pad(fraction, 6, out);
        }
    }
    put("Z", out);
}

/// Reads `YYYY-MM-DD`, or the date part of anything that [`parse_timestamp`] reads.
#[must_use]
pub fn parse_date(text: &str) -> Option<i32> {
    let text = text.trim();
    if text.len() == 10 {
        let date: civil::Date = text.parse().ok()?;
        let micros = Offset::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()?.as_microsecond();
        return i32::try_from(micros.div_euclid(MICROS_PER_DAY)).ok().filter(|days| is_date(*days));
    }
    i32::try_from(parse_timestamp(text)?.div_euclid(MICROS_PER_DAY)).ok()
}

/// Reads RFC 3339 and what databases print: a `T` or a blank between date and time, an optional fraction, an optional
/// offset (`Z`, `+02:00`, `+02`, `UTC`), or a date alone. Without an offset the time is UTC. Digits past microseconds
/// are cut.
#[must_use]
pub fn parse_timestamp(text: &str) -> Option<Micros> {
    let text = text.trim();
    let text = text.strip_suffix(" UTC").unwrap_or(text);
    let micros = if let Ok(instant) = text.parse::<Timestamp>() {
        instant.as_microsecond()
    } else if let Ok(local) = text.parse::<civil::DateTime>() {
        Offset::UTC.to_timestamp(local).ok()?.as_microsecond()
    } else {
        return None;
    };
    is_timestamp(micros).then_some(micros)
}

fn pad(number: i64, width: usize, out: &mut impl Write) {
    let mut digits = [b'0'; 6];
    let mut rest = number;
    for slot in digits[..width].iter_mut().rev() {
        *slot = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    put(std::str::from_utf8(&digits[..width]).unwrap_or_default(), out);
}

/// Appends text to a sink that cannot fail: a string, or a buffer that grows.
fn put(text: &str, out: &mut impl Write) {
    let _ = out.write_str(text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn timestamp(micros: i64) -> String {
        let mut out = String::new();
        write_timestamp(micros, &mut out);
        out
    }

    fn date(days: i32) -> String {
        let mut out = String::new();
        write_date(days, &mut out);
        out
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let is_leap = |year: u32| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
        let mut expected = [1, 1, 1];
        for days in i64::from(MIN_DAY)..=i64::from(MAX_DAY) {
            assert_eq!(year_month_day(days), expected, "day {days}");
            let [year, month, day] = expected;
            let last = match month {
                2 => 28 + u32::from(is_leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match (month, day) {
                (12, 31) => [year + 1, 1, 1],
                _ if day == last => [year, month + 1, 1],
                _ => [year, month, day + 1],
            };
        }
        assert_eq!(expected, [10_000, 1, 1]);
        assert_eq!(year_month_day(i64::MIN), [1, 1, 1]);
        assert_eq!(year_month_day(i64::MAX), [9999, 12, 31]);
    }

    #[test]
    fn known_days_are_written() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(-1), "1969-12-31");
        assert_eq!(date(11_016), "2000-02-29");
        assert_eq!(date(MIN_DAY), "0001-01-01");
        assert_eq!(date(MAX_DAY), "9999-12-31");
        assert_eq!(timestamp(1_357_017_300_000_000), "2013-01-01T05:15:00Z");
        assert_eq!(timestamp(1_357_017_300_250_000), "2013-01-01T05:15:00.250Z");
        assert_eq!(timestamp(-1), "1969-12-31T23:59:59.999999Z");
    }

    #[test]
    fn common_spellings_are_read() {
        let moment = Some(1_357_017_300_000_000);
        for text in [
            "2013-01-01T05:15:00Z",
            "2013-01-01 05:15:00",
            "2013-01-01T05:15",
            "2013-01-01T07:15:00+02:00",
            "2013-01-01 07:15:00+02",
            "2013-01-01 05:15:00 UTC",
            " 2013-01-01T05:15:00.000000999Z ",
        ] {
            assert_eq!(parse_timestamp(text), moment, "{text}");
        }
        assert_eq!(parse_timestamp("2013-01-01"), Some(1_356_998_400_000_000));
        assert_eq!(parse_date("2013-01-01"), Some(15_706));
        assert_eq!(parse_date("2013-01-01T23:59:59Z"), Some(15_706));
        for bad in ["", "yesterday", "2013-13-01", "2013-02-30", "12:00", "20130101000000000"] {
            assert_eq!(parse_timestamp(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn timestamps_survive(micros in -62_135_596_800_000_000i64..=253_402_300_799_999_999) {
            prop_assert!(is_timestamp(micros));
            // The reader knows no instants in the last hours of 9999, so stop a day before.
            prop_assume!(micros < 253_402_200_000_000_000);
            prop_assert_eq!(parse_timestamp(&timestamp(micros)), Some(micros));
        }

        #[test]
        fn dates_survive(days in MIN_DAY..=MAX_DAY - 1) {
            prop_assert_eq!(parse_date(&date(days)), Some(days));
        }
    }
}
