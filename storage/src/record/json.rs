//! The lookup path's JSON output as a text sink.

/// A buffer of bytes into which text is formatted.
pub(crate) struct Json<'a>(pub(crate) &'a mut Vec<u8>);

impl std::fmt::Write for Json<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
