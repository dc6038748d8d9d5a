//! Intents carried out: what the catalog has committed and shards must hear of.
//!
//! One task looks after the intents of one collection, in order of their ids, until none is left, and repeats what
//! fails with longer and longer pauses. Tasks are started by whoever waits for an intent and by a warden that hears of
//! every change of the catalog, so nothing depends on the caller that caused an intent: it may disconnect, the node may
//! stop; the intent is in the catalog, and its entries can be repeated without harm.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use larder_storage::command::{self, Outcome};
use larder_storage::shard::ShardReader;
use larder_types::ids::{CollectionId, Generation, GroupId, ShardId};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::error::ProposeError;
use super::proposer::Proposer;
use super::router::Leader;
use crate::catalog::{CatalogCommand, Intent, IntentAction, IntentsReader, encode_command};
use crate::failure::Failure;
use crate::raft::types::Response;

/// Records of a collection that one entry of a sweep looks at, or one of a drop removes, so that applying it takes
/// milliseconds.
const CHUNK_RECORDS: u64 = 20_000;

/// Chunks of a collection whose size is not known here: enough for some millions of records in a shard.
const UNSEEN_CHUNKS: u64 = 256;

/// How often a node looks whether it has come to lead the catalog.
const LOOK: Duration = Duration::from_secs(1);

/// How often a node looks whether another one has carried an intent out, and for how long.
const GLANCE: Duration = Duration::from_millis(10);
const ELSEWHERE: Duration = Duration::from_secs(30);

/// Pauses after failures: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Carries intents out. Shared.
pub(crate) struct Executor {
    proposer: Arc<Proposer>,
    pending: IntentsReader,
    /// Shards of the cluster.
    shards: u16,
    /// The collections whose intents are being carried out, and how that goes.
    running: Mutex<HashMap<CollectionId, watch::Receiver<Option<ProposeError>>>>,
    /// Ends a pause early when someone waits.
    hurry: Notify,
    failure: Failure,
}

impl Executor {
    /// An executor for so many shards.
    pub(crate) fn new(proposer: Arc<Proposer>, pending: IntentsReader, shards: u16, failure: Failure) -> Arc<Self> {
        let (running, hurry) = (Mutex::default(), Notify::new());
        Arc::new(Self { proposer, pending, shards, running, hurry, failure })
    }

    /// The number of intents that are not carried out yet.
    pub(crate) fn pending(&self) -> usize {
        self.pending.list().len()
    }

    /// Starts what is pending after every change of the catalog while this node leads it, for ever.
    pub(crate) async fn attend(self: Arc<Self>, changed: Arc<Notify>) {
        loop {
            if self.is_in_charge() {
                for intent in self.pending.list() {
                    self.follow(intent.action.collection());
                }
            }
            // A node that comes to lead the catalog finds what its predecessor has left.
            let _ = tokio::time::timeout(LOOK, changed.notified()).await;
        }
    }

    /// Whether this node leads the catalog: only one carries intents out, though two would do no harm.
    fn is_in_charge(&self) -> bool {
        matches!(self.proposer.router().leader(GroupId::CATALOG), Some(Leader::Here(_)))
    }

