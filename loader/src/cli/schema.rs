//! `schema`: what an editor needs to know of the YAML files.

use std::fs;
use std::path::Path;

use super::output::{complain, say};
use crate::project::suggest::hint;
use crate::project::{self, FileKind};
use crate::run::ExitClass;

/// Where a project keeps the schemas, which the first lines of its files name.
const FOLDER: &str = ".schema";

/// Reads a kind of file from the command line.
pub(super) fn parse_kind(word: &str) -> Result<FileKind, String> {
    let found = FileKind::ALL.into_iter().find(|kind| kind.as_str() == word);
    found.ok_or_else(|| hint(word, FileKind::ALL.iter().map(|kind| kind.as_str())))
}

/// Prints the schema of a kind of file.
pub(super) fn print(kind: FileKind) -> ExitClass {
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

/// Writes the schemas of all kinds of files into a project, in place of older ones.
pub(super) fn write(project: &Path) -> ExitClass {
    let folder = project.join(FOLDER);
    for kind in FileKind::ALL {
        let file = folder.join(format!("{}.json", kind.as_str()));
        let written = fs::create_dir_all(&folder).map_err(|error| error.to_string()).and_then(|()| {
            let text = text(kind).map_err(|error| error.to_string())?;
            fs::write(&file, text + "\n").map_err(|error| error.to_string())
        });
        if let Err(error) = written {
            complain(format_args!("error: {}: {error}", file.display()));
            return ExitClass::Failed;
        }
        say(format_args!("wrote {}", file.display()));
    }
    ExitClass::Ok
}

fn text(kind: FileKind) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&project::schema(kind))
}
