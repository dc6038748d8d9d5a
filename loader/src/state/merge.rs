//! The merge: the acknowledged state and a run's journal become the next acknowledged state.

use std::path::Path;

use super::StateError;
use super::journal::{JournalContent, Outcome};
use crate::diff::hash::RowHash;
use crate::diff::join::DiffError;
use crate::diff::slots::Slots;
use crate::diff::snapshot::{Hashes, Header, Snapshot, SnapshotWriter};
use crate::diff::spill::{Parts, Spill};
use crate::diff::{put_key, take, take_key};

const HAS: u8 = 1;
const GONE: u8 = 2;

/// Writes the state after `journal` to `path`. Keys of the journal go through parts, of which `budget` bytes are held in
/// memory and the rest in a file, and are worked in part by part, so memory is bounded as in [`crate::diff`].
///
/// # Errors
/// When a file cannot be read or written, or is damaged.
pub(crate) fn merge(
    journal: &JournalContent,
    base: Option<&Snapshot>,
    dir: &Path,
    path: &Path,
    budget: usize,
) -> Result<(), StateError> {
    let decided = journal.tally()?.decided;
    let parts = Parts::for_rows(base.map_or(0, Snapshot::rows) + decided);
    let secret = &journal.header.secret;
    let mut spill = Spill::new(dir, parts, budget);
    journal.outcomes(|key, outcome| {
        let (kind, hash) = match outcome {
            Outcome::Has(hash) => (HAS, hash),
            Outcome::Gone => (GONE, RowHash::UNKNOWN),
        };
        let pushed = spill.push(secret.key(key.as_bytes()), |out| {
            out.push(kind);
            out.extend_from_slice(&hash.to_bytes());
            put_key(key, out);
        });
        pushed.map_err(|error| StateError::Diff(error.into()))
    })?;
    let spilled = spill.finish();
    let header = Header {
        sync: journal.header.sync.clone(),
        collection: journal.header.collection.clone(),
        fingerprint: journal.header.fingerprint,
        secret: secret.clone(),
        hashes: journal.header.hashes,
        parts,
    };
    let mut writer = SnapshotWriter::create(path, &header)?;
    let base = base.filter(|_| !journal.is_swept());
    // What becomes of a key whose record is gone.
    let gone = (journal.header.hashes == Hashes::Planner).then_some(RowHash::GONE);
    let mut rows: Slots<Option<RowHash>> = Slots::new();
    for part in 0..parts.get() {
        rows.clear();
        if let Some(base) = base {
            read_base(base, (parts, part), journal.header.base_known, &mut rows)?;
        }
        let mut records = spilled.records(part);
        while let Some(record) = records.next().map_err(DiffError::from)? {
            let (key, hash) = read(record).ok_or(DiffError::Record)?;
            let hash = hash.or(gone);
            let (slot, _) = rows.slot(key, || hash).map_err(DiffError::from)?;
            *rows.get_mut(slot).ok_or(DiffError::Record)? = hash;
        }
        writer.part(rows.iter().filter_map(|(key, hash)| hash.map(|hash| (key, hash))))?;
    }
    writer.finish()?;
    Ok(())
}

/// The rows of one part of the old state.
fn read_base(
    base: &Snapshot,
    (parts, part): (Parts, usize),
    known: bool,
    rows: &mut Slots<Option<RowHash>>,
) -> Result<(), DiffError> {
    let mut full = None;
    base.read_part(parts, part, |key, hash| {
        let unknown = hash.of_record().map(|_| RowHash::UNKNOWN);
        let slot = rows.slot(key, || if known { Some(hash) } else { unknown });
        full = full.or(slot.err());
    })?;
    full.map_or(Ok(()), |error| Err(error.into()))
}

