//! A node from outside: what it keeps over restarts, kills and power cuts, and how it refuses.

use std::io;
use std::path::Path;
use std::time::Duration;

use larder_storage::command::{PatchEncoder, PatchOrigin, Patched};
use larder_storage::disk::{Disk, FakeDisk, Operation};
use larder_storage::log::LogOptions;
use larder_storage::snapshot::SnapshotStore;
use larder_types::api::{Counts, FieldSpec, RunKind, Scope};
use larder_types::error::ErrorCode;
use larder_types::hash::{KeyHash, ShardCount};
use larder_types::ids::{CollectionId, FieldId, Generation, ReplicaId, SyncSlot};
use larder_types::key::Key;
use larder_types::names::{CollectionName, FieldName, SyncName};
use larder_types::patch::ExitMode;
use larder_types::value::{Value, ValueType};
use tokio::runtime::Runtime;

use super::*;

const SEED: u64 = 11;
const SHARDS: u16 = 2;
const PLANES: CollectionId = CollectionId(0);
const SLOT: SyncSlot = SyncSlot(0);
const SEATS: FieldId = FieldId(0);

fn settings() -> ClusterSettings {
    ClusterSettings { id: "0123456789abcdef".repeat(2), hash_seed: SEED, shards: SHARDS, created_at: 1 }
}

fn bootstrap() -> Bootstrap {
    let root = ApiKey {
        id: "root".into(),
        sha256: "a".repeat(64),
        label: "root".into(),
        scopes: vec![Scope::Admin],
        created_at: 1,
    };
    Bootstrap { settings: settings(), root }
}

fn options(data_dir: &Path) -> NodeOptions {
    NodeOptions {
        data_dir: data_dir.to_owned(),
        bootstrap: Box::new(bootstrap),
        snapshot_log_bytes: 64 << 20,
        snapshot_bytes_per_second: 0,
        max_inflight_bytes: 8 << 20,
        max_memory_bytes: 1 << 30,
        incarnation: "0123456789abcdef".repeat(2),
        shards: SHARDS,
        advertise: "http://127.0.0.1:8080".into(),
        cluster: None,
    }
}

async fn start(disk: &FakeDisk, snapshot_log_bytes: u64) -> Result<Arc<Node>, StartError> {
    start_with(disk, NodeOptions { snapshot_log_bytes, ..options(Path::new("/data")) }).await
}

async fn start_with(disk: &FakeDisk, options: NodeOptions) -> Result<Arc<Node>, StartError> {
    disk.create_dir(Path::new("")).unwrap();
    let data_dir = Path::new("/data");
    let lock = start::lock(disk, data_dir)?;
    let log_options = LogOptions { segment_bytes: 64 << 10, cache_bytes: 1 << 20, ..LogOptions::default() };
    start::start(options, log_options, Arc::new(disk.clone()), lock).await
}

/// A node with the threads that it runs on. Dropped without a word, it is as good as killed.
struct Running {
    // Before the runtime: the fields are dropped in this order.
    node: Arc<Node>,
    runtime: Runtime,
}

impl Running {
    /// Nobody attends to intents, snapshots and the like any more.
    fn stop_tasks(&self) {
        let tasks = std::mem::take(&mut *self.node.tasks.lock().unwrap());
        self.run(async {
            for task in tasks {
                task.stop().await;
            }
        });
    }

    fn new(disk: &FakeDisk) -> Self {
        Self::with(disk, 64 << 20)
    }

    fn with(disk: &FakeDisk, snapshot_log_bytes: u64) -> Self {
        Self::try_with(disk, snapshot_log_bytes).unwrap_or_else(|error| panic!("{error:?}"))
    }

    fn try_with(disk: &FakeDisk, snapshot_log_bytes: u64) -> Result<Self, StartError> {
        Self::starting(start(disk, snapshot_log_bytes))
    }

    fn with_memory(disk: &FakeDisk, max_memory_bytes: u64) -> Self {
        let options = NodeOptions { max_memory_bytes, ..options(Path::new("/data")) };
        Self::starting(start_with(disk, options)).unwrap_or_else(|error| panic!("{error:?}"))
    }

