//! What each core counts of the requests that it answers.
//!
//! Invariants: a meter is written by the one core that it belongs to and shares no cache line with another, so counting
//! costs a lookup two plain instructions on a line that the core owns. Whoever asks adds the cores up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use larder_types::error::ErrorCode;
use larder_types::prometheus::Text;

/// The statuses that lookups are answered with, as their labels; whatever else there is counts as the last.
const STATUSES: [&str; 11] = ["200", "304", "400", "401", "403", "404", "406", "412", "414", "503", "other"];

/// Counts of one core. 128 bytes are two lines, which processors fetch together.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct CoreMeter {
    /// By place in [`STATUSES`].
    lookups: [AtomicU64; STATUSES.len()],
    batches: AtomicU64,
    /// Batches that were not carried out, by place in [`ErrorCode::ALL`].
    refused_batches: Refusals,
    accepted_rows: AtomicU64,
    rejected_rows: AtomicU64,
}

#[derive(Debug)]
struct Refusals([AtomicU64; ErrorCode::ALL.len()]);

impl Default for Refusals {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl CoreMeter {
    /// Counts a lookup that was answered with this status.
    pub(crate) fn lookup(&self, status: u16) {
        let place = match status {
            200 => 0,
            304 => 1,
            400 => 2,
            401 => 3,
            403 => 4,
            404 => 5,
            406 => 6,
            412 => 7,
            414 => 8,
            503 => 9,
            _ => 10,
        };
        add(&self.lookups[place], 1);
    }

    /// Counts a batch that was answered, or refused with this code.
    pub(crate) fn batch(&self, refused: Option<ErrorCode>) {
        let place = refused.and_then(|code| ErrorCode::ALL.iter().position(|known| *known == code));
        add(place.map_or(&self.batches, |place| &self.refused_batches.0[place]), 1);
    }

    /// Counts the rows of a batch that was answered.
    pub(crate) fn rows(&self, accepted: u64, rejected: u64) {
        add(&self.accepted_rows, accepted);
        add(&self.rejected_rows, rejected);
    }
}

/// Adds to a counter that nobody else writes.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed) + more, Relaxed);
}

/// Writes what all cores have counted.
pub(super) fn write(text: &mut Text, meters: &[Arc<CoreMeter>], connections: usize) {
    let sum = |of: &dyn Fn(&CoreMeter) -> &AtomicU64| meters.iter().map(|meter| of(meter).load(Relaxed)).sum::<u64>();
    let mut lookups = text.counter("larder_lookups_total", "Lookups by the status of their answer.");
    for (place, status) in STATUSES.iter().enumerate() {
        lookups.sample(&[("status", status)], sum(&|meter| &meter.lookups[place]));
    }
    let mut batches = text.counter(
        "larder_batches_total",
        "Batches by outcome: applied, now or at an earlier delivery, or the code of the refusal.",
    );
    batches.sample(&[("outcome", "applied")], sum(&|meter| &meter.batches));
    for (place, code) in ErrorCode::ALL.iter().enumerate() {
        let refused = sum(&|meter| &meter.refused_batches.0[place]);
        // Most codes are never the answer to a batch.
        if refused > 0 {
            batches.sample(&[("outcome", code.as_str())], refused);
        }
    }
    let mut rows = text.counter("larder_batch_rows_total", "Rows of batches that were answered, by what came of them.");
    rows.sample(&[("result", "accepted")], sum(&|meter| &meter.accepted_rows));
    rows.sample(&[("result", "rejected")], sum(&|meter| &meter.rejected_rows));
    text.gauge("larder_connections", "Open connections of applications and loaders.").value(connections);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_added_up() {
        let meters = [Arc::<CoreMeter>::default(), Arc::default()];
        for status in [200, 200, 304, 404, 418] {
            meters[0].lookup(status);
        }
        meters[1].lookup(200);
        meters[1].batch(None);
        meters[0].batch(Some(ErrorCode::SeqReused));
        meters[1].batch(Some(ErrorCode::SeqReused));
        meters[1].rows(5, 2);
        let mut text = Text::default();
        write(&mut text, &meters, 3);
        let text = text.finish();
        for line in [
            "larder_lookups_total{status=\"200\"} 3",
            "larder_lookups_total{status=\"304\"} 1",
            "larder_lookups_total{status=\"404\"} 1",
            "larder_lookups_total{status=\"503\"} 0",
            "larder_lookups_total{status=\"other\"} 1",
            "larder_batches_total{outcome=\"applied\"} 1",
            "larder_batches_total{outcome=\"seq_reused\"} 2",
            "larder_batch_rows_total{result=\"accepted\"} 5",
            "larder_batch_rows_total{result=\"rejected\"} 2",
            "larder_connections 3",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in {text}");
        }
        assert_eq!(text.matches("larder_batches_total{").count(), 2);
    }

    #[test]
    fn each_status_has_its_label() {
        for (place, label) in STATUSES.iter().enumerate() {
            let meter = CoreMeter::default();
            meter.lookup(label.parse().unwrap_or(999));
            assert_eq!(meter.lookups[place].load(Relaxed), 1, "{label}");
        }
    }

    #[test]
    fn meters_share_no_cache_line() {
        assert_eq!((align_of::<CoreMeter>(), size_of::<CoreMeter>() % 128), (128, 0));
    }
}