/// A key and its hash; none if it is gone.
fn read(mut record: &[u8]) -> Option<(&str, Option<RowHash>)> {
    let [kind] = take(&mut record)?;
    let hash = RowHash::from_bytes(take(&mut record)?);
    Some((take_key(&mut record)?, (kind == HAS).then_some(hash)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::journal::{self, Intent, Journal, JournalHeader};
    use super::*;
    use crate::diff::hash::HashSecret;

    type Rows = BTreeMap<String, RowHash>;

    /// A batch: keys with the number that stands for their row, or none for a removal, and what became of it.
    #[derive(Debug, Clone)]
    struct Sent {
        keys: BTreeMap<u8, Option<u8>>,
        /// Places that were rejected; none if the batch was not answered.
        rejected: Option<Vec<u32>>,
        refused: bool,
    }

    fn sent() -> impl Strategy<Value = Sent> {
        let keys = proptest::collection::btree_map(any::<u8>(), proptest::option::of(any::<u8>()), 1..90);
        let rejected = proptest::option::of(proptest::collection::vec(0..90u32, 0..40));
        (keys, rejected, any::<bool>()).prop_map(|(keys, rejected, refused)| Sent { keys, rejected, refused })
    }

    fn rows(path: &Path) -> Rows {
        let snapshot = Snapshot::open(path).unwrap();
        let mut rows = Rows::new();
        for part in 0..snapshot.header().parts.get() {
            let parts = snapshot.header().parts;
            snapshot.read_part(parts, part, |key, hash| assert!(rows.insert(key.to_owned(), hash).is_none())).unwrap();
        }
        rows
    }

    /// Writes the batches into a journal, and makes the state after it.
    fn merged(dir: &Path, header: &JournalHeader, base: Option<&Path>, batches: &[Sent], budget: usize) -> Rows {
        let mut journal = Journal::create(&dir.join("journal"), header).unwrap();
        for (seq, batch) in (0..).zip(batches) {
            let keys: Vec<String> = batch.keys.keys().map(|key| format!("k{key}")).collect();
            let intents = batch.keys.values().map(|row| match row {
                Some(row) => Intent::Upsert(header.secret.row(&[*row])),
                None => Intent::Removal,
            });
            journal.intend(seq, keys.iter().map(String::as_str).zip(intents)).unwrap();
            match &batch.rejected {
                _ if batch.refused => journal.refused(seq).unwrap(),
                Some(rejected) => journal.answered(seq, rejected).unwrap(),
                None => {}
            }
        }
        let content = journal::read(&dir.join("journal")).unwrap().unwrap();
        let base = base.map(|path| Snapshot::open(path).unwrap());
        merge(&content, base.as_ref(), dir, &dir.join("next"), budget).unwrap();
        rows(&dir.join("next"))
    }

    fn model(secret: &HashSecret, mut rows: Rows, batches: &[Sent]) -> Rows {
        for batch in batches.iter().filter(|batch| !batch.refused) {
            for (place, (key, row)) in (0..).zip(&batch.keys) {
                let key = format!("k{key}");
                match (&batch.rejected, row) {
                    (Some(rejected), _) if rejected.contains(&place) => None,
                    (None, _) => rows.insert(key, RowHash::UNKNOWN),
                    (Some(_), Some(row)) => rows.insert(key, secret.row(&[*row])),
                    (Some(_), None) => rows.remove(&key),
                };
            }
        }
        rows
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_next_state_is_what_the_journal_says_however_little_memory_there_is(
            before in proptest::collection::vec(sent(), 0..3),
            after in proptest::collection::vec(sent(), 0..5),
            budget in prop_oneof![Just(0usize), Just(1000), Just(1 << 20)],
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut header = JournalHeader {
                hashes: Hashes::Cells,
                run: "r".into(),
                sync: "s".into(),
                collection: "c".into(),
                fingerprint: 1,
                secret: HashSecret::random().unwrap(),
                base: None,
                base_known: true,
            };
            let first = merged(dir.path(), &header, None, &before, budget);
            prop_assert_eq!(&first, &model(&header.secret, Rows::new(), &before));
            let base = dir.path().join("base");
            std::fs::rename(dir.path().join("next"), &base).unwrap();
            header.base = Some(1);
            let second = merged(dir.path(), &header, Some(&base), &after, budget);
            prop_assert_eq!(second, model(&header.secret, first, &after));
        }
    }
}
