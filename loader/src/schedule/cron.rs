//! Cron expressions in a time zone.
//!
//! Five fields are POSIX cron: weekdays count from 0, Sunday. Six and seven fields are Quartz, which puts seconds first
//! and a year last, counts weekdays from 1, Sunday, and writes `0/15` for "from 0 on, every 15". Names of weekdays and
//! months mean the same in both.
//!
//! Where clocks change, a *fixed* time (one second, minute and hour) happens once on each of its days: in a gap at its
//! end, in an hour that comes twice the first time. Any other expression goes by the clock on the wall: what falls into
//! a gap is left out, and what falls into an hour that comes twice happens twice.

use std::cmp::Ordering;
use std::fmt;

use croner::errors::CronError as Fault;
use croner::parser::CronParser;
use croner::time::{CivilDate, CivilDateTime, CivilTime, CronDateTime, Resolution, Weekday};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ZonedDateTime};

/// Longer ones are a mistake; and what is printed stays readable.
const MAX_CHARS: usize = 256;

/// A cron expression in a time zone. It has at least one time.
#[derive(Clone)]
pub struct Cron {
    text: String,
    zone_name: String,
    zone: TimeZone,
    pattern: croner::Cron,
}

/// Why a text is no cron expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Longer than an expression may be.
    #[error("has more than {MAX_CHARS} characters")]
    Long,
    /// It does not have 5, 6 or 7 fields.
    #[error(
        "has {0} fields; 5 (minute hour day month weekday), 6 (seconds first) or 7 (and a year last) are needed, or one \
         of @hourly, @daily, @weekly, @monthly, @yearly"
    )]
    Fields(usize),
    /// A field is not understood.
    #[error("is not understood: {0}")]
    Syntax(String),
    /// No date fits.
    #[error("has no time at all: no date fits it")]
    Never,
    /// No such time zone.
    #[error("there is no time zone `{0}`; write a name of the IANA database, for example `Europe/Paris` or `UTC`")]
    Zone(String),
}

/// The time zone of a name.
pub(crate) fn find_zone(name: &str) -> Result<TimeZone, CronError> {
    TimeZone::get(name).map_err(|_| CronError::Zone(name.to_owned()))
}

impl Cron {
    /// Reads an expression.
    ///
    /// # Errors
    /// See [`CronError`].
    pub fn parse(text: &str, zone_name: &str) -> Result<Self, CronError> {
        if text.chars().count() > MAX_CHARS {
            return Err(CronError::Long);
        }
        let zone = find_zone(zone_name)?;
        let fields = text.split_whitespace().count();
        let is_name = fields == 1 && text.trim().starts_with('@');
        if !is_name && !(5..=7).contains(&fields) {
            return Err(CronError::Fields(fields));
        }
        let is_quartz = fields >= 6;
        let parser = CronParser::builder().alternative_weekdays(is_quartz).sloppy_ranges(is_quartz).build();
        let pattern = parser.parse(text).map_err(|fault| CronError::Syntax(fault.to_string()))?;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let cron = Self { text, zone_name: zone_name.to_owned(), zone, pattern };
        match cron.next(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(cron),
            None => Err(CronError::Never),
        }
    }

    /// The first time after this one; `None` if there is none any more.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let start = Moment(after.to_zoned_datetime(self.zone.clone()));
        self.pattern.find_next_occurrence(&start, false).ok().map(|found| found.0.timestamp())
    }

    /// The expression as it was written, with single blanks.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name of its time zone.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone_name
    }

    /// What it means, as a sentence without the full stop.
    #[must_use]
    pub fn describe(&self) -> String {
        let sentence = self.pattern.describe();
        let sentence = sentence.trim_end_matches('.');
        match sentence.strip_prefix("At every ") {
            Some(rest) => format!("Every {rest} ({})", self.zone_name),
            None => format!("{sentence} ({})", self.zone_name),
        }
    }
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({:?}, {:?})", self.text, self.zone_name)
    }
}

impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, &self.zone_name) == (&other.text, &other.zone_name)
    }
}

/// A moment in a time zone, as the search for the next time needs it.
#[derive(Clone)]
struct Moment(ZonedDateTime);

