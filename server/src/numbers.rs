//! Numbers of collections over all shards, wherever their replicas are.
//!
//! Invariant: numbers are whole or there are none. A shard that nobody can be asked about now is an error and not a sum
//! that is too small.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use larder_replication::catalog::Catalog;
use larder_replication::node::{Consistency, Node, ReadTarget};
use larder_storage::shard::{CollectionStats, ShardReader};
use larder_types::error::ErrorCode;
use larder_types::ids::{CollectionId, NodeId, ShardId, SyncSlot};
use larder_types::revision::Revision;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::error::ApiError;
use crate::forward::wire::{self, Message};
use crate::revision;

/// How long another node may take.
const WITHIN: Duration = Duration::from_secs(5);

/// Numbers of some collections.
pub(crate) struct Numbers {
    /// In the order in which the collections were named.
    pub(crate) of: Vec<CollectionStats>,
    /// How far each shard was when it was looked at.
    pub(crate) revision: Revision,
}

/// What is asked of another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Question {
    pub(crate) collections: Vec<CollectionId>,
    pub(crate) shards: Vec<ShardId>,
}

/// What it answers, in the order of the question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    shards: Vec<Shard>,
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Shard {
    shard: ShardId,
    applied: u64,
    of: Vec<Stats>,
}

/// [`CollectionStats`] on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stats {
    records: u64,
    bytes: u64,
    table_bytes: u64,
    batch_bytes: u64,
    dictionary_bytes: u64,
    records_of: Vec<(SyncSlot, u64)>,
}

/// Measures collections over all shards. What syncs have is listed for each shard.
///
/// # Errors
/// `shard_unavailable` when a shard is served nowhere, or whoever serves it does not answer.
pub(crate) async fn measure(
    node: &Arc<Node>,
    catalog: &Catalog,
    collections: Vec<CollectionId>,
) -> Result<Numbers, ApiError> {
    let mut shards = Vec::new();
    let mut elsewhere: BTreeMap<NodeId, Vec<ShardId>> = BTreeMap::new();
    for shard in catalog.shard_count().ok_or_else(revision::unavailable)?.all() {
        match node.read(shard, Consistency::Any, false).await? {
            ReadTarget::Here(reader) => shards.push(look(shard, &reader, &collections)),
            ReadTarget::There(other) => elsewhere.entry(other).or_default().push(shard),
        }
    }
    let mut asked = JoinSet::new();
    for (other, shards) in elsewhere {
        let node = Arc::clone(node);
        let question = Question { collections: collections.clone(), shards };
        asked.spawn(async move { ask(&node, other, question).await });
    }
    while let Some(answer) = asked.join_next().await {
        shards.extend(answer.map_err(|_| ApiError::new(ErrorCode::Draining, "the node is stopping"))??);
    }
    Ok(add_up(&shards, collections.len(), catalog.version))
}

async fn ask(node: &Node, other: NodeId, question: Question) -> Result<Vec<Shard>, ApiError> {
    let message = Message::Measure(question.clone());
    let answer = node.forward(other, wire::encode(&message, WITHIN)).await?;
    let shards = wire::decode_answer(answer)?.into_numbers()?.shards;
    let is_whole = shards.iter().map(|shard| shard.shard).eq(question.shards)
        && shards.iter().all(|shard| shard.of.len() == question.collections.len());
    if is_whole { Ok(shards) } else { Err(revision::unavailable()) }
}

/// Answers another node.
///
/// # Errors
/// `shard_unavailable` when a shard is not served here.
pub(crate) fn answer(node: &Node, question: &Question) -> Result<Answer, ApiError> {
    let look = |shard: &ShardId| {
        let reader = node.reader(*shard).ok_or_else(revision::unavailable)?;
        Ok(look(*shard, &reader, &question.collections))
    };
    Ok(Answer { shards: question.shards.iter().map(look).collect::<Result<_, ApiError>>()? })
}

/// The numbers of a collection in the replicas on this node, however far they are.
pub(crate) fn here(node: &Node, catalog: &Catalog, collection: CollectionId) -> CollectionStats {
    let readers = node.readers_cell().load();
    let here = catalog.shard_count().into_iter().flat_map(|shards| shards.all()).filter_map(|shard| readers.get(shard));
    let mut total = CollectionStats::default();
    here.for_each(|served| add(&mut total, &served.reader().stats(collection).into()));
    total
}

fn look(shard: ShardId, reader: &ShardReader, collections: &[CollectionId]) -> Shard {
    let applied = reader.applied();
    Shard { shard, applied, of: collections.iter().map(|id| reader.stats(*id).into()).collect() }
}

fn add_up(shards: &[Shard], collections: usize, definitions: u64) -> Numbers {
    let mut of = vec![CollectionStats::default(); collections];
    for shard in shards {
        for (total, part) in of.iter_mut().zip(&shard.of) {
            add(total, part);
        }
    }
    let positions = shards.iter().map(|shard| (shard.shard, shard.applied)).collect();
    Numbers { of, revision: Revision::new(positions).with_definitions(definitions) }
}

fn add(total: &mut CollectionStats, part: &Stats) {
    total.records += part.records;
    total.bytes += part.bytes;
    total.table_bytes += part.table_bytes;
    total.dictionary_bytes += part.dictionary_bytes;
    total.batch_bytes += part.batch_bytes;
    total.records_of.extend(&part.records_of);
}

impl From<CollectionStats> for Stats {
    fn from(stats: CollectionStats) -> Self {
        let CollectionStats { records, bytes, table_bytes, batch_bytes, dictionary_bytes, records_of } = stats;
        Self { records, bytes, table_bytes, batch_bytes, dictionary_bytes, records_of }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_added_up_in_any_order() {
        let stats = |records| Stats {
            records,
            bytes: 10 * records,
            table_bytes: 1,
            batch_bytes: 2,
            dictionary_bytes: 3,
            records_of: vec![(SyncSlot(1), records)],
        };
        let shard = |shard, of| Shard { shard: ShardId(shard), applied: u64::from(shard) + 5, of };
        let shards = [shard(1, vec![stats(4), stats(0)]), shard(0, vec![stats(3), stats(2)])];
        let numbers = add_up(&shards, 2, 9);
        assert_eq!((numbers.of[0].records, numbers.of[1].records), (7, 2));
        assert_eq!((numbers.of[0].bytes, numbers.of[0].table_bytes), (70, 2));
        assert_eq!(numbers.of[0].records_of, [(SyncSlot(1), 4), (SyncSlot(1), 3)]);
        assert_eq!(numbers.revision.positions(), [(ShardId(0), 5), (ShardId(1), 6)]);
        assert_eq!(numbers.revision.definitions(), 9);
    }
}
