//! The wires between simulated machines: they delay, lose, repeat and cut.
//!
//! Where something is lost the connection is, which its two ends find out at once or when they have heard nothing for as
//! long as the transport allows. What a machine sends or answers after it has crashed reaches nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use larder_types::ids::{GroupId, NodeId, ReplicaId};
use tokio::time::Instant;

use super::trace::Trace;
use crate::peers::{Body, Caller, Lane, PeerError, PeerLimits, Request, Service};
use crate::raft::network::{Courier, Kind};
use crate::raft::types::Vote;
use crate::raft::wire::{self, Envelope};
use crate::simulated::{happens, pause};

/// Calls at one instant after which it is clear that somebody asks without pause.
const MOST_AT_ONCE: u64 = 20_000;

/// How the wires behave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    /// Longest way of a message, in microseconds.
    pub(super) delay_micros: u64,
    /// Of a thousand messages, so many are lost.
    pub(super) lost: u64,
    /// Of a thousand requests of replicas, so many arrive twice.
    pub(super) repeated: u64,
}

impl Weather {
    /// As in one room.
    pub(super) const FAIR: Self = Self { delay_micros: 2_000, lost: 0, repeated: 0 };
}

/// All wires. Cheap to clone.
#[derive(Clone)]
pub(super) struct Net(Arc<Mutex<Inner>>, Trace);

struct Inner {
    machines: BTreeMap<NodeId, (u64, Arc<dyn Service>)>,
    /// From whom to whom nothing gets through.
    cut: BTreeSet<(NodeId, NodeId)>,
    weather: Weather,
    /// The highest vote that each replica has told anybody.
    told: BTreeMap<(GroupId, ReplicaId), Vote>,
    at: (Instant, u64),
    installed: u64,
}

impl Net {
    pub(super) fn new(trace: Trace) -> Self {
        let inner = Inner {
            machines: BTreeMap::new(),
            cut: BTreeSet::new(),
            weather: Weather::FAIR,
            told: BTreeMap::new(),
            at: (Instant::now(), 0),
            installed: 0,
        };
        Self(Arc::new(Mutex::new(inner)), trace)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the story is told.
    pub(super) fn trace(&self) -> &Trace {
        &self.1
    }

    /// A machine is on and answers.
    pub(super) fn attach(&self, node: NodeId, boot: u64, service: Arc<dyn Service>) {
        self.lock().machines.insert(node, (boot, service));
    }

    /// A machine is off.
    pub(super) fn detach(&self, node: NodeId) {
        self.lock().machines.remove(&node);
    }

    pub(super) fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// Cuts one way between two machines.
    pub(super) fn cut(&self, from: NodeId, to: NodeId) {
        self.lock().cut.insert((from, to));
    }

    /// Mends all wires.
    pub(super) fn mend(&self) {
        self.lock().cut.clear();
    }

    /// The highest vote that a replica has told anybody.
    pub(super) fn told(&self, group: GroupId, replica: ReplicaId) -> Option<Vote> {
        self.lock().told.get(&(group, replica)).copied()
    }

    /// The way of one message, if it gets through.
    pub(super) fn way(&self) -> Duration {
        let most = self.lock().weather.delay_micros;
        // Now and then one is far behind the others.
        if happens(10) { pause(most * 20) } else { pause(most) }
    }

    fn is_on(&self, node: NodeId, boot: u64) -> bool {
        self.lock().machines.get(&node).is_some_and(|(on, _)| *on == boot)
    }

    fn passes(&self, from: NodeId, to: NodeId) -> bool {
        let lost = self.lock().weather.lost;
        !self.lock().cut.contains(&(from, to)) && !happens(lost)
    }

    fn count(&self) {
        let mut inner = self.lock();
        let now = Instant::now();
        inner.at = if inner.at.0 == now { (now, inner.at.1 + 1) } else { (now, 0) };
        assert!(inner.at.1 < MOST_AT_ONCE, "somebody asks without pause");
    }

    /// How many snapshots were installed.
    pub(super) fn installed(&self) -> u64 {
        self.lock().installed
    }

    /// Notes what a replica says of its vote.
    fn note(&self, kind: u8, envelope: Option<Envelope>, answer: &Bytes) {
        let vote = match (envelope, Kind::of(kind)) {
            (Some(_), Some(Kind::Vote)) => wire::decode_vote_answer(answer).unwrap().vote,
            (Some(_), Some(Kind::SnapshotEnd)) => wire::decode_vote(answer).unwrap(),
            _ => return,
        };
        let Some(envelope) = envelope else { return };
        let mut inner = self.lock();
        inner.installed += u64::from(kind == Kind::SnapshotEnd as u8);
        let told = inner.told.entry((envelope.group, envelope.to)).or_insert(vote);
        if *told < vote {
            *told = vote;
        }
    }
}

/// What one boot of a machine sends by.
pub(super) struct Wires {
    pub(super) net: Net,
    pub(super) from: NodeId,
    pub(super) boot: u64,
}

fn unreachable(why: &str) -> PeerError {
    PeerError::Unreachable(why.into())
}

impl Courier for Wires {
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        kind: u8,
        body: Body,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let (net, from, boot) = (self.net.clone(), self.from, self.boot);
        Box::pin(async move {
            net.count();
            let call = carry(&net, (from, boot), (to, lane), kind, body.into_bytes());
            tokio::time::timeout(deadline, call).await.unwrap_or(Err(PeerError::Timeout))
        })
    }
}

