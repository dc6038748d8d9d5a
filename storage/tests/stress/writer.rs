//! The writer: random entries, frozen shards and restores, all of them noted in the history.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use larder_storage::command::{
    Outcome, PatchEncoder, PatchOrigin, clear_sync, drop_collection, drop_records, fence, sweep,
};
use larder_storage::shard::{Shard, ShardReader};
use larder_types::ids::{Generation, SyncSlot};
use larder_types::patch::ExitMode;

use crate::content::{KEYS, SLOTS, fields, key, slot_at};
use crate::history::{Cell, Cells, History};
use crate::{COLLECTION, Random, snapshot};

/// Patches in a batch at most.
const BATCH: u64 = 400;
/// Bytes of an entry, so that large batches have several.
const ENTRY_BYTES: usize = 16 * 1024;

/// Bytes of a table that never split a page.
const PAGE_BYTES: u64 = 32 * 1024;

/// What is known of a sync.
#[derive(Clone, Copy)]
struct Run {
    generation: Generation,
    seq: u32,
}

pub(crate) struct Writer {
    shard: Shard,
    history: Arc<History>,
    random: Random,
    index: u64,
    serial: u64,
    runs: [Run; SLOTS as usize],
    /// What each key holds, and which generation last wrote it.
    held: Vec<Cells>,
    written: Vec<[Generation; SLOTS as usize]>,
    /// The thread that is busy with a frozen shard.
    busy: Option<JoinHandle<()>>,
    snapshots: u64,
    /// The most bytes that the table has taken, and the pools of texts.
    most: (u64, u64),
}

impl Writer {
    /// A writer whose shard knows the collection.
    pub(crate) fn new(shard: Shard, history: Arc<History>, seed: u64) -> Self {
        let mut writer = Self {
            shard,
            history,
            random: Random(seed),
            index: 0,
            serial: 0,
            runs: [Run { generation: Generation(0), seq: 0 }; SLOTS as usize],
            held: (0..KEYS).map(|_| Cells::default()).collect(),
            written: (0..KEYS).map(|_| [Generation(0); SLOTS as usize]).collect(),
            busy: None,
            snapshots: 0,
            most: (0, 0),
        };
        (0..usize::from(SLOTS)).for_each(|slot| writer.open(slot));
        writer
    }

    pub(crate) fn reader(&self) -> ShardReader {
        self.shard.reader()
    }

    /// One thing or another. Batches are what makes tables grow; the other things are rare enough to let them.
    pub(crate) fn step(&mut self) {
        let slot = usize::try_from(self.random.below(u64::from(SLOTS))).expect("a slot");
        match self.random.below(100) {
            0..76 => self.batch(slot),
            76..82 => self.open(slot),
            82..86 => self.clear(slot),
            86..88 => self.sweep(slot, ExitMode::Clear),
            88..90 => self.sweep(slot, ExitMode::Delete),
            90 => self.drop_collection(),
            91..97 => self.freeze(),
            _ => self.restart(),
        }
        let stats = self.reader().stats(COLLECTION);
        self.most = (self.most.0.max(stats.table_bytes), self.most.1.max(stats.dictionary_bytes));
    }

    /// Ends with the last snapshot. Returns how many there were. Makes sure that there was something to watch: pages
    /// that split, and texts that records share.
    pub(crate) fn finish(mut self) -> u64 {
        if let Some(busy) = self.busy.take() {
            busy.join().expect("a snapshot was not what the shard had been");
        }
        self.freeze();
        if let Some(busy) = self.busy.take() {
            busy.join().expect("the last snapshot was not what the shard had been");
        }
        assert!(self.most.0 > 3 * PAGE_BYTES && self.most.1 > 0, "too little has happened: {:?}", self.most);
        self.snapshots
    }

