//! The frames that wait to be sent over one connection.
//!
//! Invariants: they never hold more bytes than the limit, whoever wants to add more waits; a frame keeps its share of
//! the limit until the socket has taken it; pings and pongs pass all others and are at most one each, so that a peer
//! that asks without end costs nothing.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, Semaphore};

use super::frame::{Body, Head, Packed, Sort};
use super::options::FRAME_CHARGE;

/// Bytes that are handed to the socket at once, unless a single frame has more. What is handed over counts as sent, so
/// more would make more outcomes unknown.
const WRITE_BYTES: usize = 1 << 20;

/// What the queue of a connection that has ended answers.
#[derive(Debug)]
pub(super) struct Ended;

/// The queue.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    /// Told when the queue has something, or ended.
    ready: Notify,
    /// A permit for each byte that may yet wait.
    room: Semaphore,
    limit: usize,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Waiting>,
    ping: Option<u64>,
    pong: Option<u64>,
    has_ended: bool,
}

#[derive(Debug)]
struct Waiting {
    head: Head,
    body: Body,
    charge: usize,
    ticket: Option<Arc<Ticket>>,
}

/// Whether a request has left the queue, settled once between its caller and the connection.
#[derive(Debug, Default)]
pub(super) struct Ticket(AtomicU8);

impl Ticket {
    const WAITING: u8 = 0;
    const TAKEN: u8 = 1;
    const WITHDRAWN: u8 = 2;

    fn settle(&self, to: u8) -> bool {
        self.0.compare_exchange(Self::WAITING, to, Relaxed, Relaxed).is_ok()
    }

    /// Makes sure that the request will not be sent. `false`: it may have been.
    pub(super) fn withdraw(&self) -> bool {
        self.settle(Self::WITHDRAWN)
    }

    fn take(&self) -> bool {
        self.settle(Self::TAKEN)
    }
}

