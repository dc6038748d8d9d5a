//! `cancel`: stops a run that is under way, here or in another process.

use super::output::{complain, say};
use crate::project::Project;
use crate::run::{self, ExitClass};

/// Asks a run to stop.
pub(super) fn cancel(project: &Project, id: &str) -> ExitClass {
    match run::cancel(project, id) {
        Ok(()) => {
            say(format_args!("run {id} was asked to stop"));
            ExitClass::Ok
        }
        Err(error) => {
            complain(format_args!("error: {error}"));
            error.exit_class()
        }
    }
}
