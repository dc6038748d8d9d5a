//! Bytes for each record: as loaded, at the memory limit, and what Redis takes for the same rows.

use anyhow::Context as _;
use larder_storage::shard::ShardReader;

use super::customer::{Customer, CustomerKey, FIELDS};
use super::feed::{COLLECTION, Feed};
use super::report::{Goal, Report, Row, Unit};
use super::updates::Updates;
use crate::redis::{Durability, PIPELINED, Server};

/// Updates of each record, on average, until the cleaner is at work in all of the arena.
const REPLACED: u64 = 1;
/// The most rows that Redis gets: bytes for each do not depend on their number.
const MAX_REDIS_ROWS: u64 = 1_000_000;

/// Measures a shard to which nothing was done after so many customers were loaded.
pub(crate) fn as_loaded(reader: &ShardReader, customers: u64, report: &mut Report) {
    let bytes = Bytes::of(reader, customers);
    let note = format!(
        "{:.1} content + {:.1} table + {:.2} dictionary, {customers} records; {:.1} with whole segments",
        bytes.content,
        bytes.table,
        bytes.dictionary,
        bytes.with(bytes.segments)
    );
    let goal = Goal::AtMost(130.0);
    report.rows.push(Row::judged("bytes a record, as loaded", bytes.with(bytes.content), Unit::Bytes, goal, note));
}

/// Replaces all of so many customers in random order until the arena is as full of dead records as it may be: what
/// a record then takes is what it takes at the memory limit. Then measures.
pub(crate) fn at_limit(feed: &mut Feed, customers: u64, report: &mut Report) -> anyhow::Result<()> {
    Updates::new(feed, customers).whole(customers * REPLACED)?;
    let reader = feed.shard.reader();
    settle(&reader);
    let bytes = Bytes::of(&reader, customers);
    let note = format!(
        "{:.1} segments + {:.1} table + {:.2} dictionary, after as many updates as records",
        bytes.segments, bytes.table, bytes.dictionary
    );
    let (figure, goal) = (bytes.with(bytes.segments), Goal::AtMost(150.0));
    report.rows.push(Row::judged("bytes a record, at the limit", figure, Unit::Bytes, goal, note));
    Ok(())
}

/// Measures Redis with so many customers, if it is installed.
pub(crate) fn in_redis(customers: u64, report: &mut Report) -> anyhow::Result<()> {
    let name = "bytes a record, Redis HSET of the same rows";
    let rows = customers.min(MAX_REDIS_ROWS);
    report.rows.push(match redis_usage(rows)? {
        Some((version, bytes)) => {
            Row::shown(name, per(bytes, rows), Unit::Bytes, format!("used_memory of Redis {version}, {rows} records"))
        }
        None => Row::missing(name, Unit::Bytes, None, "redis-server is not installed".to_owned()),
    });
    Ok(())
}

/// What `used_memory` of a Redis server grows by for so many customers, with its version. `None` if there is none.
fn redis_usage(customers: u64) -> anyhow::Result<Option<(String, u64)>> {
    let folder = tempfile::tempdir().context("cannot make a scratch folder")?;
    let Some(mut server) = Server::start(folder.path(), Durability::None)? else { return Ok(None) };
    let before = server.used_memory()?;
    for first in (0..customers).step_by(PIPELINED) {
        let rows = (first..customers.min(first + PIPELINED as u64)).map(|number| {
            let fields = Customer::new(number).fields()?;
            Ok((CustomerKey::text(number), fields.iter().map(|(_, value)| value.to_text()).collect()))
        });
        server.hset(&FIELDS, rows.collect::<anyhow::Result<Vec<_>>>()?.into_iter())?;
    }
    let bytes = server.settled_memory()?.checked_sub(before).context("Redis has shrunk by taking rows")?;
    Ok(Some((server.version()?, bytes)))
}

/// Lets memory go that is kept for readers of a moment ago: every lookup helps with that.
pub(crate) fn settle(reader: &ShardReader) {
    let key = CustomerKey::of(0);
    for _ in 0..100_000 {
        reader.get(COLLECTION, key.hash, key.as_bytes(), |_| ());
    }
}

/// Bytes for each record.
struct Bytes {
    content: f64,
    table: f64,
    dictionary: f64,
    segments: f64,
}

impl Bytes {
    fn of(reader: &ShardReader, records: u64) -> Self {
        let stats = reader.stats(COLLECTION);
        Self {
            content: per(stats.content_bytes(), records),
            table: per(stats.table_bytes, records),
            dictionary: per(stats.dictionary_bytes, records),
            segments: per(reader.memory().arena_bytes, records),
        }
    }

    /// All in, with the content as it is or with the segments that hold it.
    fn with(&self, records: f64) -> f64 {
        records + self.table + self.dictionary
    }
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn per(bytes: u64, records: u64) -> f64 {
    bytes as f64 / records as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_loaded_and_at_the_limit() {
        let (mut feed, _) = Feed::load(20_000).unwrap();
        let mut report = Report::default();
        as_loaded(&feed.shard.reader(), 20_000, &mut report);
        at_limit(&mut feed, 20_000, &mut report).unwrap();
        let figures: Vec<_> = report.rows.iter().filter_map(|row| row.figure).collect();
        // Segments are whole mebibytes: 52 bytes a record each.
        assert!((80.0..200.0).contains(&figures[0]), "{report:?}");
        assert!(figures[1] > figures[0] && figures[1] < figures[0] + 300.0, "{report:?}");
    }

    #[test]
    fn redis_is_measured_or_said_to_be_missing() {
        let mut report = Report::default();
        in_redis(500, &mut report).unwrap();
        let row = &report.rows[0];
        match row.figure {
            // Less than the JSON would be a miscount; a few hundred rows carry an allocator's rounding.
            Some(bytes) => assert!((250.0..1000.0).contains(&bytes), "{row:?}"),
            None => assert_eq!(row.note, "redis-server is not installed"),
        }
    }
}
