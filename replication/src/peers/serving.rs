//! The called side of a connection: hands requests to the service and sends its answers back, in the order in which they
//! become ready.
//!
//! Invariants: requests that are being served, and answers that wait for the queue, hold no more bytes than the limit;
//! what is being served is dropped with the connection, since nobody waits for it any more.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::error::{MAX_MESSAGE_BYTES, Refusal};
use super::frame::{Body, Head, MAX_BODY_BYTES, Sort};
use super::options::{FRAME_CHARGE, LaneLimits};
use super::wire::{End, Inbox, Wire};
use super::{Caller, Reply, Request, Service};

/// Serves one connection.
pub(super) struct Serving {
    service: Arc<dyn Service>,
    from: Caller,
    wire: Arc<Wire>,
    room: Arc<Semaphore>,
    running: JoinSet<()>,
}

impl Serving {
    pub(super) fn new(service: Arc<dyn Service>, from: Caller, wire: Arc<Wire>, limits: LaneLimits) -> Self {
        let room = Arc::new(Semaphore::new(limits.serving_bytes));
        Self { service, from, wire, room, running: JoinSet::new() }
    }

    /// Drops what is being served; when this returns, none of it runs any more.
    pub(super) async fn end(mut self) {
        self.running.shutdown().await;
    }

    /// Forgets what has been served.
    fn reap(&mut self) -> Result<(), End> {
        while let Some(served) = self.running.try_join_next() {
            if served.is_err_and(|error| error.is_panic()) {
                return Err(End::GivenUp("the service panicked: see the log before this"));
            }
        }
        Ok(())
    }
}

impl Inbox for Serving {
    async fn receive(&mut self, head: Head, body: Bytes) -> Result<(), End> {
        if head.sort != Sort::Request {
            return Err(End::Violation(format!("a frame {:?} came from the side that calls", head.sort)));
        }
        self.reap()?;
        let Head { tag: kind, id, .. } = head;
        if self.from.node.is_none() && !self.service.is_open(kind) {
            let (head, body) = encode(id, Err(Refusal::not_member()));
            return self.wire.send(head, body).await;
        }
        let charge = u32::try_from(body.len() + FRAME_CHARGE).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).acquire_many_owned(charge).await else {
            return Err(End::GivenUp("the connection is closed"));
        };
        let reply = self.service.serve(self.from, Request { kind, body });
        let wire = Arc::clone(&self.wire);
        self.running.spawn(async move {
            let (head, body) = encode(id, reply.await);
            // Nobody waits for the answer if the connection has ended.
            let _ = wire.send(head, body).await;
            drop(room);
        });
        Ok(())
    }
}

fn encode(id: u64, reply: Reply) -> (Head, Body) {
    let reply = match reply {
        Ok(body) if body.len() > MAX_BODY_BYTES => Err(Refusal::too_large(body.len())),
        reply => reply,
    };
    match reply {
        Ok(body) => (Head { sort: Sort::Answer, tag: 0, id }, body.into()),
        Err(Refusal { code, message }) => {
            // The other side keeps no more of it either.
            let mut message = message.into_bytes();
            message.truncate(MAX_MESSAGE_BYTES);
            (Head { sort: Sort::Refusal, tag: code, id }, Bytes::from(message).into())
        }
    }
}
