//! A cluster of one thread per connection, small enough to be obviously right, that misbehaves on request.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use arrow_array::cast::AsArray;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_ipc::reader::StreamReader;
use larder_types::api::{OpenRun, PutSync, RunKind};
use larder_types::patch::ExitMode;
use serde_json::{Value as Json, json};

/// The fields of one record as text.
pub(super) type Record = BTreeMap<String, String>;

/// Everything that the cluster keeps.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) records: BTreeMap<String, Record>,
    pub(super) generation: u32,
    pub(super) declared: bool,
    fields: Vec<String>,
    on_exit: ExitMode,
    /// Keys in which the sync has fields.
    touched: BTreeSet<String>,
    runs: BTreeMap<String, Run>,
}

#[derive(Debug, Clone)]
struct Run {
    generation: u32,
    full: bool,
    closed: bool,
    answers: BTreeMap<u32, (Vec<u8>, Json)>,
    confirmed: BTreeSet<String>,
}

/// A batch as it arrives.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    /// Batches that arrived before it, repeats included.
    pub(super) before: usize,
    pub(super) keys: Vec<String>,
    pub(super) content: Content,
}

/// What happens to a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    Apply,
    /// Answered with this status, and `Retry-After` if given; not applied.
    Status(u16, &'static str, Option<u32>),
    /// The connection ends before anything is applied.
    DropBefore,
    /// It is applied, and the connection ends before the answer.
    DropAfter,
    /// All but these keys are applied.
    Reject(Vec<String>),
    /// It is applied, and the answer counts a row too many.
    Miscount,
}

type Decide = Box<dyn FnMut(&Arrival) -> Fate + Send>;

struct Shared {
    content: Mutex<Content>,
    decide: Mutex<Decide>,
    /// Bodies by run and number: a repeat must be the same.
    bodies: Mutex<BTreeMap<(String, u32), Vec<u8>>>,
    arrivals: Mutex<usize>,
    applied: Mutex<Vec<String>>,
    owned: Mutex<Option<(String, String)>>,
    /// Runs that another loader opens just before ours.
    leap: Mutex<u32>,
    /// Runs that are opened, but whose openers get no answer.
    lost_openings: Mutex<u32>,
    /// Whether the key may not look records up.
    unreadable: Mutex<bool>,
    stopped: AtomicBool,
}

/// A running cluster; stops when dropped.
pub(super) struct FakeCluster {
    pub(super) url: String,
    shared: Arc<Shared>,
}

impl FakeCluster {
    pub(super) fn start(content: Content) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            content: Mutex::new(content),
            decide: Mutex::new(Box::new(|_| Fate::Apply)),
            bodies: Mutex::default(),
            arrivals: Mutex::default(),
            applied: Mutex::default(),
            owned: Mutex::default(),
            leap: Mutex::default(),
            lost_openings: Mutex::default(),
            unreadable: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let serving = Arc::clone(&serving);
                std::thread::spawn(move || serving.connection(stream));
            }
        });
        Self { url, shared }
    }

    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        self.shared.content.lock().unwrap()
    }

    pub(super) fn records(&self) -> BTreeMap<String, Record> {
        self.content().records.clone()
    }

    /// Decides the fate of every batch from now on.
    pub(super) fn decide(&self, decide: impl FnMut(&Arrival) -> Fate + Send + 'static) {
        *self.shared.decide.lock().unwrap() = Box::new(decide);
    }

    /// The keys applied since the last call, in order, each as often as it was applied.
    pub(super) fn take_applied(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.applied.lock().unwrap())
    }

    /// Another loader opens a run just before the next one is opened.
    pub(super) fn get_ahead(&self) {
        *self.shared.leap.lock().unwrap() = 1;
    }

    /// The answers to the next so many requests to open a run are lost.
    pub(super) fn lose_openings(&self, count: u32) {
        *self.shared.lost_openings.lock().unwrap() = count;
    }

    /// From now on the key may not look records up.
    pub(super) fn forbid_lookups(&self) {
        *self.shared.unreadable.lock().unwrap() = true;
    }

    /// Another sync owns this field.
    pub(super) fn own(&self, field: &str, owner: &str) {
        *self.shared.owned.lock().unwrap() = Some((field.to_owned(), owner.to_owned()));
    }
}

