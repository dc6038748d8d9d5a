//! Collections, as far as they are on this node, and their syncs.

use larder_replication::catalog::{Collection, Sync};
use larder_replication::node::Node;
use larder_storage::shard::CollectionStats;
use larder_types::prometheus::Text;

use crate::numbers;

pub(super) fn write(text: &mut Text, node: &Node) {
    let catalog = node.catalog();
    let measure = |collection| numbers::here(node, &catalog, collection);
    let all: Vec<(&Collection, CollectionStats)> =
        catalog.collections.values().map(|collection| (&**collection, measure(collection.id))).collect();
    let mut each = |name, help, of: fn(&CollectionStats) -> u64| {
        let mut family = text.gauge(name, help);
        for (collection, stats) in &all {
            family.sample(&[("collection", collection.name.as_str())], of(stats));
        }
    };
    each("larder_collection_records", "Records of the collection on this node: each replica counts.", |stats| {
        stats.records
    });
    each("larder_collection_bytes", "Bytes of memory of the collection: the next four.", |stats| stats.bytes);
    each("larder_collection_record_bytes", "Bytes of the content of its records.", CollectionStats::content_bytes);
    each("larder_collection_index_bytes", "Bytes of its tables.", |stats| stats.table_bytes);
    each("larder_collection_dictionary_bytes", "Bytes of texts that its records share.", |stats| {
        stats.dictionary_bytes
    });
    each("larder_collection_batch_bytes", "Bytes of what is remembered of the batches of its open runs.", |stats| {
        stats.batch_bytes
    });
    let syncs: Vec<(&Collection, &Sync)> = all
        .iter()
        .flat_map(|(collection, _)| collection.syncs.values().map(move |sync| (*collection, &**sync)))
        .collect();
    let mut good = text.gauge(
        "larder_sync_last_good_run_timestamp_seconds",
        "When the newest committed run of the sync was opened, in seconds since 1970.",
    );
    for (collection, sync) in syncs {
        if let Some(at) = sync.last_good_run {
            let labels = [("collection", collection.name.as_str()), ("sync", sync.name.as_str())];
            good.sample(&labels, at.div_euclid(1_000_000));
        }
    }
}