    /// Waits until an intent is carried out, by whomever.
    ///
    /// # Errors
    /// Why the next attempt failed; others follow.
    pub(crate) async fn run(self: &Arc<Self>, id: u64) -> Result<(), ProposeError> {
        let until = Instant::now() + ELSEWHERE;
        while let Some(intent) = self.pending.get(id) {
            if !self.is_in_charge() {
                // The leader carries it out, and its end is heard of through the catalog.
                if Instant::now() > until {
                    return Err(ProposeError::Unavailable);
                }
                tokio::time::sleep(GLANCE).await;
                continue;
            }
            let mut progress = self.follow(intent.action.collection());
            // What failed before is no answer to this call. An intent is gone before its end is reported, so looking
            // again after this misses nothing.
            progress.mark_unchanged();
            if self.pending.get(id).is_none() {
                break;
            }
            self.hurry.notify_waiters();
            // A closed channel means that its task has ended, either with an error or before it saw this intent.
            let _ = progress.changed().await;
            if let Some(error) = progress.borrow().clone()
                && self.pending.get(id).is_some()
            {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Makes sure that the intents of a collection are being carried out. The receiver hears of every intent done and
    /// every failure.
    fn follow(self: &Arc<Self>, collection: CollectionId) -> watch::Receiver<Option<ProposeError>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(progress) = running.get(&collection) {
            return progress.clone();
        }
        let (report, progress) = watch::channel(None);
        running.insert(collection, progress.clone());
        let executor = Arc::clone(self);
        self.failure.watch("intents", async move { executor.look_after(collection, report).await });
        progress
    }

    async fn look_after(&self, collection: CollectionId, report: watch::Sender<Option<ProposeError>>) {
        let mut pause = PAUSES.0;
        let mut swept = Swept::default();
        while let Some(intent) = self.next_of(collection) {
            match self.carry_out(&intent, &mut swept).await {
                Ok(()) => {
                    pause = PAUSES.0;
                    report.send_replace(None);
                }
                Err(ProposeError::Stopping) => {
                    self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&collection);
                    report.send_replace(Some(ProposeError::Stopping));
                    return;
                }
                Err(error) => {
                    tracing::warn!(intent = intent.id, %error, "an intent could not be carried out and is repeated");
                    report.send_replace(Some(error));
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSES.1),
                        () = self.hurry.notified() => {}
                    }
                }
            }
        }
    }

    /// The next intent of a collection; if there is none, its task is taken off the list in the same breath, so that
    /// nobody relies on it any more.
    fn next_of(&self, collection: CollectionId) -> Option<Intent> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.pending.list().into_iter().find(|intent| intent.action.collection() == collection);
        if next.is_none() {
            running.remove(&collection);
        }
        next
    }

    /// One attempt: every shard, then the note in the catalog.
    async fn carry_out(&self, intent: &Intent, swept: &mut Swept) -> Result<(), ProposeError> {
        if swept.intent != intent.id {
            *swept = Swept { intent: intent.id, records: 0 };
        }
        let mut shards = JoinSet::new();
        for shard in (0..self.shards).map(ShardId) {
            let replica = self.proposer.router().replicas.get(GroupId::from(shard));
            let entries = entries(&intent.action, replica.as_ref().and_then(|replica| replica.reader.as_ref()));
            let proposer = Arc::clone(&self.proposer);
            shards.spawn(async move { proposer.propose(GroupId::from(shard), entries).await });
        }
        let mut failed = None;
        while let Some(answers) = shards.join_next().await {
            match answers.unwrap_or(Err(ProposeError::Unknown)) {
                Ok(answers) => swept.records += answers.iter().map(|(_, response)| records(response)).sum::<u64>(),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let done = encode_command(&CatalogCommand::IntentDone { id: intent.id, swept: swept.records });
        let answers = self.proposer.propose(GroupId::CATALOG, vec![done]).await?;
        match answers.into_iter().next() {
            Some((_, Response::Catalog(Err(refusal)))) => {
                // The catalog gave the intent out, so it takes it back; if not, repeating it would change nothing.
                self.failure.fail(format!("the catalog refuses the end of intent {}: {refusal}", intent.id));
                Err(ProposeError::Refused(refusal))
            }
            _ => Ok(()),
        }
    }
}

/// What a sweep has done in the attempts so far: a record that was swept is not found a second time.
#[derive(Default)]
struct Swept {
    intent: u64,
    records: u64,
}

fn records(response: &Response) -> u64 {
    match response {
        Response::Shard(Outcome::Swept { records }) => *records,
        _ => 0,
    }
}

/// The entries that carry an action out in one shard.
fn entries(action: &IntentAction, reader: Option<&ShardReader>) -> Vec<Bytes> {
    match *action {
        // The records go first, in chunks; whatever was under way and comes between goes with the rest at the end.
        IntentAction::DropCollection { collection } => {
            let records = chunks(collection, reader).map(|chunk| command::drop_records(collection, chunk));
            records.chain([command::drop_collection(collection)]).collect()
        }
        // A batch that is under way would bring the dropped sync back, and its slot is not given to another: so the
        // last of all generations is opened first. That forgets what the shard remembers of its batches, too.
        IntentAction::ClearSync { collection, slot } => {
            vec![command::fence(collection, slot, Generation::LAST), command::clear_sync(collection, slot)]
        }
        IntentAction::Fence { collection, slot, generation } => vec![command::fence(collection, slot, generation)],
        IntentAction::Sweep { collection, slot, generation, mode } => {
            let sweep = |chunk| command::sweep(collection, slot, generation, mode, chunk);
            chunks(collection, reader).map(sweep).collect()
        }
    }
}

/// The chunks of a collection in a shard: at least one, since the reader may be behind, and a safe number if the shard
/// has no replica here.
fn chunks(collection: CollectionId, reader: Option<&ShardReader>) -> impl Iterator<Item = (u32, u32)> + use<> {
    let chunks = reader.map_or(UNSEEN_CHUNKS, |reader| reader.stats(collection).records.div_ceil(CHUNK_RECORDS));
    let chunks = chunks.max(1);
    let chunks = u32::try_from(chunks).unwrap_or(u32::MAX);
    (0..chunks).map(move |chunk| (chunk, chunks))
}

#[cfg(test)]
mod tests {
    use larder_storage::command::{PatchEncoder, PatchOrigin};
    use larder_storage::shard::{Shard, ShardOptions};
    use larder_types::key::Key;

    use super::*;

    #[test]
    fn a_large_collection_is_dropped_in_chunks_of_bounded_size() {
        const COLLECTION: CollectionId = CollectionId(1);
        const RECORDS: u64 = 45_000;
        let (slot, generation) = (larder_types::ids::SyncSlot(0), Generation(1));
        let mut shard = Shard::new(ShardOptions { id: ShardId(0), hash_seed: 7 });
        let mut encoder =
            PatchEncoder::new(PatchOrigin { collection: COLLECTION, slot, generation, seq: 0, at: 0 }, 1 << 20);
        (0..RECORDS).for_each(|number| {
            encoder.upsert::<larder_types::value::Value>(&Key::new(&number.to_string()).unwrap(), &[])
        });
        let filling = [command::fence(COLLECTION, slot, generation)].into_iter().chain(encoder.finish());
        let reader = shard.reader();
        let records = || reader.stats(COLLECTION).records;
        let mut index = 0;
        let mut apply = |entry: Bytes| {
            index += 1;
            shard.apply(index, &entry).unwrap()
        };
        filling.for_each(|entry| drop(apply(entry)));
        assert_eq!(records(), RECORDS);
        let drop = entries(&IntentAction::DropCollection { collection: COLLECTION }, Some(&reader));
        assert_eq!(drop.len(), 4);
        for entry in &drop[..3] {
            let before = records();
            assert_eq!(apply(entry.clone()), Outcome::Done);
            assert!((1..=CHUNK_RECORDS).contains(&(before - records())), "{} of {before} are left", records());
        }
        assert_eq!(records(), 0);
        assert_eq!(apply(drop[3].clone()), Outcome::Done);
        assert_eq!(reader.memory().bytes, 0, "the table is gone too");
    }
}
