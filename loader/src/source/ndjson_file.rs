//! NDJSON files: one JSON object a line; blank lines are passed over.
//!
//! A member that is missing is null. Lists, objects, and members that hold different kinds of values become columns of
//! JSON text exactly as written, so nothing of them is lost. A member that first appears after the rows that were
//! looked at for the columns is not a column, unless `types` of the source file declares it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::Schema;
use serde_json::value::RawValue;

use super::columns::{TextColumn, field, misfit};
use super::infer::{Guess, SAMPLE_ROWS, parse_float, parse_int};
use super::{BATCH_ROWS, Batches, SourceError};
use crate::project::ColumnType;

/// Longest line in bytes.
const MAX_LINE: u64 = 16 * 1024 * 1024;

/// Looks at the first rows of a file: names, in the order in which they first appear, and what their values look like.
pub(super) fn sample(file: &Path, guesses: &mut Vec<(String, Guess)>) -> Result<(), SourceError> {
    let mut lines = Lines::open(file)?;
    let mut positions: HashMap<String, usize> =
        guesses.iter().enumerate().map(|(position, (name, _))| (name.clone(), position)).collect();
    for _ in 0..SAMPLE_ROWS {
        let Some(members) = lines.next_object()? else { break };
        for (name, raw) in members.0 {
            let position = *positions.entry(name).or_insert_with_key(|name| {
                guesses.push((name.clone(), Guess::default()));
                guesses.len() - 1
            });
            if let Some(kind) = type_of_json(raw.get()) {
                guesses[position].1.see(kind, ColumnType::Json);
            }
        }
    }
    Ok(())
}

/// The type of a JSON value; none for null.
fn type_of_json(raw: &str) -> Option<ColumnType> {
    Some(match raw.as_bytes().first() {
        Some(b'"') => ColumnType::String,
        Some(b't' | b'f') => ColumnType::Bool,
        Some(b'n') => return None,
        Some(b'{' | b'[') => ColumnType::Json,
        _ if parse_int(raw).is_some() => ColumnType::Int,
        _ if parse_float(raw).is_some() => ColumnType::Float,
        // More digits than a machine number keeps.
        _ => ColumnType::Json,
    })
}

/// The rows of a file in these columns.
pub(super) fn batches(file: &Path, columns: &[(String, ColumnType)]) -> Result<Batches, SourceError> {
    let schema = Arc::new(Schema::new(columns.iter().map(|(name, kind)| field(name, *kind)).collect::<Vec<_>>()));
    let positions = columns.iter().enumerate().map(|(position, (name, _))| (name.clone(), position)).collect();
    Ok(Box::new(Rows { lines: Lines::open(file)?, schema, columns: columns.to_vec(), positions }))
}

struct Rows {
    lines: Lines,
    schema: Arc<Schema>,
    columns: Vec<(String, ColumnType)>,
    positions: HashMap<String, usize>,
}

impl Iterator for Rows {
    type Item = Result<RecordBatch, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batch().transpose()
    }
}

impl Rows {
    fn batch(&mut self) -> Result<Option<RecordBatch>, SourceError> {
        let mut columns: Vec<TextColumn> = self.columns.iter().map(|(_, kind)| TextColumn::new(*kind)).collect();
        let mut rows = 0;
        let mut values: Vec<Option<Box<RawValue>>> = Vec::new();
        while rows < BATCH_ROWS {
            let Some(members) = self.lines.next_object()? else { break };
            values.clear();
            values.resize_with(self.columns.len(), || None);
            for (name, raw) in members.0 {
                if let Some(position) = self.positions.get(&name) {
                    values[*position] = Some(raw);
                }
            }
            for ((raw, column), (name, kind)) in values.iter().zip(&mut columns).zip(&self.columns) {
                if !append(column, *kind, raw.as_deref().map(RawValue::get)) {
                    return Err(self.lines.misfit(name, *kind));
                }
            }
            rows += 1;
        }
        if rows == 0 {
            return Ok(None);
        }
        let columns: Vec<ArrayRef> = columns.iter_mut().map(TextColumn::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map(Some)
            .map_err(|error| SourceError::file(&self.lines.file, error))
    }
}

/// Appends a JSON value as the column's type; false if it does not fit.
fn append(column: &mut TextColumn, kind: ColumnType, raw: Option<&str>) -> bool {
    match raw {
        None | Some("null") => {
            column.append_null();
            true
        }
        Some(raw) if kind != ColumnType::Json && raw.starts_with('"') => match serde_json::from_str::<String>(raw) {
            Ok(text) => column.append(&text),
            Err(_) => false,
        },
        Some(raw) => column.append(raw),
    }
}

/// The members of one line in their order.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> serde::Deserialize<'de> for Members {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> serde::de::Visitor<'de> for MembersVisitor {
            type Value = Members;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut access: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = access.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// The lines of a file, counted.
struct Lines {
    file: PathBuf,
    reader: BufReader<File>,
    line: u64,
    buffer: Vec<u8>,
}

impl Lines {
    fn open(file: &Path) -> Result<Self, SourceError> {
        let opened = File::open(file).map_err(|error| SourceError::file(file, error))?;
        Ok(Self { file: file.to_path_buf(), reader: BufReader::new(opened), line: 0, buffer: Vec::new() })
    }

    /// The object on the next line that is not blank.
    fn next_object(&mut self) -> Result<Option<Members>, SourceError> {
        loop {
            self.buffer.clear();
            let read = (&mut self.reader).take(MAX_LINE + 1).read_until(b'\n', &mut self.buffer);
            let read = read.map_err(|error| SourceError::file(&self.file, error))?;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            if self.buffer.len() as u64 > MAX_LINE {
                return Err(self.fault(format!("longer than {MAX_LINE} bytes")));
            }
            if self.buffer.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            // The parser's own message may quote the line, so only its position is passed on.
            return serde_json::from_slice(&self.buffer)
                .map(Some)
                .map_err(|error| self.fault(format!("not a JSON object (column {})", error.column())));
        }
    }

    fn fault(&self, reason: String) -> SourceError {
        SourceError::file(&self.file, format!("line {}: {reason}", self.line))
    }

    fn misfit(&self, column: &str, kind: ColumnType) -> SourceError {
        SourceError::Cell {
            place: self.file.display().to_string(),
            row: self.line,
            column: column.to_owned(),
            reason: misfit(column, kind),
        }
    }
}