    fn starting(start: impl Future<Output = Result<Arc<Node>, StartError>>) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let node = runtime.block_on(start)?;
        Ok(Self { node, runtime })
    }

    fn run<T>(&self, task: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), task).await.expect("it hangs") })
    }

    fn stop(self) {
        self.run(self.node.shutdown());
    }

    fn catalog(&self, command: CatalogCommand) -> CatalogReply {
        self.run(self.node.propose_catalog(command)).unwrap()
    }

    /// Makes collection `planes` with sync `facts`, which owns `seats`.
    fn define(&self, on_exit: ExitMode) {
        self.catalog(CatalogCommand::PutCollection { name: planes(), primary_index: None });
        let fields = vec![FieldSpec { name: FieldName::new("seats").unwrap(), kind: ValueType::Int }];
        self.catalog(CatalogCommand::PutSync { collection: planes(), name: facts(), fields, on_exit });
        let catalog = self.node.catalog();
        let sync = &catalog.collections[&planes()].syncs[&facts()];
        assert_eq!((catalog.collections[&planes()].id, sync.slot, sync.fields[0]), (PLANES, SLOT, SEATS));
    }

    fn propose_open(&self, run: &str, kind: RunKind) -> (Generation, u64) {
        let (run, planned) = (run.to_owned(), Counts::default());
        let command = CatalogCommand::OpenRun { collection: planes(), sync: facts(), run, kind, planned, at: 5 };
        match self.catalog(command) {
            CatalogReply::Opened { generation, intent } => (generation, intent),
            other => panic!("{other:?}"),
        }
    }

    /// Opens a run and fences all shards.
    fn open(&self, run: &str, kind: RunKind) -> Generation {
        let (generation, intent) = self.propose_open(run, kind);
        self.run(self.node.run_intent(intent)).unwrap();
        generation
    }

    /// Sends one upsert as batch `seq`.
    fn upsert(&self, generation: Generation, seq: u32, key: &str, seats: i64) -> (u64, Outcome) {
        let mut answers = self.run(self.node.propose(shard_of(key), patch(generation, seq, key, seats))).unwrap();
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    /// The field as a lookup shows it, or `None` if there is no such record.
    fn seats(&self, key: &str) -> Option<String> {
        let hash = KeyHash::of(SEED, key.as_bytes());
        let dictionary = Arc::clone(&self.node.catalog().collections[&planes()].dictionary);
        self.node.reader(shard_of(key)).unwrap().get(PLANES, hash, key.as_bytes(), |record| {
            let mut json = Vec::new();
            record.write_json(&dictionary, None, &mut json);
            String::from_utf8(json).unwrap()
        })
    }

    /// Waits for a condition. Looks again whenever others had their turn.
    fn until(&self, what: &str, mut holds: impl FnMut(&Node) -> bool) {
        let waiting = async {
            while !holds(&self.node) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), waiting).await });
        assert!(waited.is_ok(), "waited in vain until {what}: {}", self.status());
    }

    /// What `/v1/cluster` shows.
    fn status(&self) -> serde_json::Value {
        serde_json::to_value(self.node.status()).unwrap()
    }
}

fn planes() -> CollectionName {
    CollectionName::new("planes").unwrap()
}

fn facts() -> SyncName {
    SyncName::new("facts").unwrap()
}

fn shard_of(key: &str) -> ShardId {
    ShardCount::new(SHARDS).unwrap().shard_of(KeyHash::of(SEED, key.as_bytes()))
}

fn origin(generation: Generation, seq: u32) -> PatchOrigin {
    PatchOrigin { collection: PLANES, slot: SLOT, generation, seq, at: 1_000_000 }
}

fn patch(generation: Generation, seq: u32, key: &str, seats: i64) -> Vec<Bytes> {
    let mut encoder = PatchEncoder::new(origin(generation, seq), 16 << 10);
    encoder.upsert(&Key::new(key).unwrap(), &[(SEATS, Value::Int(seats))]);
    encoder.finish()
}

fn added() -> Outcome {
    Outcome::Patched(Patched { added: 1, ..Patched::default() })
}

