//! The HTTP API: paths, what they need, and what they answer. All blocking.
//!
//! | path | method | token |
//! | --- | --- | --- |
//! | `/healthz`, `/readyz`, `/metrics` | GET | none |
//! | `/v1/syncs`, `/v1/syncs/{s}`, `/v1/syncs/{s}/runs`, `/v1/runs/{id}` | GET | read |
//! | `/v1/syncs/{s}/trigger`, `…/pause`, `…/resume`, `/v1/runs/{id}/cancel`, `…/approve` | POST | trigger |

use hyper::Method;
use hyper::http::request::Parts;
use larder_types::names::SyncName;
use serde::Deserialize;
use serde_json::json;

use super::answer::{Answer, Fault, Kind, json as answer_json, metrics as answer_metrics};
use super::daemon::{Cancelled, Daemon};
use super::view::{SyncView, TicketView};
use crate::project::serve::TokenScope;
use crate::project::{Project, SyncSpec};
use crate::run::Trigger;
use crate::schedule::book::Request;
use crate::state::StateError;

const DEFAULT_RUNS: usize = 20;
const MAX_RUNS: usize = 1000;

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resource<'a> {
    Health,
    Ready,
    Metrics,
    Syncs,
    Sync(&'a str),
    Runs(&'a str),
    Run(&'a str),
    Trigger(&'a str),
    Pause(&'a str),
    Resume(&'a str),
    Cancel(&'a str),
    Approve(&'a str),
}

impl<'a> Resource<'a> {
    fn of(path: &'a str) -> Option<Self> {
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        Some(match parts[..] {
            ["healthz"] => Self::Health,
            ["readyz"] => Self::Ready,
            ["metrics"] => Self::Metrics,
            ["v1", "syncs"] => Self::Syncs,
            ["v1", "syncs", sync] => Self::Sync(sync),
            ["v1", "syncs", sync, "runs"] => Self::Runs(sync),
            ["v1", "syncs", sync, "trigger"] => Self::Trigger(sync),
            ["v1", "syncs", sync, "pause"] => Self::Pause(sync),
            ["v1", "syncs", sync, "resume"] => Self::Resume(sync),
            ["v1", "runs", run] => Self::Run(run),
            ["v1", "runs", run, "cancel"] => Self::Cancel(run),
            ["v1", "runs", run, "approve"] => Self::Approve(run),
            _ => return None,
        })
    }

    /// The scope that it needs; none if anybody may ask.
    fn scope(self) -> Option<TokenScope> {
        match self {
            Self::Health | Self::Ready | Self::Metrics => None,
            Self::Syncs | Self::Sync(_) | Self::Runs(_) | Self::Run(_) => Some(TokenScope::Read),
            _ => Some(TokenScope::Trigger),
        }
    }

    fn check_method(self, method: &Method) -> Result<(), Fault> {
        if self.scope() == Some(TokenScope::Trigger) {
            return if method == Method::POST { Ok(()) } else { Err(Fault::method("POST")) };
        }
        if method == Method::GET || method == Method::HEAD { Ok(()) } else { Err(Fault::method("GET, HEAD")) }
    }
}

/// Answers a request whose body has arrived.
pub(super) fn answer(daemon: &Daemon, head: &Parts, body: &[u8]) -> Result<Answer, Fault> {
    let resource =
        Resource::of(head.uri.path()).ok_or_else(|| Fault::new(Kind::RouteNotFound, "there is no such path"))?;
    resource.check_method(&head.method)?;
    if let Some(needed) = resource.scope() {
        daemon.access().check(&head.headers, needed)?;
        if needed == TokenScope::Trigger && daemon.is_stopping() {
            return Err(Fault::new(
                Kind::Draining,
                "the loader is stopping; nothing was done, repeat the request later",
            ));
        }
    }
    let project = daemon.project();
    let asked = Asked { daemon, project: &project, head, body };
    match resource {
        Resource::Health => Ok(answer_json(200, &json!({"status": "ok"}))),
        Resource::Ready if daemon.is_ready() => Ok(answer_json(200, &json!({"status": "ready"}))),
        Resource::Ready => Err(Fault::new(Kind::NotReady, "no decision was made lately, or the loader is stopping")),
        Resource::Metrics => Ok(answer_metrics(daemon.observing().metrics())),
        Resource::Syncs => asked.syncs(),
        Resource::Sync(name) => asked.sync(asked.find(name)?),
        Resource::Runs(name) => asked.runs(asked.find(name)?),
        Resource::Run(id) => asked.run(id),
        Resource::Trigger(name) => asked.trigger(asked.find(name)?),
        Resource::Pause(name) => asked.set_paused(asked.find(name)?, true),
        Resource::Resume(name) => asked.set_paused(asked.find(name)?, false),
        Resource::Cancel(id) => asked.cancel(id),
        Resource::Approve(id) => asked.approve(id),
    }
}

/// A request, checked, with what it may need.
struct Asked<'a> {
    daemon: &'a Daemon,
    project: &'a Project,
    head: &'a Parts,
    body: &'a [u8],
}

/// The body of a trigger, in the words that other loaders of this kind use.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TriggerBody {
    /// Send every row, and sweep.
    #[serde(rename = "fullResync")]
    full_resync: bool,
    /// Forget what was acknowledged, and send every row.
    #[serde(rename = "resetCDC")]
    reset_cdc: bool,
}

impl From<StateError> for Fault {
    fn from(error: StateError) -> Self {
        Self::new(Kind::Internal, error.to_string())
    }
}

impl Asked<'_> {
    fn find(&self, name: &str) -> Result<&SyncSpec, Fault> {
        let found = SyncName::new(name).ok().and_then(|name| self.project.syncs.get(&name));
        found.ok_or_else(|| Fault::new(Kind::SyncNotFound, "the project has no sync of this name"))
    }

    fn no_run() -> Fault {
        Fault::new(Kind::RunNotFound, "there is no run with this id; runs are kept for a limited time")
    }

    fn syncs(&self) -> Result<Answer, Fault> {
        let book = self.daemon.state.database.book(self.project.syncs.keys())?;
        let view = |spec| book.0.get(spec_name(spec)).map(|entry| SyncView::of(spec, entry, None));
        let views: Vec<_> = self.project.syncs.values().filter_map(view).collect();
        Ok(answer_json(200, &json!({"syncs": views})))
    }

    fn sync(&self, spec: &SyncSpec) -> Result<Answer, Fault> {
        let database = &self.daemon.state.database;
        let mut book = database.book([&spec.name])?;
        let entry = book.0.remove(&spec.name).unwrap_or_default();
        let last_run = database.history(Some(&spec.name), 1)?.pop();
        Ok(answer_json(200, &SyncView::of(spec, &entry, last_run)))
    }

    fn runs(&self, spec: &SyncSpec) -> Result<Answer, Fault> {
        let mut limit = DEFAULT_RUNS;
        for pair in self.head.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            limit = pair
                .strip_prefix("limit=")
                .and_then(|number| number.parse().ok())
                .filter(|limit| (1..=MAX_RUNS).contains(limit))
                .ok_or_else(|| Fault::new(Kind::InvalidRequest, format!("the query may be `limit=1` to {MAX_RUNS}")))?;
        }
        let runs = self.daemon.state.database.history(Some(&spec.name), limit)?;
        Ok(answer_json(200, &json!({"runs": runs})))
    }

    fn run(&self, id: &str) -> Result<Answer, Fault> {
        let database = &self.daemon.state.database;
        if let Some(run) = database.run(id)? {
            return Ok(answer_json(200, &run));
        }
        let book = database.book([])?;
        let waits = |entry: &'_ crate::schedule::book::Entry| {
            let begun = entry.started.as_ref().map(|started| started.ticket.clone());
            entry.pending.clone().into_iter().chain(begun).find(|ticket| ticket.run == id)
        };
        let found = book.0.iter().find_map(|(sync, entry)| Some((sync, waits(entry)?)));
        let (sync, ticket) = found.ok_or_else(Self::no_run)?;
        Ok(answer_json(200, &TicketView::of(sync, &ticket)))
    }

    fn trigger(&self, spec: &SyncSpec) -> Result<Answer, Fault> {
        let body: TriggerBody = if self.body.is_empty() {
            TriggerBody::default()
        } else {
            let wrong = |error| Fault::new(Kind::InvalidRequest, format!("the body is not as it should be: {error}"));
            serde_json::from_slice(self.body).map_err(wrong)?
        };
        let request = Request { full: body.full_resync, reset: body.reset_cdc };
        let id = self.daemon.trigger(&spec.name, Trigger::Api, request)?;
        Ok(answer_json(202, &json!({"id": id, "sync": spec.name, "state": "pending"})))
    }

    fn set_paused(&self, spec: &SyncSpec, is_paused: bool) -> Result<Answer, Fault> {
        self.daemon.state.database.set_paused(&spec.name, is_paused)?;
        self.daemon.wake();
        self.sync(spec)
    }

    fn cancel(&self, id: &str) -> Result<Answer, Fault> {
        match self.daemon.cancel(id)? {
            Cancelled::Dropped => Ok(answer_json(200, &json!({"id": id, "state": "cancelled"}))),
            Cancelled::Asked => Ok(answer_json(202, &json!({"id": id, "state": "cancelling"}))),
            Cancelled::TooLate => Err(Fault::new(Kind::Conflict, "the run has ended already")),
            Cancelled::Unknown => Err(Self::no_run()),
        }
    }

    fn approve(&self, id: &str) -> Result<Answer, Fault> {
        let run = self.daemon.state.database.run(id)?.ok_or_else(Self::no_run)?;
        let spec = self.find(&run.sync)?;
        if self.daemon.state.database.approve(id, &crate::run::text(jiff::Timestamp::now()))?.is_empty() {
            let message = "no guard has stopped this run, or a newer run of the sync has taken its place";
            return Err(Fault::new(Kind::Conflict, message));
        }
        let request = Request { full: run.kind == "full", reset: false };
        let id = self.daemon.trigger(&spec.name, Trigger::Approve, request)?;
        Ok(answer_json(202, &json!({"id": id, "sync": spec.name, "state": "pending"})))
    }
}

fn spec_name(spec: &SyncSpec) -> &SyncName {
    &spec.name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_resources() {
        for (path, expected) in [
            ("/healthz", Some(Resource::Health)),
            ("/metrics", Some(Resource::Metrics)),
            ("/v1/syncs", Some(Resource::Syncs)),
            ("/v1/syncs/a", Some(Resource::Sync("a"))),
            ("/v1/syncs/a/runs", Some(Resource::Runs("a"))),
            ("/v1/syncs/a/trigger", Some(Resource::Trigger("a"))),
            ("/v1/runs/x/approve", Some(Resource::Approve("x"))),
            ("/v1/runs", None),
            ("/v1/syncs/a/runs/b", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(Resource::of(path), expected, "{path}");
        }
    }

    #[test]
    fn whatever_changes_something_needs_a_post_and_a_token_that_triggers() {
        for resource in [
            Resource::Trigger("s"),
            Resource::Pause("s"),
            Resource::Resume("s"),
            Resource::Cancel("r"),
            Resource::Approve("r"),
        ] {
            assert_eq!(resource.scope(), Some(TokenScope::Trigger));
            assert!(resource.check_method(&Method::POST).is_ok() && resource.check_method(&Method::GET).is_err());
        }
        for resource in [Resource::Syncs, Resource::Sync("s"), Resource::Runs("s"), Resource::Run("r")] {
            assert_eq!(resource.scope(), Some(TokenScope::Read));
            assert!(resource.check_method(&Method::GET).is_ok() && resource.check_method(&Method::POST).is_err());
        }
    }
}
