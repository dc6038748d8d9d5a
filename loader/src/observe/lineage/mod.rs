//! Lineage: telling a catalogue of data flows, by OpenLineage events, what each run reads and writes.
//!
//! Events are made on the run's thread and sent by another. They are news and not a record: one that is not taken after
//! a few attempts, or for which the queue has no room, is dropped, and the log says so.

mod event;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};

use self::event::{Event, EventType, Input, Output};
use super::{Observer, RunEnded, RunStarted};
use crate::http::{self, HttpError, HttpOptions};
use crate::project::lineage::LineageTarget;
use crate::project::{Model, Project, Secret, TlsFiles};
use crate::run::{Outcome, RunReport};

/// Events that wait for the thread; more are dropped.
const QUEUE: usize = 256;
/// Where a service takes events.
const PATH: &str = "/api/v1/lineage";
const TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts to send an event, and the pause before the second; each further pause is twice as long.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// Makes an event of each begin and each end.
pub(crate) struct Lineage {
    namespace: String,
    sources: BTreeMap<String, String>,
    queue: SyncSender<Item>,
}

/// What the thread is given.
enum Item {
    Event(String),
    /// Everything before was sent or dropped when this is answered, and the thread ends.
    End(SyncSender<()>),
}

impl Lineage {
    /// Starts the thread, if the project wants lineage.
    ///
    /// # Errors
    /// When the machine gives no thread or no sockets, or has no certificates to verify the service by.
    pub(super) fn start(project: &Project) -> Result<Option<Self>, HttpError> {
        let Some(settings) = &project.lineage else { return Ok(None) };
        let target = Target::open(&settings.target, project)?;
        let (queue, items) = mpsc::sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("lineage".to_owned()).spawn(move || work(&target, &items));
        thread.map_err(|error| HttpError::Client(error.to_string()))?;
        Ok(Some(Self { namespace: settings.namespace.clone(), sources: settings.sources.clone(), queue }))
    }

    /// Gives events that wait so much time, and ends.
    pub(super) fn finish(&self, patience: Duration) {
        let (tell, told) = mpsc::sync_channel(1);
        let is_asked = self.queue.try_send(Item::End(tell)).is_ok();
        if !is_asked || told.recv_timeout(patience).is_err() {
            tracing::warn!("some lineage events were not sent");
        }
    }

    fn queue(&self, event: &Event) {
        if self.queue.try_send(Item::Event(event.to_json().to_string())).is_err() {
            tracing::warn!(run = %event.run, "a lineage event was dropped: too many wait to be sent");
        }
    }

    fn event(&self, run: &RunStarted<'_>, kind: EventType, at: Timestamp, report: Option<&RunReport>) -> Event {
        let RunStarted { project, spec, .. } = run;
        let (name, sql) = match &spec.model {
            Model::Sql { name, text, .. } => (name.clone(), Some(text.clone())),
            Model::Table(table) => (table.clone(), None),
        };
        let namespace = self.sources.get(&spec.source).unwrap_or(&spec.source).clone();
        let outputs = spec.destinations.iter().filter_map(|destination| {
            let url = &project.clusters.get(destination)?.url;
            let part = report.and_then(|report| report.deliveries.iter().find(|part| part.destination == *destination));
            Some(Output {
                namespace: format!("larder://{}", url.split_once("://").map_or(url.as_str(), |(_, host)| host)),
                name: spec.collection.to_string(),
                fields: spec.fields.iter().map(|field| (field.name.to_string(), field.kind)).collect(),
                written: part.map(|part| (part.acknowledged, part.bytes)),
            })
        });
        Event {
            kind,
            at,
            run: run.run.to_owned(),
            namespace: self.namespace.clone(),
            sync: spec.name.to_string(),
            sql,
            error: None,
            input: Input { namespace, name, rows: report.map(|report| report.rows.read) },
            outputs: outputs.collect(),
        }
    }
}

impl Observer for Lineage {
    fn started(&self, run: &RunStarted<'_>) {
        self.queue(&self.event(run, EventType::Start, run.at, None));
    }

    fn ended(&self, run: &RunEnded<'_>) {
        let kind = match run.outcome() {
            Outcome::Succeeded | Outcome::Partial => EventType::Complete,
            Outcome::Blocked | Outcome::Cancelled => EventType::Abort,
            Outcome::Failed => EventType::Fail,
        };
        let mut event = self.event(&run.started, kind, run.at, run.report());
        event.error = run.result.err().map(ToString::to_string);
        self.queue(&event);
    }
}

fn work(target: &Target, items: &Receiver<Item>) {
    for item in items {
        match item {
            Item::Event(event) => target.send(&event),
            Item::End(tell) => {
                // Whoever asked may have stopped waiting.
                let _ = tell.try_send(());
                return;
            }
        }
    }
}

/// Where events go.
enum Target {
    File(PathBuf),
    Http { client: reqwest::Client, runtime: tokio::runtime::Runtime, url: String, api_key: Option<Secret> },
}

impl Target {
    fn open(target: &LineageTarget, project: &Project) -> Result<Self, HttpError> {
        match target {
            LineageTarget::File(path) => Ok(Self::File(project.root.join(path))),
            LineageTarget::Http { url, api_key } => {
                let tls = url.starts_with("https://").then(TlsFiles::default);
                let options = HttpOptions { tls: tls.as_ref(), timeout: TIMEOUT, proxy: true };
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                Ok(Self::Http {
                    client: http::client(&options)?,
                    runtime: runtime.map_err(|error| HttpError::Client(error.to_string()))?,
                    url: format!("{url}{PATH}"),
                    api_key: api_key.clone(),
                })
            }
        }
    }

    fn send(&self, event: &str) {
        let mut pause = PAUSE;
        for attempt in 1..=ATTEMPTS {
            match self.attempt(event) {
                Ok(()) => return,
                Err(Refusal { reason, is_final }) if is_final || attempt == ATTEMPTS => {
                    tracing::warn!(%reason, "a lineage event was dropped: it could not be sent");
                    return;
                }
                Err(_) => std::thread::sleep(pause),
            }
            pause *= 2;
        }
    }

    fn attempt(&self, event: &str) -> Result<(), Refusal> {
        match self {
            Self::File(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                let written = file.and_then(|mut file| file.write_all(format!("{event}\n").as_bytes()));
                written.map_err(|error| Refusal { reason: format!("{}: {error}", path.display()), is_final: true })
            }
            Self::Http { client, runtime, url, api_key } => {
                let request = client.post(url).header(CONTENT_TYPE, "application/json").body(event.to_owned());
                let request = match api_key {
                    Some(key) => request.header(AUTHORIZATION, format!("Bearer {}", key.0)),
                    None => request,
                };
                let answer = runtime.block_on(async { request.send().await });
                let status =
                    answer.map_err(|error| Refusal { reason: http::reason(&error), is_final: false })?.status();
                if status.is_success() {
                    return Ok(());
                }
                let is_final = status.is_client_error() && !matches!(status.as_u16(), 408 | 429);
                Err(Refusal { reason: format!("it answered {status}"), is_final })
            }
        }
    }
}

/// Why an event was not taken.
struct Refusal {
    reason: String,
    /// True if no repetition helps.
    is_final: bool,
}
