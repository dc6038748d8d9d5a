//! The frames of an Arrow IPC stream, checked before anything is decoded.
//!
//! Lengths in a stream are claims of its sender, and the decoder allocates by some of them. So the frames are walked
//! first: every length must lie within the body, what compressed buffers claim to become stays under the cap of a
//! batch, and the stream must say where it ends, because one that was cut between two batches looks whole otherwise.
//!
//! The layout is that of the Arrow columnar format, "IPC streaming format": for each message the marker `ff ff ff ff`,
//! the size of its metadata, the metadata (a flatbuffer, padded), and the body; at the end the marker and a size of 0.

use std::collections::VecDeque;

use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::{Message, MessageHeader, RecordBatch, root_as_message};
use arrow_schema::{DataType, Schema};
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

/// Walks a stream to its end and returns its schema.
///
/// # Errors
/// `invalid_request` when it is cut short or malformed, `payload_too_large` when it holds or claims too much.
pub(super) fn check(stream: &[u8]) -> Result<Schema, ApiError> {
    let mut frames = Frames { rest: stream };
    let mut totals = Totals::default();
    let mut schema = None;
    while let Some((message, body)) = frames.next()? {
        match message.header_as_schema() {
            Some(found) if schema.is_none() => {
                schema = Some(try_fb_to_schema(found).map_err(|_| malformed("its schema is damaged"))?);
            }
            None if schema.is_some() => totals.add(message, body)?,
            _ => return Err(malformed("it must begin with its one schema")),
        }
    }
    schema.ok_or_else(|| malformed("it has no schema"))
}

/// Checks that the buffers of all messages are such as the types of a checked stream's columns ask for, as far as the
/// decoder takes that for granted.
///
/// # Errors
/// `invalid_request` when they are not.
pub(super) fn check_layout(stream: &[u8], schema: &Schema) -> Result<(), ApiError> {
    let mut frames = Frames { rest: stream };
    while let Some((message, body)) = frames.next()? {
        let fits = if let Some(batch) = message.header_as_record_batch() {
            let mut buffers = Buffers::of(batch, body)?;
            schema.fields().iter().all(|field| buffers.fit(field.data_type()).is_some())
        } else if let Some(dictionary) = message.header_as_dictionary_batch() {
            let batch = dictionary.data().ok_or_else(|| malformed("a message has no header"))?;
            #[allow(deprecated, reason = "the decoder finds the type of a dictionary in just this way")]
            let field = schema.fields_with_dict_id(dictionary.id()).into_iter().next();
            match field.map(|field| field.data_type()) {
                Some(DataType::Dictionary(_, values)) => Buffers::of(batch, body)?.fit(values).is_some(),
                _ => false,
            }
        } else {
            true
        };
        if !fits {
            return Err(malformed("the buffers of a batch do not fit its columns"));
        }
    }
    Ok(())
}

/// The messages of a stream, one by one.
struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    /// The next message and its body; `None` at the end of the stream.
    fn next(&mut self) -> Result<Option<(Message<'a>, &'a [u8])>, ApiError> {
        let mut size = take_u32(&mut self.rest)?;
        if size == MARKER {
            size = take_u32(&mut self.rest)?;
        }
        if size == 0 {
            let ended = self.rest.is_empty();
            return if ended { Ok(None) } else { Err(malformed("bytes follow the end of the stream")) };
        }
        let metadata = take(&mut self.rest, size as usize)?;
        let message = root_as_message(metadata).map_err(|_| malformed("a message's metadata is damaged"))?;
        let length = usize::try_from(message.bodyLength()).map_err(|_| malformed("a message has a negative length"))?;
        Ok(Some((message, take(&mut self.rest, length)?)))
    }
}

/// The lengths of a batch's buffers when decompressed, and how many data buffers its view arrays have.
struct Buffers {
    lengths: VecDeque<usize>,
    views: VecDeque<i64>,
}

impl Buffers {
    fn of(batch: RecordBatch<'_>, body: &[u8]) -> Result<Self, ApiError> {
        let compressed = batch.compression().is_some();
        let buffers = batch.buffers().into_iter().flatten();
        let length_of = |buffer: &arrow_ipc::Buffer| length(slice(body, buffer.offset(), buffer.length())?, compressed);
        Ok(Self {
            lengths: buffers.map(length_of).collect::<Result<_, _>>()?,
            views: batch.variadicBufferCounts().into_iter().flatten().collect(),
        })
    }

    /// Takes the buffers of one array; `None` if they are not there or are no whole number of its offsets or values.
    fn fit(&mut self, kind: &DataType) -> Option<()> {
        if matches!(kind, DataType::Null) {
            return Some(());
        }
        self.any()?;
        match kind {
            DataType::Utf8 | DataType::Binary => self.whole(4).and_then(|()| self.any()),
            DataType::LargeUtf8 | DataType::LargeBinary => self.whole(8).and_then(|()| self.any()),
            DataType::Utf8View | DataType::BinaryView => {
                self.whole(16)?;
                let count = usize::try_from(self.views.pop_front()?).ok()?;
                (0..count).try_for_each(|_| self.any())
            }
            DataType::List(item) | DataType::Map(item, _) => self.whole(4).and_then(|()| self.fit(item.data_type())),
            DataType::LargeList(item) => self.whole(8).and_then(|()| self.fit(item.data_type())),
            DataType::ListView(item) => {
                self.whole(4).and_then(|()| self.whole(4)).and_then(|()| self.fit(item.data_type()))
            }
            DataType::LargeListView(item) => {
                self.whole(8).and_then(|()| self.whole(8)).and_then(|()| self.fit(item.data_type()))
            }
            DataType::FixedSizeList(item, _) => self.fit(item.data_type()),
            DataType::Struct(members) => members.iter().try_for_each(|member| self.fit(member.data_type())),
            DataType::Dictionary(key, _) => self.whole(key.primitive_width()?),
            DataType::Boolean | DataType::FixedSizeBinary(_) => self.any(),
            other => self.whole(other.primitive_width()?),
        }
    }

    fn any(&mut self) -> Option<()> {
        self.lengths.pop_front().map(drop)
    }

    fn whole(&mut self, width: usize) -> Option<()> {
        self.lengths.pop_front().filter(|length| length % width == 0).map(drop)
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
            self.bytes = self.bytes.saturating_add(length(bytes, compressed)?);
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

/// The length of a buffer when decompressed, as it says itself.
fn length(buffer: &[u8], compressed: bool) -> Result<usize, ApiError> {
    if !compressed {
        return Ok(buffer.len());
    }
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
