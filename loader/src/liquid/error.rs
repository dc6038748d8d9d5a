//! Errors: problems of a template, found before any row, and failures of a row.
//!
//! Neither ever holds a value of a row. Messages quote the template only.

use super::limits::{MAX_MADE_BYTES, MAX_OUTPUT_BYTES, MAX_ROUNDS};

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub struct Problem {
    /// Where, counted from 1, if the template has more than one line.
    pub line: Option<usize>,
    /// What, in a sentence.
    pub message: String,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { line: None, message: message.into() }
    }

    /// The same problem with its line, unless it has one already.
    pub(super) fn at(mut self, line: usize) -> Self {
        self.line.get_or_insert(line);
        self
    }
}

/// Why a template gave nothing for a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A filter or tag refused its input.
    #[error("its template failed: {0}")]
    Refused(String),
    /// A column that the template reads has no usable value.
    #[error("{0}")]
    Column(String),
    /// More output than [`MAX_OUTPUT_BYTES`].
    #[error("its template wrote more than {MAX_OUTPUT_BYTES} bytes")]
    TooLong,
    /// More rounds of loops than [`MAX_ROUNDS`].
    #[error("its template went through more than {MAX_ROUNDS} rounds of loops")]
    TooManyRounds,
    /// A filter made more than [`MAX_MADE_BYTES`].
    #[error("a filter of its template made a value of more than {MAX_MADE_BYTES} bytes, or a list as long")]
    TooLarge,
    /// More work than [`super::limits::MAX_WORK_BYTES`].
    #[error("its template worked on too many bytes; do less in its loops")]
    TooMuchWork,
}

impl Failure {
    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self::Refused(message.into())
    }

    /// The same failure with the place in the template, where that says more.
    pub(super) fn within(self, source: &str) -> Self {
        match self {
            Self::Refused(message) => Self::Refused(format!("{message} in `{source}`")),
            other => other,
        }
    }
}
