//! What the handlers on one core work with, and what all cores share.

use std::cell::{Cell, RefCell, RefMut};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use larder_replication::catalog::{Catalog, CatalogCommand, CatalogReply};
use larder_replication::node::{Node, ProposeError, Readers};
use larder_types::error::ErrorCode;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};

use crate::config::Limits;
use crate::error::ApiError;
use crate::metrics::CoreMeter;
use crate::request_id::RequestIds;
use crate::revision::RevisionHeaders;

type CatalogCache = Cache<Arc<ArcSwap<Catalog>>, Arc<Catalog>>;
type ReadersCache = Cache<Arc<ArcSwap<Readers>>, Arc<Readers>>;

/// What all cores share.
pub(crate) struct Shared {
    pub(crate) node: Arc<Node>,
    /// The node's own runtime: everything that takes longer than a lookup runs there.
    pub(crate) background: Handle,
    pub(crate) limits: Limits,
    /// Open connections.
    pub(crate) connections: AtomicUsize,
    /// What each core counts.
    pub(crate) meters: Vec<Arc<CoreMeter>>,
    /// One permit for each batch that may be read, parsed and applied at the same time.
    pub(crate) batches: Arc<Semaphore>,
    /// True once the server was told to stop.
    pub(crate) draining: AtomicBool,
}

impl Shared {
    /// Open connections.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// What belongs to one core: never leaves its thread, so nothing in it is locked.
pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    catalog: RefCell<CatalogCache>,
    readers: RefCell<ReadersCache>,
    /// Where a record is written before it is copied into its answer, so that the answer is allocated at its size.
    pub(crate) scratch: RefCell<Vec<u8>>,
    pub(crate) revisions: RefCell<RevisionHeaders>,
    pub(crate) request_ids: RequestIds,
    pub(crate) meter: Arc<CoreMeter>,
    /// Wakes the core's connections when the server is told to stop.
    pub(crate) drain: Notify,
    pub(crate) draining: Cell<bool>,
}

impl Core {
    /// A core that counts on this meter, which is no other's.
    pub(crate) fn new(shared: Arc<Shared>, seed: u64, meter: Arc<CoreMeter>) -> Self {
        let catalog = Cache::new(Arc::clone(shared.node.catalog_cell()));
        let readers = Cache::new(Arc::clone(shared.node.readers_cell()));
        Self {
            shared,
            catalog: RefCell::new(catalog),
            readers: RefCell::new(readers),
            scratch: RefCell::new(Vec::new()),
            revisions: RefCell::new(RevisionHeaders::new()),
            request_ids: RequestIds::new(seed),
            meter,
            drain: Notify::new(),
            draining: Cell::new(false),
        }
    }

    /// This core's view of the definitions, brought up to date by its `load`. Must not be held across an await.
    pub(crate) fn catalog(&self) -> RefMut<'_, CatalogCache> {
        self.catalog.borrow_mut()
    }

    /// This core's view of the replicas here, brought up to date by its `load`. Must not be held across an await.
    pub(crate) fn readers(&self) -> RefMut<'_, ReadersCache> {
        self.readers.borrow_mut()
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.shared.node
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Runs a write to its end on the node's runtime, even if the client goes away, and waits for it for a while.
    ///
    /// # Errors
    /// The write's own, or `outcome_unknown` when it takes longer than the deadline.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        write: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        let task = self.shared.background.spawn(write);
        match tokio::time::timeout(self.limits().write_deadline, task).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ApiError::new(ErrorCode::OutcomeUnknown, "the node stopped before the write was done")),
            Err(_) => {
                let message = "the write was not done in time and goes on; repeat the request, that is safe";
                Err(ApiError::new(ErrorCode::OutcomeUnknown, message))
            }
        }
    }

    /// Waits until the definitions here are those of now, or newer.
    ///
    /// # Errors
    /// `shard_unavailable` when that cannot be found out now.
    pub(crate) async fn catch_up(&self) -> Result<(), ApiError> {
        let node = Arc::clone(self.node());
        self.run(async move { Ok(node.catch_up_catalog().await?) }).await
    }

    /// Proposes a command of the catalog.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub(crate) async fn propose(&self, command: CatalogCommand) -> Result<CatalogReply, ApiError> {
        let node = Arc::clone(self.node());
        self.run(async move { Ok(node.propose_catalog(command).await?) }).await
    }

    /// Waits for the right to handle a batch.
    ///
    /// # Errors
    /// `overloaded` when others hold it for too long.
    pub(crate) async fn batch_permit(&self) -> Result<tokio::sync::OwnedSemaphorePermit, ApiError> {
        /// A short burst is waited out; under lasting load it is better to say so, because clients repeat.
        const PATIENCE: Duration = Duration::from_secs(5);
        let permit = Arc::clone(&self.shared.batches).acquire_owned();
        match tokio::time::timeout(PATIENCE, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => {
                Err(ApiError::new(ErrorCode::Overloaded, "too many batches are in flight; nothing was done, repeat it"))
            }
        }
    }
}

/// What the catalog answered to a command that it cannot answer so: the two halves of the program disagree.
pub(crate) fn unexpected(reply: &CatalogReply) -> ApiError {
    tracing::error!(?reply, "the catalog gave a reply that does not belong to the command");
    ApiError::new(ErrorCode::Internal, "the catalog gave a reply that does not belong to the command")
}

/// Carries an intent out, so that its effect is there when the caller is answered.
///
/// # Errors
/// See [`ProposeError`]; the node carries the intent out later in any case.
pub(crate) async fn carry_out(node: &Node, intent: u64) -> Result<(), ApiError> {
    node.run_intent(intent).await.map_err(|error| match error {
        // The change itself is made, so none of these means that nothing was done.
        ProposeError::Unavailable | ProposeError::Overloaded | ProposeError::Stopping => {
            let message = "the change is made but not yet carried out on all shards; repeat the request";
            ApiError::new(ErrorCode::OutcomeUnknown, message)
        }
        other => other.into(),
    })
}
