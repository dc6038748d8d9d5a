//! One keep-alive connection that carries one request at a time.
//!
//! A connection that fails in any way is dropped by its owner and made anew: after an error nobody knows where the
//! next answer would begin.

use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::answer::{Head, Malformed};

/// Room for one usual answer, so that it is read with one system call.
const READ_BYTES: usize = 16 * 1024;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The connection could not be made.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// The server closed the connection before the answer was whole.
    #[error("the server closed the connection before the answer was whole")]
    Closed,
    /// The answer cannot be read.
    #[error("the answer is malformed")]
    Malformed(#[from] Malformed),
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    received: BytesMut,
    head: Option<Head>,
}

impl Connection {
    /// Connects without delay of small packets.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, ExchangeError> {
        let stream = TcpStream::connect(address).await.map_err(ExchangeError::Connect)?;
        stream.set_nodelay(true).map_err(ExchangeError::Connect)?;
        Ok(Self { stream, received: BytesMut::with_capacity(READ_BYTES), head: None })
    }

    /// Sends a whole request and waits for the whole answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Head, ExchangeError> {
        self.received.clear();
        self.head = None;
        self.stream.write_all(request).await.map_err(ExchangeError::Broken)?;
        loop {
            self.received.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.received).await.map_err(ExchangeError::Broken)? == 0 {
                return Err(ExchangeError::Closed);
            }
            if self.head.is_none() {
                self.head = Head::parse(&self.received)?;
            }
            let Some(head) = self.head else { continue };
            match self.received.len().cmp(&(head.head_bytes + head.body_bytes)) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Ok(head),
                std::cmp::Ordering::Greater => return Err(Malformed::Unasked.into()),
            }
        }
    }

    /// The last answer's head as it came, blank line included; empty before the first answer.
    pub(crate) fn head(&self) -> &[u8] {
        &self.received[..self.head.map_or(0, |head| head.head_bytes)]
    }

    /// The last answer's body; empty before the first answer.
    pub(crate) fn body(&self) -> &[u8] {
        &self.received[self.head.map_or(0, |head| head.head_bytes)..]
    }
}
