//! Frames: the units of what goes over a connection between two nodes. Pure: bytes in, bytes out.
//!
//! ```text
//! length u32 | crc u32 | sort u8 | tag u8 | id u64 | body        numbers are little-endian
//! ```
//! `length` counts what follows it, `crc` is the CRC-32C of what follows *it*: without TLS nothing else would notice a
//! flipped bit before it is replicated. `tag` is the kind of a request or the code of a refusal, else 0; `id` pairs an
//! answer with its request, in any order.
//!
//! Invariants: a frame longer than the limit is refused before memory is set aside for it; bodies beyond a few KiB are
//! neither copied when they are sent nor when they are received.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::LengthDelimitedCodec;

/// Bytes of a body, at most: the largest entry and what an append says beside it.
pub(crate) const MAX_BODY_BYTES: usize = (4 << 20) + (64 << 10);
/// Bytes of a body during the handshake, when nobody knows yet who is there.
pub(super) const MAX_GREETING_BYTES: usize = 4 << 10;

const LENGTH: usize = 4;
const CRC: usize = 4;
const HEAD: usize = 1 + 1 + 8;
/// Bodies up to this are copied beside their head: one long slice is cheaper to write than two short ones.
const COPIED_BYTES: usize = 4 << 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// Who calls, the first frame of whoever opens a connection.
    Hello,
    /// Who answers, the first frame of the other side.
    Welcome,
    /// Why there will be no connection, in the place of a welcome.
    Farewell,
    Request,
    Answer,
    /// A request that was not answered: code and message.
    Refusal,
    /// Asks for a pong with the same id.
    Ping,
    Pong,
}

impl Sort {
    const ALL: [Self; 8] = [
        Self::Hello,
        Self::Welcome,
        Self::Farewell,
        Self::Request,
        Self::Answer,
        Self::Refusal,
        Self::Ping,
        Self::Pong,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

/// A frame without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) sort: Sort,
    pub(super) tag: u8,
    pub(super) id: u64,
}

impl Head {
    pub(super) fn new(sort: Sort, id: u64) -> Self {
        Self { sort, tag: 0, id }
    }

    fn encode(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[0] = self.sort as u8;
        bytes[1] = self.tag;
        bytes[2..].copy_from_slice(&self.id.to_le_bytes());
        bytes
    }
}

/// A body to be sent: parts that follow each other, none of which is copied if it is large.
#[derive(Debug, Clone, Default)]
pub(crate) struct Body(Vec<Bytes>);

impl Body {
    /// Bytes of all parts.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// All parts as one.
    #[cfg(test)]
    pub(crate) fn into_bytes(self) -> Bytes {
        self.0.concat().into()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(vec![bytes])
    }
}

impl From<Vec<Bytes>> for Body {
    fn from(parts: Vec<Bytes>) -> Self {
        Self(parts)
    }
}

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame is too short for its head")]
    Short,
    #[error("a frame does not match its checksum")]
    Checksum,
    #[error("a frame is of an unknown sort ({0})")]
    Sort(u8),
}

/// Cuts frames out of what was received, as long as their body has at most `max_body` bytes.
pub(super) fn codec(max_body: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .length_field_length(LENGTH)
        .little_endian()
        .max_frame_length(frame_bytes(max_body))
        .new_codec()
}

/// What the codec counts as a frame with a body of so many bytes.
pub(super) fn frame_bytes(body: usize) -> usize {
    CRC + HEAD + body
}

/// Reads a frame that the codec cut out. The body shares memory with it.
pub(super) fn decode(frame: BytesMut) -> Result<(Head, Bytes), FrameError> {
    let mut frame = frame.freeze();
    let crc = frame.try_get_u32_le().map_err(|_| FrameError::Short)?;
    if frame.len() < HEAD {
        return Err(FrameError::Short);
    }
    if crc32c::crc32c(&frame) != crc {
        return Err(FrameError::Checksum);
    }
    let sort = frame.get_u8();
    let sort = Sort::from_byte(sort).ok_or(FrameError::Sort(sort))?;
    let (tag, id) = (frame.get_u8(), frame.get_u64_le());
    Ok((Head { sort, tag, id }, frame))
}

/// Frames made ready to be written at once.
#[derive(Debug, Default)]
pub(super) struct Packed {
    slices: VecDeque<Bytes>,
    /// Heads and small parts behind the last slice.
    small: BytesMut,
    bytes: usize,
}

impl Packed {
    /// Adds a frame.
    ///
    /// # Errors
    /// When the body is longer than any frame may be: who made it should have looked.
    pub(super) fn push(&mut self, head: Head, body: &Body) -> io::Result<()> {
        let body_bytes = body.len();
        let length = u32::try_from(frame_bytes(body_bytes)).map_err(io::Error::other)?;
        let head = head.encode();
        let crc = body.0.iter().fold(crc32c::crc32c(&head), |crc, part| crc32c::crc32c_append(crc, part));
        self.small.put_u32_le(length);
        self.small.put_u32_le(crc);
        self.small.put_slice(&head);
        for part in &body.0 {
            if part.len() <= COPIED_BYTES {
                self.small.put_slice(part);
            } else {
                self.seal();
                self.slices.push_back(part.clone());
            }
        }
        self.bytes += LENGTH + frame_bytes(body_bytes);
        Ok(())
    }

    /// Call this after the last frame and before writing.
    pub(super) fn seal(&mut self) {
        if !self.small.is_empty() {
            self.slices.push_back(self.small.split().freeze());
        }
    }
}

impl Buf for Packed {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.slices.front().map_or(&[], |slice| slice)
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let slices = self.slices.iter().zip(into);
        slices.map(|(slice, into)| *into = IoSlice::new(slice)).count()
    }

    fn advance(&mut self, mut count: usize) {
        self.bytes -= count;
        while let Some(first) = self.slices.front_mut() {
            if count < first.len() {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.slices.pop_front();
        }
        assert_eq!(count, 0, "advanced behind the last frame");
    }
}
