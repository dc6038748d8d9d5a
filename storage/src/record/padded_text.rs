//! Text that is copied often, kept in whole blocks.
//!
//! Names of fields and other short texts of the lookup path are of all lengths. Copied byte for byte, each would cost a
//! loop or a call; copied in whole blocks, most cost one step, and where the next text goes is all that depends on the
//! length. The block behind a text's last byte is a part of the value, so nothing is ever read that is not its own.
//!
//! Invariants: never changes; there is at least one block; the text ends in the last one; behind it stand zeros.

/// Bytes that are copied in one step.
pub(crate) const BLOCK_BYTES: usize = 32;

/// Text that can be read in whole blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PaddedText {
    /// Stands here and not behind a pointer, as most texts have no other.
    first: [u8; BLOCK_BYTES],
    len: usize,
    rest: Box<[[u8; BLOCK_BYTES]]>,
}

impl PaddedText {
    /// A copy of the text.
    pub(crate) fn new(text: &str) -> Self {
        let (whole, last) = text.as_bytes().as_chunks();
        let mut padded = [0; BLOCK_BYTES];
        padded[..last.len()].copy_from_slice(last);
        let blocks = whole.iter().copied().chain((whole.is_empty() || !last.is_empty()).then_some(padded));
        let mut rest: Vec<_> = blocks.collect();
        let first = rest.remove(0);
        Self { first, len: text.len(), rest: rest.into() }
    }

    /// Bytes of the text.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The text's first block.
    pub(crate) fn first(&self) -> &[u8; BLOCK_BYTES] {
        &self.first
    }

    /// The other blocks of a text that is longer than one.
    pub(crate) fn rest(&self) -> &[[u8; BLOCK_BYTES]] {
        &self.rest
    }

    /// The text.
    #[cfg(test)]
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut blocks = [&[self.first], &*self.rest].concat().concat();
        assert!(blocks.drain(self.len..).all(|byte| byte == 0), "behind the text stand zeros");
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_every_length_end_in_their_last_block() {
        for len in 0..=3 * BLOCK_BYTES {
            let text = "x".repeat(len);
            let padded = PaddedText::new(&text);
            assert_eq!((&*padded.to_bytes(), padded.len()), (text.as_bytes(), len));
            assert_eq!(padded.rest().len(), len.saturating_sub(1) / BLOCK_BYTES);
        }
    }
}
