//! `debug`: whether sources and destinations can be reached, and what they are.

use std::time::Duration;

use serde::Serialize;

use super::output::{complain, say};
use super::say_json;
use crate::cancel::Cancel;
use crate::project::{Cluster, DestinationName, Project, SourceSpec};
use crate::push::client::Client;
use crate::push::retry::RetryPolicy;
use crate::run::ExitClass;
use crate::source;
use crate::source::adbc::Adbc;

/// A person waits: two or three attempts.
const PATIENCE: RetryPolicy =
    RetryPolicy { first: Duration::from_millis(200), cap: Duration::from_secs(1), budget: Duration::from_secs(3) };

/// What was found out, and whether it is as it should be.
#[derive(Serialize)]
struct Check {
    subject: String,
    what: &'static str,
    ok: bool,
    detail: String,
}

/// Checks one source or destination, or all of them. Exits with 1 if anything is not as it should be.
pub(super) fn debug(project: &Project, name: Option<&str>, json: bool) -> ExitClass {
    let mut checks = Vec::new();
    let is_wanted = |other: &str| name.is_none_or(|name| name == other);
    for (source, spec) in project.sources.iter().filter(|(source, _)| is_wanted(source)) {
        check_source(project, source, spec, &mut checks);
    }
    for (destination, cluster) in project.clusters.iter().filter(|(name, _)| is_wanted(name.as_str())) {
        check_destination(project, destination, cluster, &mut checks);
    }
    if checks.is_empty() {
        let names: Vec<&str> = project
            .sources
            .keys()
            .map(String::as_str)
            .chain(project.clusters.keys().map(DestinationName::as_str))
            .collect();
        let hint = crate::project::suggest::hint(name.unwrap_or_default(), names.iter().copied());
        complain(format_args!("error: there is no source or destination of this name; {hint}"));
        return ExitClass::Config;
    }
    for check in &checks {
        let Check { subject, what, ok, detail } = check;
        match (json, ok) {
            (true, _) => say_json(check),
            (false, true) => say(format_args!("{subject}: {what}: ok, {detail}")),
            (false, false) => complain(format_args!("{subject}: {what}: error: {detail}")),
        }
    }
    if checks.iter().all(|check| check.ok) { ExitClass::Ok } else { ExitClass::Failed }
}

/// Keeps what was found out, and tells whether it is as it should be.
fn note(subject: &str, what: &'static str, result: Result<String, String>, checks: &mut Vec<Check>) -> bool {
    let ok = result.is_ok();
    let detail = result.unwrap_or_else(|error| error);
    checks.push(Check { subject: subject.to_owned(), what, ok, detail });
    ok
}

/// A driver's library, the login, and then whether the models of every sync of this source are accepted, which also
/// shows whether this login may read what they read.
fn check_source(project: &Project, name: &str, spec: &SourceSpec, checks: &mut Vec<Check>) {
    let subject = format!("source {name}");
    if let SourceSpec::Driver(driver) = spec {
        let adbc = match Adbc::new(driver, &Cancel::default()) {
            Ok(adbc) => adbc,
            Err(error) => {
                note(&subject, "driver", Err(error.to_string()), checks);
                return;
            }
        };
        let found = adbc.found();
        let manifest = found.manifest.as_ref().map(|file| format!(", by {}", file.display())).unwrap_or_default();
        let library = format!("{}{manifest}", found.library.display());
        note(&subject, "driver", Ok(library), checks);
        let login = adbc.info().map(|info| {
            let parts = [info.database, info.database_version, info.driver, info.driver_version];
            let known: Vec<String> = parts.into_iter().flatten().collect();
            if known.is_empty() { "logged in".to_owned() } else { known.join(" ") }
        });
        if !note(&subject, "login", login.map_err(|error| error.to_string()), checks) {
            return;
        }
    }
    let mut models = 0;
    for sync in project.syncs.values().filter(|sync| sync.source == name) {
        models += 1;
        let columns = source::describe(spec, &sync.model)
            .map(|schema| format!("sync {}, {} columns", sync.name, schema.fields().len()))
            .map_err(|error| format!("sync {}: {error}", sync.name));
        note(&subject, "model", columns, checks);
    }
    if models == 0 {
        note(&subject, "model", Ok("no sync reads it".to_owned()), checks);
    }
}

/// A cluster as each sync that feeds it would use it: it answers, takes the key for writing, and no other sync owns the
/// fields.
fn check_destination(project: &Project, name: &DestinationName, cluster: &Cluster, checks: &mut Vec<Check>) {
    let subject = format!("destination {name}");
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            note(&subject, "cluster", Err(error.to_string()), checks);
            return;
        }
    };
    for sync in project.syncs.values().filter(|sync| sync.destinations.contains(name)) {
        let asked = Client::new(cluster, sync, PATIENCE).and_then(|client| {
            let known = runtime.block_on(client.look(sync))?;
            runtime.block_on(client.may_write()).map(|()| known)
        });
        let told = asked
            .map(|known| format!("sync {}, key may write {}, {} records", sync.name, sync.collection, known.records))
            .map_err(|error| format!("sync {}: {error}", sync.name));
        if !note(&subject, "cluster", told, checks) {
            return;
        }
    }
}
