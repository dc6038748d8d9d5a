//! The HTTP client: one cluster, one collection, one sync.
//!
//! Every request has time limits and is repeated while the cluster may yet take it. All routes used here may be
//! repeated: PUTs and batches are idempotent, a commit goes on where it stopped, and a run that was opened twice is
//! fenced off by the second opening.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use larder_types::api::{
    ARROW_STREAM, CollectionInfo, FieldInfo, FieldSpec, OpenRun, OpenedRun, PutCollection, PutSync, RunInfo,
};
use larder_types::error::{ErrorBody, ErrorCode};
use reqwest::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Body, Method, Response, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::retry::{Patience, RetryPolicy, random, retry_after};
use super::wire::{Failure, Fault, Posted, Wire};
use crate::http::{self, HttpError, HttpOptions, is_distrust, reason};
use crate::project::{Cluster, Secret, SyncSpec};

/// For everything but commits: four times what a node gives itself for a batch on a slow disk.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// For how long a cluster that does not answer is asked before the first row is read: long enough for a node to
/// restart, short enough for a person who has misspelt the address.
const GREETING_BUDGET: Duration = Duration::from_secs(30);
/// A cluster that is well describes a collection in milliseconds.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// A commit of a full run answers when its sweep is done.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest answer that is read: 10 000 rejected rows with their keys are less.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    /// See [`HttpError`].
    #[error(transparent)]
    Http(#[from] HttpError),
    /// This loader and the cluster do not accept each other's certificates or versions.
    #[error(
        "TLS with the cluster failed: {0}; check the `ca` and `client_certificate` of the cluster in larder.yml, and \
         that its certificate is for the host name in its url"
    )]
    Tls(String),
    /// The cluster said no, and would again.
    #[error("the cluster refused to {what}: {message} ({status} {code})")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The HTTP status.
        status: u16,
        /// The word for it.
        code: String,
        /// The cluster's message.
        message: String,
    },
    /// A field that this sync declares belongs to another.
    #[error(
        "field `{field}` of the collection belongs to sync `{owner}`: a field has one owner; drop it from one of the two syncs"
    )]
    FieldOwned {
        /// The field.
        field: String,
        /// Its owner.
        owner: String,
    },
    /// A newer run of this sync was opened, so this one can do no more.
    #[error("a newer run of this sync was opened at the cluster, so this run was stopped: {0}")]
    Superseded(String),
    /// The cluster could not be asked, or could not answer, for as long as we tried.
    #[error("gave up trying to {what} after {seconds} s: {last}")]
    GaveUp {
        /// What was asked.
        what: &'static str,
        /// How long it was tried.
        seconds: u64,
        /// What the last attempt ended with.
        last: String,
    },
    /// The answer is not one that this loader understands.
    #[error("the cluster's answer when asked to {what} makes no sense: {reason}; is it a Larder of a newer version?")]
    Answer {
        /// What was asked.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A request could not even be made.
    #[error("the HTTP client failed: {0}")]
    Client(String),
}

/// What a cluster is asked to do with a batch.
pub(super) const TAKE_BATCH: &str = "take a batch";

/// A client of one sync of one cluster. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    key: Secret,
    collection_url: String,
    sync_url: String,
    policy: RetryPolicy,
}

/// What the cluster knows of the sync before a run; nothing, if it does not know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Known {
    /// The generation of its newest run; 0 if it has none.
    pub(crate) generation: u32,
    /// Records in which it has fields.
    pub(crate) records: u64,
}

/// The answer to `GET …/runs`.
#[derive(Deserialize)]
struct Runs {
    runs: Vec<RunInfo>,
}

impl Client {
    /// # Errors
    /// When a file for TLS cannot be used.
    pub(crate) fn new(cluster: &Cluster, spec: &SyncSpec, policy: RetryPolicy) -> Result<Self, PushError> {
        let base = &cluster.url;
        let tls = cluster.url.starts_with("https://").then_some(&cluster.tls);
        let http = http::client(&HttpOptions { tls, timeout: REQUEST_TIMEOUT, proxy: false })?;
        let collection_url = format!("{base}/v1/collections/{}", spec.collection);
        let sync_url = format!("{collection_url}/syncs/{}", spec.name);
        Ok(Self { http, key: cluster.key.clone(), collection_url, sync_url, policy })
    }