#[test]
fn a_new_directory_becomes_a_cluster() {
    let node = Running::new(&FakeDisk::new());
    let catalog = node.node.catalog();
    assert_eq!(catalog.cluster, Some(settings()));
    assert_eq!(*catalog.keys["root"], bootstrap().root);
    let status = node.status();
    let groups = status["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 3);
    assert!(groups.iter().all(|group| group["role"] == "leader"), "{status}");
    assert!(node.node.reader(ShardId(1)).is_some());
    assert!(node.node.reader(ShardId(2)).is_none());
}

#[test]
fn everything_is_there_after_a_restart() {
    let disk = FakeDisk::new();
    let node = Running::new(&disk);
    node.define(ExitMode::Keep);
    let generation = node.open("one", RunKind::Delta);
    for seq in 0..20 {
        assert_eq!(node.upsert(generation, seq, &format!("N{seq}"), i64::from(seq)).1, added());
    }
    node.stop();
    let node = Running::new(&disk);
    for seq in 0..20 {
        assert_eq!(node.seats(&format!("N{seq}")), Some(format!("{{\"seats\":{seq}}}")));
    }
    assert_eq!(node.node.runs().list(PLANES, SLOT).len(), 1);
    assert_eq!(node.seats("N20"), None);
}

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    let disk = FakeDisk::new();
    let node = Running::new(&disk);
    node.define(ExitMode::Keep);
    let generation = node.open("one", RunKind::Delta);
    for seq in 0..8 {
        node.upsert(generation, seq, &format!("N{seq}"), 1);
    }
    let cuts: Vec<_> = (0..4).map(|seed| disk.power_cut(seed)).collect();
    drop(node);
    for cut in cuts.iter().chain([&disk.after_kill()]) {
        let node = Running::new(cut);
        assert_eq!((0..8).filter(|seq| node.seats(&format!("N{seq}")).is_some()).count(), 8);
        // It takes writes again, and the run goes on.
        assert_eq!(node.upsert(generation, 8, "N8", 1).1, added());
    }
}

#[test]
fn a_crash_at_any_step_of_the_first_start_is_mended_by_the_next() {
    let disk = FakeDisk::new();
    drop(Running::new(&disk));
    let steps = disk.operations();
    for crash in (0..steps).step_by(usize::try_from(steps / 12).unwrap()) {
        let disk = FakeDisk::new();
        disk.crash_after(crash);
        if disk.create_dir(Path::new("")).is_ok() {
            drop(Running::try_with(&disk, 64 << 20));
        }
        let node = Running::new(&disk.power_cut(crash));
        assert_eq!(node.node.catalog().cluster, Some(settings()), "crash after {crash} operations");
    }
}

/// Writes until the disk stops working, and returns how many batches were acknowledged.
fn write_until_the_end(disk: &FakeDisk, limit: u32) -> u32 {
    let Ok(node) = Running::try_with(disk, 4 << 10) else { return 0 };
    let attempt = async {
        let node = &node.node;
        node.propose_catalog(CatalogCommand::PutCollection { name: planes(), primary_index: None }).await?;
        let fields = vec![FieldSpec { name: FieldName::new("seats").unwrap(), kind: ValueType::Int }];
        let sync = CatalogCommand::PutSync { collection: planes(), name: facts(), fields, on_exit: ExitMode::Keep };
        node.propose_catalog(sync).await?;
        let (run, kind, planned) = ("one".to_owned(), RunKind::Delta, Counts::default());
        let open = CatalogCommand::OpenRun { collection: planes(), sync: facts(), run, kind, planned, at: 5 };
        match node.propose_catalog(open).await? {
            CatalogReply::Opened { intent, .. } => node.run_intent(intent).await,
            other => panic!("{other:?}"),
        }
    };
    if node.run(attempt).is_err() {
        return 0;
    }
    (0..limit)
        .take_while(|&seq| {
            let key = format!("N{seq}");
            node.run(node.node.propose(shard_of(&key), patch(Generation(1), seq, &key, i64::from(seq)))).is_ok()
        })
        .fold(0, |count, _| count + 1)
}

#[test]
fn a_crash_at_any_step_loses_nothing_acknowledged() {
    const BATCHES: u32 = 500;
    let disk = FakeDisk::new();
    assert_eq!(write_until_the_end(&disk, BATCHES), BATCHES);
    assert!(!disk.list(Path::new("snapshots")).unwrap().is_empty(), "snapshots must be among the steps");
    let steps = disk.operations();
    for crash in (steps / 20..steps).step_by(usize::try_from(steps / 20).unwrap()) {
        let disk = FakeDisk::new();
        disk.create_dir(Path::new("")).unwrap();
        disk.crash_after(crash);
        let acknowledged = write_until_the_end(&disk, BATCHES);
        for seed in [0, crash] {
            let node = Running::with(&disk.power_cut(seed), 4 << 10);
            for seq in 0..acknowledged {
                let found = node.seats(&format!("N{seq}"));
                assert_eq!(found, Some(format!("{{\"seats\":{seq}}}")), "crash after {crash} operations, seed {seed}");
            }
        }
    }
}

