//! Tests of the catalog. Here: a state with short words for its commands, used by all of them.

mod definitions;
mod encoding;
mod keys;
mod nodes;
mod placement;
mod properties;
mod record;
mod runs;

use std::sync::Arc;

use larder_types::api::{Counts, FieldSpec, RejectedRow, RunKind, Scope};
use larder_types::error::ErrorCode;
use larder_types::ids::{CollectionId, Generation, SyncSlot};
use larder_types::patch::ExitMode;
use larder_types::value::ValueType;

use super::{
    ApiKey, BatchOutcome, CatalogCommand, CatalogError, CatalogReply, CatalogState, ClusterSettings, Collection, Sync,
};

/// A state and the log index of its last entry.
struct Fixture {
    state: CatalogState,
    index: u64,
}

impl Fixture {
    /// Nothing was applied yet.
    fn empty() -> Self {
        Self { state: CatalogState::default(), index: 0 }
    }

    /// A cluster that was just made.
    fn new() -> Self {
        let mut fixture = Self::empty();
        fixture.ok(bootstrap());
        fixture
    }

    /// A cluster with collection `planes`, and sync `facts` that owns `name` and `seats`.
    fn with_facts(on_exit: ExitMode) -> Self {
        let mut fixture = Self::new();
        fixture.ok(put_collection("planes"));
        fixture.ok(put_sync("planes", "facts", &["name", "seats"], on_exit));
        fixture
    }

    fn apply(&mut self, command: &CatalogCommand) -> Result<CatalogReply, CatalogError> {
        self.index += 1;
        self.state.apply(self.index, command)
    }

    fn ok(&mut self, command: CatalogCommand) -> CatalogReply {
        self.apply(&command).unwrap_or_else(|error| panic!("{command:?} was refused: {error}"))
    }

    /// Applies a command that must be refused with this code and must change nothing.
    fn refused(&mut self, code: ErrorCode, command: CatalogCommand) -> CatalogError {
        let mut before = CatalogState::restore(&self.state.snapshot()).unwrap();
        let catalog = self.state.catalog();
        let error = match self.apply(&command) {
            Err(error) => error,
            Ok(reply) => panic!("{command:?} was not refused but answered {reply:?}"),
        };
        before.advance(self.index);
        assert_eq!(error.code, code, "{command:?}: {error}");
        assert_eq!(self.state.snapshot(), before.snapshot(), "{command:?} was refused but changed something");
        assert!(Arc::ptr_eq(&self.state.catalog(), &catalog), "{command:?} was refused but published a version");
        error
    }

    fn collection(&self, name: &str) -> Arc<Collection> {
        Arc::clone(&self.state.catalog().collections[name])
    }

    fn sync(&self, collection: &str, name: &str) -> Arc<Sync> {
        Arc::clone(&self.collection(collection).syncs[name])
    }

    /// The names and ids of a collection's living fields.
    fn fields(&self, collection: &str) -> Vec<(String, u16)> {
        self.collection(collection).fields.iter().map(|field| (field.name.to_string(), field.id.0)).collect()
    }

    /// Opens a run of `planes`/`facts` and returns its generation.
    fn open(&mut self, run: &str, kind: RunKind) -> u32 {
        match self.ok(open_run("facts", run, kind)) {
            CatalogReply::Opened { generation, .. } => generation.0,
            other => panic!("opening a run answered {other:?}"),
        }
    }

    /// Begins the commit of a run of `planes`/`facts` and returns the intent, if any.
    fn begin_commit(&mut self, run: &str) -> Option<u64> {
        match self.ok(begin_commit("facts", run)) {
            CatalogReply::Committing { intent } => intent,
            other => panic!("beginning a commit answered {other:?}"),
        }
    }
}

/// `planes` and `facts` in [`Fixture::with_facts`].
const FACTS: (CollectionId, SyncSlot) = (CollectionId(0), SyncSlot(0));

/// 2026-01-01T00:00:00Z.
const NEW_YEAR: i64 = 1_767_225_600_000_000;

