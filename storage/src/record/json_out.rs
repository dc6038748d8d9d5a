//! The end of a buffer, to which a record's JSON is appended in pieces of fixed size.
//!
//! What a lookup spends on small texts is not the copying, it is the deciding: how many bytes, in which steps, is there
//! room. So a piece is always written whole, as one or two moves of a width that the compiler knows, and only how far
//! the end moves on depends on the text. What was written beyond it is overwritten by the next piece. A value that
//! consists of several pieces is written into a room that was found to be there once.
//!
//! # Safety
//! This is the one place where records are written through pointers, and it holds for whatever it is given:
//! 1. `at` and `end` lie in the allocation of `out` or just behind it, `at` not behind `end`: both come from
//!    [`Vec::spare_capacity_mut`], and `at` moves on by no more than what was found to be left.
//! 2. Every byte of the allocation before `at` has been written: those before the vector's length by whoever filled it,
//!    those behind by [`JsonOut::put`] and [`JsonOut::value`], which never move further than they have written.
//! 3. `out` is borrowed for as long as the pointers are used. Only [`grow`] touches it meanwhile, and it gives new ones.
//!
//! Reading needs no such care: pieces are arrays, taken from slices with their bounds checked.

#![allow(unsafe_code, reason = "pieces are written whole into the spare capacity of a vector")]

use super::padded_text::{BLOCK_BYTES, PaddedText};

/// Bytes of long text that are copied in one step.
const STEP: usize = 16;
/// Enough for every value of a fixed form, and for a short text in quotes.
const ROOM_BYTES: usize = 48;

/// Where a value is written.
pub(crate) type Room = [u8; ROOM_BYTES];

/// The end of a buffer. What is appended becomes a part of the buffer with [`JsonOut::finish`].
pub(crate) struct JsonOut<'a> {
    out: &'a mut Vec<u8>,
    /// Where the next piece goes.
    at: *mut u8,
    /// The end of the buffer's allocation.
    end: *mut u8,
}

impl<'a> JsonOut<'a> {
    /// The end of `out`, with room for this many bytes to begin with.
    pub(crate) fn new(out: &'a mut Vec<u8>, room: usize) -> Self {
        out.reserve(room);
        let (at, end) = spare(out);
        Self { out, at, end }
    }

    /// Appends the first `len` bytes of a piece. By reference, so that it is read when there is room, and not kept on
    /// the stack while that is found out.
    #[inline(always)]
    pub(crate) fn put<const N: usize>(&mut self, piece: &[u8; N], len: usize) {
        assert!(len <= N, "no more of a piece can be appended than there is");
        if self.end.addr() - self.at.addr() < N {
            (self.at, self.end) = grow(self.out, self.at, N);
        }
        // SAFETY: at least `N` bytes are left up to the end of the allocation, by the lines above. They belong to the
        // vector alone, and an array of bytes may stand anywhere.
        unsafe { self.at.cast::<[u8; N]>().write_unaligned(*piece) };
        // SAFETY: as above, for `len` is at most `N`. So many bytes have just been written.
        self.at = unsafe { self.at.add(len) };
    }

    /// Appends a value that `write` puts into a room of its own; it returns how much of the room that takes. The room is
    /// full of zeros, which cost less than to find out what of it was written.
    #[inline(always)]
    pub(crate) fn value(&mut self, write: impl FnOnce(&mut Room) -> usize) {
        if self.end.addr() - self.at.addr() < ROOM_BYTES {
            (self.at, self.end) = grow(self.out, self.at, ROOM_BYTES);
        }
        let room = self.at.cast::<Room>();
        // SAFETY: at least so many bytes are left up to the end of the allocation, by the lines above. They belong to
        // the vector alone, and an array of bytes may stand anywhere.
        unsafe { room.write([0; ROOM_BYTES]) };
        // SAFETY: as above, and its bytes have just been written. Nobody else uses them while `write` has them.
        let len = write(unsafe { &mut *room });
        assert!(len <= ROOM_BYTES, "a value takes no more than its room");
        // SAFETY: as above, for `len` is at most the room's length. All of the room has been written.
        self.at = unsafe { self.at.add(len) };
    }

