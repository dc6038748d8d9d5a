//! Lookups that cannot be answered at once: a replica is waited for, a leader has to confirm that it leads, or another
//! node is asked. They run on the node's runtime.
//!
//! Invariants: another node is asked by the one that has the client's connection and by no other, so a lookup takes one
//! hop at most; whatever is waited for, the lookup's deadline holds; who may ask was checked before, here for clients, at
//! the other node for what it forwards.

use std::sync::Arc;
use std::time::Duration;

use hyper::HeaderMap;
use hyper::Uri;
use hyper::header::{ACCEPT, IF_NONE_MATCH};
use hyper::http::request::Parts;
use larder_replication::catalog::Catalog;
use larder_replication::node::{Consistency, Node, ReadTarget};
use larder_types::error::ErrorCode;
use larder_types::ids::NodeId;
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::ApiError;
use crate::forward::wire::{self, Message};
use crate::lookup::{Lookup, Read, may_be_news};
use crate::reply::Response;
use crate::revision::{self, MIN_REVISION};
use crate::router::{self, RecordPath, Resource};

/// Pause between two attempts: an election takes a second or two.
const PAUSE: Duration = Duration::from_millis(50);

/// A lookup, as it goes to another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// Path and query.
    pub(crate) target: Uri,
    /// The headers that matter for the answer.
    pub(crate) headers: HeaderMap,
    /// The version of the definitions that whoever answers must have heard of.
    pub(crate) definitions: u64,
}

impl Question {
    /// The headers that matter for a lookup's answer.
    pub(crate) const HEADERS: [hyper::header::HeaderName; 3] = [ACCEPT, IF_NONE_MATCH, MIN_REVISION];

    /// The question that a client asks.
    pub(crate) fn of(head: &Parts) -> Self {
        let mut headers = HeaderMap::new();
        for name in Self::HEADERS {
            for value in head.headers.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
        Self { target: head.uri.clone(), headers, definitions: 0 }
    }
}

/// Whether another node may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hop {
    /// It may.
    Allowed,
    /// Another node asks.
    Taken,
}

/// Answers a lookup whose asker may ask it.
///
/// # Errors
/// Those of the documented route. While nobody can answer a client, attempts are made until the deadline, then it is
/// `shard_unavailable`; another node is told at once.
pub(crate) async fn fetch(
    node: Arc<Node>,
    question: Question,
    hop: Hop,
    within: Duration,
) -> Result<Response, ApiError> {
    let now = Instant::now();
    let fetch = Fetch { node, question, hop, half: now + within / 2, soft: now + within * 7 / 8, until: now + within };
    let attempts = async {
        // Whoever is asked at first may be gone; the leader is somebody else, perhaps.
        for from_leader in [false, true].into_iter().cycle() {
            match fetch.attempt(from_leader).await {
                Err(error) if error.code == ErrorCode::ShardUnavailable && hop == Hop::Allowed => sleep(PAUSE).await,
                result => return result,
            }
        }
        Err(revision::unavailable())
    };
    timeout_at(fetch.until, attempts).await.unwrap_or_else(|_| Err(revision::unavailable()))
}

/// A lookup that is being answered.
struct Fetch {
    node: Arc<Node>,
    question: Question,
    hop: Hop,
    /// Until then a replica here is waited for when another node could be asked.
    half: Instant,
    /// Until then anything is waited for; the rest is for the answer's way.
    soft: Instant,
    until: Instant,
}

impl Fetch {
    /// Answers from wherever the lookup is to be answered now; from the leader if that is wished.
    async fn attempt(&self, from_leader: bool) -> Result<Response, ApiError> {
        let Resource::Record(path) = router::route(self.question.target.path())? else {
            return Err(ApiError::new(ErrorCode::Internal, "what was forwarded is no lookup"));
        };
        let catalog = self.definitions(&path).await?;
        let lookup = match self.read(&catalog, &path)? {
            Read::Lookup(lookup) => lookup,
            Read::Answer(response) => return Ok(response),
            Read::Ahead => return Err(revision::not_reached()),
        };
        let level = match lookup.level {
            Consistency::Any if from_leader => Consistency::Leader,
            level => level,
        };
        let reader = match self.node.read(lookup.shard, level, self.hop == Hop::Taken).await? {
            ReadTarget::Here(reader) => reader,
            ReadTarget::There(other) => return self.ask(other, &catalog).await,
        };
        let others = self.hop == Hop::Allowed && level == Consistency::Any && catalog.map.nodes.len() > 1;
        let Some(applied) = revision::wait(&reader, lookup.index, if others { self.half } else { self.soft }).await
        else {
            // The leader has everything that was acknowledged.
            return match self.node.read(lookup.shard, Consistency::Leader, !others).await {
                Ok(ReadTarget::There(leader)) => self.ask(leader, &catalog).await,
                _ => Err(revision::not_reached()),
            };
        };
        lookup.answer(&reader, &mut Vec::new(), |shard, version| revision::header(shard, applied, version))
    }

    fn read<'r>(&'r self, catalog: &'r Catalog, path: &'r RecordPath<'_>) -> Result<Read<'r>, ApiError> {
        Lookup::read(catalog, &self.question.headers, self.question.target.query(), path)
    }

    /// Definitions that are new enough for the question.
    async fn definitions(&self, path: &RecordPath<'_>) -> Result<Arc<Catalog>, ApiError> {
        let catalog = loop {
            let catalog = self.node.catalog();
            let is_ahead = matches!(self.read(&catalog, path), Ok(Read::Ahead));
            if !is_ahead && catalog.version >= self.question.definitions {
                break catalog;
            }
            if Instant::now() >= self.soft {
                return Err(if is_ahead { revision::not_reached() } else { revision::unavailable() });
            }
            sleep(revision::POLL).await;
        };
        // Whoever forwards has seen to this.
        if self.hop == Hop::Taken || catalog.map.nodes.len() < 2 {
            return Ok(catalog);
        }
        let must_be_newest = match self.read(&catalog, path) {
            Ok(Read::Lookup(lookup)) => lookup.level == Consistency::Linearizable,
            Ok(_) => false,
            Err(error) => may_be_news(&error, &catalog),
        };
        if !must_be_newest {
            return Ok(catalog);
        }
        self.node.catch_up_catalog().await?;
        Ok(self.node.catalog())
    }

    /// Has another node answer.
    async fn ask(&self, other: NodeId, catalog: &Catalog) -> Result<Response, ApiError> {
        let question = Question { definitions: catalog.version, ..self.question.clone() };
        let left = self.until.saturating_duration_since(Instant::now());
        let request = wire::encode(&Message::Lookup(question), left);
        let answer = timeout_at(self.until, self.node.forward(other, request)).await;
        wire::decode_answer(answer.map_err(|_| revision::unavailable())??)?.into_response()
    }
}
