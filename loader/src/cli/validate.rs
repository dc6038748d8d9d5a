//! `validate`: everything that can be known of a project without sending a row.

use std::time::Duration;

use larder_types::api::CollectionInfo;

use super::output::{complain, say};
use crate::project::{Cluster, Project, SyncSpec};
use crate::push::client::Client;
use crate::push::contract;
use crate::push::retry::RetryPolicy;
use crate::run::ExitClass;
use crate::{mapping, source};

/// How much to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Depth {
    /// Ask the cluster too.
    pub(super) online: bool,
    /// Take warnings for problems.
    pub(super) strict: bool,
}

/// What was found of one sync.
#[derive(Default)]
struct Findings {
    problems: Vec<String>,
    warnings: Vec<String>,
}

/// Checks every sync against its source and, if asked to, against the cluster. The project's own files were checked when
/// it was loaded.
pub(super) fn validate(project: &Project, depth: Depth) -> ExitClass {
    let mut problems = 0;
    let mut warnings = project.warnings.len();
    for sync in project.syncs.values() {
        let mut found = Findings::default();
        check_source(project, sync, &mut found);
        if depth.online {
            check_clusters(project, sync, &mut found);
        }
        for warning in &found.warnings {
            complain(format_args!("warning: {}: {warning}", sync.file.display()));
        }
        for problem in &found.problems {
            complain(format_args!("error: {}: {problem}", sync.file.display()));
        }
        if found.problems.is_empty() {
            say(format_args!("{}: ok, {} fields of {}", sync.name, sync.fields.len(), sync.collection));
        }
        problems += found.problems.len();
        warnings += found.warnings.len();
    }
    if project.syncs.is_empty() {
        complain("warning: the project has no sync; put one into syncs/");
        warnings += 1;
    }
    if depth.strict && warnings > 0 {
        complain(format_args!("{}, which --strict does not let pass", count(warnings, "warning")));
        problems += warnings;
    } else if problems > 0 {
        complain(count(problems, "problem"));
    } else if !project.syncs.is_empty() {
        let verb = if project.syncs.len() == 1 { "is" } else { "are" };
        say(format_args!("{} {verb} valid", count(project.syncs.len(), "sync")));
    }
    if problems == 0 { ExitClass::Ok } else { ExitClass::Config }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn check_source(project: &Project, sync: &SyncSpec, found: &mut Findings) {
    let Some(spec) = project.sources.get(&sync.source) else {
        return found.problems.push(format!("there is no source `{}`", sync.source));
    };
    match source::describe(spec, &sync.model) {
        Ok(schema) => {
            let problems = mapping::compile(sync, &schema).err().unwrap_or_default();
            found.problems.extend(problems.iter().map(ToString::to_string));
        }
        Err(error) => found.problems.push(format!("source `{}`: {error}", sync.source)),
    }
}

fn check_clusters(project: &Project, sync: &SyncSpec, found: &mut Findings) {
    for name in &sync.destinations {
        let Some(cluster) = project.clusters.get(name) else { continue };
        match describe(cluster, sync) {
            // The first run makes it.
            Ok(None) => {}
            Ok(Some(info)) => {
                let contract = contract::check(sync, &info);
                found.problems.extend(contract.problems.iter().map(|problem| format!("cluster `{name}`: {problem}")));
                found.warnings.extend(contract.remarks.iter().map(|remark| format!("cluster `{name}`: {remark}")));
            }
            Err(error) => found.problems.push(format!("cluster `{name}`: {error}")),
        }
    }
}

fn describe(cluster: &Cluster, sync: &SyncSpec) -> Result<Option<CollectionInfo>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let once = RetryPolicy { budget: Duration::ZERO, ..RetryPolicy::default() };
    let client = Client::new(cluster, sync, once).map_err(|error| error.to_string())?;
    runtime.block_on(client.describe()).map_err(|error| error.to_string())
}
