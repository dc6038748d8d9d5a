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
    blocks: Box<[[u8; BLOCK_BYTES]]>,
    len: usize,
}

impl PaddedText {
    /// A copy of the text.
    pub(crate) fn new(text: &str) -> Self {
        let mut blocks = vec![[0; BLOCK_BYTES]; text.len().div_ceil(BLOCK_BYTES).max(1)];
        blocks.as_flattened_mut()[..text.len()].copy_from_slice(text.as_bytes());
        Self { blocks: blocks.into(), len: text.len() }
    }

    /// Bytes of the text.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The text and what stands behind it.
    pub(crate) fn blocks(&self) -> &[[u8; BLOCK_BYTES]] {
        &self.blocks
    }

    /// The text.
    #[cfg(test)]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.blocks.as_flattened()[..self.len]
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
            assert_eq!((padded.as_bytes(), padded.len()), (text.as_bytes(), len));
            assert_eq!(padded.blocks().len(), 1 + len.saturating_sub(1) / BLOCK_BYTES);
            assert!(padded.blocks().as_flattened()[len..].iter().all(|byte| *byte == 0));
        }
    }
}
