//! Durations as people write them on a command line: `500ms`, `10s`, `2m`.

use std::time::Duration;

/// Reads a whole or fractional number followed by `ms`, `s` or `m`.
///
/// # Errors
/// When the number or its unit is missing or unknown, or the duration is zero, negative or over a day.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds_per_unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(format!("`{text}` needs a unit: ms, s or m, as in 500ms, 10s or 2m")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("`{digits}` is not a number"))?;
    let seconds = number * seconds_per_unit;
    if !(seconds > 0.0 && seconds <= 86_400.0) {
        return Err(format!("`{text}` must be more than nothing and at most a day"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_a_unit() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("1.5m"), Ok(Duration::from_secs(90)));
        for bad in ["", "10", "s", "0s", "-1s", "10h", "1441m", "NaNs", "infs", "1 0s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