impl Drop for FakeCluster {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.url.trim_start_matches("http://")));
    }
}

struct Request {
    method: String,
    path: String,
    body: Vec<u8>,
}

enum Reply {
    Answer(u16, Json, Option<u32>),
    Hang,
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let (method, rest) = line.split_once(' ')?;
    let path = rest.split(' ').next()?.to_owned();
    let method = method.to_owned();
    let (mut length, mut authorised) = (0, false);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim_end();
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "authorization" => authorised = value.trim() == "Bearer secret",
            _ => {}
        }
    }
    assert!(authorised, "{path} came without the key");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, body })
}

impl Shared {
    fn connection(&self, stream: TcpStream) {
        let mut out = stream.try_clone().unwrap();
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader) {
            let Reply::Answer(status, body, retry_after) = self.reply(&request) else { return };
            let body = body.to_string();
            let retry = retry_after.map(|s| format!("Retry-After: {s}\r\n")).unwrap_or_default();
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{retry}\r\n", body.len());
            if out.write_all(format!("{head}{body}").as_bytes()).is_err() {
                return;
            }
        }
    }

    fn reply(&self, request: &Request) -> Reply {
        let parts: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["v1", "collections", _]) => self.describe(),
            ("GET", ["v1", "collections", _, "records", "id", key]) => self.record(key),
            ("PUT", ["v1", "collections", _]) => Reply::Answer(200, json!({}), None),
            ("PUT", ["v1", "collections", _, "syncs", _]) => self.put_sync(&request.body),
            ("GET", [.., "runs"]) => self.list(),
            ("POST", [.., "runs"]) => self.open(&request.body),
            ("POST", [.., "runs", run, "batches", seq]) => self.batch(run, seq.parse().unwrap(), &request.body),
            ("POST", [.., "runs", run, "commit"]) => self.close(run, true),
            ("POST", [.., "runs", run, "abort"]) => self.close(run, false),
            _ => error(404, "route_not_found", json!({})),
        }
    }

    fn describe(&self) -> Reply {
        let content = self.content.lock().unwrap();
        let owned = self.owned.lock().unwrap();
        if !content.declared && owned.is_none() {
            return error(404, "collection_not_found", json!({}));
        }
        let fields: Vec<Json> =
            owned.iter().map(|(field, owner)| json!({ "name": field, "type": "any", "sync": owner })).collect();
        let syncs = if content.declared { vec![content.sync_info()] } else { Vec::new() };
        let info = json!({
            "name": "c", "indexes": [], "fields": fields, "syncs": syncs, "records": content.records.len(),
            "bytes": 0, "revision": "",
        });
        Reply::Answer(200, info, None)
    }

    fn record(&self, key: &str) -> Reply {
        if *self.unreadable.lock().unwrap() {
            return error(403, "forbidden", json!({}));
        }
        match self.content.lock().unwrap().records.get(key) {
            Some(record) => {
                // They are kept as text.
                let value = |text: &String| text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number));
                let fields: serde_json::Map<String, Json> =
                    record.iter().map(|(name, text)| (name.clone(), value(text))).collect();
                Reply::Answer(200, json!(fields), None)
            }
            None => error(404, "record_not_found", json!({})),
        }
    }

    fn put_sync(&self, body: &[u8]) -> Reply {
        let sync: PutSync = serde_json::from_slice(body).unwrap();
        if let Some((field, owner)) = self.owned.lock().unwrap().clone()
            && sync.fields.iter().any(|declared| declared.name.as_str() == field)
        {
            return error(409, "field_owned_by_other_sync", json!({ "field": field, "owner": owner }));
        }
        let mut content = self.content.lock().unwrap();
        let status = if content.declared { 200 } else { 201 };
        content.declared = true;
        content.fields = sync.fields.iter().map(|field| field.name.to_string()).collect();
        content.on_exit = sync.on_exit;
        Reply::Answer(status, content.sync_info(), None)
    }

    fn open(&self, body: &[u8]) -> Reply {
        let wanted: OpenRun = serde_json::from_slice(body).unwrap();
        let mut content = self.content.lock().unwrap();
        content.generation += 1 + std::mem::take(&mut *self.leap.lock().unwrap());
        let generation = content.generation;
        let id = format!("r{generation}");
        let run = Run {
            generation,
            full: wanted.kind == RunKind::Full,
            closed: false,
            answers: BTreeMap::new(),
            confirmed: BTreeSet::new(),
        };
        content.runs.insert(id.clone(), run);
        let mut lost = self.lost_openings.lock().unwrap();
        if *lost > 0 {
            *lost -= 1;
            return Reply::Hang;
        }
        Reply::Answer(201, json!({ "run": id, "generation": generation }), None)
    }

    fn list(&self) -> Reply {
        let content = self.content.lock().unwrap();
        let runs: Vec<Json> = content.runs.iter().map(|(id, run)| run_info(id, run, 0)).collect();
        Reply::Answer(200, json!({ "runs": runs }), None)
    }

    fn batch(&self, run: &str, seq: u32, body: &[u8]) -> Reply {
        let known = self.bodies.lock().unwrap().entry((run.to_owned(), seq)).or_insert_with(|| body.to_vec()).clone();
        assert!(known == body, "batch {seq} was repeated with another body");
        let patches = decode(body);
        // Held while the fate is decided: whoever copies the loader's folder then has it as of this very content.
        let mut content = self.content.lock().unwrap();
        let arrival = {
            let mut arrivals = self.arrivals.lock().unwrap();
            *arrivals += 1;
            let keys = patches.iter().map(|(key, ..)| key.clone()).collect();
            Arrival { before: *arrivals - 1, keys, content: content.clone() }
        };
        let fate = (self.decide.lock().unwrap())(&arrival);
        match &fate {
            Fate::Status(status, code, retry) => {
                let Reply::Answer(status, body, _) = error(*status, code, json!({})) else { return Reply::Hang };
                return Reply::Answer(status, body, *retry);
            }
            Fate::DropBefore => return Reply::Hang,
            Fate::Apply | Fate::DropAfter | Fate::Miscount | Fate::Reject(_) => {}
        }
        let rejects = if let Fate::Reject(keys) = &fate { keys.as_slice() } else { &[] };
        let newest = content.generation;
        let Some(run_state) = content.runs.get(run) else { return error(404, "run_not_found", json!({})) };
        if run_state.generation != newest {
            return error(409, "stale_generation", json!({}));
        }
        if let Some((_, answer)) = run_state.answers.get(&seq) {
            return Reply::Answer(200, answer.clone(), None);
        }
        assert!(!run_state.closed, "a batch came after the end of its run");
        let mut answer = content.apply(run, &patches, rejects);
        if fate == Fate::Miscount {
            answer["accepted"] = json!(patches.len() + 1);
        }
        self.applied.lock().unwrap().extend(patches.into_iter().map(|(key, ..)| key).filter(|k| !rejects.contains(k)));
        if let Some(run) = content.runs.get_mut(run) {
            run.answers.insert(seq, (body.to_vec(), answer.clone()));
        }
        if fate == Fate::DropAfter { Reply::Hang } else { Reply::Answer(200, answer, None) }
    }

    fn close(&self, id: &str, commit: bool) -> Reply {
        let mut content = self.content.lock().unwrap();
        let Some(run) = content.runs.get(id).cloned() else { return error(404, "run_not_found", json!({})) };
        let mut swept = 0;
        if commit && run.full && !run.closed {
            let gone: Vec<String> = content.touched.difference(&run.confirmed).cloned().collect();
            for key in gone {
                swept += u64::from(content.leave(&key));
            }
        }
        if let Some(run) = content.runs.get_mut(id) {
            run.closed = true;
        }
        Reply::Answer(200, run_info(id, &run, swept), None)
    }
}

