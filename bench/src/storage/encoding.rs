//! Writing a record as JSON, beside serde_json on a struct that holds the same values.
//!
//! The struct's times are jiff's, as a program would hold them, so both sides begin with numbers. A second struct holds
//! them as texts that were made beforehand.

use std::hint::black_box;

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use larder_storage::record::{Dictionary, FieldSet, RecordCopy};
use larder_storage::shard::ShardReader;
use serde::Serialize;

use super::Windows;
use super::customer::{self, Customer, CustomerKey, Plain, SHOWN};
use super::feed::COLLECTION;
use super::report::{Goal, Report, Row, Unit};
use super::times::{Times, timed};
use crate::random::Random;

/// Records that are written in turns: more than branch prediction learns by heart, few enough to stay near.
const RECORDS: u64 = 64;

/// Room for the JSON of a record.
const ROOM: usize = 1024;

/// In the order of the table of times.
const CONTESTANTS: [&str; 4] =
    ["15 fields", "3 of 15 fields", "serde_json on a struct, 15 fields", "serde_json on a struct with times as texts"];

/// Measures encoding of some of so many customers.
pub(crate) fn measure(
    reader: &ShardReader,
    customers: u64,
    windows: Windows,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut random = Random::new(super::SEED);
    let mut times = Times::new("encoding of a record in the cache".to_owned(), &CONTESTANTS);
    let rounds = windows.reads.div_ceil(usize::try_from(RECORDS)?);
    for _ in 0..windows.count {
        let numbers: Vec<u64> = (0..RECORDS).map(|_| random.below(customers)).collect();
        let rows = Rows::new(reader, &numbers)?;
        let mut order = [0, 1, 2, 3];
        random.shuffle(&mut order);
        for contestant in order {
            let (bytes, nanos) = timed(|| rows.encode(contestant, rounds));
            black_box(bytes?);
            times.add(contestant, nanos / count(rounds * rows.copies.len()));
        }
    }
    for (contestant, bound, name) in
        [(0, 0.4, "encode 15 fields / serde_json"), (1, 0.15, "encode 3 of 15 fields / serde_json")]
    {
        let (ratio, texts) = (times.ratio(contestant, 2), times.ratio(contestant, 3));
        let note = format!(
            "of the least times; median of the windows' ratios {:.3}; {:.3} if serde_json gets times as texts",
            ratio.median, texts.of_least
        );
        report.rows.push(Row::judged(name, ratio.of_least, Unit::Times, Goal::AtMost(bound), note));
    }
    report.times.push(times);
    Ok(())
}

/// The same records in both forms.
struct Rows {
    names: Dictionary,
    few: FieldSet,
    copies: Vec<RecordCopy>,
    structs: Vec<Plain<Timestamp>>,
    texts: Vec<Plain<String>>,
}

impl Rows {
    /// The records as they are now; the structs as the customers were made.
    fn new(reader: &ShardReader, numbers: &[u64]) -> anyhow::Result<Self> {
        let copy = |number: &u64| {
            let key = CustomerKey::of(*number);
            reader.get(COLLECTION, key.hash, key.as_bytes(), |view| view.copy()).context("no such record")
        };
        let copies = numbers.iter().map(copy).collect::<anyhow::Result<_>>()?;
        let (mut structs, mut texts) = (Vec::new(), Vec::new());
        for number in numbers {
            // A moment that jiff cannot hold would show: the bytes would differ.
            let time = |micros| Timestamp::from_microsecond(micros).unwrap_or_default();
            structs.push(Customer::new(*number).plain(time));
            texts.push(Customer::new(*number).plain(|micros| time(micros).to_string()));
        }
        let few = SHOWN.into_iter().collect();
        let rows = Self { names: customer::dictionary(), few, copies, structs, texts };
        let bytes = rows.encode(0, 1)?;
        ensure!(bytes == rows.encode(2, 1)? && bytes == rows.encode(3, 1)?, "the forms of a record are not alike");
        Ok(rows)
    }

    /// Encodes all records so many times. Returns the bytes of JSON.
    fn encode(&self, contestant: usize, rounds: usize) -> anyhow::Result<usize> {
        let mut bytes = 0;
        for _ in 0..rounds {
            bytes += match contestant {
                0 => self.engine(None),
                1 => self.engine(Some(&self.few)),
                2 => serde(&self.structs)?,
                _ => serde(&self.texts)?,
            };
        }
        Ok(bytes)
    }

    fn engine(&self, only: Option<&FieldSet>) -> usize {
        let mut out = Vec::with_capacity(ROOM);
        let mut bytes = 0;
        for record in &self.copies {
            out.clear();
            record.view().write_json(&self.names, only, &mut out);
            bytes += black_box(&out).len();
        }
        bytes
    }
}

fn serde(rows: &[impl Serialize]) -> anyhow::Result<usize> {
    let mut out = Vec::with_capacity(ROOM);
    let mut bytes = 0;
    for row in rows {
        out.clear();
        serde_json::to_writer(&mut out, row)?;
        bytes += black_box(&out).len();
    }
    Ok(bytes)
}

#[allow(clippy::cast_precision_loss, reason = "windows are small")]
fn count(records: usize) -> f64 {
    records as f64
}

#[cfg(test)]
mod tests {
    use super::super::feed::Feed;
    use super::*;

    #[test]
    fn engine_and_serde_write_the_same_bytes() {
        let (feed, _) = Feed::load(500).unwrap();
        let rows = Rows::new(&feed.shard.reader(), &(0..500).collect::<Vec<_>>()).unwrap();
        for ((copy, row), texts) in rows.copies.iter().zip(&rows.structs).zip(&rows.texts) {
            let mut json = Vec::new();
            copy.view().write_json(&rows.names, None, &mut json);
            let json = String::from_utf8(json).unwrap();
            assert_eq!(json, serde_json::to_string(row).unwrap());
            assert_eq!(json, serde_json::to_string(texts).unwrap());
        }
        let mut few = Vec::new();
        rows.copies[0].view().write_json(&rows.names, Some(&rows.few), &mut few);
        let few: serde_json::Value = serde_json::from_slice(&few).unwrap();
        let fields: Vec<_> = few.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, ["balance", "email", "plan"]);
    }

    #[test]
    fn both_goals_become_rows() {
        let (feed, _) = Feed::load(100).unwrap();
        let mut report = Report::default();
        measure(&feed.shard.reader(), 100, Windows { count: 2, reads: 100 }, &mut report).unwrap();
        let names: Vec<_> = report.rows.iter().map(|row| row.name).collect();
        assert_eq!(names, ["encode 15 fields / serde_json", "encode 3 of 15 fields / serde_json"]);
        assert!(report.rows.iter().all(|row| row.figure.is_some_and(f64::is_finite)));
    }
}