    /// Appends a text that was padded for this.
    #[inline(always)]
    pub(crate) fn padded(&mut self, text: &PaddedText) {
        if text.len() <= BLOCK_BYTES {
            self.put(text.first(), text.len());
        } else {
            self.aside(|out| out.long_padded(text));
        }
    }

    #[inline(never)]
    fn long_padded(&mut self, text: &PaddedText) {
        let blocks = std::iter::once(text.first()).chain(text.rest());
        for (block, start) in blocks.zip((0..text.len()).step_by(BLOCK_BYTES)) {
            self.put(block, (text.len() - start).min(BLOCK_BYTES));
        }
    }

    /// Appends bytes that are a text of their own, or in one.
    #[inline]
    pub(crate) fn text(&mut self, text: &[u8]) {
        if let Some(first) = text.first_chunk::<STEP>() {
            // The first step may move on by less than it writes, so that whole steps remain.
            let odd = text.len() % STEP;
            self.put(first, odd);
            for step in text[odd..].as_chunks::<STEP>().0 {
                self.put(step, STEP);
            }
        } else if let (Some(first), Some(last)) = (text.first_chunk::<8>(), text.last_chunk::<8>()) {
            self.put(first, text.len() - 8);
            self.put(last, 8);
        } else if let (Some(first), Some(last)) = (text.first_chunk::<4>(), text.last_chunk::<4>()) {
            self.put(first, text.len() - 4);
            self.put(last, 4);
        } else {
            text.iter().for_each(|byte| self.put(&[*byte], 1));
        }
    }

    /// Appends with a function that is not worth being inlined. It gets an end of its own, so that this one need not be
    /// in memory.
    #[inline(always)]
    pub(crate) fn aside(&mut self, append: impl FnOnce(&mut JsonOut<'_>)) {
        let mut end = JsonOut { out: self.out, at: self.at, end: self.end };
        append(&mut end);
        (self.at, self.end) = (end.at, end.end);
    }

    /// Makes what was appended a part of the buffer.
    pub(crate) fn finish(self) {
        settle(self.out, self.at);
    }
}

impl std::fmt::Write for JsonOut<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.text(text.as_bytes());
        Ok(())
    }
}

/// Where the vector ends and where its allocation does.
fn spare(out: &mut Vec<u8>) -> (*mut u8, *mut u8) {
    let spare = out.spare_capacity_mut().as_mut_ptr_range();
    (spare.start.cast(), spare.end.cast())
}

/// Lets the vector end at `at`, up to which it must have been written.
fn settle(out: &mut Vec<u8>, at: *mut u8) {
    let len = at.addr() - out.as_ptr().addr();
    assert!(len <= out.capacity(), "what was appended lies in the buffer");
    // SAFETY: the length is within the capacity, and every byte before `at` has been written.
    unsafe { out.set_len(len) };
}

