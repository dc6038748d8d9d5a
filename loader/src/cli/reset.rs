//! `reset`: forgets what was acknowledged, so that the next run sends every row.

use super::output::{complain, say};
use crate::project::{Project, SyncSpec};
use crate::run::{self, ExitClass};

/// Forgets the state of one destination of a sync, or of all.
pub(super) fn reset(project: &Project, sync: &SyncSpec, destination: Option<&str>) -> ExitClass {
    match run::reset(project, &sync.name, destination) {
        Ok(names) => {
            for name in names {
                say(format_args!(
                    "{}: what {name} has acknowledged is forgotten; the next run sends every row",
                    sync.name
                ));
            }
            ExitClass::Ok
        }
        Err(error) => {
            complain(format_args!("{}: error: {error}", sync.name));
            error.exit_class()
        }
    }
}