impl Outbox {
    /// An empty queue for so many bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { queue: Mutex::default(), ready: Notify::new(), room: Semaphore::new(limit), limit }
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.limit.saturating_sub(self.room.available_permits())
    }

    /// Adds a frame, waiting until there is room for it. Whoever gives up waiting has added nothing.
    pub(super) async fn push(&self, head: Head, body: Body, ticket: Option<Arc<Ticket>>) -> Result<(), Ended> {
        let charge = body.len() + FRAME_CHARGE;
        let permits = u32::try_from(charge).map_err(|_| Ended)?;
        let room = self.room.acquire_many(permits).await.map_err(|_| Ended)?;
        self.with(|queue| {
            if queue.has_ended {
                return Err(Ended);
            }
            room.forget();
            queue.frames.push_back(Waiting { head, body, charge, ticket });
            Ok(())
        })?;
        self.ready.notify_one();
        Ok(())
    }

    /// Sends a ping before all else, instead of one that still waits.
    pub(super) fn ping(&self, id: u64) {
        self.with(|queue| queue.ping = Some(id));
        self.ready.notify_one();
    }

    /// Sends a pong before all else, instead of one that still waits.
    pub(super) fn pong(&self, id: u64) {
        self.with(|queue| queue.pong = Some(id));
        self.ready.notify_one();
    }

    /// Waits until there is something to send and packs it: all of it, up to what one write takes. Returns the bytes
    /// to give back when it is written.
    pub(super) async fn pack(&self, into: &mut Packed) -> std::io::Result<usize> {
        loop {
            let waiting = self.with(Queue::take_some);
            if !waiting.is_empty() {
                let charge = waiting.iter().map(|frame| frame.charge).sum();
                for frame in waiting {
                    if frame.ticket.is_none_or(|ticket| ticket.take()) {
                        into.push(frame.head, &frame.body)?;
                    }
                }
                into.seal();
                return Ok(charge);
            }
            self.ready.notified().await;
        }
    }

    /// Gives back the bytes that were packed.
    pub(super) fn release(&self, charge: usize) {
        self.room.add_permits(charge);
    }

    /// Drops what waits and refuses more.
    pub(super) fn end(&self) {
        self.room.close();
        let dropped = self.with(|queue| {
            queue.has_ended = true;
            std::mem::take(&mut queue.frames)
        });
        drop(dropped);
    }

    fn with<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> T {
        act(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Queue {
    fn take_some(&mut self) -> Vec<Waiting> {
        let control = [(Sort::Pong, self.pong.take()), (Sort::Ping, self.ping.take())];
        let control = control.into_iter().filter_map(|(sort, id)| Some(Head::new(sort, id?)));
        let mut some: Vec<_> =
            control.map(|head| Waiting { head, body: Body::default(), charge: 0, ticket: None }).collect();
        let mut bytes = 0;
        while let Some(frame) = self.frames.front() {
            if bytes > 0 && bytes + frame.charge > WRITE_BYTES {
                break;
            }
            bytes += frame.charge;
            some.extend(self.frames.pop_front());
        }
        some
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::{Buf as _, Bytes};

    use super::*;

    fn body(bytes: usize) -> Body {
        Bytes::from(vec![7; bytes]).into()
    }

    async fn push(outbox: &Outbox, id: u64, bytes: usize) {
        outbox.push(Head::new(Sort::Request, id), body(bytes), None).await.unwrap();
    }

    async fn is_full(outbox: &Outbox, bytes: usize) -> bool {
        let pushing = outbox.push(Head::new(Sort::Request, 0), body(bytes), None);
        tokio::time::timeout(Duration::from_millis(1), pushing).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_holds_at_the_last_byte() {
        let outbox = Outbox::new(2 * FRAME_CHARGE + 100);
        push(&outbox, 1, 60).await;
        assert!(is_full(&outbox, 41).await);
        push(&outbox, 2, 40).await;
        assert_eq!(outbox.bytes(), 2 * FRAME_CHARGE + 100);
        assert!(is_full(&outbox, 0).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_packed_frame_counts_until_it_is_written() {
        let outbox = Outbox::new(FRAME_CHARGE + 10);
        push(&outbox, 1, 10).await;
        let charge = outbox.pack(&mut Packed::default()).await.unwrap();
        assert!(is_full(&outbox, 0).await);
        outbox.release(charge);
        push(&outbox, 2, 10).await;
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_waits_is_packed_at_once_up_to_a_bound() {
        let outbox = Outbox::new(8 << 20);
        for id in 0..100 {
            push(&outbox, id, 10).await;
        }
        let mut packed = Packed::default();
        outbox.pack(&mut packed).await.unwrap();
        assert_eq!(packed.remaining(), 100 * 28);
        assert_eq!(packed.chunk().len(), packed.remaining(), "small frames are one slice");
        push(&outbox, 0, 2 * WRITE_BYTES).await;
        push(&outbox, 1, 1).await;
        let mut packed = Packed::default();
        let charge = outbox.pack(&mut packed).await.unwrap();
        assert_eq!(charge, 2 * WRITE_BYTES + FRAME_CHARGE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_withdrawn_request_is_not_packed() {
        let outbox = Outbox::new(1 << 20);
        let tickets = [Arc::new(Ticket::default()), Arc::new(Ticket::default())];
        for ticket in &tickets {
            outbox.push(Head::new(Sort::Request, 1), body(0), Some(Arc::clone(ticket))).await.unwrap();
        }
        assert!(tickets[0].withdraw());
        let mut packed = Packed::default();
        outbox.pack(&mut packed).await.unwrap();
        assert_eq!(packed.remaining(), 18);
        assert!(!tickets[1].withdraw(), "the second one was sent");
    }

    #[tokio::test(start_paused = true)]
    async fn pongs_pass_and_do_not_pile_up() {
        let outbox = Outbox::new(1 << 20);
        push(&outbox, 1, 5).await;
        for id in 0..1000 {
            outbox.pong(id);
        }
        let mut packed = Packed::default();
        outbox.pack(&mut packed).await.unwrap();
        assert_eq!(packed.remaining(), 18 + 18 + 5);
        assert_eq!(packed.chunk()[8], Sort::Pong as u8);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_told_of_the_end() {
        let outbox = Arc::new(Outbox::new(FRAME_CHARGE));
        push(&outbox, 1, 0).await;
        let waiting = tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move { outbox.push(Head::new(Sort::Request, 2), body(0), None).await }
        });
        tokio::task::yield_now().await;
        outbox.end();
        assert!(waiting.await.unwrap().is_err());
        assert!(outbox.push(Head::new(Sort::Request, 3), body(0), None).await.is_err());
    }
}
