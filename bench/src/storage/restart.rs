//! Restoring a shard from its snapshot, beside just reading the file from its beginning to its end.
//!
//! Both begin with nothing of the file in memory, and take turns. Times are of the clock on the wall: the disk counts.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use larder_storage::disk::RealDisk;
use larder_storage::shard::{Origin, Shard, ShardOptions};
use larder_storage::snapshot::SnapshotStore;
use larder_types::ids::{GroupId, ShardId};
use rustix::fs::{Advice, fadvise};

use super::SEED;
use super::feed::{COLLECTION, Feed};
use super::report::{Goal, Report, Row, Unit};
use super::times::{least, median};

/// How often the file is read and the shard restored.
const ROUNDS: usize = 5;
const GROUP: GroupId = GroupId(1);
/// Bytes that the plain reader asks for at once.
const CHUNK: usize = 1 << 20;

/// Writes a snapshot of the shard below `folder`, drops the shard, and measures how long it takes to come back.
pub(crate) fn measure(mut feed: Feed, customers: u64, folder: &Path, report: &mut Report) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir_in(folder).context("cannot make a scratch folder")?;
    let store = SnapshotStore::open(Arc::new(RealDisk::open(scratch.path())?), Path::new("snapshots"))?;
    let frozen = feed.shard.freeze();
    store.write(GROUP, frozen.applied(), b"", &frozen.meta(), frozen.blocks())?;
    drop(frozen);
    drop(feed);
    let path = only_file(&scratch.path().join("snapshots"))?;
    let (mut reading, mut restoring, mut bytes) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        forget(&path)?;
        let start = Instant::now();
        bytes = read(&path)?;
        reading.push(start.elapsed().as_secs_f64());
        forget(&path)?;
        restoring.push(restore(&store, customers)?);
    }
    let ratios: Vec<f64> = restoring.iter().zip(&reading).map(|(restore, read)| restore / read).collect();
    let note = format!(
        "{:.2} s to restore and {:.2} s to read {:.0} MB, {customers} records, the least of {ROUNDS}; median of ratios {:.3}",
        least(&restoring),
        least(&reading),
        megabytes(bytes),
        median(&ratios)
    );
    let figure = least(&restoring) / least(&reading);
    report.rows.push(Row::judged(
        "restart / sequential read of the file",
        figure,
        Unit::Times,
        Goal::AtMost(2.5),
        note,
    ));
    Ok(())
}

/// Seconds until a shard is there that answers lookups. All cores help, as when a node of one shard starts.
fn restore(store: &SnapshotStore, customers: u64) -> anyhow::Result<f64> {
    let threads = available_parallelism()?;
    let start = Instant::now();
    let snapshot = store.load(GROUP)?.context("the snapshot is gone")?;
    let mut shard = Shard::new(ShardOptions { id: ShardId(0), hash_seed: SEED });
    let restored = shard.read(&snapshot, Origin::Own, threads)?;
    shard.install(restored);
    let seconds = start.elapsed().as_secs_f64();
    ensure!(shard.reader().stats(COLLECTION).records == customers, "not every record came back");
    Ok(seconds)
}

fn read(path: &Path) -> anyhow::Result<u64> {
    let (mut file, mut buffer, mut bytes) = (File::open(path)?, vec![0; CHUNK], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(bytes),
            count => bytes += count as u64,
        }
    }
}

/// Lets the kernel drop what it keeps of the file. Nobody may have it mapped.
fn forget(path: &Path) -> anyhow::Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}

fn only_file(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut files = std::fs::read_dir(folder)?;
    let file = files.next().context("no snapshot was written")??;
    ensure!(files.next().is_none(), "more than a snapshot was written");
    Ok(file.path())
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_comes_back_from_the_file_that_was_read() {
        let (feed, _) = Feed::load(3000).unwrap();
        let mut report = Report::default();
        let folder = tempfile::tempdir().unwrap();
        measure(feed, 3000, folder.path(), &mut report).unwrap();
        let row = &report.rows[0];
        assert!(row.note.contains("3000 records"), "{row:?}");
        assert!(row.figure.is_some_and(|ratio| ratio > 0.0), "{row:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
