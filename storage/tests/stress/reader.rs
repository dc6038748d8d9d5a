//! The readers.
//!
//! Every reader checks that what it finds is a whole record of the key that it looks for, and that neither the record's
//! version nor a sync's serial in it ever goes back. A reader with a history checks besides that it sees what was
//! written last, absent records included. A reader without one takes no notice of the writer, see [`crate`].

use std::sync::Arc;

use larder_storage::record::Dictionary;
use larder_storage::shard::{RecordView, ShardReader};

use crate::content::{KEYS, SLOTS, check, key, names, slot_at};
use crate::history::{Cells, History};
use crate::{COLLECTION, Random};

/// The newest that was seen of a key.
#[derive(Clone, Copy, Default)]
struct Newest {
    version: u64,
    serials: [u64; SLOTS as usize],
}

/// What a lookup has found: the record's version, and the serial of each slot's fields.
type Found = (u64, [Option<u64>; SLOTS as usize]);

pub(crate) struct Reader {
    shard: ShardReader,
    history: Option<Arc<History>>,
    names: Dictionary,
    random: Random,
    newest: Vec<Newest>,
    seen: u64,
}

impl Reader {
    pub(crate) fn new(shard: ShardReader, history: Option<Arc<History>>, seed: u64) -> Self {
        let newest = (0..KEYS).map(|_| Newest::default()).collect();
        Self { shard, history, names: names(), random: Random(seed), newest, seen: 0 }
    }

    /// The records found so far.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// Looks one key up, or many.
    pub(crate) fn step(&mut self) {
        match self.random.below(8) {
            0 => self.many(),
            _ => self.one(),
        }
    }

    fn one(&mut self) {
        let number = self.random.below(KEYS);
        let lingers = self.random.below(64) == 0;
        let (key, hash) = key(number);
        let done = self.done(number);
        let found = self.shard.get(COLLECTION, hash, key.as_bytes(), |view| {
            let found = look(&self.names, number, &view);
            if lingers {
                // Whatever the writer does meanwhile, this record stays as it is.
                (0..20).for_each(|_| std::thread::yield_now());
                assert_eq!(look(&self.names, number, &view), found, "key {number} changed while it was looked at");
            }
            found
        });
        self.judge(number, done, found);
    }

    fn many(&mut self) {
        let first = self.random.below(KEYS);
        let numbers: Vec<u64> = (0..1 + self.random.below(40)).map(|step| (first + step * 89) % KEYS).collect();
        let keys: Vec<_> = numbers.iter().map(|number| key(*number)).collect();
        let hashed: Vec<_> = keys.iter().map(|(key, hash)| (*hash, key.as_bytes())).collect();
        let done: Vec<_> = numbers.iter().map(|number| self.done(*number)).collect();
        let mut found = Vec::new();
        self.shard.get_many(COLLECTION, &hashed, |at, view| {
            assert_eq!(at, found.len(), "keys are shown in order");
            found.push(view.map(|view| look(&self.names, numbers[at], &view)));
        });
        assert_eq!(found.len(), numbers.len(), "every key is shown");
        for ((number, done), found) in numbers.into_iter().zip(done).zip(found) {
            self.judge(number, done, found);
        }
    }

    fn done(&self, number: u64) -> Option<Cells> {
        self.history.as_ref().map(|history| history.done(number))
    }

    fn judge(&mut self, number: u64, done: Option<Cells>, found: Option<Found>) {
        let serials = found.map_or([None; SLOTS as usize], |(_, serials)| serials);
        if let (Some(done), Some(history)) = (done, &self.history) {
            let begun = history.begun(number);
            for slot in 0..usize::from(SLOTS) {
                done[slot].check(serials[slot], begun[slot], &format!("key {number}, sync {slot}"));
            }
        }
        let Some((version, serials)) = found else { return };
        self.seen += 1;
        let newest = &mut self.newest[usize::try_from(number).expect("a position")];
        assert!(version >= newest.version, "key {number}: version {version} after {}", newest.version);
        newest.version = version;
        for (newest, serial) in newest.serials.iter_mut().zip(serials) {
            let serial = serial.unwrap_or(*newest);
            assert!(serial >= *newest, "key {number}: serial {serial} after {newest}");
            *newest = serial;
        }
    }
}

/// Reads a record in all ways there are.
pub(crate) fn look(names: &Dictionary, number: u64, view: &RecordView<'_>) -> Found {
    let mut json = Vec::new();
    view.write_json(names, None, &mut json);
    let serials = check(number, &json);
    let slots = view.groups().map(|group| group.slot);
    assert!(slots.eq((0..usize::from(SLOTS)).filter(|slot| serials[*slot].is_some()).map(slot_at)), "key {number}");
    (view.version(), serials)
}
