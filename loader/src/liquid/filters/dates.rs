//! Filters over dates and times, always in UTC unless `timezone` says otherwise.
//!
//! There is no `now`: the same row must give the same fields whenever it is sent.

use jiff::civil::DateTime;
use jiff::fmt::strtime;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Span, Timestamp};
use larder_types::time::{MICROS_PER_DAY, is_timestamp, parse_timestamp, year_month_day};

use super::super::error::{Failure, Problem};
use super::super::expression::Expression;
use super::super::number::Number;
use super::super::value::{Moment, Value};
use super::{Call, Definition, Outcome, Prepared, filter};

/// Spellings of dates with the month as a word, beside ISO 8601. All-digit spellings other than ISO are ambiguous.
const WORDED_DATES: [&str; 6] =
    ["%B %d, %Y", "%b %d, %Y", "%d %B %Y", "%d %b %Y", "%a, %d %b %Y %H:%M:%S %z", "%d %b %Y %H:%M:%S %z"];

/// Words that stand for the time of the run.
const NOW: [&str; 2] = ["now", "today"];

pub(super) const FILTERS: &[Definition] = &[
    Definition { prepare: prepare_format, ..filter("date", 1, 1, date) },
    Definition { prepare: prepare_zone, ..filter("timezone", 1, 1, timezone) },
    filter("date_add", 2, 2, date_add),
    filter("to_timestamp", 0, 1, to_timestamp),
];

/// A date format taken apart: the common directives are written without looking them up again.
#[derive(Debug)]
pub(super) struct Format(Vec<Item>);

#[derive(Debug)]
enum Item {
    Text(String),
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    /// A directive that is left to the library.
    Other(String),
}

impl Format {
    fn parse(format: &str) -> Result<Self, String> {
        let mut items = Vec::new();
        let mut text = String::new();
        let mut chars = format.chars().peekable();
        while let Some(c) = chars.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let mut directive = String::from("%");
            while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '_' | '^' | '#' | ':' | '0'..='9')) {
                directive.push(flag);
            }
            let letter = chars.next().ok_or("it ends with `%`")?;
            let is_plain = directive.len() == 1;
            let item = match (is_plain, letter) {
                (true, '%') => {
                    text.push('%');
                    continue;
                }
                (true, 'Y') => Item::Year,
                (true, 'm') => Item::Month,
                (true, 'd') => Item::Day,
                (true, 'H') => Item::Hour,
                (true, 'M') => Item::Minute,
                (true, 'S') => Item::Second,
                (true, 'L') => Item::Other("%3f".to_owned()),
                _ => {
                    directive.push(letter);
                    let tried = strtime::format(&directive, &Timestamp::UNIX_EPOCH.to_zoned_datetime(TimeZone::UTC));
                    tried.map_err(|_| format!("`{directive}` is no directive"))?;
                    Item::Other(directive)
                }
            };
            if !text.is_empty() {
                items.push(Item::Text(std::mem::take(&mut text)));
            }
            items.push(item);
        }
        if !text.is_empty() {
            items.push(Item::Text(text));
        }
        Ok(Self(items))
    }

    fn write(&self, moment: Moment) -> Outcome<String> {
        let local = moment.micros.saturating_add(i64::from(moment.offset) * 1_000_000);
        let [year, month, day] = year_month_day(local.div_euclid(MICROS_PER_DAY));
        let second = u32::try_from(local.rem_euclid(MICROS_PER_DAY) / 1_000_000).unwrap_or(0);
        let mut out = String::with_capacity(24);
        for item in &self.0 {
            match item {
                Item::Text(text) => out.push_str(text),
                Item::Year => {
                    push_two(year / 100, &mut out);
                    push_two(year % 100, &mut out);
                }
                Item::Month => push_two(month, &mut out),
                Item::Day => push_two(day, &mut out),
                Item::Hour => push_two(second / 3600, &mut out),
                Item::Minute => push_two(second / 60 % 60, &mut out),
                Item::Second => push_two(second % 60, &mut out),
                Item::Other(directive) => {
                    let written = zoned(moment).and_then(|zoned| strtime::format(directive, &zoned));
                    out.push_str(&written.map_err(|_| Failure::refused("`date`: the time is out of range"))?);
                }
            }
        }
        Ok(out)
    }
}