fn bootstrap() -> CatalogCommand {
    let settings = ClusterSettings {
        id: "0123456789abcdef0123456789abcdef".into(),
        hash_seed: u64::MAX,
        shards: 16,
        created_at: NEW_YEAR,
    };
    CatalogCommand::Bootstrap { settings, root: key("root") }
}

fn key(id: &str) -> ApiKey {
    ApiKey {
        id: id.into(),
        sha256: "ab".repeat(32),
        label: "for tests".into(),
        scopes: vec![Scope::Admin],
        created_at: NEW_YEAR,
    }
}

fn put_collection(name: &str) -> CatalogCommand {
    CatalogCommand::PutCollection { name: name.parse().unwrap(), primary_index: None }
}

fn drop_collection(name: &str) -> CatalogCommand {
    CatalogCommand::DropCollection { name: name.parse().unwrap() }
}

fn field(name: &str, kind: ValueType) -> FieldSpec {
    FieldSpec { name: name.parse().unwrap(), kind }
}

/// Fields of any type.
fn put_sync(collection: &str, name: &str, fields: &[&str], on_exit: ExitMode) -> CatalogCommand {
    let fields = fields.iter().map(|name| field(name, ValueType::Any)).collect();
    put_typed(collection, name, fields, on_exit)
}

fn put_typed(collection: &str, name: &str, fields: Vec<FieldSpec>, on_exit: ExitMode) -> CatalogCommand {
    CatalogCommand::PutSync { collection: collection.parse().unwrap(), name: name.parse().unwrap(), fields, on_exit }
}

fn drop_sync(collection: &str, name: &str) -> CatalogCommand {
    CatalogCommand::DropSync { collection: collection.parse().unwrap(), name: name.parse().unwrap() }
}

fn open_run(sync: &str, run: &str, kind: RunKind) -> CatalogCommand {
    CatalogCommand::OpenRun {
        collection: "planes".parse().unwrap(),
        sync: sync.parse().unwrap(),
        run: run.into(),
        kind,
        planned: Counts { added: 3, changed: 2, removed: 1 },
        at: NEW_YEAR,
    }
}

fn begin_commit(sync: &str, run: &str) -> CatalogCommand {
    CatalogCommand::BeginCommit { collection: "planes".parse().unwrap(), sync: sync.parse().unwrap(), run: run.into() }
}

fn end_commit(sync: &str, run: &str) -> CatalogCommand {
    CatalogCommand::EndCommit {
        collection: "planes".parse().unwrap(),
        sync: sync.parse().unwrap(),
        run: run.into(),
        at: NEW_YEAR + 2_000_000,
    }
}

fn abort_run(sync: &str, run: &str) -> CatalogCommand {
    CatalogCommand::AbortRun {
        collection: "planes".parse().unwrap(),
        sync: sync.parse().unwrap(),
        run: run.into(),
        at: NEW_YEAR + 3_000_000,
    }
}

fn record(run: &str, outcome: BatchOutcome) -> CatalogCommand {
    CatalogCommand::RecordBatch { collection: FACTS.0, slot: FACTS.1, run: run.into(), outcome }
}

/// A batch of ten rows, of which `rejects` were rejected with messages of `message_bytes`.
fn batch(seq: u32, rejects: u64, message_bytes: usize) -> BatchOutcome {
    let reject = |row| RejectedRow {
        row,
        key: Some(format!("k{row}")),
        code: "type_mismatch".into(),
        field: Some("seats".into()),
        message: "m".repeat(message_bytes),
    };
    BatchOutcome {
        seq,
        body_hash: 7,
        at: NEW_YEAR + 1_000_000,
        latency_micros: 12_999,
        rows: 10,
        bytes: 1000,
        accepted: 10 - rejects,
        successful: Counts { added: 4, changed: 3, removed: 1 },
        unchanged: 2 - rejects.min(2),
        failed: Counts { added: rejects, changed: 0, removed: 0 },
        rejects: (0..rejects).map(reject).collect(),
        rejects_cut: false,
        revision: "r1.AAE".into(),
    }
}

fn done(id: u64, swept: u64) -> CatalogCommand {
    CatalogCommand::IntentDone { id, swept }
}

fn generation(number: u32) -> Generation {
    Generation(number)
}
