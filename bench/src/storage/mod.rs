//! The storage engine alone, in this process, against what it is meant to reach: bytes for each record, lookups beside
//! hash tables of the same rows, encoding beside serde_json, patches, freezes and restarts.
//!
//! Contestants take turns, window by window, so that whatever else the machine does meets them alike. Unless a row says
//! otherwise, times are processor time of one thread, and a ratio is of the least times over all windows: compare
//! columns, not runs.

mod beside;
pub(crate) mod customer;
mod encoding;
mod feed;
mod freezing;
mod lookups;
mod memory;
mod replacement;
pub(crate) mod report;
mod restart;
pub(crate) mod times;
mod updates;
mod zipf;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::ensure;

use self::feed::Feed;
use self::report::Report;
use self::updates::Updates;

/// The seed of all that is random, and of the placement hash.
const SEED: u64 = 7;

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Records, in all parts
    #[arg(long, default_value_t = 300_000)]
    records: u64,
    /// The sizes that the goals are for: 10 million records for freezes and restarts, 3 million for all else. Takes
    /// some minutes and 5 GiB of memory
    #[arg(long, conflicts_with = "records")]
    full: bool,
    /// Measure these parts only
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Windows for each contestant
    #[arg(long, default_value_t = 40)]
    windows: usize,
    /// Lookups in a window
    #[arg(long, default_value_t = 20_000)]
    reads: usize,
    /// Folder on the disk that restarts are measured on; by default the one for temporary files
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Show the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Bytes a record, and those of Redis
    Memory,
    /// Single lookups and batches beside hash tables
    Lookups,
    /// Records to JSON beside serde_json
    Encoding,
    /// A reader beside a writer
    Writer,
    /// Patches for each second of processor time
    Apply,
    /// What the arena holds when records are replaced
    Arena,
    /// Freezing for a snapshot
    Freeze,
    /// Coming back from a snapshot
    Restart,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Windows {
    /// Windows for each contestant.
    count: usize,
    /// Lookups in each.
    reads: usize,
}

/// Measures.
///
/// # Errors
/// When a record cannot be made or found, a contestant fails, or the disk does.
pub(crate) fn measure(options: &Options) -> anyhow::Result<Report> {
    ensure!(options.records > 0 && options.windows > 0 && options.reads > 0, "there is nothing to measure");
    let (records, many) = if options.full { (3_000_000, 10_000_000) } else { (options.records, options.records) };
    ensure!(many <= customer::MAX_CUSTOMERS, "{} records are measured at most", customer::MAX_CUSTOMERS);
    let mut report = Report { full: options.full, ..Report::default() };
    if options.any(&[Part::Memory, Part::Lookups, Part::Encoding, Part::Writer, Part::Apply]) {
        measure_customers(options, records, &mut report)?;
    }
    if options.any(&[Part::Arena]) {
        say("replacing records in 12 rounds");
        replacement::measure(records, &mut report)?;
    }
    if options.any(&[Part::Freeze, Part::Restart]) {
        measure_snapshots(options, many, &mut report)?;
    }
    Ok(report)
}

/// One shard, from loading to its state at the limit.
fn measure_customers(options: &Options, records: u64, report: &mut Report) -> anyhow::Result<()> {
    let windows = options.windows();
    say(&format!("loading {records} records"));
    let (mut feed, loading) = Feed::load(records)?;
    let reader = feed.shard.reader();
    if options.any(&[Part::Memory]) {
        memory::as_loaded(&reader, records, report);
    }
    if options.any(&[Part::Lookups]) {
        say("looking records up beside hash tables of the same rows");
        lookups::measure(reader.clone(), records, windows, report)?;
    }
    if options.any(&[Part::Encoding]) {
        say("encoding");
        encoding::measure(&reader, records, windows, report)?;
    }
    if options.any(&[Part::Writer]) {
        say("reading beside a writer");
        Updates::new(&mut feed, records).measure_reader(windows, report)?;
    }
    if options.any(&[Part::Apply]) {
        say("updating");
        report.rows.push(updates::row("apply, first load", &loading));
        let mut updates = Updates::new(&mut feed, records);
        report.rows.push(updates::row("apply, updates of 15 fields", &updates.whole(records)?));
        report.rows.push(updates::row("apply, updates of 3 of 15 fields", &updates.few(records)?));
    }
    if options.any(&[Part::Memory]) {
        say("updating until the arena is as full as it gets, then filling Redis");
        memory::at_limit(&mut feed, records, report)?;
        drop((feed, reader));
        memory::in_redis(records, report)?;
    }
    Ok(())
}

