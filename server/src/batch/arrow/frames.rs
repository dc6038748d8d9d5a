//! The frames of an Arrow IPC stream, checked before anything is decoded.
//!
//! Lengths in a stream are claims of its sender, and the decoder allocates by some of them. So the frames are walked
//! first: every length must lie within the body, what compressed buffers claim to become stays under the cap of a
//! batch, and the stream must say where it ends, because one that was cut between two batches looks whole otherwise.
//!
//! The layout is that of the Arrow columnar format, "IPC streaming format": for each message the marker `ff ff ff ff`,
//! the size of its metadata, the metadata (a flatbuffer, padded), and the body; at the end the marker and a size of 0.

use arrow_ipc::{Message, MessageHeader, RecordBatch, root_as_message};
use larder_types::error::ErrorCode;
use larder_types::limits::{MAX_BATCH_BYTES, MAX_BATCH_ROWS};

use super::super::validate::too_many_rows;
use crate::error::ApiError;

/// What stands before the size of each message's metadata.
const MARKER: u32 = u32::MAX;
/// Bytes before a compressed buffer: its length when decompressed, or -1 if it is not compressed after all.
const PREFIX: usize = 8;
/// Values in one array, nested ones included: what fits a batch at a bit each, and what no arithmetic overflows by.
const MAX_VALUES: i64 = MAX_BATCH_BYTES as i64 * 8;

/// Walks a stream to its end.
///
/// # Errors
/// `invalid_request` when it is cut short or malformed, `payload_too_large` when it holds or claims too much.
pub(super) fn check(stream: &[u8]) -> Result<(), ApiError> {
    let mut rest = stream;
    let mut total = Totals::default();
    loop {
        let mut size = take_u32(&mut rest)?;
        if size == MARKER {
            size = take_u32(&mut rest)?;
        }
        if size == 0 {
            return if rest.is_empty() { Ok(()) } else { Err(malformed("bytes follow the end of the stream")) };
        }
        let metadata = take(&mut rest, size as usize)?;
        let message = root_as_message(metadata).map_err(|_| malformed("a message's metadata is damaged"))?;
        let length = usize::try_from(message.bodyLength()).map_err(|_| malformed("a message has a negative length"))?;
        total.add(message, take(&mut rest, length)?)?;
    }
}

#[derive(Default)]
struct Totals {
    rows: i64,
    bytes: usize,
}

impl Totals {
    fn add(&mut self, message: Message<'_>, body: &[u8]) -> Result<(), ApiError> {
        match message.header_type() {
            MessageHeader::Schema if message.header_as_schema().is_some() => Ok(()),
            MessageHeader::RecordBatch => {
                let batch = message.header_as_record_batch().ok_or_else(|| malformed("a message has no header"))?;
                if batch.length() < 0 {
                    return Err(malformed("a batch has a negative length"));
                }
                self.rows = self.rows.saturating_add(batch.length());
                if self.rows > MAX_BATCH_ROWS as i64 {
                    return Err(too_many_rows());
                }
                self.add_batch(batch, body)
            }
            MessageHeader::DictionaryBatch => {
                let dictionary = message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data());
                self.add_batch(dictionary.ok_or_else(|| malformed("a message has no header"))?, body)
            }
            _ => Err(malformed("it holds a message that is neither schema, batch nor dictionary")),
        }
    }

    fn add_batch(&mut self, batch: RecordBatch<'_>, body: &[u8]) -> Result<(), ApiError> {
        let compressed = batch.compression().is_some();
        for buffer in batch.buffers().into_iter().flatten() {
            let bytes = slice(body, buffer.offset(), buffer.length())?;
            self.bytes = self.bytes.saturating_add(if compressed { claimed(bytes)? } else { bytes.len() });
            if self.bytes > MAX_BATCH_BYTES {
                let message = format!("decompressed, the buffers of a batch may have {MAX_BATCH_BYTES} bytes together");
                return Err(ApiError::new(ErrorCode::PayloadTooLarge, message));
            }
        }
        let bounded = |number: i64| (0..=MAX_VALUES).contains(&number);
        let nodes = || batch.nodes().into_iter().flatten();
        if !nodes().all(|node| bounded(node.length()) && (0..=node.length()).contains(&node.null_count())) {
            return Err(malformed("an array claims an impossible number of values"));
        }
        Ok(())
    }
}

/// The bytes that a compressed buffer says it becomes.
fn claimed(buffer: &[u8]) -> Result<usize, ApiError> {
    let Some((prefix, rest)) = buffer.split_first_chunk::<PREFIX>() else {
        return if buffer.is_empty() { Ok(0) } else { Err(malformed("a compressed buffer is cut short")) };
    };
    match i64::from_le_bytes(*prefix) {
        -1 => Ok(rest.len()),
        length => usize::try_from(length).map_err(|_| malformed("a compressed buffer has a negative length")),
    }
}

fn slice(body: &[u8], offset: i64, length: i64) -> Result<&[u8], ApiError> {
    let start = usize::try_from(offset).ok();
    let end = start.and_then(|start| start.checked_add(usize::try_from(length).ok()?));
    start
        .zip(end)
        .and_then(|(start, end)| body.get(start..end))
        .ok_or_else(|| malformed("a buffer lies outside its body"))
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, ApiError> {
    let (word, tail) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    *rest = tail;
    Ok(u32::from_le_bytes(*word))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], ApiError> {
    let (taken, tail) = rest.split_at_checked(length).ok_or_else(cut)?;
    *rest = tail;
    Ok(taken)
}

fn cut() -> ApiError {
    malformed("it is cut short: the end-of-stream marker is missing")
}

pub(super) fn malformed(what: &str) -> ApiError {
    ApiError::invalid(format!("the body is no whole Arrow IPC stream: {what}; nothing was applied"))
}
