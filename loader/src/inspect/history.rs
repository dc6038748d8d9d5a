//! What earlier runs did, as it is exported: one row for each run and destination.

use arrow_schema::Field;
use serde::Serialize;

use super::export::{Entry, number, text, time};
use crate::run::{DeliveryEntry, HistoryEntry, RejectedRow, RowCounts};
use crate::state::requests::RequestEntry;

/// A delivery with its run.
#[derive(Debug, Serialize)]
pub struct HistoryRow {
    run: String,
    sync: String,
    destination: Option<String>,
    kind: String,
    trigger: String,
    state: String,
    reason: Option<String>,
    error: Option<String>,
    started_at: String,
    ended_at: Option<String>,
    #[serde(flatten)]
    rows: RowCounts,
    sent: u64,
    acknowledged: u64,
    swept: u64,
    batches: u64,
    bytes: u64,
}

impl HistoryRow {
    /// A run that has no delivery: it failed before it could begin.
    fn of_run(run: &HistoryEntry) -> Self {
        Self {
            run: run.id.clone(),
            sync: run.sync.clone(),
            destination: None,
            kind: run.kind.clone(),
            trigger: run.trigger.clone(),
            state: run.state.clone(),
            reason: run.reason.clone(),
            error: run.error.clone(),
            started_at: run.started_at.clone(),
            ended_at: run.ended_at.clone(),
            rows: run.rows,
            sent: run.sent,
            acknowledged: run.acknowledged,
            swept: run.swept,
            batches: run.batches,
            bytes: run.bytes,
        }
    }

    fn of_delivery(run: &HistoryEntry, delivery: &DeliveryEntry) -> Self {
        Self {
            destination: Some(delivery.destination.clone()),
            state: delivery.state.clone(),
            reason: delivery.reason.clone(),
            error: delivery.error.clone(),
            rows: delivery.rows,
            sent: delivery.sent,
            acknowledged: delivery.acknowledged,
            swept: delivery.swept,
            batches: delivery.batches,
            bytes: delivery.bytes,
            ..Self::of_run(run)
        }
    }
}

impl Entry for HistoryEntry {
    type Flat = HistoryRow;

    fn columns() -> Vec<Field> {
        let texts = ["run", "sync", "destination", "kind", "trigger", "state", "reason", "error"].map(text);
        let times = ["started_at", "ended_at"].map(time);
        let counts = ["read", "added", "changed", "removed", "unchanged", "rejected"].map(number);
        let sums = ["sent", "acknowledged", "swept", "batches", "bytes"].map(number);
        texts.into_iter().chain(times).chain(counts).chain(sums).collect()
    }

    fn flatten(&self, into: &mut Vec<HistoryRow>) {
        if self.deliveries.is_empty() {
            into.push(HistoryRow::of_run(self));
        }
        into.extend(self.deliveries.iter().map(|delivery| HistoryRow::of_delivery(self, delivery)));
    }
}

impl Entry for RequestEntry {
    type Flat = Self;

    fn columns() -> Vec<Field> {
        let mut columns = vec![text("run"), text("destination"), number("seq"), number("attempt"), time("at")];
        columns.extend([number("latency_us"), text("op"), number("rows"), number("bytes"), number("status")]);
        columns.extend([text("code"), text("error"), number("rejected")]);
        columns
    }

    fn flatten(&self, into: &mut Vec<Self>) {
        into.push(self.clone());
    }
}

impl Entry for RejectedRow {
    type Flat = Self;

    fn columns() -> Vec<Field> {
        vec![text("destination"), text("key"), number("row"), text("field"), text("code"), text("message")]
    }

    fn flatten(&self, into: &mut Vec<Self>) {
        into.push(self.clone());
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::Array as _;
    use arrow_array::cast::AsArray as _;
    use arrow_array::types::{Int64Type, TimestampMicrosecondType};
    use bytes::Bytes;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::super::export::{Format, write};
    use super::*;

    fn run() -> HistoryEntry {
        let delivery = |destination: &str, error: Option<&str>| DeliveryEntry {
            destination: destination.into(),
            state: "failed".into(),
            reason: None,
            error: error.map(str::to_owned),
            rows: RowCounts { read: 9, added: 3, ..RowCounts::default() },
            sent: 3,
            acknowledged: 2,
            swept: 0,
            batches: 1,
            bytes: 77,
        };
        HistoryEntry {
            id: "1".into(),
            sync: "s".into(),
            started_at: "2026-11-24T17:20:28.725679Z".into(),
            deliveries: vec![delivery("eu", None), delivery("us", Some("away"))],
            ..HistoryEntry::default()
        }
    }

    #[test]
    fn parquet_has_a_row_for_each_destination() {
        let mut file = Vec::new();
        let failed = HistoryEntry { deliveries: Vec::new(), ..run() };
        write(&[run(), failed], Format::Parquet, &mut file, |_| String::new()).unwrap();
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(file)).unwrap().build().unwrap();
        let batch = reader.next().unwrap().unwrap();
        assert_eq!(batch.num_rows(), 3);
        let column = |name: &str| batch.column_by_name(name).unwrap();
        let destinations: Vec<_> = column("destination").as_string::<i32>().iter().collect();
        assert_eq!(destinations, [Some("eu"), Some("us"), None]);
        assert_eq!(column("bytes").as_primitive::<Int64Type>().value(1), 77);
        let started = column("started_at").as_primitive::<TimestampMicrosecondType>();
        assert_eq!(started.value(0), 1_795_540_828_725_679);
        assert!(column("ended_at").is_null(0));
        assert_eq!(column("error").as_string::<i32>().value(1), "away");
    }

    #[test]
    fn nothing_is_a_file_too() {
        let mut file = Vec::new();
        write::<RequestEntry>(&[], Format::Parquet, &mut file, |_| String::new()).unwrap();
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(file)).unwrap().build().unwrap();
        assert!(reader.next().is_none());
        let mut text = Vec::new();
        write::<RequestEntry>(&[], Format::Json, &mut text, |_| String::new()).unwrap();
        assert_eq!(text, b"[]\n");
    }

    #[test]
    fn text_has_a_line_or_an_object_for_each_entry() {
        for (format, expected) in [(Format::Table, "1\n1\n"), (Format::Ndjson, "{")] {
            let mut text = Vec::new();
            write(&[run(), run()], format, &mut text, |run| run.id.clone()).unwrap();
            let text = String::from_utf8(text).unwrap();
            assert!(text.starts_with(expected) && text.lines().count() == 2, "{text}");
        }
    }
}
