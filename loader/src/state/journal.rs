//! The journal: what a run has sent, and what the cluster has answered.
//!
//! A batch is written down *before* it is sent, with its keys and row hashes, and made durable; its answer is written
//! when it comes. So whatever happens to this process, every key is known to be stored, known not to be, or in doubt:
//!
//! | journal holds | the cluster's row is | what the next state says |
//! | --- | --- | --- |
//! | nothing of the key | as before | as before |
//! | batch and answer | as sent | the new hash; removals leave the state |
//! | batch and answer, key rejected | as before | as before |
//! | batch and refusal | as before | as before |
//! | batch alone | as before or as sent | unknown, so it is sent again |
//!
//! Answers are synced every few seconds only: losing one makes a key doubtful that was not, and it is sent again.
//!
//! The file is a sequence of blocks (see [`crate::diff::block`]); the first is the header as JSON, each other one is
//! one record. A last block that is cut short or damaged was being written when the process died, so no batch went
//! out on its account, and it is ignored. A damaged block with others after it is damage.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use larder_types::limits::MAX_BATCH_ROWS;
use serde::{Deserialize, Serialize};

use crate::diff::block;
use crate::diff::hash::{HashSecret, RowHash, SECRET_BYTES};
use crate::diff::snapshot::{Hashes, Snapshot, sync_folder};
use crate::diff::{put_key, take, take_key};

/// How long answers may stay unsynced.
const SYNC_EVERY: Duration = Duration::from_secs(2);

const INTENT: u8 = 1;
const ANSWER: u8 = 2;
const REFUSAL: u8 = 3;
const FORGET: u8 = 4;
const SWEPT: u8 = 5;

const UPSERT: u8 = 1;
const REMOVAL: u8 = 2;

/// What a run starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JournalHeader {
    pub(crate) run: String,
    pub(crate) sync: String,
    pub(crate) collection: String,
    pub(crate) fingerprint: u128,
    pub(crate) secret: HashSecret,
    /// What the hashes in it are made from.
    pub(crate) hashes: Hashes,
    /// The snapshot whose rows stay as they are unless the journal says otherwise.
    pub(crate) base: Option<u64>,
    /// False if the hashes of that snapshot say nothing about the cluster, or were made by another mapping.
    pub(crate) base_known: bool,
}

#[derive(Serialize, Deserialize)]
struct HeaderJson {
    run: String,
    sync: String,
    collection: String,
    fingerprint: String,
    secret: Vec<u8>,
    #[serde(default)]
    hashes: Hashes,
    base: Option<u64>,
    base_known: bool,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// It cannot be read or written.
    #[error("the journal {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not hold what was written.
    #[error("the journal {path} is damaged ({reason})")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        reason: &'static str,
    },
}

/// What is meant to happen to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Its record is to have the fields of the row with this hash.
    Upsert(RowHash),
    /// Its record is to be cleared or deleted.
    Removal,
}

/// A journal being written.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    synced: Instant,
}

