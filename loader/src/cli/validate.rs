//! `validate`: everything that can be known of a project without sending a row.

use super::output::{complain, say};
use crate::project::{Project, SyncSpec};
use crate::run::ExitClass;
use crate::{mapping, source};

/// Checks every sync against its source. The project's own files were checked when it was loaded.
pub(super) fn validate(project: &Project) -> ExitClass {
    let mut count = 0;
    for sync in project.syncs.values() {
        let problems = problems(project, sync);
        if problems.is_empty() {
            say(format_args!("{}: ok, {} fields of {}", sync.name, sync.fields.len(), sync.collection));
        }
        for problem in &problems {
            complain(format_args!("error: {}: {problem}", sync.file.display()));
        }
        count += problems.len();
    }
    match (count, project.syncs.len()) {
        (0, 0) => complain("warning: the project has no sync; put one into syncs/"),
        (0, syncs) => say(format_args!("{syncs} {} valid", if syncs == 1 { "sync is" } else { "syncs are" })),
        (count, _) => complain(format_args!("{count} {}", if count == 1 { "problem" } else { "problems" })),
    }
    if count == 0 { ExitClass::Ok } else { ExitClass::Config }
}

fn problems(project: &Project, sync: &SyncSpec) -> Vec<String> {
    let Some(spec) = project.sources.get(&sync.source) else {
        return vec![format!("there is no source `{}`", sync.source)];
    };
    let schema = match source::describe(spec, &sync.model) {
        Ok(schema) => schema,
        Err(error) => return vec![format!("source `{}`: {error}", sync.source)],
    };
    match mapping::compile(sync, &schema) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}
