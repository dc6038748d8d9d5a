//! `schema`: what an editor needs to know of the YAML files.

use super::output::{complain, say};
use crate::project::{self, FileKind};
use crate::run::ExitClass;

/// Reads a kind of file from the command line.
pub(super) fn parse_kind(word: &str) -> Result<FileKind, String> {
    let words = || FileKind::ALL.iter().map(|kind| kind.as_str());
    let found = FileKind::ALL.into_iter().find(|kind| kind.as_str() == word);
    found.ok_or_else(|| crate::project::suggest::hint(word, words()))
}

/// Prints the schema of a kind of file.
pub(super) fn schema(kind: FileKind) -> ExitClass {
    match text(kind) {
        Ok(text) => {
            say(text);
            ExitClass::Ok
        }
        Err(error) => {
            complain(format_args!("error: the schema cannot be written as JSON: {error}"));
            ExitClass::Failed
        }
    }
}

/// The schema as a file holds it.
fn text(kind: FileKind) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&project::schema(kind))
}
