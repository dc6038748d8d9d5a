//! A connection's socket: what is written to it is gathered and sent in one go, and every step leaves a mark of progress.
//!
//! Invariant: at most [`MAX_GATHERED`] bytes are held back, and only until the connection's loop has nothing else to do.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use crate::connection::Progress;

/// Bytes gathered at most: the answers to a good many pipelined lookups. A larger answer is sent as it is written.
const MAX_GATHERED: usize = 64 * 1024;
/// How long a closed connection is read on, and how many bytes, so that the client gets to see the last answer: a
/// socket closed with unread bytes resets the connection, and a reset may overtake the answer. The largest batch fits:
/// most clients read no answer before they have sent the whole body.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 72 << 20);

/// The socket. Shared between hyper, which reads and writes, and the connection's loop, which sends.
#[derive(Clone)]
pub(crate) struct Socket(Rc<Shared>);

struct Shared {
    stream: RefCell<TcpStream>,
    gathered: RefCell<Vec<u8>>,
    ended: Cell<bool>,
    progress: Rc<Progress>,
}

/// What hyper reads from and writes to.
pub(crate) struct Io(Rc<Shared>);

impl Socket {
    pub(crate) fn new(stream: TcpStream, progress: Rc<Progress>) -> Self {
        Self(Rc::new(Shared {
            stream: RefCell::new(stream),
            gathered: RefCell::new(Vec::new()),
            ended: Cell::new(false),
            progress,
        }))
    }

    pub(crate) fn io(&self) -> Io {
        Io(Rc::clone(&self.0))
    }

    /// Sends what was gathered, as far as the client takes it; the task is woken when it takes more.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.0.poll_send(cx) {
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Waits for the client to close too, within bounds.
    #[allow(clippy::await_holding_refcell_ref, reason = "hyper is done with the socket, so nobody else borrows it")]
    pub(crate) async fn linger(self) {
        if self.0.ended.get() {
            return;
        }
        let mut stream = self.0.stream.borrow_mut();
        let gathered = self.0.gathered.take();
        let close = async {
            stream.write_all(&gathered).await?;
            stream.shutdown().await?;
            let (mut waste, mut left) = (vec![0; 64 * 1024], LINGER.1);
            while left > 0 {
                match stream.read(&mut waste).await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            Ok::<_, io::Error>(())
        };
        // Best effort in every way.
        let _ = tokio::time::timeout(LINGER.0, close).await;
    }
}

impl Shared {
    fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.gathered.borrow_mut();
        let mut sent = 0;
        let result = loop {
            if sent == gathered.len() {
                break Poll::Ready(Ok(()));
            }
            match self.write(cx, &[io::IoSlice::new(&gathered[sent..])]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => sent += written,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        gathered.drain(..sent);
        result
    }

    /// Writes to the socket itself.
    fn write(&self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut stream = self.stream.borrow_mut();
        let stream = Pin::new(&mut *stream);
        let polled = match slices {
            [one] => stream.poll_write(cx, one),
            _ => stream.poll_write_vectored(cx, slices),
        };
        self.progress.wrote(polled.is_pending());
        polled
    }

    /// Gathers as much as there is room for; makes room by sending first if there is none.
    fn gather(&self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.gathered.borrow().len() + total > MAX_GATHERED {
            ready!(self.poll_send(cx))?;
            if total > MAX_GATHERED {
                return self.write(cx, slices);
            }
        }
        let mut gathered = self.gathered.borrow_mut();
        slices.iter().for_each(|slice| gathered.extend_from_slice(slice));
        Poll::Ready(Ok(total))
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut *self.0.stream.borrow_mut()).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.0.progress.read();
        } else if polled.is_ready() {
            self.0.ended.set(true);
        }
        polled
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.gather(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.gather(cx, bufs)
    }

    /// True, because gathering copies anyway: hyper need not copy before.
    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing: the connection's loop sends.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_send(cx))?;
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0, client)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn small_writes_are_sent_together_and_in_order() {
        let (server, mut client) = pair().await;
        let socket = Socket::new(server, Rc::new(Progress::new()));
        let mut io = socket.io();
        io.write_all(b"one ").await.unwrap();
        io.write_all(b"two").await.unwrap();
        io.flush().await.unwrap();
        assert_eq!(client.try_read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        std::future::poll_fn(|cx| Poll::Ready(socket.poll_send(cx))).await.unwrap();
        let mut read = [0; 16];
        let count = client.read(&mut read).await.unwrap();
        assert_eq!(&read[..count], b"one two");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_held_back_is_bounded_and_all_of_it_arrives() {
        let (server, mut client) = pair().await;
        let socket = Socket::new(server, Rc::new(Progress::new()));
        let mut io = socket.io();
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.map(|_| all)
        });
        let mut expected = Vec::new();
        for (size, byte) in [(1000, b'a'), (MAX_GATHERED, b'b'), (3 * MAX_GATHERED, b'c'), (7, b'd')] {
            let bytes = vec![byte; size];
            io.write_all(&bytes).await.unwrap();
            assert!(socket.0.gathered.borrow().len() <= MAX_GATHERED);
            expected.extend(bytes);
        }
        drop(io);
        socket.linger().await;
        assert!(reader.await.unwrap().unwrap() == expected);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_client_that_is_still_sending_a_batch_gets_to_see_the_answer() {
        let (server, mut client) = pair().await;
        let socket = Socket::new(server, Rc::new(Progress::new()));
        socket.io().write_all(b"no").await.unwrap();
        let sender = tokio::spawn(async move {
            client.write_all(&vec![0; 64 << 20]).await?;
            client.shutdown().await?;
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.map(|_| answer)
        });
        socket.linger().await;
        assert_eq!(sender.await.unwrap().unwrap(), b"no");
    }
}
