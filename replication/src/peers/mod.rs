//! The transport between nodes: requests and their answers, over a few long-lived connections. It knows nothing of Raft.
//!
//! - A node makes its own connection for each *lane* to each node that it calls, and serves those that others make.
//!   Requests go from the caller to the called node, answers come back, in any order. (`link`, `listener`)
//! - Frames are checked, bounded, and packed: whatever waits leaves in one write. (`frame`, `outbox`, `wire`)
//! - Both sides say who they are first, and part with a sentence that says what to do if they do not belong together.
//!   (`handshake`)
//! - TLS, if it is configured, is mutual and of a CA of the cluster's own. (`tls`)
//!
//! Invariants:
//! - An error tells whether the peer may have got the request: whoever must not do a thing twice can rely on it.
//! - Nothing is sent twice: there are no hidden retries.
//! - Every queue is bounded in bytes, every wait in time. A peer that takes bytes and never answers is noticed.
//! - No bytes of a peer, and none of a stranger, make this node panic, and none of a body are logged.

mod calls;
mod error;
mod frame;
mod handshake;
mod link;
mod listener;
mod options;
mod outbox;
mod serving;
mod site;
#[cfg(test)]
mod tests;
mod throttle;
mod tls;
mod traffic;
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use larder_types::ids::NodeId;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::error::{Mismatch, NotSent, PeerError, Refusal, Refused, StartPeersError};
pub(crate) use self::frame::{Body, MAX_BODY_BYTES};
pub(crate) use self::handshake::duplicate;
pub(crate) use self::options::{Lane, PeerLimits, PeerOptions, PeerTls};
pub(crate) use self::tls::TlsError;
pub(crate) use self::traffic::PeerStatus;

use self::calls::Calls;
use self::handshake::{Identity, MAX_CLUSTER_BYTES};
use self::link::Links;
use self::site::{Site, Target};
use self::throttle::Throttle;
use self::tls::Tls;
use self::traffic::Traffic;
use self::wire::{End, Wire};

/// Where nodes listen.
pub(crate) trait Directory: Send + Sync + 'static {
    /// Host and port of a node's listener for peers; `None`: it is no node of the cluster. May change at run time: it is
    /// asked whenever a connection is made, and a connection to a node that it no longer knows is closed.
    fn address(&self, node: NodeId) -> Option<String>;
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    /// `None`: a node that has not joined, or any caller of a node that has not.
    pub(crate) node: Option<NodeId>,
}

/// What a peer asks.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// What kind of request it is, in the service's numbering.
    pub(crate) kind: u8,
    /// Its body. It shares memory with what was received with it, so what is kept for long is better copied.
    pub(crate) body: Bytes,
}

/// What a service answers: a body of at most [`MAX_BODY_BYTES`], or why there is none.
pub(crate) type Reply = Result<Bytes, Refusal>;

/// What answers the requests of peers.
pub(crate) trait Service: Send + Sync + 'static {
    /// Answers a request. Called by the task that reads the connection, so only the future may take time; it runs beside
    /// those of other requests and is dropped when the connection ends.
    fn serve(&self, from: Caller, request: Request) -> BoxFuture<'static, Reply>;

    /// Whether a caller that is no member of the cluster may send requests of this kind.
    fn is_open(&self, kind: u8) -> bool;
}

/// The transport of a node. Cheap to clone. It runs until [`Self::shutdown`].
#[derive(Clone)]
pub(crate) struct Peers {
    site: Arc<Site>,
}

