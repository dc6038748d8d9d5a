//! Quotes: a check on the bytes of a CSV file on their way to the CSV reader.
//!
//! The reader takes anything: a `"` that is never closed swallows the rows after it into one cell, and what follows a
//! closing `"` becomes part of the cell. Both mean that rows are lost, which a sync would take for removals.
//!
//! Invariants:
//! - it sees cells begin and end where the reader does: at `,`, `\n` and `\r` outside quotes, after a byte order mark;
//! - a file with a fault is never read to its end: the fault is an error of reading.

use std::io::{self, Read};

const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// The bytes of a CSV file, with errors where its quotes are wrong.
pub(super) struct QuoteCheck<R> {
    inner: R,
    place: Place,
    /// Bytes of a byte order mark seen; its length once there can be no more.
    mark: usize,
    /// The current line, counted from 1.
    line: u64,
    /// The line on which the last quoted cell began.
    opened: u64,
    after_return: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first byte of a cell.
    CellStart,
    /// In a cell without quotes around it, where a `"` is a character like any other.
    Plain,
    /// Between quotes.
    Quoted,
    /// After a `"` between quotes: either the cell ends here, or a second `"` follows and stands for one.
    Quote,
}

impl<R> QuoteCheck<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, place: Place::CellStart, mark: 0, line: 1, opened: 0, after_return: false }
    }

    fn see(&mut self, byte: u8) -> io::Result<()> {
        if self.mark < BYTE_ORDER_MARK.len() {
            if byte == BYTE_ORDER_MARK[self.mark] {
                self.mark += 1;
                return Ok(());
            }
            self.mark = BYTE_ORDER_MARK.len();
        }
        if byte == b'\r' || (byte == b'\n' && !self.after_return) {
            self.line += 1;
        }
        self.after_return = byte == b'\r';
        self.place = match (self.place, byte) {
            (Place::CellStart, b'"') => {
                self.opened = self.line;
                Place::Quoted
            }
            (Place::Quoted, b'"') => Place::Quote,
            (Place::Quoted, _) | (Place::Quote, b'"') => Place::Quoted,
            (_, b',' | b'\n' | b'\r') => Place::CellStart,
            (Place::Quote, _) => return Err(self.fault("goes on after its closing `\"`")),
            (Place::CellStart | Place::Plain, _) => Place::Plain,
        };
        Ok(())
    }

    fn fault(&self, what: &str) -> io::Error {
        let reason = format!(
            "line {}: a cell that begins with `\"` on this line {what}; a quoted cell needs a `\"` at both ends, and \
             `\"\"` for each `\"` in it",
            self.opened
        );
        io::Error::new(io::ErrorKind::InvalidData, reason)
    }
}

impl<R: Read> Read for QuoteCheck<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count == 0 && !buffer.is_empty() && self.place == Place::Quoted {
            return Err(self.fault("is not closed before the end of the file"));
        }
        buffer[..count].iter().try_for_each(|byte| self.see(*byte))?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the check says of a text that arrives in pieces of so many bytes.
    fn fault_of(text: &str, piece: usize) -> Option<String> {
        let mut check = QuoteCheck::new(text.as_bytes());
        let mut buffer = vec![0; piece];
        loop {
            match check.read(&mut buffer) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(error.to_string()),
            }
        }
    }

    #[test]
    fn well_formed_quotes_pass() {
        for text in [
            "",
            "a,b\n1,2\n",
            "a\n\"x, \"\"y\"\"\r\nz\"\r\n",
            "a,b\n\"\",\"\"\"\"\n",
            "a\n5\" pipe\n",
            "a\n \"x\"\n",
            "\u{feff}\"a\",\"b\"\n1,2",
            "a\n\"last\"",
        ] {
            for piece in [1, 2, 3, 100] {
                assert_eq!(fault_of(text, piece), None, "{text:?}");
            }
        }
    }

    #[test]
    fn the_line_on_which_a_bad_cell_began_is_named() {
        for (text, line, what) in [
            ("a,b\n1,\"v\n2,w\n", 2, "is not closed"),
            ("a\r\n\"x\r\ny\"\r\n\"z\r\n", 4, "is not closed"),
            ("a\r\"x", 2, "is not closed"),
            ("\u{feff}\"a,b\n1,2\n", 1, "is not closed"),
            ("a,b\n1,\"v\n2,\"w\"\n", 2, "goes on after"),
            ("a\n1\n\"x\" \n", 3, "goes on after"),
        ] {
            for piece in [1, 2, 3, 100] {
                let fault = fault_of(text, piece).unwrap_or_default();
                assert!(fault.starts_with(&format!("line {line}: ")) && fault.contains(what), "{text:?}: {fault}");
            }
        }
    }
}
