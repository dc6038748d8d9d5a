//! The node: memory, log, snapshots and groups.

use larder_replication::node::{GroupStatus, NodeStatus};
use larder_storage::distribution::Distribution;
use larder_storage::log::LogUsage;
use larder_types::prometheus::{Buckets, Text};

/// Memory. The kinds of `larder_memory_held_bytes` do not overlap: with what the program itself takes, connections and
/// batches that are being parsed they make up the resident bytes.
pub(super) fn write_memory(text: &mut Text, NodeStatus { memory, log, inflight_bytes, .. }: &NodeStatus) {
    text.gauge("larder_memory_limit_bytes", "max_memory.").value(memory.max_bytes);
    text.gauge("larder_memory_usable_bytes", "Beyond this, batches that may add more are refused.")
        .value(memory.usable_bytes);
    text.gauge("larder_memory_used_bytes", "What counts against larder_memory_usable_bytes.").value(memory.bytes);
    text.gauge("larder_memory_content_bytes", "Content of records, without what replaced ones still take.")
        .value(memory.content_bytes);
    let pool = larder_storage::memory::usage();
    let mut held = text.gauge("larder_memory_held_bytes", "Memory by what it is held for.");
    for (kind, bytes) in [
        ("arena", pool.segment_bytes),
        ("tables", pool.page_bytes),
        ("spare", pool.spare_bytes),
        ("dictionaries", memory.dictionary_bytes),
        ("batches", memory.batch_bytes),
        ("runs", memory.run_bytes),
        ("log_cache", log.cached_bytes),
        ("log_queue", log.queued_bytes),
        ("log_buffers", log.buffer_bytes),
        ("log_index", log.index_bytes),
    ] {
        held.sample(&[("kind", kind)], bytes);
    }
    text.gauge("larder_inflight_bytes", "Bytes of writes that are proposed and not answered.").value(inflight_bytes);
}

fn buckets(of: &Distribution) -> Buckets<'_> {
    Buckets { bounds: of.bounds, counts: &of.counts, sum: of.sum }
}

pub(super) fn write_log(text: &mut Text, log: &LogUsage) {
    text.gauge("larder_log_bytes", "Bytes of the log's segments on disk.").value(log.segment_bytes);
    text.gauge("larder_log_segments", "Segments of the log.").value(log.segments);
    text.gauge("larder_log_entries", "Entries of the log that were not purged.").value(log.entries);
    text.gauge("larder_log_failed", "1 if the log has failed and takes nothing more.").value(u8::from(log.failed));
    text.gauge("larder_log_full", "1 while the disk has no room for more log, and writes are refused.")
        .value(u8::from(!log.has_room));
    text.counter("larder_log_written_bytes_total", "Bytes written to the log.").value(log.written_bytes);
    text.histogram("larder_log_sync_seconds", "Time that syncs of the log took.").buckets(
        &[],
        buckets(&log.sync_micros),
        1e6,
    );
    text.histogram("larder_log_sync_callers", "Callers that each sync of the log has served.").buckets(
        &[],
        buckets(&log.callers),
        1.0,
    );
}

pub(super) fn write_snapshots(text: &mut Text, NodeStatus { snapshots, groups, .. }: &NodeStatus) {
    text.gauge("larder_snapshot_running", "1 while a snapshot is being written.").value(u8::from(snapshots.running));
    text.counter("larder_snapshots_failed_total", "Snapshots that were given up because the disk was full.")
        .value(snapshots.failed);
    text.histogram("larder_snapshot_seconds", "Time that snapshots took to be written.").buckets(
        &[],
        buckets(&snapshots.millis),
        1e3,
    );
    per_group(text, groups, "larder_snapshot_last_index", "Where the newest snapshot ends.", |group| group.snapshot);
    per_group(text, groups, "larder_snapshot_bytes", "Bytes of the newest snapshot.", |group| {
        Some(group.snapshot_bytes)
    });
}

pub(super) fn write_groups(text: &mut Text, NodeStatus { groups, pending_intents, .. }: &NodeStatus) {
    per_group(text, groups, "larder_raft_leader", "1 if this node leads the shard.", |group| {
        Some(u64::from(group.role == "leader"))
    });
    per_group(text, groups, "larder_raft_term", "The shard's term.", |group| Some(group.term));
    per_group(text, groups, "larder_raft_last_index", "The last log entry.", |group| group.last);
    per_group(text, groups, "larder_raft_applied_index", "The last log entry that was applied.", |group| group.applied);
    per_group(text, groups, "larder_raft_purged_index", "The last log entry that was purged.", |group| group.purged);
    per_group(text, groups, "larder_raft_log_bytes", "Bytes of log entries that were not purged.", |group| {
        Some(group.log_bytes)
    });
    text.gauge("larder_pending_intents", "Changes of the catalog that shards have not all heard of yet.")
        .value(pending_intents);
}

/// Writes a number of each group that has it. The catalog is named so; other groups are shards.
fn per_group(
    text: &mut Text,
    groups: &[GroupStatus],
    name: &'static str,
    help: &'static str,
    of: impl Fn(&GroupStatus) -> Option<u64>,
) {
    let mut family = text.gauge(name, help);
    for group in groups {
        let shard = group.shard.map_or_else(|| "catalog".to_owned(), |shard| shard.to_string());
        if let Some(number) = of(group) {
            family.sample(&[("shard", &shard)], number);
        }
    }
}