fn push_two(number: u32, out: &mut String) {
    for digit in [number / 10 % 10, number % 10] {
        out.push(char::from(b'0' + u8::try_from(digit).unwrap_or(0)));
    }
}

fn zoned(moment: Moment) -> Result<jiff::ZonedDateTime, jiff::Error> {
    let zone = if moment.offset == 0 { TimeZone::UTC } else { TimeZone::fixed(Offset::from_seconds(moment.offset)?) };
    Ok(Timestamp::from_microsecond(moment.micros)?.to_zoned_datetime(zone))
}

fn prepare_format(arguments: &[Expression]) -> Result<Prepared, Problem> {
    let Some(format) = arguments.first().and_then(Expression::as_text) else { return Ok(Prepared::Nothing) };
    let parsed = Format::parse(format);
    parsed.map(Prepared::Format).map_err(|reason| Problem::new(format!("`date`: bad format `{format}`: {reason}")))
}

fn date<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let format = call.text(0);
    if format.is_empty() {
        return Ok(input);
    }
    let moment = moment(&input, call)?;
    let written = match call.prepared {
        Prepared::Format(format) => format.write(moment)?,
        _ => {
            let format = Format::parse(&format);
            format.map_err(|_| Failure::refused("`date`: its format is not one"))?.write(moment)?
        }
    };
    Ok(Value::text_of(written))
}

/// The point in time that a value is: of dates midnight in UTC, of numbers and digits seconds since 1970.
fn moment(value: &Value<'_>, call: &Call<'_, '_>) -> Outcome<Moment> {
    let micros = match value {
        Value::Moment(moment) => return Ok(*moment),
        Value::Date(days) => i64::from(*days).checked_mul(MICROS_PER_DAY),
        Value::Number(number) => micros_of(*number),
        Value::Text(text) => {
            let text = text.trim();
            if NOW.iter().any(|word| text.eq_ignore_ascii_case(word)) {
                let message = "there is no `now`: a row would come out differently in every run; let the query add it";
                return Err(Failure::refused(message));
            }
            if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
                Number::parse(text).and_then(micros_of)
            } else {
                parse_timestamp(text).or_else(|| worded(text))
            }
        }
        _ => None,
    };
    let micros = micros.filter(|micros| is_timestamp(*micros)).ok_or_else(|| {
        Failure::refused(format!(
            "`{}` needs a timestamp, seconds since 1970, or a date such as 2016-03-14 or March 14, 2016",
            call.name
        ))
    })?;
    Ok(Moment { micros, offset: 0 })
}

fn micros_of(seconds: Number) -> Option<i64> {
    if let Number::Whole(whole) = seconds {
        return i64::try_from(whole).ok()?.checked_mul(1_000_000);
    }
    let duration = SignedDuration::try_from_secs_f64(seconds.to_f64()).ok()?;
    i64::try_from(duration.as_micros()).ok()
}

fn worded(text: &str) -> Option<i64> {
    WORDED_DATES.iter().find_map(|format| {
        let parsed = strtime::parse(format, text).ok()?;
        let midnight = || Offset::UTC.to_timestamp(parsed.to_date().ok()?.at(0, 0, 0, 0)).ok();
        parsed.to_timestamp().ok().or_else(midnight).map(Timestamp::as_microsecond)
    })
}

fn prepare_zone(arguments: &[Expression]) -> Result<Prepared, Problem> {
    let Some(name) = arguments.first().and_then(Expression::as_text) else { return Ok(Prepared::Nothing) };
    let zone = TimeZone::get(name);
    zone.map(Prepared::Zone).map_err(|_| Problem::new(format!("`timezone`: there is no time zone `{name}`")))
}

