//! One connection: reads frames, writes what waits, and notices when the other side is gone.
//!
//! Invariants:
//! - Both sides hear from each other at least four times within the silence that makes a peer lost. The side that calls
//!   pings all the time, which also measures the way; the side that answers pings when it has written nothing else, so
//!   that it is heard even while the way to it is full.
//! - A peer that is not heard, or that takes no bytes, is given up after the silence; what counts is bytes, so a long
//!   frame over a slow way is no silence.
//! - While requests wait for the service nothing is read: the kernels pass the pressure back to the caller.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf, ReadHalf, WriteHalf};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::codec::{FramedRead, LengthDelimitedCodec, LengthDelimitedCodecError};

use super::frame::{self, Body, Head, MAX_BODY_BYTES, MAX_GREETING_BYTES, Packed, Sort};
use super::handshake::MAGIC;
use super::options::LaneLimits;
use super::outbox::Outbox;
use super::traffic::Traffic;

/// Pings within the silence that makes a peer lost.
const PINGS: u32 = 4;
/// What is read at once, as long as no frame is longer.
const READ_BYTES: usize = 32 << 10;

/// What is read of a refused peer, at most, while it takes its leave.
const MAX_UNREAD_BYTES: u64 = 64 << 10;

/// A stream of bytes to a peer: TCP or TLS.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum End {
    #[error("the peer closed it")]
    Closed,
    #[error("it ended in the middle of a frame")]
    Cut,
    #[error("nothing was heard from the peer for {0:?}")]
    Silent(Duration),
    #[error("the peer took no bytes for {0:?}")]
    Stalled(Duration),
    #[error("{0}")]
    Io(String),
    #[error("the peer broke the protocol: {0}")]
    Violation(String),
    #[error("{0}")]
    GivenUp(&'static str),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        let is_length = |error: &(dyn std::error::Error + 'static)| error.is::<LengthDelimitedCodecError>();
        match error.kind() {
            io::ErrorKind::InvalidData if error.get_ref().is_some_and(|inner| is_length(inner)) => {
                Self::Violation("a frame is longer than allowed".to_owned())
            }
            // How the codec tells of bytes behind the last whole frame.
            io::ErrorKind::Other if error.to_string() == "bytes remaining on stream" => Self::Cut,
            // How TLS tells of a peer that vanished.
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(error.to_string()),
        }
    }
}

/// A socket, cut into frames.
pub(super) struct Line {
    frames: FramedRead<Metered, LengthDelimitedCodec>,
    writer: WriteHalf<Box<dyn Socket>>,
}

impl Line {
    /// For the handshake: only short frames are taken.
    pub(super) fn new(socket: Box<dyn Socket>) -> Self {
        let (reader, writer) = tokio::io::split(socket);
        let reader = Metered { reader, heard: Instant::now(), traffic: None };
        let codec = frame::codec(MAX_GREETING_BYTES);
        Self { frames: FramedRead::with_capacity(reader, codec, READ_BYTES), writer }
    }

    /// Answers the other side's first words.
    pub(super) async fn greet(&mut self, head: Head, body: Bytes) -> io::Result<()> {
        greet(&mut self.writer, head, body).await
    }

    /// The same as the last words.
    pub(super) async fn part(mut self, head: Head, body: Bytes) -> io::Result<()> {
        self.greet(head, body).await?;
        let reader = self.frames.into_inner().reader;
        close(reader.unsplit(self.writer)).await
    }

    /// Reads a frame of the handshake.
    pub(super) async fn greeting(&mut self) -> Result<(Head, Bytes), End> {
        match self.frames.next().await {
            None => Err(End::Closed),
            Some(frame) => frame::decode(frame?).map_err(|error| End::Violation(error.to_string())),
        }
    }
}

/// Writes a side's first words: the magic and a frame.
pub(super) async fn greet(socket: &mut (impl AsyncWrite + Unpin), head: Head, body: Bytes) -> io::Result<()> {
    let mut packed = Packed::default();
    packed.push(head, &body.into())?;
    packed.seal();
    let frame = packed.copy_to_bytes(packed.remaining());
    socket.write_all(&[MAGIC.as_slice(), &frame].concat()).await?;
    socket.flush().await
}

/// Closes a socket such that the other side gets the last words for sure: one that is closed while bytes are unread is
/// reset, and takes them along.
pub(super) async fn close(mut socket: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    socket.shutdown().await?;
    let mut unread = socket.take(MAX_UNREAD_BYTES);
    tokio::io::copy(&mut unread, &mut tokio::io::sink()).await?;
    Ok(())
}

