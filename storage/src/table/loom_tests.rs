//! Interleavings of the table protocol.