impl Journal {
    /// Begins the journal of a run and makes it durable.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(crate) fn create(path: &Path, header: &JournalHeader) -> Result<Self, JournalError> {
        let begin = || {
            let mut file = File::create(path)?;
            file.write_all(&encoded(&header.to_json()?)?)?;
            file.sync_all()?;
            sync_folder(path)?;
            Ok(file)
        };
        let file = begin().map_err(|source| JournalError::Io { path: path.to_path_buf(), source })?;
        Ok(Self { path: path.to_path_buf(), file, synced: Instant::now() })
    }

    /// Writes down that a batch is about to be sent, and makes that durable.
    ///
    /// # Errors
    /// When it cannot be written; the batch must then not be sent.
    pub(crate) fn intend<'a>(
        &mut self,
        seq: u32,
        entries: impl Iterator<Item = (&'a str, Intent)>,
    ) -> Result<(), JournalError> {
        let mut raw = vec![INTENT];
        raw.extend_from_slice(&seq.to_le_bytes());
        for (key, intent) in entries {
            let (kind, hash) = match intent {
                Intent::Upsert(hash) => (UPSERT, hash),
                Intent::Removal => (REMOVAL, RowHash::UNKNOWN),
            };
            raw.push(kind);
            raw.extend_from_slice(&hash.to_bytes());
            put_key(key, &mut raw);
        }
        self.append(&raw)?;
        self.sync()
    }

    /// Writes down that a batch was applied, except for the rows at these places in it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn answered(&mut self, seq: u32, rejected: &[u32]) -> Result<(), JournalError> {
        let mut raw = vec![ANSWER];
        raw.extend_from_slice(&seq.to_le_bytes());
        rejected.iter().for_each(|row| raw.extend_from_slice(&row.to_le_bytes()));
        self.append(&raw)?;
        if self.synced.elapsed() < SYNC_EVERY { Ok(()) } else { self.sync() }
    }

    /// Writes down that nothing of a batch was applied.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn refused(&mut self, seq: u32) -> Result<(), JournalError> {
        let mut raw = vec![REFUSAL];
        raw.extend_from_slice(&seq.to_le_bytes());
        self.append(&raw)
    }

    /// Writes down that keys left the query and the cluster need not be told.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn forget<'a>(&mut self, keys: impl Iterator<Item = &'a str>) -> Result<(), JournalError> {
        let mut raw = vec![FORGET];
        keys.for_each(|key| put_key(key, &mut raw));
        self.append(&raw)
    }

    /// Writes down that the cluster has swept all rows that this run did not confirm.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn swept(&mut self) -> Result<(), JournalError> {
        self.append(&[SWEPT])
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// When the file cannot be synced.
    pub(crate) fn sync(&mut self) -> Result<(), JournalError> {
        self.synced = Instant::now();
        self.file.sync_data().map_err(|source| JournalError::Io { path: self.path.clone(), source })
    }

    fn append(&mut self, raw: &[u8]) -> Result<(), JournalError> {
        // One write, so that a crash leaves a prefix of the block and nothing else.
        let write = encoded(raw).and_then(|bytes| self.file.write_all(&bytes));
        write.map_err(|source| JournalError::Io { path: self.path.clone(), source })
    }
}

fn encoded(raw: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    block::write(raw, &mut bytes)?;
    Ok(bytes)
}

/// A journal that was read back: everything but its keys, which are read again when they are asked for, because those
/// of a long run do not fit into memory. What is held is a few bytes a batch, and a bit for each row of a batch of
/// which rows were rejected.
pub(crate) struct JournalContent {
    pub(crate) header: JournalHeader,
    path: PathBuf,
    answers: HashMap<u32, Answer>,
    has_entries: bool,
    swept: bool,
}

/// What a run sent and heard, in rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct JournalTally {
    /// Rows that went out.
    pub(crate) sent: u64,
    /// Of those, rows that are known to be stored.
    pub(crate) acknowledged: u64,
    /// Keys of which the next state differs from the one before.
    pub(crate) decided: u64,
}

enum Answer {
    Applied(Places),
    Refused,
}

/// Places of rows in a batch: one bit each, because a run may reject every one of its millions of rows.
#[derive(Default)]
struct Places(Vec<u64>);

impl Places {
    /// Adds a place; `None` if no batch has so many rows.
    fn insert(&mut self, place: u32) -> Option<()> {
        let place = usize::try_from(place).ok().filter(|place| *place < MAX_BATCH_ROWS)?;
        let words = self.0.len().max(place / 64 + 1);
        self.0.resize(words, 0);
        self.0[place / 64] |= 1 << (place % 64);
        Some(())
    }

    fn contains(&self, place: usize) -> bool {
        self.0.get(place / 64).is_some_and(|word| word >> (place % 64) & 1 == 1)
    }
}

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is stored, or in doubt ([`RowHash::UNKNOWN`]).
    Has(RowHash),
    /// It is gone.
    Gone,
}

