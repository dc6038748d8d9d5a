//! The merge: the acknowledged state and a run's journal become the next acknowledged state.

use std::collections::HashMap;
use std::path::Path;

use super::StateError;
use super::journal::{JournalContent, Outcome};
use crate::diff::hash::RowHash;
use crate::diff::join::DiffError;
use crate::diff::snapshot::{Header, Snapshot, SnapshotWriter};
use crate::diff::spill::{Parts, Spill};
use crate::diff::{SPILL_BYTES, put_key, take, take_key};

const HAS: u8 = 1;
const GONE: u8 = 2;

/// Writes the state after `journal` to `path`. Works part by part, so memory is bounded as in [`crate::diff`].
///
/// # Errors
/// When a file cannot be read or written, or is damaged.
pub(super) fn merge(
    journal: &JournalContent,
    base: Option<&Snapshot>,
    dir: &Path,
    path: &Path,
) -> Result<(), StateError> {
    let decided = journal.tally()?.decided;
    let parts = Parts::for_rows(base.map_or(0, Snapshot::rows) + decided);
    let secret = &journal.header.secret;
    let mut spill = Spill::new(dir, parts, SPILL_BYTES);
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
        parts,
    };
    let mut writer = SnapshotWriter::create(path, &header)?;
    let base = base.filter(|_| !journal.is_swept());
    let mut rows: HashMap<Box<str>, RowHash> = HashMap::new();
    for part in 0..parts.get() {
        rows.clear();
        if let Some(base) = base {
            let known = journal.header.base_known;
            base.read_part(parts, part, |key, hash| {
                rows.insert(key.into(), if known { hash } else { RowHash::UNKNOWN });
            })?;
        }
        let mut records = spilled.records(part);
        while let Some(record) = records.next().map_err(DiffError::from)? {
            apply(record, &mut rows).ok_or(DiffError::Record)?;
        }
        writer.part(rows.iter().map(|(key, hash)| (key.as_ref(), *hash)))?;
    }
    writer.finish()?;
    Ok(())
}

fn apply(mut record: &[u8], rows: &mut HashMap<Box<str>, RowHash>) -> Option<()> {
    let [kind] = take(&mut record)?;
    let hash = RowHash::from_bytes(take(&mut record)?);
    let key = take_key(&mut record)?;
    if kind == HAS {
        rows.insert(key.into(), hash);
    } else {
        rows.remove(key);
    }
    Some(())
}
