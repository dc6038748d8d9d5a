//! Marks: one number for each row that came in, in a file, for the few rows that are asked about in the end.
//!
//! Where a row stands on the cursor column, or its id in the warehouse, matters only for rows that were rejected. So it
//! does not travel with each row; it is written down by the row's place.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::spill::nameless_file;

/// Marks being written.
pub(crate) struct MarksWriter {
    file: BufWriter<File>,
    rows: u64,
}

/// Marks of the rows 1, 2, 3 and so on.
#[derive(Debug)]
pub(crate) struct Marks {
    file: File,
    rows: u64,
}

impl MarksWriter {
    /// `dir` takes the file.
    pub(crate) fn new(dir: &Path) -> io::Result<Self> {
        Ok(Self { file: BufWriter::new(nameless_file(dir)?), rows: 0 })
    }

    /// Writes the mark of the next row.
    pub(crate) fn push(&mut self, mark: u64) -> io::Result<()> {
        self.rows += 1;
        self.file.write_all(&mark.to_le_bytes())
    }

    /// No more rows.
    pub(crate) fn finish(self) -> io::Result<Marks> {
        Ok(Marks { file: self.file.into_inner().map_err(io::IntoInnerError::into_error)?, rows: self.rows })
    }
}

impl Marks {
    /// The mark of a row, by its place from 1; `None` if there is no such row.
    pub(crate) fn of(&self, row: u64) -> io::Result<Option<u64>> {
        let Some(at) = row.checked_sub(1).filter(|at| *at < self.rows) else { return Ok(None) };
        let mut mark = [0; 8];
        self.file.read_exact_at(&mut mark, at * 8)?;
        Ok(Some(u64::from_le_bytes(mark)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_marks_that_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = MarksWriter::new(dir.path()).unwrap();
        (1..=5000_u64).for_each(|row| writer.push(row * 3).unwrap());
        let marks = writer.finish().unwrap();
        assert_eq!(marks.of(1).unwrap(), Some(3));
        assert_eq!(marks.of(5000).unwrap(), Some(15_000));
        assert_eq!((marks.of(0).unwrap(), marks.of(5001).unwrap()), (None, None));
    }
}
