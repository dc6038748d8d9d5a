//! One connection: the HTTP/1.1 loop and its deadlines, behind [`serve`].
//!
//! hyper bounds neither idle connections nor slow readers, and its own timer for heads also runs while a connection is
//! idle and costs a sixth of its instructions. So reads and writes leave marks in [`Progress`] (plain cells, no timer),
//! and one coarse tick for each connection looks whether a deadline has passed.
//!
//! hyper's `pipeline_flush`, which puts the answers to pipelined requests into one write, is not used: as long as bytes
//! of a further request are there it sends nothing, bounds nothing, and swallows its own 400 and 431 answers. The
//! [`Socket`] does it instead: what hyper writes is sent when hyper has nothing more to do for now.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::config::Limits;
use crate::core::Core;
use crate::service::Api;
use crate::socket::Socket;

/// Smallest read buffer: one chunk of a batch's body should not need a dozen reads.
const MIN_BUFFER: usize = 64 * 1024;

/// Serves a connection until it is closed by either side, breaks a deadline, or is drained.
pub(crate) async fn serve(core: Rc<Core>, stream: TcpStream) {
    let limits = *core.limits();
    let progress = Rc::new(Progress::new());
    let socket = Socket::new(stream, Rc::clone(&progress));
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(MIN_BUFFER));
    let api = Api::new(Rc::clone(&core), Rc::clone(&progress));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket.io()), api));
    let mut tick = tokio::time::interval(tick_of(&limits));
    let mut drained = pin!(core.drain.notified());
    // From here on the notification is kept for this connection, so none can be missed.
    drained.as_mut().enable();
    let mut draining = false;
    loop {
        if core.draining.get() && !draining {
            connection.as_mut().graceful_shutdown();
            draining = true;
        }
        // Errors of the connection are the client's doing (resets, malformed heads) and answered by hyper.
        let round = poll_fn(|cx| match connection.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            // Sent in one write whatever hyper has answered in this round. A broken socket shows at the next read.
            Poll::Pending => socket.poll_send(cx).map_or_else(|_| Poll::Ready(()), |()| Poll::Pending),
        });
        tokio::select! {
            biased;
            () = round => break,
            _ = tick.tick() => {
                if progress.is_overdue(&limits, Instant::now()) {
                    tracing::debug!("connection closed: a deadline has passed");
                    return;
                }
            }
            () = drained.as_mut(), if !draining => {}
        }
    }
    socket.linger().await;
}

fn tick_of(limits: &Limits) -> Duration {
    let shortest = limits.header_timeout.min(limits.idle_timeout).min(limits.write_timeout);
    (shortest / 2).clamp(Duration::from_millis(5), Duration::from_secs(5))
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waiting for the first byte of a request.
    Idle,
    /// A request's head is arriving.
    Head,
    /// A request is being handled; its handler has deadlines of its own.
    Busy,
}

/// Marks that the socket and the handlers leave for the deadlines.
pub(crate) struct Progress {
    phase: Cell<Phase>,
    since: Cell<Instant>,
    /// Since when the client takes no bytes, while there are some.
    blocked: Cell<Option<Instant>>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { phase: Cell::new(Phase::Idle), since: Cell::new(Instant::now()), blocked: Cell::new(None) }
    }

    /// A request's head is complete.
    pub(crate) fn begin(&self) {
        self.phase.set(Phase::Busy);
    }

    /// A request's answer is handed over for writing.
    pub(crate) fn end(&self) {
        self.phase.set(Phase::Idle);
        self.since.set(Instant::now());
    }

    /// Bytes have arrived.
    pub(crate) fn read(&self) {
        if self.phase.get() == Phase::Idle {
            self.phase.set(Phase::Head);
            self.since.set(Instant::now());
        }
    }

    /// Bytes were written, or could not be.
    pub(crate) fn wrote(&self, blocked: bool) {
        match (blocked, self.blocked.get()) {
            (true, None) => self.blocked.set(Some(Instant::now())),
            (false, Some(_)) => self.blocked.set(None),
            _ => {}
        }
    }

    fn is_overdue(&self, limits: &Limits, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.since.get());
        let stuck = self.blocked.get().is_some_and(|at| now.saturating_duration_since(at) >= limits.write_timeout);
        stuck
            || match self.phase.get() {
                Phase::Idle => waited >= limits.idle_timeout,
                Phase::Head => waited >= limits.header_timeout,
                Phase::Busy => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_has_its_deadline() {
        let limits = Limits {
            idle_timeout: Duration::from_secs(75),
            header_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(20),
            ..Limits::default()
        };
        let progress = Progress::new();
        let after = |seconds| progress.since.get() + Duration::from_secs(seconds);
        assert!(!progress.is_overdue(&limits, after(74)));
        assert!(progress.is_overdue(&limits, after(75)));
        progress.read();
        assert!(!progress.is_overdue(&limits, after(9)));
        assert!(progress.is_overdue(&limits, after(10)));
        progress.begin();
        progress.read();
        assert!(!progress.is_overdue(&limits, after(1000)));
        progress.wrote(true);
        assert!(progress.is_overdue(&limits, after(1000)));
        progress.wrote(false);
        progress.end();
        assert!(!progress.is_overdue(&limits, after(74)));
    }

    #[test]
    fn the_time_for_a_head_runs_from_its_first_byte() {
        let progress = Progress::new();
        progress.read();
        let first = progress.since.get();
        progress.read();
        assert_eq!(progress.since.get(), first);
    }
}
