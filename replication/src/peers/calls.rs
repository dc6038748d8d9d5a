//! The calling side of a connection: requests that were sent over it and wait for their answers.
//!
//! Invariants: whoever waits is told as soon as the connection ends; whoever gives up waiting leaves nothing behind; and
//! a failure says "not sent" only when the request can no longer be sent.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::Reply;
use super::error::{NotSent, PeerError, Refusal, message_of_peer};
use super::frame::{Body, Head, Sort};
use super::outbox::Ticket;
use super::wire::{End, Inbox, Line, Wire};

/// The calls over one connection.
#[derive(Debug)]
pub(super) struct Calls {
    wire: Wire,
    /// By id; `None` once the connection has ended.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Reply>>>>,
    next: AtomicU64,
    /// Why the connection ended.
    end: OnceLock<Arc<str>>,
}

impl Calls {
    pub(super) fn new(wire: Wire) -> Self {
        let waiting = Mutex::new(Some(HashMap::new()));
        Self { wire, waiting, next: AtomicU64::new(1), end: OnceLock::new() }
    }

    /// Runs the connection until it ends, or until `stop` says why it is to end.
    pub(super) async fn run(&self, line: Line, stop: impl Future<Output = End>) -> End {
        let mut inbox = Answers(self);
        let end = self.wire.run(line, &mut inbox, stop).await;
        let _ = self.end.set(end.to_string().into());
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(waiting);
        end
    }

    /// Tells whether the connection has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.end.get().is_some()
    }

    /// Bytes that wait to be sent.
    pub(super) fn queued_bytes(&self) -> usize {
        self.wire.outbox().bytes()
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn call(&self, kind: u8, body: Body, until: Instant) -> Result<Bytes, PeerError> {
        let id = self.next.fetch_add(1, Relaxed);
        let ticket = Arc::new(Ticket::default());
        let (sender, answer) = oneshot::channel();
        if !self.with(|waiting| waiting.insert(id, sender)) {
            return Err(PeerError::Unreachable(self.reason()));
        }
        let call = Call { calls: self, id, ticket: Arc::clone(&ticket) };
        let head = Head { sort: Sort::Request, tag: kind, id };
        match timeout_at(until, self.wire.outbox().push(head, body, Some(ticket))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(PeerError::Unreachable(self.reason())),
            Err(_) => return Err(PeerError::NotSent(NotSent::Overloaded)),
        }
        match timeout_at(until, answer).await {
            Ok(Ok(reply)) => reply.map_err(PeerError::Remote),
            Ok(Err(_)) if call.ticket.withdraw() => Err(PeerError::Unreachable(self.reason())),
            Ok(Err(_)) => Err(PeerError::Lost(self.reason())),
            Err(_) if call.ticket.withdraw() => Err(PeerError::NotSent(NotSent::Overloaded)),
            Err(_) => Err(PeerError::Timeout),
        }
    }

    fn reason(&self) -> Arc<str> {
        self.end.get().map_or_else(|| Arc::from("it ended"), Arc::clone)
    }

    /// Acts on the calls that wait; `false` if the connection has ended.
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<u64, oneshot::Sender<Reply>>) -> T) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(act).is_some()
    }

    fn answer(&self, id: u64, reply: Reply) {
        let mut waiting = None;
        self.with(|all| waiting = all.remove(&id));
        // Nobody waits any more when the caller's time was over.
        if let Some(waiting) = waiting {
            let _ = waiting.send(reply);
        }
    }
}

/// A call that somebody waits for; dropping it forgets it.
struct Call<'a> {
    calls: &'a Calls,
    id: u64,
    ticket: Arc<Ticket>,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.ticket.withdraw();
        self.calls.with(|waiting| waiting.remove(&self.id));
    }
}

struct Answers<'a>(&'a Calls);

impl Inbox for Answers<'_> {
    async fn receive(&mut self, head: Head, body: Bytes) -> Result<(), End> {
        let reply = match head.sort {
            Sort::Answer => Ok(body),
            Sort::Refusal => Err(Refusal { code: head.tag, message: message_of_peer(&body) }),
            other => return Err(End::Violation(format!("a frame {other:?} came from the side that is called"))),
        };
        self.0.answer(head.id, reply);
        Ok(())
    }
}