#[test]
fn a_repeated_batch_returns_the_first_outcome() {
    let node = Running::new(&FakeDisk::new());
    node.define(ExitMode::Keep);
    let generation = node.open("one", RunKind::Delta);
    let (index, outcome) = node.upsert(generation, 0, "N1", 5);
    let (again, repeated) = node.upsert(generation, 0, "N1", 5);
    assert_eq!((outcome, repeated), (added(), added()));
    assert!(again > index);
}

#[test]
fn entries_are_applied_in_the_order_proposed() {
    let node = Running::new(&FakeDisk::new());
    node.define(ExitMode::Keep);
    let generation = node.open("one", RunKind::Delta);
    let mut encoder = PatchEncoder::new(origin(generation, 0), 128);
    let keys: Vec<String> =
        (0..400).map(|number| format!("K{number}")).filter(|key| shard_of(key) == ShardId(0)).collect();
    for key in &keys {
        encoder.upsert(&Key::new(key).unwrap(), &[(SEATS, Value::Int(1))]);
    }
    let parts = encoder.finish();
    assert!(parts.len() > 10);
    let answers = node.run(node.node.propose(ShardId(0), parts.clone())).unwrap();
    assert_eq!(answers.len(), parts.len());
    assert!(answers.windows(2).all(|pair| pair[0].0 < pair[1].0));
    let patched = answers.iter().map(|(_, outcome)| match outcome {
        Outcome::Patched(patched) => patched.added,
        other => panic!("{other:?}"),
    });
    assert_eq!(patched.sum::<u64>(), keys.len() as u64);
    assert_eq!(node.node.reader(ShardId(0)).unwrap().applied(), answers[answers.len() - 1].0);
}

#[test]
fn a_new_run_fences_the_older_one_in_all_shards() {
    let node = Running::new(&FakeDisk::new());
    node.define(ExitMode::Keep);
    let old = node.open("one", RunKind::Delta);
    let new = node.open("two", RunKind::Delta);
    for key in ["N1", "N2", "N3", "N4", "N5"] {
        assert_eq!(node.upsert(old, 0, key, 5).1, Outcome::Stale { newest: new });
    }
}

#[test]
fn a_full_run_sweeps_what_it_did_not_confirm() {
    let node = Running::new(&FakeDisk::new());
    node.define(ExitMode::Delete);
    let first = node.open("one", RunKind::Full);
    for seq in 0..10 {
        node.upsert(first, seq, &format!("N{seq}"), 1);
    }
    let second = node.open("two", RunKind::Full);
    node.upsert(second, 0, "N3", 1);
    let begin = CatalogCommand::BeginCommit { collection: planes(), sync: facts(), run: "two".into() };
    let CatalogReply::Committing { intent: Some(intent) } = node.catalog(begin) else { panic!("a sweep is needed") };
    // Callers that come together share the work.
    let (one, two) = node.run(async { tokio::join!(node.node.run_intent(intent), node.node.run_intent(intent)) });
    assert_eq!((one, two), (Ok(()), Ok(())));
    assert_eq!((0..10).filter(|seq| node.seats(&format!("N{seq}")).is_some()).count(), 1);
    assert!(node.seats("N3").is_some());
    assert_eq!(node.node.runs().get(PLANES, SLOT, "two").unwrap().swept, 9);
    // Done is done.
    assert_eq!(node.run(node.node.run_intent(intent)), Ok(()));
}

#[test]
fn dropping_a_collection_reaches_the_shards() {
    let node = Running::new(&FakeDisk::new());
    node.define(ExitMode::Keep);
    let generation = node.open("one", RunKind::Delta);
    node.upsert(generation, 0, "N1", 1);
    let CatalogReply::Intent(intent) = node.catalog(CatalogCommand::DropCollection { name: planes() }) else {
        panic!("shards must hear of it")
    };
    node.run(node.node.run_intent(intent)).unwrap();
    assert_eq!(node.node.reader(shard_of("N1")).unwrap().stats(PLANES).records, 0);
    // What was under way does not bring it back.
    assert_eq!(node.upsert(generation, 1, "N1", 1).1, Outcome::OutOfOrder);
    assert_eq!(node.node.reader(shard_of("N1")).unwrap().stats(PLANES).records, 0);
}

#[test]
fn a_batch_that_comes_after_its_sync_was_dropped_is_refused() {
    let node = Running::new(&FakeDisk::new());
    node.define(ExitMode::Keep);
    let generation = node.open("one", RunKind::Delta);
    node.upsert(generation, 0, "N1", 5);
    let CatalogReply::Intent(intent) = node.catalog(CatalogCommand::DropSync { collection: planes(), name: facts() })
    else {
        panic!("dropping is an intent")
    };
    node.run(node.node.run_intent(intent)).unwrap();
    assert!(matches!(node.upsert(generation, 1, "N2", 5).1, Outcome::Stale { .. }));
    assert_eq!((node.seats("N1"), node.seats("N2")), (Some("{}".to_owned()), None));
}