/// The same moment, shown in a time zone.
fn timezone<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let moment = moment(&input, call)?;
    let out_of_range = |_| Failure::refused("`timezone`: the time is out of range");
    let time = Timestamp::from_microsecond(moment.micros).map_err(out_of_range)?;
    let offset = match call.prepared {
        Prepared::Zone(zone) => zone.to_offset(time),
        _ => {
            let unknown = |_| Failure::refused("`timezone`: there is no such time zone");
            TimeZone::get(&call.text(0)).map_err(unknown)?.to_offset(time)
        }
    };
    Ok(Value::Moment(Moment { micros: moment.micros, offset: offset.seconds() }))
}

/// A moment so many units later. Months and years end on the last day of a month that is too short.
fn date_add<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let count = call.integer(0)?.unwrap_or(0);
    let unit = call.text(1);
    let start = moment(&input, call)?;
    let span = match unit.trim_end_matches('s') {
        "second" => Span::new().try_seconds(count),
        "minute" => Span::new().try_minutes(count),
        "hour" => Span::new().try_hours(count),
        "day" => Span::new().try_days(count),
        "week" => Span::new().try_weeks(count),
        "month" => Span::new().try_months(count),
        "year" => Span::new().try_years(count),
        _ => {
            let units = "second, minute, hour, day, week, month or year";
            return Err(Failure::refused(format!("`date_add` needs a unit: {units}")));
        }
    };
    let later = || {
        let local: DateTime = Offset::UTC.to_datetime(Timestamp::from_microsecond(start.micros).ok()?);
        let micros = Offset::UTC.to_timestamp(local.checked_add(span.ok()?).ok()?).ok()?.as_microsecond();
        is_timestamp(micros).then_some(micros)
    };
    let micros = later().ok_or_else(|| Failure::refused("`date_add`: the time is out of range"))?;
    let days = i32::try_from(micros.div_euclid(MICROS_PER_DAY)).unwrap_or(0);
    let is_day = micros.rem_euclid(MICROS_PER_DAY) == 0;
    Ok(match input {
        Value::Date(_) if is_day => Value::Date(days),
        _ => Value::Moment(Moment { micros, offset: start.offset }),
    })
}

/// A timestamp, read as `date` reads it or in a format of its own.
fn to_timestamp<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let (Some(format), Value::Text(text)) = (call.get(0), &input) else {
        return moment(&input, call).map(Value::Moment);
    };
    let read = || {
        let parsed = strtime::parse(format.to_text().as_bytes(), text.trim().as_bytes()).ok()?;
        let utc = || {
            let midnight = || parsed.to_date().ok().map(|date| date.at(0, 0, 0, 0));
            Offset::UTC.to_timestamp(parsed.to_datetime().ok().or_else(midnight)?).ok()
        };
        let micros = parsed.to_timestamp().ok().or_else(utc)?.as_microsecond();
        is_timestamp(micros).then_some(micros)
    };
    let micros = read().ok_or_else(|| Failure::refused("`to_timestamp`: the text is not in the format"))?;
    Ok(Value::Moment(Moment { micros, offset: 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_write_what_ruby_writes() {
        // 2006-07-05 11:29:15.25, a Wednesday.
        let moment = Moment { micros: 1_152_098_955_250_000, offset: 0 };
        for (format, expected) in [
            ("%Y-%m-%d %H:%M:%S", "2006-07-05 11:29:15"),
            ("%-d/%-m/%y", "5/7/06"),
            ("%A, %B %e %a %b", "Wednesday, July  5 Wed Jul"),
            ("%I:%M %p %P", "11:29 AM am"),
            ("%j %U %s %L", "186 27 1152098955 250"),
            ("%F %T %z %Z%%", "2006-07-05 11:29:15 +0000 UTC%"),
            ("%^a %3N", "WED 250"),
        ] {
            assert_eq!(Format::parse(format).unwrap().write(moment).unwrap(), expected, "{format}");
        }
        let paris = Moment { offset: 7200, ..moment };
        assert_eq!(Format::parse("%d %H %z").unwrap().write(paris).unwrap(), "05 13 +0200");
        for bad in ["%", "%Q%", "%-"] {
            assert!(Format::parse(bad).is_err(), "{bad}");
        }
    }
}