    /// Asks what the cluster knows of the sync, and changes nothing. Finds out early, too, that the cluster is away,
    /// the key is wrong, or a field belongs to another sync.
    ///
    /// # Errors
    /// When the cluster cannot be reached or refuses, or another sync owns a field.
    pub(crate) async fn look(&self, spec: &SyncSpec) -> Result<Known, PushError> {
        let Some(info) = self.describe().await? else { return Ok(Known::default()) };
        let is_ours = |field: &FieldInfo| spec.fields.iter().any(|ours| ours.name == field.name);
        if let Some(field) = info.fields.iter().find(|field| field.sync != spec.name && is_ours(field)) {
            return Err(PushError::FieldOwned { field: field.name.to_string(), owner: field.sync.to_string() });
        }
        let sync = info.syncs.iter().find(|sync| sync.name == spec.name);
        Ok(sync.map_or_else(Known::default, |sync| Known { generation: sync.generation.0, records: sync.records }))
    }

    /// Asks something that only those who may write may ask.
    ///
    /// # Errors
    /// When the cluster cannot be reached, or the key may not write this collection.
    pub(crate) async fn may_write(&self) -> Result<(), PushError> {
        let url = format!("{}/runs", self.sync_url);
        match self.call("list the runs of the sync", || self.http.get(&url)).await {
            // Not there yet, which is told only to those who may write it.
            Ok(_) | Err(PushError::Refused { status: 404, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Asks what the collection is like; `None` if it is not there. A cluster that is away is not waited for as long as
    /// within a run.
    ///
    /// # Errors
    /// When the cluster cannot be reached or refuses.
    pub(crate) async fn describe(&self) -> Result<Option<CollectionInfo>, PushError> {
        let patience = RetryPolicy { budget: self.policy.budget.min(GREETING_BUDGET), ..self.policy };
        let client = Self { policy: patience, ..self.clone() };
        let what = "describe the collection";
        let answer = match client.call(what, || self.http.get(&self.collection_url)).await {
            Err(PushError::Refused { code, .. }) if code == ErrorCode::CollectionNotFound.as_str() => {
                return Ok(None);
            }
            answer => answer?,
        };
        parse(&answer, what).map(Some)
    }

    /// Makes sure that the collection and the sync exist as the project says.
    ///
    /// # Errors
    /// When the cluster cannot be reached or refuses, for example because another sync owns a field.
    pub(crate) async fn declare(&self, spec: &SyncSpec) -> Result<(), PushError> {
        let collection = PutCollection { primary_index: spec.primary_index.clone() };
        self.put(&self.collection_url, &collection, "declare the collection").await?;
        let fields = spec.fields.iter().map(|field| FieldSpec { name: field.name.clone(), kind: field.kind }).collect();
        let sync = PutSync { fields, on_exit: spec.on_exit };
        self.put(&self.sync_url, &sync, "declare the sync").await
    }

    /// Opens a run; older open runs of the sync can do no more.
    ///
    /// # Errors
    /// When the cluster cannot be reached or refuses.
    pub(crate) async fn open_run(&self, run: &OpenRun) -> Result<OpenedRun, PushError> {
        let what = "open a run";
        let url = format!("{}/runs", self.sync_url);
        let answer = self.json(Method::POST, &url, run, what).await?;
        parse(&answer, what)
    }

    /// Tells whether the runs with these generations are all known to have changed nothing: opened, and no more. Such
    /// runs are left behind by requests to open a run whose answer was lost.
    ///
    /// # Errors
    /// When the cluster cannot be reached or refuses.
    pub(crate) async fn were_idle(&self, mut generations: RangeInclusive<u32>) -> Result<bool, PushError> {
        if generations.is_empty() {
            return Ok(true);
        }
        let what = "list the runs";
        let url = format!("{}/runs", self.sync_url);
        let answer = self.call(what, || self.http.get(&url)).await?;
        let Runs { runs } = parse(&answer, what)?;
        let is_idle = |run: &RunInfo| run.batches == 0 && run.swept == 0;
        Ok(generations.all(|wanted| runs.iter().any(|run| run.generation.0 == wanted && is_idle(run))))
    }

    /// Closes a run; of a full one the cluster then sweeps what it did not confirm.
    ///
    /// # Errors
    /// When the cluster cannot be reached or refuses.
    pub(crate) async fn commit(&self, run: &str) -> Result<RunInfo, PushError> {
        let what = "commit the run";
        let url = format!("{}/runs/{run}/commit", self.sync_url);
        let answer = self.call(what, || self.http.post(&url).timeout(COMMIT_TIMEOUT)).await?;
        parse(&answer, what)
    }

    /// Gives a run up; what it has applied stays.
    ///
    /// # Errors
    /// When the cluster cannot be reached or refuses.
    pub(crate) async fn abort(&self, run: &str) -> Result<(), PushError> {
        let url = format!("{}/runs/{run}/abort", self.sync_url);
        self.call("abort the run", || self.http.post(&url)).await.map(drop)
    }

    async fn put(&self, url: &str, body: &impl Serialize, what: &'static str) -> Result<(), PushError> {
        self.json(Method::PUT, url, body, what).await.map(drop)
    }

    async fn json(
        &self,
        method: Method,
        url: &str,
        body: &impl Serialize,
        what: &'static str,
    ) -> Result<Vec<u8>, PushError> {
        let body = serde_json::to_vec(body).map_err(|error| PushError::Client(error.to_string()))?;
        let request = || {
            let request = self.http.request(method.clone(), url).header(CONTENT_TYPE, "application/json");
            request.body(body.clone())
        };
        self.call(what, request).await
    }

    /// Sends a request until it is answered for good.
    async fn call(
        &self,
        what: &'static str,
        request: impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<Vec<u8>, PushError> {
        let mut patience = Patience::new(self.policy);
        let mut failed = 0;
        loop {
            let fault = match attempt(what, request().bearer_auth(&self.key.0)).await.1 {
                Ok(answer) => return Ok(answer),
                Err(Failure::Never(error)) => return Err(error),
                Err(Failure::Fault(fault)) if !fault.may_pass() => return Err(fault.refusal(what)),
                Err(Failure::Fault(fault)) => fault,
            };
            let Some(delay) = patience.delay(failed, fault.asked, random()) else {
                return Err(PushError::GaveUp { what, seconds: patience.strained().as_secs(), last: fault.why() });
            };
            tracing::warn!(what, why = fault.why(), delay_ms = delay.as_millis(), "no good answer; trying again");
            failed += 1;
            tokio::time::sleep(delay).await;
        }
    }
}

/// What a lookup of a record found.
#[derive(Debug, Clone)]
pub(crate) enum Looked {
    /// Its fields, those of other syncs included, by name.
    Found(BTreeMap<String, Box<RawValue>>),
    /// The cluster knows of no such record.
    Absent,
    /// The API key has no scope that allows lookups.
    NotAllowed,
    /// The cluster could not tell; why.
    Unknown(String),
}

impl Client {
    /// Looks a record up, without patience: whoever asks is waiting. `index` is the name of the primary index.
    pub(crate) async fn record(&self, index: &str, key: &str) -> Looked {
        let Ok(mut url) = Url::parse(&self.collection_url) else {
            return Looked::Unknown(format!("{} is no address", self.collection_url));
        };
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(["records", index, key]);
        }
        let request = self.http.get(url).bearer_auth(&self.key.0).timeout(PROBE_TIMEOUT);
        let answer = attempt("look up a record", request).await.1;
        match answer.and_then(|answer| parse(&answer, "look up a record").map_err(Failure::Never)) {
            Ok(fields) => Looked::Found(fields),
            Err(Failure::Never(PushError::Refused { status: 403, .. })) => Looked::NotAllowed,
            Err(Failure::Never(PushError::Refused { status: 404, .. })) => Looked::Absent,
            Err(Failure::Never(error)) => Looked::Unknown(error.to_string()),
            Err(Failure::Fault(fault)) => Looked::Unknown(fault.why()),
        }
    }

    /// The name of the primary index of the collection; none if there is no collection yet.
    ///
    /// # Errors
    /// Why the cluster does not say, in words.
    pub(crate) async fn primary_index(&self) -> Result<Option<String>, String> {
        let what = "describe the collection";
        let request = self.http.get(&self.collection_url).bearer_auth(&self.key.0).timeout(PROBE_TIMEOUT);
        match attempt(what, request).await.1 {
            Ok(answer) => {
                let info: CollectionInfo = parse(&answer, what).map_err(|error| error.to_string())?;
                Ok(info.indexes.into_iter().find(|index| index.primary).map(|index| index.name.to_string()))
            }
            Err(Failure::Never(PushError::Refused { code, .. })) if code == ErrorCode::CollectionNotFound.as_str() => {
                Ok(None)
            }
            Err(Failure::Never(error)) => Err(error.to_string()),
            Err(Failure::Fault(fault)) => Err(format!("the cluster cannot be asked: {}", fault.why())),
        }
    }
}

impl Wire for Client {
    async fn post(&self, run: &str, seq: u32, body: Bytes, again: bool) -> Posted {
        let url = format!("{}/runs/{run}/batches/{seq}", self.sync_url);
        let mut request = self.http.post(url).bearer_auth(&self.key.0).header(CONTENT_TYPE, ARROW_STREAM);
        if again {
            // What balances connections over nodes may then choose another one for the next attempt.
            request = request.header(CONNECTION, "close");
        }
        let (status, result) = attempt(TAKE_BATCH, request.body(Body::from(body))).await;
        let result = result.and_then(|answer| parse(&answer, TAKE_BATCH).map_err(Failure::Never));
        Posted { status, result }
    }

    async fn probe(&self) -> Result<(), Failure> {
        let request = self.http.get(&self.collection_url).bearer_auth(&self.key.0).timeout(PROBE_TIMEOUT);
        attempt("describe the collection", request).await.1.map(drop)
    }
}

/// Sends a request once. Returns the status, if there was an answer, and what was answered.
async fn attempt(what: &'static str, request: reqwest::RequestBuilder) -> (Option<u16>, Result<Vec<u8>, Failure>) {
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return (None, Err(unanswered(&error))),
    };
    let status = response.status();
    let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let asked = asked.and_then(|text| retry_after(text, Timestamp::now()));
    let result = match read_body(response).await {
        Ok(Some(body)) if status.is_success() => Ok(body),
        Ok(Some(body)) => Err(refused(what, status.as_u16(), &body, asked)),
        Ok(None) => {
            let reason = format!("it is longer than {MAX_ANSWER_BYTES} bytes");
            Err(Failure::Never(PushError::Answer { what, reason }))
        }
        Err(error) => Err(unanswered(&error)),
    };
    (Some(status.as_u16()), result)
}

fn unanswered(error: &reqwest::Error) -> Failure {
    if error.is_builder() {
        Failure::Never(PushError::Client(reason(error)))
    } else if is_distrust(error) {
        Failure::Never(PushError::Tls(reason(error)))
    } else {
        Failure::Fault(Fault::of_silence(reason(error), !error.is_connect()))
    }
}

/// What an answer that is no good one means.
fn refused(what: &'static str, status: u16, body: &[u8], asked: Option<Duration>) -> Failure {
    let error: Option<ErrorBody> = serde_json::from_slice(body).ok();
    let (code, message, details) = match error {
        Some(error) => (error.code, error.message, error.details),
        None => (String::new(), "the answer has no message".to_owned(), serde_json::Value::Null),
    };
    let member = |name: &str| details.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
    match (ErrorCode::parse(&code), member("field"), member("owner")) {
        (Some(ErrorCode::FieldOwnedByOtherSync), Some(field), Some(owner)) => {
            return Failure::Never(PushError::FieldOwned { field, owner });
        }
        (Some(ErrorCode::StaleGeneration), ..) => return Failure::Never(PushError::Superseded(message)),
        _ => {}
    }
    match Fault::of_answer(status, &code, &message, asked) {
        Some(fault) => Failure::Fault(fault),
        None => Failure::Never(PushError::Refused { what, status, code, message }),
    }
}

async fn read_body(mut response: Response) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

fn parse<T: DeserializeOwned>(answer: &[u8], what: &'static str) -> Result<T, PushError> {
    serde_json::from_slice(answer).map_err(|error| PushError::Answer { what, reason: error.to_string() })
}