    /// Applies entries that leave behind what `after` says of the keys that they touch.
    fn apply(&mut self, entries: &[Bytes], after: &[(u64, Cells)]) {
        after.iter().for_each(|(number, cells)| self.history.begin(*number, *cells));
        for entry in entries {
            self.index += 1;
            let outcome = self.shard.apply(self.index, entry).expect("our own entry");
            assert!(
                !matches!(outcome, Outcome::Stale { .. } | Outcome::OtherBody | Outcome::OutOfOrder),
                "{outcome:?}"
            );
        }
        after.iter().for_each(|(number, cells)| self.history.end(*number, *cells));
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn batch(&mut self, slot: usize) {
        let Run { generation, seq } = self.runs[slot];
        self.runs[slot].seq += 1;
        let origin = PatchOrigin { collection: COLLECTION, slot: slot_at(slot), generation, seq, at: 0 };
        let mut encoder = PatchEncoder::new(origin, ENTRY_BYTES);
        let (first, stride) = (self.random.below(KEYS), 1 + self.random.below(5));
        let mut touched = Vec::new();
        for step in 0..=self.random.below(BATCH) {
            let number = (first + step * stride) % KEYS;
            let serial = self.next_serial();
            let (key, _) = key(number);
            let held = &mut self.held[usize::try_from(number).expect("a position")];
            match self.random.below(16) {
                0 => {
                    encoder.delete(&key);
                    held.fill(Cell { serial, present: false });
                }
                1 => {
                    encoder.clear(&key);
                    held[slot] = Cell { serial, present: false };
                }
                _ => {
                    encoder.upsert(&key, &fields(number, slot_at(slot), serial));
                    held[slot] = Cell { serial, present: true };
                    self.written[usize::try_from(number).expect("a position")][slot] = generation;
                }
            }
            touched.push((number, *held));
        }
        self.apply(&encoder.finish(), &touched);
    }

    /// Opens the next generation of a sync.
    fn open(&mut self, slot: usize) {
        let generation = Generation(self.runs[slot].generation.0 + 1);
        self.runs[slot] = Run { generation, seq: 0 };
        self.apply(&[fence(COLLECTION, slot_at(slot), generation)], &[]);
    }

    /// Applies entries that take from the keys chosen: the fields of one sync, or of all.
    fn take(&mut self, entries: &[Bytes], slot: Option<usize>, chosen: impl Fn(&Cells, &[Generation]) -> bool) {
        let serial = self.next_serial();
        let mut touched = Vec::new();
        for ((number, held), written) in (0..).zip(&mut self.held).zip(&self.written) {
            if chosen(held, written) {
                let slots = slot.map_or(0..usize::from(SLOTS), |slot| slot..slot + 1);
                held[slots].fill(Cell { serial, present: false });
                touched.push((number, *held));
            }
        }
        self.apply(entries, &touched);
    }

    fn clear(&mut self, slot: usize) {
        self.take(&[clear_sync(COLLECTION, slot_at(slot))], Some(slot), |held, _| held[slot].present);
    }

    fn sweep(&mut self, slot: usize, mode: ExitMode) {
        let generation = self.runs[slot].generation;
        let entries = [0, 1, 2].map(|chunk| sweep(COLLECTION, slot_at(slot), generation, mode, (chunk, 3)));
        let whole = mode == ExitMode::Delete;
        self.take(&entries, (!whole).then_some(slot), |held, written| held[slot].present && written[slot] < generation);
    }

    fn drop_collection(&mut self) {
        let records = [0, 1].map(|chunk| drop_records(COLLECTION, (chunk, 2)));
        self.take(&[&records[..], &[drop_collection(COLLECTION)]].concat(), None, |_, _| true);
        for (slot, run) in (0..).zip(&mut self.runs) {
            // The shard has forgotten the runs.
            run.seq = 0;
            self.index += 1;
            self.shard.apply(self.index, &fence(COLLECTION, SyncSlot(slot), run.generation)).expect("our own entry");
        }
    }

    /// Hands a frozen shard to another thread, if the last one was done with.
    fn freeze(&mut self) {
        if self.busy.as_ref().is_some_and(|busy| !busy.is_finished()) {
            return;
        }
        if let Some(busy) = self.busy.take() {
            busy.join().expect("a snapshot was not what the shard had been");
        }
        let (frozen, held) = (self.shard.freeze(), self.held.clone());
        self.busy = Some(thread::spawn(move || snapshot::check(&frozen, &held)));
        self.snapshots += 1;
    }

    /// Puts the shard's own snapshot in its place.
    fn restart(&mut self) {
        let frozen = self.shard.freeze();
        snapshot::restore(&frozen, &mut self.shard);
    }
}
