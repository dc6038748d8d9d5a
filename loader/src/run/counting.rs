//! Counting: a second opinion on how many rows there are, before any are removed.
//!
//! The source counts the rows of the model by a query of its own, right after they were read, once a run and only if
//! something would be removed: a run that removes nothing cannot remove too much. More rows than were read were lost on
//! the way, or came in between; which of the two, the next run will tell. Fewer are no matter: they left in between.

use std::sync::OnceLock;

use super::stop::Stop;
use crate::cancel::Cancel;
use crate::project::{Project, SourceSpec, SyncSpec};
use crate::source;

pub(super) struct Counting<'a> {
    project: &'a Project,
    spec: &'a SyncSpec,
    cancel: &'a Cancel,
    counted: OnceLock<Result<Option<u64>, String>>,
}

impl<'a> Counting<'a> {
    pub(super) fn new(project: &'a Project, spec: &'a SyncSpec, cancel: &'a Cancel) -> Self {
        Self { project, spec, cancel, counted: OnceLock::new() }
    }

    /// Rows that the source counts beyond the `read` ones; 0 if the sync does not ask for it.
    pub(super) fn missing(&self, read: u64) -> Result<u64, Stop> {
        let counted = self.counted.get_or_init(|| self.count()).clone();
        if let Some(why) = self.cancel.why() {
            return Err(Stop::Cancelled(why));
        }
        let counted = counted.map_err(|error| {
            Stop::Failed(format!("rows would be removed, and counting those of the source failed: {error}"))
        })?;
        Ok(counted.unwrap_or_default().saturating_sub(read))
    }

    fn count(&self) -> Result<Option<u64>, String> {
        let Some(source) = self.project.sources.get(&self.spec.source) else { return Ok(None) };
        let by_default = matches!(source, SourceSpec::Driver(_));
        if !self.spec.guard.verify_row_count.unwrap_or(by_default) {
            return Ok(None);
        }
        source::count(source, &self.spec.model, self.cancel).map_err(|error| error.to_string())
    }
}
