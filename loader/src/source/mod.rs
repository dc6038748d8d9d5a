//! Sources: where rows come from.
//!
//! CONTRACT STUB: signatures for the other modules; the owner may add to, but not break, them.

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use crate::project::{Model, Project, SourceSpec};

/// Why a source could not be read. Each says which source, table or file, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// See the message.
    #[error("{0}")]
    Message(String),
}

/// The rows of a model, in batches. Blocking; may be moved to another thread. An error in the middle of the stream is
/// an `Err` item and ends it: it must never look like the end of the data.
pub struct RowStream {
    /// The columns.
    pub schema: SchemaRef,
    /// The batches, all of this schema.
    pub batches: Box<dyn Iterator<Item = Result<RecordBatch, SourceError>> + Send>,
}

/// Opens the rows of a model.
///
/// # Errors
/// When the source cannot be opened or the statement is refused.
pub fn open(project: &Project, spec: &SourceSpec, model: &Model) -> Result<RowStream, SourceError> {
    todo!()
}
