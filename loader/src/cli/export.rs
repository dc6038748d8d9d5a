//! Lists that people read and programs load: lines, JSON, NDJSON, Parquet; to standard output or into a file.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::InProject;
use super::output::complain;
use crate::inspect::export::{Entry, ExportError, Format, write};
use crate::run::ExitClass;

#[derive(Debug, Args)]
pub(super) struct Exported {
    #[command(flatten)]
    pub(super) project: InProject,
    /// How to write it; by the ending of the output file if that says, else as a table.
    #[arg(long, value_enum)]
    format: Option<Form>,
    /// Write into this file instead of printing.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print one JSON object a line: short for `--format ndjson`.
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    /// Lines for people.
    Table,
    /// One JSON list.
    Json,
    /// One JSON object a line.
    Ndjson,
    /// A Parquet file.
    Parquet,
}

impl Exported {
    fn format(&self) -> Format {
        let ending = self.output.as_deref().and_then(Path::extension).and_then(|ending| ending.to_str());
        match (self.format, ending) {
            (Some(Form::Table), _) => Format::Table,
            (Some(Form::Json), _) => Format::Json,
            (Some(Form::Parquet), _) => Format::Parquet,
            (Some(Form::Ndjson), _) => Format::Ndjson,
            (None, _) if self.json => Format::Ndjson,
            (None, Some("json")) => Format::Json,
            (None, Some("ndjson" | "jsonl")) => Format::Ndjson,
            (None, Some("parquet")) => Format::Parquet,
            (None, _) => Format::Table,
        }
    }

    /// Writes entries; for people, `line` says each and `none` that there are none.
    pub(super) fn put<E: Entry>(&self, entries: &[E], none: &str, line: impl Fn(&E) -> String) -> ExitClass {
        let format = self.format();
        if format == Format::Table && entries.is_empty() && self.output.is_none() {
            complain(none);
            return ExitClass::Ok;
        }
        let result = match &self.output {
            Some(path) => into_file(path, |file| write(entries, format, file, line)),
            None if format == Format::Parquet && std::io::stdout().is_terminal() => {
                complain("error: Parquet is not for terminals; give a file with --output");
                return ExitClass::Config;
            }
            None => write(entries, format, &mut std::io::stdout(), line).or_else(unless_nobody_reads),
        };
        match result {
            Ok(()) => ExitClass::Ok,
            Err(error) => {
                complain(format_args!("error: {error}"));
                ExitClass::Failed
            }
        }
    }
}

fn into_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let mut file = BufWriter::new(File::create(path)?);
    write(&mut file)?;
    Ok(file.flush()?)
}

/// A reader that has seen enough is no failure.
fn unless_nobody_reads(error: ExportError) -> Result<(), ExportError> {
    match error {
        ExportError::Io(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        error => Err(error),
    }
}