#[test]
fn an_intent_is_carried_out_though_nobody_waits_for_it() {
    let node = Running::new(&FakeDisk::new());
    node.define(ExitMode::Keep);
    let (generation, _) = node.propose_open("one", RunKind::Delta);
    node.until("the intent is done", |node| node.executor.pending() == 0);
    assert_eq!(node.upsert(Generation(generation.0 - 1), 0, "N1", 1).1, Outcome::Stale { newest: generation });
}

#[test]
fn an_intent_left_over_is_carried_out_after_a_restart() {
    let disk = FakeDisk::new();
    let node = Running::new(&disk);
    node.define(ExitMode::Keep);
    // As if the node were killed at once.
    node.stop_tasks();
    let (generation, intent) = node.propose_open("one", RunKind::Delta);
    assert_eq!(node.node.executor.pending(), 1);
    drop(node);
    let node = Running::new(&disk.after_kill());
    node.run(node.node.run_intent(intent)).unwrap();
    assert_eq!(node.node.executor.pending(), 0);
    assert_eq!(node.upsert(Generation(generation.0 - 1), 0, "N1", 1).1, Outcome::Stale { newest: generation });
}

#[test]
fn a_grown_log_gives_way_to_snapshots() {
    let disk = FakeDisk::new();
    let node = Running::with(&disk, 16 << 10);
    node.define(ExitMode::Keep);
    let generation = node.open("one", RunKind::Delta);
    let mut seq = 0;
    // Until a shard has purged twice, so that a snapshot has replaced another.
    let mut purged = Vec::new();
    while purged.len() < 2 {
        node.upsert(generation, seq, &format!("N{seq}"), i64::from(seq));
        seq += 1;
        assert!(seq < 20_000, "{}", node.status());
        let now = node.status()["groups"][1]["purged"].as_u64();
        if now.is_some() && purged.last() != Some(&now) {
            purged.push(now);
        }
    }
    let status = node.status();
    assert!(status["groups"][1]["snapshot"].as_u64() >= status["groups"][1]["purged"].as_u64(), "{status}");
    drop(node);
    for disk in [disk.after_kill(), disk.power_cut(0), disk.power_cut(5)] {
        let node = Running::with(&disk, 16 << 10);
        for seq in 0..seq {
            assert_eq!(node.seats(&format!("N{seq}")), Some(format!("{{\"seats\":{seq}}}")));
        }
        let (_, repeated) = node.upsert(generation, seq - 1, &format!("N{}", seq - 1), i64::from(seq - 1));
        assert_eq!(repeated, added(), "what is known of batches is in the snapshot too");
    }
}

#[test]
fn an_idle_group_does_not_hold_the_log() {
    let disk = FakeDisk::new();
    let node = Running::with(&disk, 64 << 10);
    node.define(ExitMode::Keep);
    let generation = node.open("one", RunKind::Delta);
    let mut seq = 0;
    // Only shard 0 is written to; the catalog and shard 1 sit on the first segment.
    let mut keys = (0..).map(|number| format!("K{number}")).filter(|key| shard_of(key) == ShardId(0));
    while node.status()["groups"][0]["purged"].is_null() || node.status()["groups"][2]["purged"].is_null() {
        node.upsert(generation, seq, &keys.next().unwrap(), 1);
        seq += 1;
        assert!(seq < 50_000, "{}", node.status());
    }
}

#[test]
fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let node = runtime.block_on(Node::start(options(dir.path()))).unwrap();
    match runtime.block_on(Node::start(options(dir.path()))) {
        Err(StartError::InUse(path)) => assert_eq!(path, dir.path()),
        other => panic!("{:?}", other.err()),
    }
    runtime.block_on(node.shutdown());
    drop(node);
    let node = runtime.block_on(Node::start(options(dir.path()))).unwrap();
    assert_eq!(node.catalog().cluster, Some(settings()));
    runtime.block_on(node.shutdown());
}

