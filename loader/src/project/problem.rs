//! Problems: what is wrong with a project, in words that say where and what to do.
//!
//! Invariant: a message never holds an interpolated value, because any of them may be a secret.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, relative to the project's folder.
    pub file: PathBuf,
    /// The line, counted from 1, where it is known.
    pub line: Option<u32>,
    /// What is wrong and what to do.
    pub message: String,
}

impl Problem {
    /// A problem of a file as a whole.
    #[must_use]
    pub fn of_file(file: &Path, message: impl Into<String>) -> Self {
        Self { file: file.to_path_buf(), line: None, message: message.into() }
    }

    /// A problem on one line of a file.
    #[must_use]
    pub fn at(file: &Path, line: u32, message: impl Into<String>) -> Self {
        Self { file: file.to_path_buf(), line: Some(line), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Everything that is wrong with a project, by file and line. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct Problems(pub Vec<Problem>);

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}