fn run_info(id: &str, run: &Run, swept: u64) -> Json {
    let counts = json!({ "added": 0, "changed": 0, "removed": 0 });
    json!({
        "run": id, "generation": run.generation, "kind": "delta", "state": "committed", "opened_at": "",
        "ended_at": null, "planned": counts, "successful": counts, "failed": counts, "batches": run.answers.len(),
        "unchanged": 0, "swept": swept,
    })
}

impl Content {
    fn sync_info(&self) -> Json {
        json!({
            "name": "s", "on_exit": "keep", "fields": self.fields, "generation": self.generation,
            "records": self.touched.len(), "last_good_run": null, "age_seconds": null,
        })
    }

    fn apply(&mut self, run: &str, patches: &[Patch], rejects: &[String]) -> Json {
        let mut rejected = Vec::new();
        for (row, (key, op, fields)) in patches.iter().enumerate() {
            if rejects.contains(key) {
                rejected
                    .push(json!({ "row": row, "key": key, "code": "type_mismatch", "field": "f", "message": "no" }));
                continue;
            }
            match op.as_str() {
                "upsert" => {
                    self.records.entry(key.clone()).or_default().extend(fields.clone());
                    self.touched.insert(key.clone());
                }
                "clear" => {
                    let fields = self.fields.clone();
                    self.records.entry(key.clone()).and_modify(|record| record.retain(|f, _| !fields.contains(f)));
                    self.touched.remove(key);
                }
                "delete" => {
                    self.records.remove(key);
                    self.touched.remove(key);
                }
                other => panic!("unknown operation {other}"),
            }
            if let Some(run) = self.runs.get_mut(run) {
                run.confirmed.insert(key.clone());
            }
        }
        json!({ "accepted": patches.len() - rejected.len(), "rejected": rejected, "revision": "r1." })
    }