/// Starts a node that must refuse, and returns what it says.
fn damage(disk: &FakeDisk) -> String {
    match Running::try_with(disk, 16 << 10) {
        Err(StartError::Damaged(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it started"),
    }
}

/// A disk with a cluster whose shard 0 has a snapshot and a log after it.
fn disk_with_snapshot() -> FakeDisk {
    let disk = FakeDisk::new();
    let node = Running::with(&disk, 4 << 10);
    node.define(ExitMode::Keep);
    let generation = node.open("one", RunKind::Delta);
    let mut seq = 0;
    while node.status()["groups"][1]["purged"].is_null() {
        node.upsert(generation, seq, &format!("N{seq}"), 1);
        seq += 1;
        assert!(seq < 20_000);
    }
    node.stop();
    disk
}

#[test]
fn a_damaged_snapshot_is_told_and_not_skipped() {
    let disk = disk_with_snapshot();
    let files = disk.list(Path::new("snapshots")).unwrap();
    let file = files.iter().find(|name| name.contains("0001") || name.contains("-1-")).unwrap_or(&files[0]);
    disk.corrupt(&Path::new("snapshots").join(file), 600, 0x10);
    let text = damage(&disk.after_kill());
    assert!(text.contains("snapshot") && text.contains("damaged"), "{text}");
}

#[test]
fn a_lost_snapshot_is_told() {
    let disk = disk_with_snapshot();
    for file in disk.list(Path::new("snapshots")).unwrap() {
        if disk.remove(&Path::new("snapshots").join(&file)).is_err() {
            assert_eq!(file, "lock");
        }
    }
    let text = damage(&disk.after_kill());
    assert!(text.contains("has lost data: its log begins after entry"), "{text}");
}

#[test]
fn a_lost_log_is_told() {
    let without_log = |disk: &FakeDisk| {
        for file in disk.list(Path::new("log")).unwrap() {
            disk.remove(&Path::new("log").join(&file)).unwrap();
        }
        damage(&disk.after_kill())
    };
    // With snapshots that are older than the log was, and without any.
    for disk in [disk_with_snapshot(), FakeDisk::new()] {
        Running::with(&disk, 16 << 10).stop();
        let text = without_log(&disk);
        assert!(text.contains("has lost data: its log is gone"), "{text}");
    }
}

#[test]
fn a_lost_identity_is_told() {
    let disk = disk_with_snapshot();
    disk.remove(Path::new("node.json")).unwrap();
    let text = damage(&disk.after_kill());
    assert!(text.contains("no identity file node.json"), "{text}");
}

#[test]
fn a_log_damaged_in_the_middle_is_told() {
    let disk = FakeDisk::new();
    let node = Running::new(&disk);
    node.define(ExitMode::Keep);
    let generation = node.open("one", RunKind::Delta);
    for seq in 0..50 {
        node.upsert(generation, seq, &format!("N{seq}"), 1);
    }
    node.stop();
    let files = disk.list(Path::new("log")).unwrap();
    let segment = files.iter().find(|name| name.ends_with("1") || name.contains("1.")).unwrap_or(&files[0]);
    // The first frames follow the header; dozens of good ones follow them.
    for offset in (4096..6144).step_by(64) {
        disk.corrupt(&Path::new("log").join(segment), offset, 0xff);
    }
    let text = damage(&disk.after_kill());
    assert!(text.contains("log is damaged"), "{text}");
}

#[test]
fn a_failing_disk_ends_the_node() {
    let disk = FakeDisk::new();
    let node = Running::new(&disk);
    node.define(ExitMode::Keep);
    let generation = node.open("one", RunKind::Delta);
    node.upsert(generation, 0, "N1", 1);
    disk.fail(Operation::SyncData, 0, 1, io::ErrorKind::Other);
    let outcome = node.run(node.node.propose(shard_of("N1"), patch(generation, 1, "N1", 2)));
    assert_eq!(outcome, Err(ProposeError::Unknown));
    let reason = node.run(node.node.failed());
    assert!(reason.contains("log") || reason.contains("group"), "{reason}");
    // What was applied can still be read.
    assert_eq!(node.seats("N1").as_deref(), Some("{\"seats\":1}"));
}

#[test]
fn an_entry_that_cannot_be_decoded_ends_the_node() {
    let node = Running::new(&FakeDisk::new());
    let outcome = node.run(node.node.propose(ShardId(0), vec![Bytes::from_static(b"\xffno entry")]));
    assert_eq!(outcome, Err(ProposeError::Unknown));
    let reason = node.run(node.node.failed());
    assert!(reason.contains("group 1 cannot apply its log entry"), "{reason}");
}

#[test]
fn a_full_disk_refuses_writes_and_serves_reads() {
    let disk = FakeDisk::new();
    let node = Running::new(&disk);
    node.define(ExitMode::Keep);
    let generation = node.open("one", RunKind::Delta);
    node.upsert(generation, 0, "N1", 1);
    disk.set_capacity(Some(disk.used()));
    let mut refused = false;
    for seq in 1..5_000 {
        match node.run(node.node.propose(shard_of("N1"), patch(generation, seq, "N1", 2))) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error, ProposeError::DiskFull);
                refused = true;
                break;
            }
        }
    }
    assert!(refused);
    assert_eq!(node.seats("N1").as_deref(), Some("{\"seats\":2}"));
    disk.set_capacity(None);
    node.until("there is room again", |node| node.log.has_room());
    node.upsert(generation, 6_000, "N1", 3);
}

