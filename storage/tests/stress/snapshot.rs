//! Snapshots: taken from the shard in the writer's thread, encoded and checked in another while the writer goes on.

use larder_storage::shard::{FrozenShard, Shard};

use crate::content::{key, names};
use crate::history::Cells;
use crate::reader::look;
use crate::{COLLECTION, OPTIONS};

/// Restores a frozen shard's content into a shard.
pub(crate) fn restore(frozen: &FrozenShard, shard: &mut Shard) {
    let blocks: Vec<_> = frozen.blocks().collect();
    shard.restore(&frozen.meta(), &mut blocks.iter().map(Vec::as_slice)).expect("our own snapshot");
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