impl Peers {
    /// Starts to listen. The node calls and is called as one that has not joined until [`Self::set_identity`].
    ///
    /// # Errors
    /// When the address cannot be listened on, or the files for TLS cannot be used.
    pub(crate) async fn start(
        options: PeerOptions,
        directory: Arc<dyn Directory>,
        service: Arc<dyn Service>,
    ) -> Result<Self, StartPeersError> {
        let PeerOptions { listen, tls, boot, limits } = options;
        let tls = tls.as_ref().map(Tls::load).transpose()?;
        let failed = |error| StartPeersError::Listen(listen, error);
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let site = Arc::new(Site {
            limits,
            boot,
            tls,
            address,
            identity: RwLock::new(None),
            directory,
            service,
            links: Links::default(),
            traffic: Mutex::new(HashMap::new()),
            throttle: Throttle::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        site.tasks.spawn(listener::run(Arc::clone(&site), listener));
        Ok(Self { site })
    }

    /// Where this node listens.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.site.address
    }

    /// Tells the transport who this node is, once it has made or joined a cluster. From then on it talks to members of
    /// the same cluster only.
    pub(crate) fn set_identity(&self, cluster: &str, node: NodeId) {
        assert!(
            (1..=MAX_CLUSTER_BYTES).contains(&cluster.len()),
            "a cluster's id has 1 to {MAX_CLUSTER_BYTES} bytes, this has {}",
            cluster.len()
        );
        let new = Identity { cluster: cluster.into(), node };
        let mut identity = self.site.identity.write().unwrap_or_else(PoisonError::into_inner);
        assert!(identity.as_ref().is_none_or(|old| *old == new), "a node does not change its cluster or its number");
        *identity = Some(new);
    }

    /// Asks a node of the cluster. The deadline bounds the whole call.
    ///
    /// # Errors
    /// See [`PeerError`], whose variants tell whether the node may have got the request.
    pub(crate) async fn call(
        &self,
        to: NodeId,
        lane: Lane,
        kind: u8,
        body: impl Into<Body>,
        deadline: Duration,
    ) -> Result<Bytes, PeerError> {
        let until = Instant::now() + deadline;
        let body = fit(body.into())?;
        if self.site.identity().is_none() {
            return Err(PeerError::NotSent(NotSent::NotJoined));
        }
        let link = self.site.links.get(to, lane);
        let calls = timeout_at(until, link.calls(&self.site)).await;
        calls.map_err(|_| PeerError::NotSent(NotSent::NoConnection))??.call(kind, body, until).await
    }

    /// Asks whoever listens at an address, over a connection of its own: the way to ask before this node has joined.
    /// Returns also which node answered, if it has joined.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub(crate) async fn call_address(
        &self,
        address: &str,
        kind: u8,
        body: impl Into<Body>,
        deadline: Duration,
    ) -> Result<(Option<NodeId>, Bytes), PeerError> {
        let until = Instant::now() + deadline;
        let body = fit(body.into())?;
        let target = Target { address, node: None, lane: None };
        let connected = tokio::select! {
            connected = timeout_at(until, self.site.connect(target)) => connected,
            () = self.site.stop.cancelled() => return Err(PeerError::NotSent(NotSent::ShuttingDown)),
        };
        let (line, welcome) = connected.map_err(|_| PeerError::NotSent(NotSent::NoConnection))??;
        let traffic = Arc::new(Traffic::new());
        let calls = Calls::new(Wire::new(self.site.limits.lane(Lane::Data), traffic, true));
        let stop = async {
            self.site.stop.cancelled().await;
            End::GivenUp(link::STOPPED)
        };
        let call = calls.call(kind, body, until);
        tokio::pin!(call);
        let answer = tokio::select! {
            answer = &mut call => answer,
            // The call learns of the end too, and knows whether it was sent.
            _ = calls.run(line, stop) => call.await,
        };
        answer.map(|answer| (welcome.node, answer))
    }

    /// How it stands with every node of the directory that was called or has called, by number.
    pub(crate) fn status(&self) -> Vec<PeerStatus> {
        let all = self.site.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = all.iter().map(|(node, traffic)| (*node, Arc::clone(traffic))).collect();
        all.retain(|(node, _)| self.site.directory.address(*node).is_some());
        all.sort_by_key(|(node, _)| *node);
        let status = |(node, traffic): (NodeId, Arc<Traffic>)| {
            let (connected, queued_bytes) = self.site.links.load(node);
            traffic.status(node, connected, queued_bytes)
        };
        all.into_iter().map(status).collect()
    }

    /// Stops: closes all connections and waits until nothing of the transport runs any more. Calls that wait fail.
    pub(crate) async fn shutdown(&self) {
        self.site.stop.cancel();
        self.site.tasks.close();
        self.site.tasks.wait().await;
    }
}

fn fit(body: Body) -> Result<Body, PeerError> {
    match body.len() {
        bytes if bytes > MAX_BODY_BYTES => Err(PeerError::NotSent(NotSent::TooLarge(bytes))),
        _ => Ok(body),
    }
}