fn measure_snapshots(options: &Options, records: u64, report: &mut Report) -> anyhow::Result<()> {
    say(&format!("loading {records} records"));
    let (mut feed, _) = Feed::load(records)?;
    if options.any(&[Part::Freeze]) {
        say("freezing");
        freezing::measure(&mut feed, records, options.windows(), report)?;
    }
    if options.any(&[Part::Restart]) {
        say("restarting");
        let folder = options.folder.clone().unwrap_or_else(std::env::temp_dir);
        restart::measure(feed, records, &folder, report)?;
    }
    Ok(())
}

/// Says on standard error what takes so long.
fn say(what: &str) {
    // Nobody needs it to go on.
    let _ = writeln!(std::io::stderr(), "{what} ...");
}

impl Options {
    /// Whether any of these parts is asked for.
    fn any(&self, parts: &[Part]) -> bool {
        self.only.is_empty() || parts.iter().any(|part| self.only.contains(part))
    }

    fn windows(&self) -> Windows {
        Windows { count: self.windows, reads: self.reads }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(only: Vec<Part>) -> Options {
        Options { records: 600, full: false, only, windows: 2, reads: 50, folder: None, json: false }
    }

    #[test]
    fn every_goal_has_its_row() {
        let report = measure(&options(Vec::new())).unwrap();
        let goals: Vec<_> = report.rows.iter().filter(|row| row.goal.is_some()).map(|row| row.name).collect();
        let expected = [
            "bytes a record, as loaded",
            "lookup / bare hashbrown, uniform",
            "lookup / bare hashbrown, zipf",
            "lookup / 64 x RwLock<hashbrown>, uniform",
            "lookup / 64 x RwLock<hashbrown>, zipf",
            "lookup / papaya, uniform",
            "lookup / papaya, zipf",
            "one by one / batch of 16, uniform",
            "one by one / batch of 16, zipf",
            "one by one / batch of 16, found only, uniform",
            "one by one / batch of 16, found only, zipf",
            "encode 15 fields / serde_json",
            "encode 3 of 15 fields / serde_json",
            "p99 of a lookup beside a writer / quiet",
            "apply, first load",
            "apply, updates of 15 fields",
            "apply, updates of 3 of 15 fields",
            "bytes a record, at the limit",
            "arena / live bytes, after 12 rounds of replacing",
            "freeze, writer time",
            "p99 of a lookup beside freezes / quiet",
            "restart / sequential read of the file",
        ];
        assert_eq!(goals, expected);
        let text = report.to_string();
        for name in ["Redis HSET", "hashbrown without synchronisation", "papaya", "serde_json on a struct"] {
            assert!(text.contains(name), "{text}");
        }
    }

    #[test]
    fn parts_are_measured_alone() {
        let report = measure(&options(vec![Part::Encoding, Part::Arena])).unwrap();
        assert_eq!(report.rows.len(), 3, "{report:?}");
    }

    #[test]
    fn nothing_is_not_measured() {
        assert!(measure(&Options { windows: 0, ..options(Vec::new()) }).is_err());
        assert!(measure(&Options { records: 100_000_000, ..options(Vec::new()) }).is_err());
    }
}
