//! Spans of time as people write them: `90s`, `10m`, `6h`, `1d`, `1h30m`.

use std::time::Duration;

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
/// Longer than anything that is waited for, and far from where clocks overflow.
const MAX_DAYS: u64 = 36_500;

/// Reads a span: whole numbers, each with a unit, the largest unit first.
///
/// # Errors
/// What a span looks like.
pub(crate) fn parse_span(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "must be a span of time such as `30s`, `10m`, `6h`, `1d` or `1h30m`";
    let mut rest = text;
    let mut total: u64 = 0;
    let mut before = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(EXPECTED)?;
        let number: u64 = rest[..digits].parse().map_err(|_| EXPECTED)?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = UNITS.iter().find(|(unit, _)| *unit == &rest[..end]).map(|(_, millis)| *millis).ok_or(EXPECTED)?;
        if unit >= before {
            return Err(EXPECTED);
        }
        (before, rest) = (unit, &rest[end..]);
        total = number.checked_mul(unit).and_then(|millis| millis.checked_add(total)).ok_or(EXPECTED)?;
    }
    if before == u64::MAX {
        return Err(EXPECTED);
    }
    if total > MAX_DAYS * 86_400_000 {
        return Err("is longer than a hundred years");
    }
    Ok(Duration::from_millis(total))
}

/// Writes a span so that [`parse_span`] reads it back, to the millisecond.
pub(crate) fn write_span(span: Duration) -> String {
    let mut rest = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, millis) in UNITS.iter().rev() {
        if rest >= *millis {
            text.push_str(&format!("{}{unit}", rest / millis));
            rest %= millis;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written_alike() {
        for (text, millis) in
            [("0s", 0), ("250ms", 250), ("90s", 90_000), ("10m", 600_000), ("1h30m", 5_400_000), ("2d", 172_800_000)]
        {
            assert_eq!(parse_span(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["0s", "250ms", "1m30s", "10m", "1h30m", "2d", "1d1ms"] {
            assert_eq!(parse_span(text).map(write_span).as_deref(), Ok(text));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "10", "m", "10 m", "1.5h", "-1h", "1m1h", "1h1h", "10M", "99999999999999999999s", "36501d"] {
            assert!(parse_span(text).is_err(), "{text} was read");
        }
    }
}
