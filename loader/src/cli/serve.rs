//! `serve`: the daemon.

use std::net::SocketAddr;

use super::output::{complain, say};
use super::{InProject, refuse, say_json};
use crate::run::ExitClass;
use crate::serve::{self, ServeError};

/// Serves until the process is told to end. The first line of output is the address.
pub(super) fn serve(place: &InProject, listen: Option<SocketAddr>, json: bool) -> ExitClass {
    let project = match place.load() {
        Ok(project) => project,
        Err(problems) => return refuse(&problems.0),
    };
    project.warnings.iter().for_each(|warning| complain(format_args!("warning: {warning}")));
    if project.serve.tokens.is_empty() {
        complain("warning: `serve.tokens` of larder.yml is empty: only health and metrics are answered");
    }
    let syncs = project.syncs.len();
    let listening = |address: SocketAddr| {
        if json {
            say_json(&serde_json::json!({"listening": address.to_string(), "syncs": syncs}));
        } else {
            say(format_args!("listening on http://{address}, {syncs} syncs"));
        }
    };
    match serve::serve(&place.project, project, listen, listening) {
        Ok(()) => ExitClass::Ok,
        Err(error) => {
            complain(format_args!("error: {error}"));
            match error {
                ServeError::Listen { .. } => ExitClass::Config,
                _ => ExitClass::Failed,
            }
        }
    }
}