/// Makes room for `bytes` more behind `at`. By values, so that the pointers of the caller can stay in registers.
#[cold]
#[inline(never)]
fn grow(out: &mut Vec<u8>, at: *mut u8, bytes: usize) -> (*mut u8, *mut u8) {
    settle(out, at);
    out.reserve(bytes);
    spare(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Something to append.
    #[derive(Debug, Clone)]
    enum Part {
        Piece([u8; 8], usize),
        Wide([u8; 64], usize),
        Text(Vec<u8>),
        Padded(String),
        Value(Vec<u8>),
    }

    fn any_part() -> impl Strategy<Value = Part> {
        prop_oneof![
            (any::<[u8; 8]>(), 0usize..=8).prop_map(|(piece, len)| Part::Piece(piece, len)),
            (any::<u8>(), 0usize..=64).prop_map(|(byte, len)| Part::Wide([byte; 64], len)),
            proptest::collection::vec(any::<u8>(), 0..100).prop_map(Part::Text),
            "[a-z]{0,100}".prop_map(Part::Padded),
            proptest::collection::vec(any::<u8>(), 0..=ROOM_BYTES).prop_map(Part::Value),
        ]
    }

    fn append(part: &Part, out: &mut JsonOut<'_>, expected: &mut Vec<u8>) {
        match part {
            Part::Piece(piece, len) => {
                out.put(piece, *len);
                expected.extend_from_slice(&piece[..*len]);
            }
            Part::Wide(piece, len) => {
                out.put(piece, *len);
                expected.extend_from_slice(&piece[..*len]);
            }
            Part::Text(text) => {
                out.text(text);
                expected.extend_from_slice(text);
            }
            Part::Padded(text) => {
                out.padded(&PaddedText::new(text));
                expected.extend_from_slice(text.as_bytes());
            }
            Part::Value(value) => {
                out.value(|room| {
                    room[..value.len()].copy_from_slice(value);
                    value.len()
                });
                expected.extend_from_slice(value);
            }
        }
    }

    /// Run under the address sanitizer, this notices every byte that is written beyond the allocation.
    #[test]
    fn texts_of_every_length_fit_buffers_of_every_size() {
        for len in 0..=70 {
            let text: Vec<_> = (b'0'..).take(len).collect();
            for room in 0..=90 {
                let mut buffer = Vec::with_capacity(room);
                buffer.extend_from_slice(b"ab");
                let mut out = JsonOut::new(&mut buffer, 0);
                out.text(&text);
                out.put(&[b'c'; 4], 1);
                out.value(|room| {
                    room.fill(b'd');
                    1
                });
                out.finish();
                assert_eq!(
                    (&buffer[..2], &buffer[2..2 + len], &buffer[2 + len..]),
                    (&b"ab"[..], &text[..], &b"cd"[..])
                );
            }
        }
    }

    #[test]
    #[should_panic(expected = "no more of a piece can be appended than there is")]
    fn a_piece_is_no_longer_than_it_is() {
        JsonOut::new(&mut Vec::new(), 64).put(&[0; 8], 9);
    }

    #[test]
    #[should_panic(expected = "a value takes no more than its room")]
    fn a_value_ends_in_its_room() {
        JsonOut::new(&mut Vec::new(), 0).value(|_| ROOM_BYTES + 1);
    }

    #[test]
    fn what_was_not_written_of_a_value_is_zeros() {
        let mut buffer = vec![1; 4 * ROOM_BYTES];
        buffer.clear();
        let mut out = JsonOut::new(&mut buffer, 0);
        out.value(|_| ROOM_BYTES);
        out.finish();
        assert_eq!(buffer, [0; ROOM_BYTES]);
    }

    #[test]
    fn what_is_not_finished_is_not_there() {
        let mut buffer = b"before".to_vec();
        JsonOut::new(&mut buffer, 64).text(b"lost");
        assert_eq!(buffer, b"before");
    }

    proptest! {
        #[test]
        fn what_is_appended_stands_in_order_however_often_the_buffer_grows(
            before in proptest::collection::vec(any::<u8>(), 0..20),
            room in 0usize..200,
            parts in proptest::collection::vec(any_part(), 0..20),
            aside in any::<u8>(),
        ) {
            let mut buffer = Vec::with_capacity(room);
            buffer.extend_from_slice(&before);
            let mut expected = before;
            let mut out = JsonOut::new(&mut buffer, 0);
            for (at, part) in parts.iter().enumerate() {
                match aside >> (at % 8) & 1 {
                    0 => append(part, &mut out, &mut expected),
                    _ => out.aside(|out| append(part, out, &mut expected)),
                }
            }
            out.finish();
            prop_assert_eq!(buffer, expected);
        }
    }
}