/// Nothing is heard until the connection is given up.
async fn silence(lane: Lane) -> Result<Bytes, PeerError> {
    tokio::time::sleep(PeerLimits::default().lanes[lane as usize].silence).await;
    Err(PeerError::Lost("nothing was heard".into()))
}

async fn carry(
    net: &Net,
    from: (NodeId, u64),
    (to, lane): (NodeId, Lane),
    kind: u8,
    body: Bytes,
) -> Result<Bytes, PeerError> {
    tokio::time::sleep(net.way()).await;
    if !net.is_on(from.0, from.1) {
        return silence(lane).await;
    }
    if !net.passes(from.0, to) {
        // A connection that is known to be broken, or one that is not.
        return if happens(500) { Err(unreachable("the wire is cut")) } else { silence(lane).await };
    }
    let machine = net.lock().machines.get(&to).cloned();
    let Some((boot, service)) = machine else { return Err(unreachable("nobody listens")) };
    net.trace().whisper(format_args!("{} -> {to}: kind {kind}, {} bytes", from.0, body.len()));
    let caller = Caller { node: Some(from.0) };
    let envelope = Envelope::take(&mut body.clone()).ok();
    let is_of_replicas = matches!(Kind::of(kind), Some(Kind::Append | Kind::Vote | Kind::PreVote));
    let repeated = net.lock().weather.repeated;
    if is_of_replicas && happens(repeated) {
        let (again, way) = (service.serve(caller, Request { kind, body: body.clone() }), net.way());
        tokio::spawn(async move {
            tokio::time::sleep(way).await;
            let _ = again.await;
        });
    }
    // Whoever asked may go away: what has arrived is served all the same.
    let served = tokio::spawn(service.serve(caller, Request { kind, body }));
    let Ok(reply) = served.await else { return Err(PeerError::Lost("the service panicked".into())) };
    if !net.is_on(to, boot) {
        return Err(PeerError::Lost("the machine is off".into()));
    }
    if let Ok(answer) = &reply {
        net.note(kind, envelope, answer);
    }
    tokio::time::sleep(net.way()).await;
    if !net.passes(to, from.0) {
        return if happens(500) { Err(PeerError::Lost("the wire is cut".into())) } else { silence(lane).await };
    }
    reply.map_err(PeerError::Remote)
}
