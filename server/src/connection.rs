//! One connection: the HTTP/1.1 loop and its deadlines, behind [`serve`].
//!
//! hyper bounds neither idle connections nor slow readers, and its own timer for heads also runs while a connection is
//! idle and costs a sixth of its instructions. So the socket is wrapped: reads and writes leave marks in [`Progress`]
//! (plain cells, no timer), and one coarse tick for each connection looks whether a deadline has passed.

use std::cell::Cell;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::config::Limits;
use crate::core::Core;
use crate::service::Api;

/// Serves a connection until it is closed by either side, breaks a deadline, or is drained.
pub(crate) async fn serve(core: Rc<Core>, stream: TcpStream) {
    let progress = Rc::new(Progress::new());
    let io = TokioIo::new(Watched { stream, progress: Rc::clone(&progress) });
    let limits = *core.limits();
    let mut builder = http1::Builder::new();
    builder
        .pipeline_flush(true)
        .header_read_timeout(None)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(MIN_BUFFER));
    let api = Api::new(Rc::clone(&core), Rc::clone(&progress));
    let mut connection = pin!(builder.serve_connection(io, api));
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
        tokio::select! {
            biased;
            // Errors of the connection are the client's doing (resets, malformed heads) and answered by hyper.
            _ = connection.as_mut() => return,
            _ = tick.tick() => {
                if progress.is_overdue(&limits, Instant::now()) {
                    tracing::debug!("connection closed: a deadline has passed");
                    return;
                }
            }
            () = drained.as_mut(), if !draining => {}
        }
    }
}

/// Smallest read buffer: one body chunk of a batch should not need a dozen reads.
const MIN_BUFFER: usize = 64 * 1024;

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
    fn new() -> Self {
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

    fn read(&self) {
        if self.phase.get() == Phase::Idle {
            self.phase.set(Phase::Head);
            self.since.set(Instant::now());
        }
    }

    fn wrote(&self, blocked: bool) {
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

/// A socket that leaves marks of its progress.
struct Watched {
    stream: TcpStream,
    progress: Rc<Progress>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.progress.read();
        }
        polled
    }
}

impl Watched {
    fn note<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.progress.wrote(polled.is_pending());
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
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