    /// Adds a run that was opened and no more.
    pub(super) fn add_idle_run(&mut self, generation: u32) {
        let (answers, confirmed) = (BTreeMap::new(), BTreeSet::new());
        let run = Run { generation, full: false, closed: false, answers, confirmed };
        self.runs.insert(format!("r{generation}"), run);
    }

    /// A record leaves by the sync's exit mode; true if that changed it.
    fn leave(&mut self, key: &str) -> bool {
        match self.on_exit {
            ExitMode::Keep => return false,
            ExitMode::Clear => {
                let fields = self.fields.clone();
                self.records.entry(key.to_owned()).and_modify(|record| record.retain(|f, _| !fields.contains(f)));
            }
            ExitMode::Delete => drop(self.records.remove(key)),
        }
        self.touched.remove(key)
    }
}

type Patch = (String, String, Record);

fn decode(body: &[u8]) -> Vec<Patch> {
    let mut patches = Vec::new();
    for batch in StreamReader::try_new(body, None).unwrap() {
        let batch = batch.unwrap();
        let schema = batch.schema();
        let options = FormatOptions::default().with_null("null");
        for row in 0..batch.num_rows() {
            let text = |at: usize| batch.column(at).as_string::<i32>().value(row).to_owned();
            let fields = (2..batch.num_columns()).map(|at| {
                let formatter = ArrayFormatter::try_new(batch.column(at), &options).unwrap();
                (schema.field(at).name().clone(), formatter.value(row).to_string())
            });
            patches.push((text(0), text(1), fields.collect()));
        }
    }
    patches
}

fn error(status: u16, code: &str, details: Json) -> Reply {
    let body = json!({
        "type": "", "title": "", "status": status, "code": code, "message": format!("because {code}"),
        "details": details, "request_id": "",
    });
    Reply::Answer(status, body, None)
}