impl CronDateTime for Moment {
    fn to_civil(&self) -> CivilDateTime {
        let of = self.0.datetime();
        CivilDateTime::new(
            CivilDate::from_parts_unchecked(of.year().into(), unsigned(of.month()), unsigned(of.day())),
            CivilTime::from_parts_unchecked(unsigned(of.hour()), unsigned(of.minute()), unsigned(of.second())),
        )
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(unsigned(self.0.weekday().to_sunday_zero_offset()))
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, Fault> {
        let year = i16::try_from(civil.year()).map_err(|_| Fault::InvalidDate)?;
        let part = |number: u32| i8::try_from(number).map_err(|_| Fault::InvalidTime);
        let (month, day) = (part(civil.month())?, part(civil.day())?);
        let (hour, minute, second) = (part(civil.hour())?, part(civil.minute())?, part(civil.second())?);
        let wall = DateTime::new(year, month, day, hour, minute, second, 0).map_err(|_| Fault::InvalidDate)?;
        let found = self.0.time_zone().to_ambiguous_zoned_datetime(wall);
        let invalid = |_| Fault::InvalidTime;
        Ok(match found.offset() {
            AmbiguousOffset::Unambiguous { .. } => Resolution::Single(Self(found.unambiguous().map_err(invalid)?)),
            AmbiguousOffset::Fold { .. } => Resolution::Ambiguous(
                Self(found.clone().earlier().map_err(invalid)?),
                Self(found.later().map_err(invalid)?),
            ),
            AmbiguousOffset::Gap { .. } => Resolution::Gap,
        })
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0.checked_add(SignedDuration::from_secs(seconds)).ok().map(Self)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.timestamp().cmp(&other.0.timestamp())
    }
}

/// Parts of dates and times are never negative, except years.
fn unsigned(part: i8) -> u32 {
    part.unsigned_abs().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron(text: &str, zone: &str) -> Cron {
        Cron::parse(text, zone).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// The next times after an instant, as the clock on the wall of the zone shows them.
    fn times(text: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let cron = cron(text, zone);
        let mut at: Timestamp = after.parse().unwrap();
        let mut found = Vec::new();
        for _ in 0..count {
            let Some(next) = cron.next(at) else { break };
            assert!(next > at, "{text}: {next} does not come after {at}");
            at = next;
            found.push(at.to_zoned_datetime(find_zone(zone).unwrap()).strftime("%Y-%m-%d %H:%M:%S %:z").to_string());
        }
        found
    }

    #[track_caller]
    fn assert_times(text: &str, after: &str, expected: &[&str]) {
        let found = times(text, "UTC", after, expected.len());
        let found: Vec<&str> = found.iter().map(|time| time.trim_end_matches(" +00:00")).collect();
        assert_eq!(found, expected, "{text}");
    }

    // 2026-11-24 is a Tuesday.
    const NOW: &str = "2026-11-24T12:00:00Z";

    #[test]
    fn five_fields_count_weekdays_from_sunday_zero() {
        assert_times("*/15 * * * *", NOW, &["2026-11-24 12:15:00", "2026-11-24 12:30:00"]);
        assert_times("0 9 * * 5", NOW, &["2026-11-27 09:00:00"]);
        assert_times("0 9 * * 0", NOW, &["2026-11-29 09:00:00"]);
        assert_times("0 9 * * 7", NOW, &["2026-11-29 09:00:00"]);
        assert_times("0 9 * * MON-FRI", "2026-11-27T09:00:00Z", &["2026-11-30 09:00:00"]);
        assert_times("0 0 1 * 5", NOW, &["2026-11-27 00:00:00", "2026-12-01 00:00:00"]);
        assert_times("0 0 29 2 *", NOW, &["2028-02-29 00:00:00"]);
    }

    #[test]
    fn six_and_seven_fields_count_weekdays_from_sunday_one() {
        assert_times("0 0 9 ? * 5", NOW, &["2026-11-26 09:00:00"]);
        assert_times("0 0 9 ? * 1", NOW, &["2026-11-29 09:00:00"]);
        assert_times("0 0 9 ? * 7", NOW, &["2026-11-28 09:00:00"]);
        assert_times("0 0 9 ? * FRI", NOW, &["2026-11-27 09:00:00"]);
        assert_times("0 0 9 ? * 2-6", "2026-11-27T09:00:00Z", &["2026-11-30 09:00:00"]);
        assert_times("0 0 12 ? * 5#3", NOW, &["2026-12-17 12:00:00"]);
        assert_times("0 0 12 ? * 6L", NOW, &["2026-11-27 12:00:00", "2026-12-25 12:00:00"]);
        assert_times("0 0 12 LW * ?", NOW, &["2026-11-30 12:00:00", "2026-12-31 12:00:00"]);
        assert_times("0 0 12 15W * ?", NOW, &["2026-12-15 12:00:00", "2027-01-15 12:00:00", "2027-02-15 12:00:00"]);
        assert_times("0 0 12 ? DEC *", NOW, &["2026-12-01 12:00:00"]);
        assert_times("30 0/20 * * * ?", NOW, &["2026-11-24 12:00:30", "2026-11-24 12:20:30"]);
        assert_times("*/10 * * * * *", NOW, &["2026-11-24 12:00:10"]);
        assert_times("0 0 0 1 1 ? 2030", NOW, &["2030-01-01 00:00:00"]);
        assert_eq!(times("0 0 0 1 1 ? 2030", "UTC", NOW, 2).len(), 1, "there is one time and no other");
    }

    #[test]
    fn nicknames_are_known() {
        assert_times("@hourly", NOW, &["2026-11-24 13:00:00"]);
        assert_times("@daily", NOW, &["2026-11-25 00:00:00"]);
        assert_times("@weekly", NOW, &["2026-11-29 00:00:00"]);
        assert_times("@monthly", NOW, &["2026-12-01 00:00:00"]);
        assert_times("@yearly", NOW, &["2027-01-01 00:00:00"]);
    }

    #[test]
    fn times_between_seconds_are_no_excuse() {
        assert_times("0 12 * * *", "2026-11-24T11:59:59.999999Z", &["2026-11-24 12:00:00"]);
        assert_times("0 12 * * *", "2026-11-24T12:00:00.5Z", &["2026-11-25 12:00:00"]);
    }

    #[test]
    fn fixed_time_in_a_gap_happens_at_its_end() {
        // On 2026-03-29 clocks in Paris go from 02:00 to 03:00.
        let found = times("30 2 * * *", "Europe/Paris", "2026-03-27T12:00:00Z", 3);
        assert_eq!(found, ["2026-03-28 02:30:00 +01:00", "2026-03-29 03:00:00 +02:00", "2026-03-30 02:30:00 +02:00"]);
    }

    #[test]
    fn fixed_time_in_an_hour_that_comes_twice_happens_the_first_time() {
        // On 2026-10-25 clocks in Paris go from 03:00 back to 02:00.
        let found = times("30 2 * * *", "Europe/Paris", "2026-10-24T12:00:00Z", 2);
        assert_eq!(found, ["2026-10-25 02:30:00 +02:00", "2026-10-26 02:30:00 +01:00"]);
        // Also when asked between the two.
        let found = times("30 2 * * *", "Europe/Paris", "2026-10-25T00:45:00Z", 1);
        assert_eq!(found, ["2026-10-26 02:30:00 +01:00"]);
    }

    #[test]
    fn repeated_times_go_by_the_clock_on_the_wall() {
        let found = times("*/30 * * * *", "Europe/Paris", "2026-03-29T00:15:00Z", 3);
        assert_eq!(found, ["2026-03-29 01:30:00 +01:00", "2026-03-29 03:00:00 +02:00", "2026-03-29 03:30:00 +02:00"]);
        let found = times("*/30 2 * * *", "Europe/Paris", "2026-10-24T12:00:00Z", 5);
        assert_eq!(
            found,
            [
                "2026-10-25 02:00:00 +02:00",
                "2026-10-25 02:30:00 +02:00",
                "2026-10-25 02:00:00 +01:00",
                "2026-10-25 02:30:00 +01:00",
                "2026-10-26 02:00:00 +01:00",
            ]
        );
        let found = times("30 2,14 * * *", "Europe/Paris", "2026-03-28T12:00:00Z", 3);
        assert_eq!(found, ["2026-03-28 14:30:00 +01:00", "2026-03-29 14:30:00 +02:00", "2026-03-30 02:30:00 +02:00"]);
    }

    #[test]
    fn mistakes_are_told_apart() {
        let fault = |text: &str, zone: &str| Cron::parse(text, zone).unwrap_err();
        assert_eq!(fault("* * * *", "UTC"), CronError::Fields(4));
        assert_eq!(fault("* * * * * * * *", "UTC"), CronError::Fields(8));
        assert_eq!(fault("", "UTC"), CronError::Fields(0));
        assert_eq!(fault("0 0 31 2 *", "UTC"), CronError::Never);
        assert_eq!(fault("0 0 0 30 2 ?", "UTC"), CronError::Never);
        assert_eq!(fault("0 0 0 29 2 ? 2027", "UTC"), CronError::Never);
        assert_eq!(fault("0 0 * * *", "Europe/Atlantis"), CronError::Zone("Europe/Atlantis".to_owned()));
        assert_eq!(fault(&format!("{} * * * *", "1,".repeat(130)), "UTC"), CronError::Long);
        for text in ["60 * * * *", "* 24 * * *", "x * * * *", "0 0 9 ? * 0", "0 0 9 ? * 8", "@reboot", "5/15 * * * *"] {
            assert!(matches!(fault(text, "UTC"), CronError::Syntax(_) | CronError::Fields(_)), "{text}");
        }
    }

    #[test]
    fn expressions_are_told_in_words() {
        for (text, zone, expected) in [
            (
                "0 9 * * MON-FRI",
                "Europe/Paris",
                "At 09:00, on Monday, Tuesday, Wednesday, Thursday, and Friday (Europe/Paris)",
            ),
            ("0 0 12 ? * 5#3", "UTC", "At 12:00, on the 3rd Thursday of the month (UTC)"),
            ("*/15 * * * *", "UTC", "Every 15 minutes (UTC)"),
        ] {
            assert_eq!(cron(text, zone).describe(), expected);
        }
    }
}
