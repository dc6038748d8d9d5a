//! The rows of the measurement: made-up customers as a mapping's cells, before and after a day.
//!
//! Keys have 10 to 13 bytes and rows about 87. One row in 100 changes, one in 200 leaves, and as many come. Everything
//! follows from a row's number, so a child process makes the same rows again without a file that it would have to read.

use std::io::Write as _;

/// Which rows there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Day {
    /// The first `rows` rows.
    First,
    /// Some have changed, left and come.
    Next,
}

/// One row in so many changes.
const CHANGES: u64 = 100;
/// One row in so many leaves, and as many come.
const LEAVES: u64 = 200;

const FIRST: [&str; 16] = [
    "Astrid", "Bjarne", "Clara", "Dag", "Eli", "Frida", "Gunnar", "Hilde", "Ivar", "Johanne", "Kari", "Leif", "Maren",
    "Nils", "Oda", "Per",
];
const LAST: [&str; 16] = [
    "Aas", "Berg", "Dahl", "Eide", "Foss", "Haugen", "Iversen", "Johnsen", "Kvam", "Lie", "Moen", "Nygaard", "Olsen",
    "Ruud", "Strand", "Vik",
];
const CITIES: [&str; 8] = ["Bergen", "Bodø", "Drammen", "Hamar", "Oslo", "Stavanger", "Tromsø", "Trondheim"];

/// Calls `each` with key and cells of every row of a day.
pub(super) fn feed<E>(rows: u64, day: Day, mut each: impl FnMut(&str, &[u8]) -> Result<(), E>) -> Result<(), E> {
    let (mut key, mut cells) = (String::new(), Vec::new());
    let numbers = match day {
        Day::First => 0..rows,
        Day::Next => 0..rows + rows / LEAVES,
    };
    for number in numbers {
        let has_left = number < rows && number % LEAVES == 1;
        if day == Day::Next && has_left {
            continue;
        }
        let has_changed = day == Day::Next && number < rows && number % CHANGES == 0;
        write_key(number, &mut key);
        write_cells(number, u64::from(has_changed), &mut cells);
        each(&key, &cells)?;
    }
    Ok(())
}

/// Changes that the next day brings: added, changed, removed.
pub(super) fn expected(rows: u64) -> (u64, u64, u64) {
    let left = (rows + LEAVES - 2) / LEAVES;
    (rows / LEAVES, rows.div_ceil(CHANGES), left)
}

/// `u-` and 8 to 11 digits, in no order that a hash table or a compressor would like.
fn write_key(number: u64, out: &mut String) {
    use std::fmt::Write as _;
    out.clear();
    let spread = 10_000_000 + mixed(number) % 100 * 900_000_000 + number;
    // Writing to a string cannot fail.
    let _ = write!(out, "u-{spread}");
}

fn write_cells(number: u64, version: u64, out: &mut Vec<u8>) {
    out.clear();
    let mixed = mixed(number);
    let pick =
        |shift: u32, of: &'static [&'static str]| of[usize::try_from(mixed >> shift).unwrap_or(usize::MAX) % of.len()];
    let (first, last) = (pick(0, &FIRST), pick(8, &LAST));
    text(out, |out| write!(out, "{first} {last}"));
    text(out, |out| write!(out, "{first}.{last}.{}@example.org", mixed % 100_000));
    text(out, |out| out.write_all(pick(16, &CITIES).as_bytes()));
    integer(out, mixed % 500 + version);
    integer(out, mixed % 9_000_000);
    integer(out, 1_700_000_000_000_000 + mixed % 31_536_000_000_000);
    out.push(u8::try_from(mixed >> 63).unwrap_or(0) + 1);
}

/// A text cell: tag, length, bytes.
fn text(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) {
    out.push(7);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    // Writing to memory cannot fail.
    let _ = write(out);
    let len = u32::try_from(out.len() - at - 4).unwrap_or(0);
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

/// An integer cell: tag, eight bytes.
fn integer(out: &mut Vec<u8>, value: u64) {
    out.push(3);
    out.extend_from_slice(&value.to_le_bytes());
}

/// A number that looks random.
fn mixed(number: u64) -> u64 {
    crate::random::Random::new(number).bits()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn all(day: Day) -> BTreeMap<String, Vec<u8>> {
        let mut rows = BTreeMap::new();
        feed::<()>(4000, day, |key, cells| {
            assert!((10..=13).contains(&key.len()), "{key}");
            assert!(rows.insert(key.to_owned(), cells.to_vec()).is_none(), "{key} twice");
            Ok(())
        })
        .unwrap();
        rows
    }

    #[test]
    fn the_next_day_brings_what_is_expected() {
        let (first, next) = (all(Day::First), all(Day::Next));
        let added = next.keys().filter(|key| !first.contains_key(*key)).count() as u64;
        let removed = first.keys().filter(|key| !next.contains_key(*key)).count() as u64;
        let changed = first.iter().filter(|(key, cells)| next.get(*key).is_some_and(|now| now != *cells)).count();
        assert_eq!((added, changed as u64, removed), expected(4000));
        assert_eq!((added, changed, removed), (20, 40, 20));
        let bytes: usize = first.values().map(Vec::len).sum();
        assert!((85..90).contains(&(bytes / first.len())), "{} bytes a row", bytes / first.len());
    }
}
