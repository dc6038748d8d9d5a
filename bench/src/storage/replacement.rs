//! What the arena holds for what is in it, while records are replaced in random order and grow.

use larder_types::ids::FieldId;
use larder_types::key::Key;
use larder_types::value::Value;

use super::SEED;
use super::customer::CustomerKey;
use super::feed::{COLLECTION, ENTRY_PATCHES, Feed, Patch};
use super::report::{Goal, Report, Row, Unit};
use crate::random::Random;

/// With so many records the segments that are not full do not matter: they are three of 300.
const ENOUGH: u64 = 1_000_000;
/// Rounds in which every record is replaced.
const ROUNDS: u64 = 12;
/// Lengths of the texts: from 70 to 190 bytes at first, from 214 to 334 in the last round.
const SHORTEST: u64 = 70;
const SPREAD: u64 = 121;
const DRIFT: u64 = 12;

/// Measures with so many records, or as many as are enough.
pub(crate) fn measure(records: u64, report: &mut Report) -> anyhow::Result<()> {
    let records = records.min(ENOUGH);
    let (mut feed, mut random) = (Feed::new()?, Random::new(SEED));
    let mut numbers: Vec<u64> = (0..records).collect();
    let (mut last, mut worst) = (f64::NAN, f64::NAN);
    for round in 0..=ROUNDS {
        random.shuffle(&mut numbers);
        for chunk in numbers.chunks(usize::try_from(ENTRY_PATCHES)?) {
            let patches = chunk.iter().map(|number| patch(*number, round, &mut random));
            let entry = feed.entry(patches)?;
            feed.apply(&entry)?;
        }
        last = held_for_live(&feed);
        worst = last.max(worst);
    }
    let note = format!("{records} records, each round all of them; {worst:.3} after the worst round");
    let name = "arena / live bytes, after 12 rounds of replacing";
    report.rows.push(Row::judged(name, last, Unit::Times, Goal::AtMost(1.2), note));
    Ok(())
}

/// A text of its own for each record and round, so that nothing is kept once for several.
fn patch(number: u64, round: u64, random: &mut Random) -> anyhow::Result<Patch> {
    let length = SHORTEST + DRIFT * round + random.below(SPREAD);
    let mut text = format!("{number}.{round}.");
    while (text.len() as u64) < length {
        text.push_str(&random.bits().to_string());
    }
    text.truncate(usize::try_from(length)?);
    Ok((Key::new(&CustomerKey::text(number))?, vec![(FieldId(0), Value::String(text))]))
}

/// Bytes of segments for each byte of content.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn held_for_live(feed: &Feed) -> f64 {
    let reader = feed.shard.reader();
    super::memory::settle(&reader);
    reader.memory().arena_bytes as f64 / reader.stats(COLLECTION).content_bytes() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arena_is_measured_against_what_is_in_it() {
        let mut report = Report::default();
        measure(900, &mut report).unwrap();
        let row = &report.rows[0];
        assert!(row.note.contains("900 records"), "{row:?}");
        // A mebibyte or a few, for a quarter of one.
        assert!(row.figure.is_some_and(|ratio| (1.0..40.0).contains(&ratio)), "{row:?}");
    }

    #[test]
    fn texts_grow_from_round_to_round() {
        let mut random = Random::new(1);
        for (round, range) in [(0, 70..191), (12, 214..335)] {
            for number in 0..200 {
                let (_, fields) = patch(number, round, &mut random).unwrap();
                assert!(range.contains(&fields[0].1.to_text().len()));
            }
        }
    }
}
