//! What other nodes ask in the place of clients: lookups and numbers of shards that are here and not there.
//!
//! Who may ask what was checked by the node that has the client's connection, and what is asked changes nothing. Nothing
//! that comes this way is forwarded again.

pub(crate) mod wire;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use larder_replication::node::{Forwarded, Node};
use larder_types::error::ErrorCode;

use self::wire::{Answer, Message};
use crate::error::ApiError;
use crate::fetch::{Hop, fetch};
use crate::numbers;

/// Longest time that a node that forwards may ask for: its own deadline may be configured to anything.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Answers other nodes.
pub(crate) struct Forwarder(Weak<Node>);

impl Forwarder {
    /// Answers for this node, as long as it is there.
    pub(crate) fn of(node: &Arc<Node>) -> Arc<Self> {
        Arc::new(Self(Arc::downgrade(node)))
    }
}

impl Forwarded for Forwarder {
    fn answer(&self, request: Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send + 'static>> {
        let node = self.0.upgrade();
        Box::pin(async move {
            let answer = match (node, wire::decode(request)) {
                (Some(node), Ok((message, left))) => answer(node, message, left.min(MAX_WAIT)).await,
                (Some(_), Err(error)) => Err(error),
                (None, _) => Err(ApiError::new(ErrorCode::Draining, "the node is stopping")),
            };
            wire::encode_answer(answer).await
        })
    }
}

async fn answer(node: Arc<Node>, message: Message, left: Duration) -> Result<Answer, ApiError> {
    match message {
        Message::Lookup(question) => fetch(node, question, Hop::Taken, left).await.map(Answer::Response),
        Message::Measure(question) => numbers::answer(&node, &question).map(Answer::Numbers),
    }
}
