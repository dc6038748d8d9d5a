//! A snapshot that arrives from elsewhere, piece by piece.
//!
//! Invariant: what arrives has a name that only an interrupted transfer leaves behind until every byte of it was checked
//! and is on disk; only then can it take the place of the group's own snapshot, by one rename.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use larder_types::ids::GroupId;

use super::{PARTIAL, Snapshot, SnapshotError, SnapshotStore, name};
use crate::disk::DiskFile;

/// A snapshot of which a part has arrived.
pub struct Incoming {
    arrived: Arrived,
    file: Box<dyn DiskFile>,
    length: u64,
    received: u64,
}

/// A snapshot that has arrived whole. Its file goes when this is dropped, unless it was installed.
pub struct Arrived {
    store: SnapshotStore,
    path: PathBuf,
    group: GroupId,
    index: u64,
}

impl SnapshotStore {
    /// Begins to receive a group's snapshot of this position and length in bytes.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn receive(&self, group: GroupId, index: u64, length: u64) -> io::Result<Incoming> {
        // A name that no other has: whoever still holds one that was given up removes its file some time later.
        let number = self.arrivals.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("incoming-{number}-{}", name(group, index, PARTIAL)));
        let file = self.disk.create(&path)?;
        let arrived = Arrived { store: self.clone(), path, group, index };
        Ok(Incoming { arrived, file, length, received: 0 })
    }

    /// Removes the snapshots of a group. On return that is on disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn remove(&self, group: GroupId) -> io::Result<()> {
        // The newest last: a crash in between leaves no older one to be taken for it.
        for index in self.indexes(group)? {
            self.disk.remove(&self.path(group, index))?;
        }
        self.disk.sync_dir(&self.dir)
    }
}

impl Incoming {
    /// Bytes that have arrived: the offset of the next piece.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// When it does not follow the one before, is more than was announced, or the disk fails.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset.saturating_add(bytes.len() as u64);
        if offset != self.received || end > self.length {
            let text = format!("the piece from {offset} to {end} does not follow {} of {}", self.received, self.length);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.file.write_at(offset, bytes)?;
        self.received = end;
        Ok(())
    }

    /// Checks all that has arrived and puts it on disk.
    ///
    /// # Errors
    /// When something is missing or damaged, or the disk fails. After a failed sync the node must stop.
    pub fn finish(self) -> Result<Arrived, SnapshotError> {
        let Self { arrived, file, length, received } = self;
        if received != length {
            return Err(SnapshotError::Damaged(format!("{received} of its {length} bytes have arrived")));
        }
        file.sync_data()?;
        let snapshot = arrived.open()?;
        (0..snapshot.block_count()).try_for_each(|number| snapshot.block(number).map(drop))?;
        Ok(arrived)
    }
}

impl Arrived {
    /// Opens it.
    ///
    /// # Errors
    /// When the disk fails or the file is damaged.
    pub fn open(&self) -> Result<Snapshot, SnapshotError> {
        let bytes = self.store.disk.read(&self.path)?;
        Snapshot::verify(self.path.clone(), bytes, self.group, self.index)
    }

    /// Makes it the group's snapshot. On return that is on disk, and older ones are gone.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn install(&self) -> Result<(), SnapshotError> {
        self.store.show(&self.path, self.group, self.index)
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        // Only to give the space back: opening the directory would remove it too. It has another name if it was
        // installed.
        let _ = self.store.disk.remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::disk::FakeDisk;

    const GROUP: GroupId = GroupId(3);

    fn store(disk: &FakeDisk) -> SnapshotStore {
        SnapshotStore::open(Arc::new(disk.clone()), Path::new("snapshots")).unwrap()
    }

    /// The bytes of a snapshot with this position.
    fn bytes(index: u64) -> Vec<u8> {
        let source = store(&FakeDisk::new());
        let blocks = [vec![7; 5000], vec![8; 100]];
        source.write(GROUP, index, b"head", b"meta", blocks.into_iter().map(Cow::Owned)).unwrap();
        source.load(GROUP).unwrap().unwrap().raw().to_vec()
    }

    fn send(store: &SnapshotStore, index: u64, bytes: &[u8]) -> Incoming {
        let mut incoming = store.receive(GROUP, index, bytes.len() as u64).unwrap();
        for piece in bytes.chunks(1000) {
            incoming.write(incoming.received(), piece).unwrap();
        }
        incoming
    }

    #[test]
    fn what_arrives_is_the_groups_snapshot_only_when_it_is_installed() {
        let disk = FakeDisk::new();
        let store = store(&disk);
        let sent = bytes(9);
        let arrived = send(&store, 9, &sent).finish().unwrap();
        assert!(store.load(GROUP).unwrap().is_none());
        assert_eq!(arrived.open().unwrap().head(), b"head");
        arrived.install().unwrap();
        drop(arrived);
        let after = SnapshotStore::open(Arc::new(disk.power_cut(1)), Path::new("snapshots")).unwrap();
        assert_eq!(after.load(GROUP).unwrap().unwrap().raw(), sent);
        store.remove(GROUP).unwrap();
        assert!(store.load(GROUP).unwrap().is_none());
    }

    #[test]
    fn what_is_dropped_leaves_nothing() {
        let disk = FakeDisk::new();
        let store = store(&disk);
        drop(send(&store, 9, &bytes(9)));
        drop(send(&store, 9, &bytes(9)).finish().unwrap());
        assert_eq!(crate::disk::Disk::list(&disk, Path::new("snapshots")).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_was_given_up_takes_nothing_away_from_what_came_after_it() {
        let store = store(&FakeDisk::new());
        let sent = bytes(9);
        let given_up = send(&store, 9, &sent);
        let incoming = send(&store, 9, &sent);
        drop(given_up);
        incoming.finish().unwrap().install().unwrap();
        assert_eq!(store.load(GROUP).unwrap().unwrap().raw(), sent);
    }

    #[test]
    fn gaps_and_more_than_was_announced_are_refused() {
        let store = store(&FakeDisk::new());
        let mut incoming = store.receive(GROUP, 9, 10).unwrap();
        incoming.write(0, &[1; 4]).unwrap();
        assert!(incoming.write(5, &[1]).is_err());
        assert!(incoming.write(u64::MAX, &[1]).is_err());
        assert!(incoming.write(0, &[1]).is_err());
        assert!(incoming.write(4, &[1; 7]).is_err());
        assert_eq!(incoming.received(), 4);
        assert!(matches!(incoming.finish(), Err(SnapshotError::Damaged(_))));
    }

    #[test]
    fn every_damaged_byte_is_found_before_it_is_installed() {
        let store = store(&FakeDisk::new());
        let sent = bytes(9);
        for at in (0..sent.len()).step_by(61) {
            let mut damaged = sent.clone();
            damaged[at] ^= 0x10;
            assert!(send(&store, 9, &damaged).finish().is_err(), "byte {at}");
        }
        // Another group's, or another position's.
        assert!(send(&store, 8, &sent).finish().is_err());
    }
}
