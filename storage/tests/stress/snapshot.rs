//! Snapshots: taken from the shard in the writer's thread, encoded and checked in another while the writer goes on.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use larder_storage::disk::FakeDisk;
use larder_storage::shard::{FrozenShard, Origin, Shard};
use larder_storage::snapshot::SnapshotStore;
use larder_types::ids::GroupId;

use crate::content::{key, names};
use crate::history::Cells;
use crate::reader::look;
use crate::{COLLECTION, OPTIONS};

/// Threads that read a snapshot.
const THREADS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

/// Restores a frozen shard's content into a shard, by way of a file.
pub(crate) fn restore(frozen: &FrozenShard, shard: &mut Shard) {
    let group = GroupId(1);
    let store = SnapshotStore::open(Arc::new(FakeDisk::new()), Path::new("snapshots")).expect("an empty disk");
    store.write(group, frozen.applied(), b"", &frozen.meta(), frozen.blocks()).expect("a disk without faults");
    let snapshot = store.load(group).expect("our own snapshot").expect("a snapshot was written");
    let restored = shard.read(&snapshot, Origin::Peer, THREADS).expect("our own snapshot");
    shard.install(restored);
}

/// Makes another shard of a frozen one, and checks that it holds what the first held when it was frozen.
pub(crate) fn check(frozen: &FrozenShard, held: &[Cells]) {
    let mut copy = Shard::new(OPTIONS);
    restore(frozen, &mut copy);
    let (reader, names) = (copy.reader(), names());
    assert_eq!(reader.applied(), frozen.applied());
    for (number, cells) in (0..).zip(held) {
        let (key, hash) = key(number);
        let found = reader.get(COLLECTION, hash, key.as_bytes(), |view| look(&names, number, &view).1);
        let held = cells.map(|cell| cell.present.then_some(cell.serial));
        assert_eq!(found.unwrap_or_default(), held, "key {number} of a snapshot");
    }
}
