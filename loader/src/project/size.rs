//! Sizes as people write them: `512KiB`, `64MiB`, `1GiB`.

const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a size: a whole number with a unit.
///
/// # Errors
/// What a size looks like.
pub(super) fn parse_size(text: &str) -> Result<u64, &'static str> {
    const EXPECTED: &str = "must be a size such as `512KiB`, `64MiB` or `1GiB`";
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or(EXPECTED)?;
    let unit = UNITS.iter().find(|(unit, _)| *unit == &text[digits..]).map(|(_, bytes)| *bytes).ok_or(EXPECTED)?;
    let number: u64 = text[..digits].parse().map_err(|_| EXPECTED)?;
    number.checked_mul(unit).filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or(EXPECTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_number_and_a_unit() {
        for (text, bytes) in
            [("0B", 0), ("512KiB", 512 << 10), ("64MiB", 64 << 20), ("1GiB", 1 << 30), ("2TiB", 2 << 40)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "1", "GiB", "1GB", "1 GiB", "-1B", "1.5GiB", "99999999999TiB", "8388608TiB"] {
            assert!(parse_size(text).is_err(), "{text} was read");
        }
    }
}