#[test]
fn patches_that_may_add_are_refused_at_the_memory_limit_and_what_makes_room_is_not() {
    let disk = FakeDisk::new();
    let node = Running::new(&disk);
    node.define(ExitMode::Delete);
    let generation = node.open("one", RunKind::Full);
    node.upsert(generation, 0, "N1", 1);
    let used = node.status()["memory"]["bytes"].as_u64().unwrap();
    let shown: u64 = (0..SHARDS).map(|id| node.node.reader(ShardId(id)).unwrap().stats(PLANES).bytes).sum();
    assert_eq!(used, shown);
    node.stop();
    // The smallest limit of which a byte more than what is there may be used.
    let above = (1..).find(|max: &u64| max * 85 / 100 > used).unwrap();
    let node = Running::with_memory(&disk, above);
    assert_eq!(node.upsert(generation, 1, "N2", 1).1, added());
    let used = node.status()["memory"]["bytes"].as_u64().unwrap();
    node.stop();
    // The largest limit of which no more may be used than what is there.
    let max = (1..).take_while(|max| max * 85 / 100 <= used).last().unwrap();
    let node = Running::with_memory(&disk, max);
    assert_eq!(max * 85 / 100, used, "of two neighbours one has every value");
    let refused = |seq| node.run(node.node.propose(shard_of("N3"), patch(generation, seq, "N3", 1)));
    assert_eq!(refused(2), Err(ProposeError::MemoryLimit { used, usable: used, max }));
    assert_eq!(node.seats("N1").as_deref(), Some("{\"seats\":1}"), "lookups go on");
    let mut encoder = PatchEncoder::new(origin(generation, 2), 16 << 10);
    encoder.delete(&Key::new("N8").unwrap());
    encoder.clear(&Key::new("N9").unwrap());
    assert!(node.run(node.node.propose(shard_of("N8"), encoder.finish())).is_ok());
    assert!(refused(3).is_err(), "that has made no room");
    // A run is opened and sweeps.
    let newer = node.open("two", RunKind::Full);
    let begin = CatalogCommand::BeginCommit { collection: planes(), sync: facts(), run: "two".into() };
    let CatalogReply::Committing { intent: Some(intent) } = node.catalog(begin) else { panic!("a sweep is needed") };
    node.run(node.node.run_intent(intent)).unwrap();
    assert_eq!((node.seats("N1"), node.seats("N2")), (None, None));
    assert_eq!(node.upsert(newer, 0, "N3", 1).1, added(), "there is room again");
}

#[test]
fn an_intent_that_fails_is_told_and_carried_out_later() {
    let disk = FakeDisk::new();
    let node = Running::new(&disk);
    node.define(ExitMode::Keep);
    node.stop_tasks();
    let (generation, intent) = node.propose_open("one", RunKind::Delta);
    disk.set_capacity(Some(disk.used()));
    let fill = |seq| node.run(node.node.propose(shard_of("N1"), patch(Generation(0), seq, "N1", 2)));
    assert_eq!((0..5_000).find_map(|seq| fill(seq).err()), Some(ProposeError::DiskFull));
    assert_eq!(node.run(node.node.run_intent(intent)), Err(ProposeError::DiskFull));
    assert_eq!(node.node.executor.pending(), 1);
    disk.set_capacity(None);
    node.until("the intent is done", |node| node.executor.pending() == 0);
    assert_eq!(node.upsert(Generation(0), 0, "N1", 1).1, Outcome::Stale { newest: generation });
}

#[test]
fn a_caller_that_goes_away_leaks_no_credit() {
    let node = Running::new(&FakeDisk::new());
    node.define(ExitMode::Keep);
    let generation = node.open("one", RunKind::Delta);
    for seq in 0..50 {
        let proposal = node.node.propose(shard_of("N1"), patch(generation, seq, "N1", 1));
        // One look at it, then it is dropped.
        node.run(async { tokio::time::timeout(Duration::ZERO, proposal).await.ok() });
    }
    node.until("nothing is in flight", |node| node.proposer.inflight_bytes() == 0);
}