/// Reads a journal; `None` if there is none, or none that was begun in full.
///
/// # Errors
/// When it cannot be read or is damaged before its end.
pub(crate) fn read(path: &Path) -> Result<Option<JournalContent>, JournalError> {
    let damaged = |reason| JournalError::Damaged { path: path.to_path_buf(), reason };
    let Some(mut blocks) = Blocks::open(path)? else { return Ok(None) };
    let Some(header) = blocks.next()? else { return Ok(None) };
    let mut content = JournalContent {
        header: JournalHeader::from_json(&header).ok_or_else(|| damaged("its header makes no sense"))?,
        path: path.to_path_buf(),
        answers: HashMap::new(),
        has_entries: false,
        swept: false,
    };
    while let Some(record) = blocks.next()? {
        content.take(&record).ok_or_else(|| damaged("a record makes no sense"))?;
    }
    Ok(Some(content))
}

/// The blocks of a journal, one at a time.
struct Blocks {
    path: PathBuf,
    file: BufReader<File>,
    /// Bytes that are still to be read.
    left: u64,
}

impl Blocks {
    fn open(path: &Path) -> Result<Option<Self>, JournalError> {
        let io = |source| JournalError::Io { path: path.to_path_buf(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io(source)),
        };
        let left = file.metadata().map_err(io)?.len();
        Ok(Some(Self { path: path.to_path_buf(), file: BufReader::new(file), left }))
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, JournalError> {
        let mut bytes = vec![0; block::HEAD_BYTES];
        let Some(after_head) = self.left.checked_sub(block::HEAD_BYTES as u64) else { return Ok(None) };
        self.fill(&mut bytes)?;
        let stored = block::stored_length(&bytes);
        // Cut short: the process died while writing it.
        let Some(left) = after_head.checked_sub(stored as u64) else { return Ok(None) };
        bytes.resize(block::HEAD_BYTES + stored, 0);
        self.fill(&mut bytes[block::HEAD_BYTES..])?;
        self.left = left;
        match block::read(&bytes) {
            Ok(raw) => Ok(Some(raw)),
            // Nothing after it: the machine died before all of it reached the disk.
            Err(_) if left == 0 => Ok(None),
            Err(_) => Err(JournalError::Damaged { path: self.path.clone(), reason: "a checksum does not match" }),
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), JournalError> {
        self.file.read_exact(bytes).map_err(|source| JournalError::Io { path: self.path.clone(), source })
    }
}

impl JournalContent {
    fn take(&mut self, record: &[u8]) -> Option<()> {
        let (&kind, mut rest) = record.split_first()?;
        match kind {
            INTENT | FORGET => self.has_entries = true,
            ANSWER => {
                let seq = u32::from_le_bytes(take(&mut rest)?);
                let mut rejected = Places::default();
                while !rest.is_empty() {
                    rejected.insert(u32::from_le_bytes(take(&mut rest)?))?;
                }
                self.answers.insert(seq, Answer::Applied(rejected));
            }
            REFUSAL => {
                self.answers.insert(u32::from_le_bytes(take(&mut rest)?), Answer::Refused);
            }
            SWEPT => self.swept = true,
            _ => return None,
        }
        Some(())
    }

    /// True if the cluster has swept, so that rows of the base that the run did not confirm are gone.
    pub(crate) fn is_swept(&self) -> bool {
        self.swept
    }

    /// Whether the state after this journal differs from the one before it.
    pub(crate) fn changes_state(&self, base: Option<&Snapshot>) -> bool {
        let same_mapping = base.is_some_and(|base| base.header().fingerprint == self.header.fingerprint);
        self.has_entries || self.swept || !self.header.base_known || !same_mapping
    }

    /// Calls `each` with every key that this journal decides, in the order of the journal.
    ///
    /// # Errors
    /// When `each` fails, or the journal is damaged.
    pub(crate) fn outcomes<E: From<JournalError>>(
        &self,
        mut each: impl FnMut(&str, Outcome) -> Result<(), E>,
    ) -> Result<(), E> {
        self.entries(|key, intent, fate| match (fate, intent) {
            (Fate::NotApplied, _) => Ok(()),
            (Fate::InDoubt, _) => each(key, Outcome::Has(RowHash::UNKNOWN)),
            (Fate::Applied | Fate::Untold, Intent::Upsert(hash)) => each(key, Outcome::Has(hash)),
            (Fate::Applied | Fate::Untold, Intent::Removal) => each(key, Outcome::Gone),
        })
    }

    /// Counts the rows.
    ///
    /// # Errors
    /// When the journal cannot be read or is damaged.
    pub(crate) fn tally(&self) -> Result<JournalTally, JournalError> {
        let mut tally = JournalTally::default();
        self.entries(|_, _, fate| {
            tally.sent += u64::from(fate != Fate::Untold);
            tally.acknowledged += u64::from(fate == Fate::Applied);
            tally.decided += u64::from(fate != Fate::NotApplied);
            Ok::<_, JournalError>(())
        })?;
        Ok(tally)
    }

    fn entries<E: From<JournalError>>(
        &self,
        mut each: impl FnMut(&str, Intent, Fate) -> Result<(), E>,
    ) -> Result<(), E> {
        let damaged = || JournalError::Damaged { path: self.path.clone(), reason: "a record makes no sense" };
        let Some(mut blocks) = Blocks::open(&self.path)? else { return Ok(()) };
        blocks.next()?;
        while let Some(record) = blocks.next()? {
            let Some((&kind, mut rest)) = record.split_first() else { continue };
            if kind == FORGET {
                while !rest.is_empty() {
                    each(take_key(&mut rest).ok_or_else(damaged)?, Intent::Removal, Fate::Untold)?;
                }
            }
            if kind != INTENT {
                continue;
            }
            let seq = u32::from_le_bytes(take(&mut rest).ok_or_else(damaged)?);
            let answer = match self.answers.get(&seq) {
                // A batch that was refused as a whole went out again in halves, which have entries of their own.
                Some(Answer::Refused) => continue,
                answer => answer,
            };
            let mut row = 0;
            while !rest.is_empty() {
                let (key, intent) = take_intent(&mut rest).ok_or_else(damaged)?;
                let fate = match answer {
                    Some(Answer::Applied(rejected)) if rejected.contains(row) => Fate::NotApplied,
                    Some(_) => Fate::Applied,
                    None => Fate::InDoubt,
                };
                each(key, intent, fate)?;
                row += 1;
            }
        }
        Ok(())
    }
}

/// What is known of a key that the journal names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Applied,
    NotApplied,
    InDoubt,
    /// It left, and the cluster was not to be told.
    Untold,
}

fn take_intent<'a>(bytes: &mut &'a [u8]) -> Option<(&'a str, Intent)> {
    let [kind] = take(bytes)?;
    let hash = RowHash::from_bytes(take(bytes)?);
    let key = take_key(bytes)?;
    match kind {
        UPSERT => Some((key, Intent::Upsert(hash))),
        REMOVAL => Some((key, Intent::Removal)),
        _ => None,
    }
}

impl JournalHeader {
    fn to_json(&self) -> io::Result<Vec<u8>> {
        let json = HeaderJson {
            run: self.run.clone(),
            sync: self.sync.clone(),
            collection: self.collection.clone(),
            fingerprint: format!("{:032x}", self.fingerprint),
            secret: self.secret.as_bytes().to_vec(),
            hashes: self.hashes,
            base: self.base,
            base_known: self.base_known,
        };
        serde_json::to_vec(&json).map_err(io::Error::other)
    }

    fn from_json(bytes: &[u8]) -> Option<Self> {
        let json: HeaderJson = serde_json::from_slice(bytes).ok()?;
        Some(Self {
            run: json.run,
            sync: json.sync,
            collection: json.collection,
            fingerprint: u128::from_str_radix(&json.fingerprint, 16).ok()?,
            secret: HashSecret::from_bytes(<[u8; SECRET_BYTES]>::try_from(json.secret).ok()?),
            hashes: json.hashes,
            base: json.base,
            base_known: json.base_known,
        })
    }
}