/// Notes when and how much is read.
struct Metered {
    reader: ReadHalf<Box<dyn Socket>>,
    heard: Instant,
    traffic: Option<Arc<Traffic>>,
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.reader).poll_read(cx, into))?;
        let bytes = into.filled().len() - before;
        if bytes > 0 {
            self.heard = Instant::now();
            if let Some(traffic) = &self.traffic {
                traffic.received(bytes);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// What the two sides of a connection do with the frames that are theirs.
pub(super) trait Inbox {
    /// Takes a frame; while it waits, nothing is read.
    ///
    /// # Errors
    /// When the connection cannot go on.
    async fn receive(&mut self, head: Head, body: Bytes) -> Result<(), End>;
}

/// What a running connection shares with those who send over it.
#[derive(Debug)]
pub(super) struct Wire {
    outbox: Outbox,
    traffic: Arc<Traffic>,
    silence: Duration,
    /// Which side this is.
    is_caller: bool,
    /// Writes so far.
    writes: AtomicU64,
}

impl Wire {
    pub(super) fn new(limits: LaneLimits, traffic: Arc<Traffic>, is_caller: bool) -> Self {
        let outbox = Outbox::new(limits.queue_bytes);
        Self { outbox, traffic, silence: limits.silence, is_caller, writes: AtomicU64::new(0) }
    }

    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Runs the connection until it ends or `stop` says why it is to end.
    pub(super) async fn run(&self, line: Line, inbox: &mut impl Inbox, stop: impl Future<Output = End>) -> End {
        let Line { mut frames, writer } = line;
        frames.decoder_mut().set_max_frame_length(frame::frame_bytes(MAX_BODY_BYTES));
        frames.get_mut().traffic = Some(Arc::clone(&self.traffic));
        let end = tokio::select! {
            end = self.read(frames, inbox) => end,
            end = self.write(writer) => end,
            end = self.ping() => end,
            end = stop => end,
        };
        self.outbox.end();
        end
    }

    async fn read(&self, mut frames: FramedRead<Metered, LengthDelimitedCodec>, inbox: &mut impl Inbox) -> End {
        let mut quiet_since = Instant::now();
        loop {
            let frame = match timeout_at(quiet_since + self.silence, frames.next()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return error.into(),
                Ok(None) => return End::Closed,
                Err(_) => {
                    let heard = frames.get_ref().heard;
                    if heard <= quiet_since {
                        return End::Silent(self.silence);
                    }
                    quiet_since = heard;
                    continue;
                }
            };
            let received = match frame::decode(frame) {
                Ok((Head { sort: Sort::Ping, id, .. }, _)) => {
                    self.outbox.pong(id);
                    Ok(())
                }
                Ok((Head { sort: Sort::Pong, id, .. }, _)) => {
                    self.traffic.answered(id);
                    Ok(())
                }
                Ok((head, body)) => inbox.receive(head, body).await,
                Err(error) => Err(End::Violation(error.to_string())),
            };
            if let Err(end) = received {
                return end;
            }
            // The time in which this side did not listen is not the peer's silence.
            quiet_since = Instant::now();
        }
    }

    async fn write(&self, mut writer: WriteHalf<Box<dyn Socket>>) -> End {
        let mut packed = Packed::default();
        loop {
            let charge = match self.outbox.pack(&mut packed).await {
                Ok(charge) => charge,
                Err(error) => return error.into(),
            };
            while packed.has_remaining() {
                match timeout(self.silence, writer.write_buf(&mut packed)).await {
                    Ok(Ok(0)) => return End::Closed,
                    Ok(Ok(bytes)) => self.traffic.sent(bytes),
                    Ok(Err(error)) => return error.into(),
                    Err(_) => return End::Stalled(self.silence),
                }
            }
            match timeout(self.silence, writer.flush()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error.into(),
                Err(_) => return End::Stalled(self.silence),
            }
            self.writes.fetch_add(1, Relaxed);
            self.outbox.release(charge);
        }
    }

    async fn ping(&self) -> End {
        let mut every = interval(self.silence / PINGS);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = None;
        loop {
            every.tick().await;
            let writes = Some(self.writes.load(Relaxed));
            if self.is_caller || writes == before {
                self.outbox.ping(self.traffic.micros());
            }
            before = writes;
        }
    }

    /// Sends a frame, waiting for room.
    pub(super) async fn send(&self, head: Head, body: Body) -> Result<(), End> {
        self.outbox.push(head, body, None).await.map_err(|_| End::Closed)
    }
}