#[test]
fn too_much_in_flight_is_refused() {
    let node = Running::new(&FakeDisk::new());
    let from = &node.node;
    let (replicas, reports) = (Arc::clone(&from.replicas), Arc::clone(&from.reports));
    let memory = super::memory::MemoryLimit::new(1 << 30, Arc::clone(&replicas), from.runs.clone());
    let router = super::router::Router { me: from.me, replicas, reports };
    let proposer = Proposer::new(router, Arc::clone(&from.courier), from.log.clone(), memory, 4096, 1 << 20);
    let proposer = proposer.with_patience(super::proposer::Patience { credit: Duration::ZERO, ..Default::default() });
    let all = [Bytes::from(vec![0; 1 << 20])];
    let held = node.run(proposer.credits().take(&all, Duration::ZERO)).unwrap();
    let command = || vec![larder_storage::command::drop_collection(PLANES)];
    assert_eq!(node.run(proposer.propose(GroupId(1), command())).unwrap_err(), ProposeError::Overloaded);
    drop(held);
    node.run(proposer.propose(GroupId(1), command())).unwrap();
    // Nor may one group take what others need.
    let replica = from.replicas.get(GroupId(1)).unwrap();
    let all = [Bytes::from(vec![0; super::proposer::GROUP_BYTES])];
    let held = node.run(replica.credits.take(&all, Duration::ZERO)).unwrap();
    assert_eq!(node.run(proposer.propose(GroupId(1), command())).unwrap_err(), ProposeError::Overloaded);
    node.run(proposer.propose(GroupId(2), command())).unwrap();
    drop(held);
    // More than all credits passes alone.
    let many = (0..10).flat_map(|_| command()).collect();
    assert_eq!(node.run(proposer.propose(GroupId(1), many)).unwrap().len(), 10);
    let large = vec![Bytes::from(vec![0; (1 << 20) + 1])];
    match node.run(proposer.propose(GroupId(1), large)).unwrap_err() {
        ProposeError::Refused(error) => assert_eq!(error.code, ErrorCode::PayloadTooLarge),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stopped_node_refuses() {
    let node = Running::new(&FakeDisk::new());
    node.run(node.node.shutdown());
    let outcome = node.run(node.node.propose(ShardId(0), patch(Generation(1), 0, "N1", 1)));
    assert_eq!(outcome, Err(ProposeError::Stopping));
    assert_eq!(node.node.failure.reason(), None, "a stop in order is no failure");
}

/// Whatever was done of it: a replica that is gone leaves nothing behind, and its place can be taken by another.
#[test]
fn a_crash_at_any_step_of_wiping_a_replica_is_mended_by_the_next_start() {
    use super::identity::{Held, HeldState, Identity};
    let whole = disk_with_snapshot();
    let incarnation = "0123456789abcdef".repeat(2);
    let mut identity = Identity::load(&whole, &incarnation).unwrap().unwrap();
    let held = identity.held(GroupId(1)).unwrap();
    identity.hold(Held { state: HeldState::Gone, ..held });
    identity.save(&whole).unwrap();
    // The first one is the test's own.
    for operations in (1..).step_by(3) {
        let disk = whole.after_kill();
        disk.crash_after(operations);
        drop(Running::try_with(&disk, 64 << 20));
        let is_done = !disk.has_crashed();
        let after = disk.power_cut(operations);
        let node = Running::with(&after, 64 << 20);
        // The map of this node, which is alone, still has it here: it is not opened again all the same.
        assert!(node.node.replicas.get(GroupId(1)).is_none());
        assert_eq!(node.node.log.group(GroupId(1)).state(), Default::default(), "after {operations}");
        // The others are as they were.
        assert!(node.node.reader(ShardId(1)).is_some());
        node.stop();
        let left = after.after_kill();
        let identity = Identity::load(&left, &incarnation).unwrap().unwrap();
        assert!(identity.held(GroupId(1)).is_none() && !identity.may_open(GroupId(1), held.replica));
        assert!(identity.may_open(GroupId(1), ReplicaId(held.replica.0 + 100)));
        let snapshots = SnapshotStore::open(Arc::new(left), Path::new("snapshots")).unwrap();
        assert!(snapshots.load(GroupId(1)).unwrap().is_none(), "after {operations}");
        if is_done {
            return;
        }
    }
}
