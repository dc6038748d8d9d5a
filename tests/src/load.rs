//! A load of lookups and batches on a cluster, by a client as the documentation asks for: what fails is repeated once,
//! on another node.
//!
//! The writer sends one batch after another and each until it is acknowledged, so what a record may hold is known to the
//! batch: what was acknowledged last, or the one batch that was under way in the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde_json::json;

use crate::cluster::PATIENCE;
use crate::fixture::{Collection, upsert};
use crate::http::{Client, Response};
use crate::wait::wait_for;

/// Records of the load: enough for each of a few shards to have some of every batch.
const KEYS: u32 = 64;
/// Records that a batch changes.
const BATCH: u32 = 32;
/// Pause between two lookups.
const LOOKUP_EVERY: Duration = Duration::from_millis(20);
/// Pause between two attempts beyond the one repeat.
const PAUSE: Duration = Duration::from_millis(50);

const COLLECTION: &str = "load";

/// A running load. Stopped when dropped.
pub struct Load {
    stop: Arc<AtomicBool>,
    /// Batches acknowledged so far.
    written: Arc<AtomicU32>,
    writer: Option<JoinHandle<Written>>,
    reader: Option<JoinHandle<Traffic>>,
}

/// What came of one kind of requests.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Requests that were answered.
    pub done: usize,
    /// Requests that had to be repeated.
    pub repeated: usize,
    /// What the repeat did not cure: why the first attempt failed, and the second.
    pub failed: Vec<String>,
    /// The longest time between two answers.
    pub pause: Duration,
}

/// What the writer did.
#[derive(Debug, Default)]
struct Written {
    traffic: Traffic,
    /// By record: the batch that was acknowledged last.
    acknowledged: Vec<u32>,
    /// The batch that was under way in the end, if it was not acknowledged.
    unsure: Option<u32>,
}

/// What came of a load.
#[derive(Debug)]
pub struct Report {
    /// Of batches.
    pub writes: Traffic,
    /// Of lookups.
    pub lookups: Traffic,
    acknowledged: Vec<u32>,
    unsure: Option<u32>,
}

impl Load {
    /// Makes a collection with records and begins to change and look them up through these nodes in turn.
    ///
    /// # Errors
    /// When the collection cannot be made.
    pub fn start(clients: Vec<Client>) -> Result<Self> {
        let first = clients.first().ok_or_else(|| anyhow!("no nodes"))?;
        let collection = Collection::put(first, COLLECTION)?;
        collection.sync("s", &json!(["n"]), "keep")?.expect(201);
        let run = collection.open("s", "delta")?;
        let lines: String = (0..KEYS).map(|key| line(key, 1)).collect();
        run.batch(1, &lines)?.expect(200);
        let (path, stop) = (run.path().to_owned(), Arc::new(AtomicBool::new(false)));
        let reader = {
            let (clients, stop) = (clients.clone(), Arc::clone(&stop));
            std::thread::spawn(move || look_up(&clients, &stop))
        };
        let written = Arc::new(AtomicU32::new(0));
        let writer = {
            let (stop, written) = (Arc::clone(&stop), Arc::clone(&written));
            std::thread::spawn(move || write(&clients, &path, &stop, &written))
        };
        Ok(Self { stop, written, writer: Some(writer), reader: Some(reader) })
    }

    /// Waits until so many more batches are acknowledged.
    ///
    /// # Panics
    /// When they are not for long.
    #[track_caller]
    pub fn wait_for_writes(&self, more: u32) {
        let goal = self.written.load(Ordering::Relaxed) + more;
        wait_for("batches to be acknowledged", PATIENCE, || match self.written.load(Ordering::Relaxed) {
            written if written >= goal => Ok(()),
            written => Err(format!("{written} of {goal}")),
        });
    }

    /// Stops the load and says what came of it.
    ///
    /// # Errors
    /// When one of its threads has panicked.
    #[allow(clippy::print_stdout, reason = "what test runners keep")]
    pub fn stop(mut self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow!("a thread of the load has panicked");
        let none = || anyhow!("the load was stopped already");
        let written = self.writer.take().ok_or_else(none)?.join().map_err(panicked)?;
        let lookups = self.reader.take().ok_or_else(none)?.join().map_err(panicked)?;
        let Written { traffic: writes, acknowledged, unsure } = written;
        println!("writes: {writes:?}\nlookups: {lookups:?}");
        Ok(Report { writes, lookups, acknowledged, unsure })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Report {
    /// Checks that nothing failed that one repeat does not cure.
    ///
    /// # Panics
    /// When something did.
    #[track_caller]
    pub fn expect_cured(&self) {
        assert!(self.writes.failed.is_empty(), "{:?}", self.writes.failed);
        assert!(self.lookups.failed.is_empty(), "{:?}", self.lookups.failed);
    }

    /// Checks that each of these nodes shows everything that was acknowledged, and nothing that was not sent.
    ///
    /// # Errors
    /// When a node does not answer.
    ///
    /// # Panics
    /// When something is lost or came from nowhere.
    #[track_caller]
    pub fn expect_kept(&self, clients: &[Client]) -> Result<()> {
        for client in clients {
            for (key, acknowledged) in (0..).zip(&self.acknowledged) {
                let path = format!("{}?consistency=linearizable", record(key));
                let found = client.get(&path)?.expect(200).value()["n"].clone();
                let late = self.unsure.filter(|seq| holds(*seq, key));
                let possible = [Some(*acknowledged), late];
                assert!(
                    possible.iter().flatten().any(|seq| found == *seq),
                    "record {key} holds {found} and not one of {possible:?} at {}",
                    client.address()
                );
            }
        }
        Ok(())
    }
}

impl Traffic {
    /// Sends a request to a node, and once more to the next if that fails. `None` when both have failed.
    fn send(&mut self, clients: &[Client], turn: usize, send: impl Fn(&Client) -> Answer) -> Option<Response> {
        let first = match judged(send(&clients[turn % clients.len()])) {
            Ok(answer) => return Some(self.note(answer)),
            Err(why) => why,
        };
        self.repeated += 1;
        match judged(send(&clients[(turn + 1) % clients.len()])) {
            Ok(answer) => Some(self.note(answer)),
            Err(second) => {
                self.failed.push(format!("{first}; then {second}"));
                None
            }
        }
    }

    fn note(&mut self, answer: Response) -> Response {
        self.done += 1;
        answer
    }
}

type Answer = std::io::Result<Response>;

/// What a client may repeat. Anything else that is no success is a bug, and failed requests say so.
fn judged(answer: Answer) -> Result<Response, String> {
    match answer {
        Ok(answer) if answer.status == 200 => Ok(answer),
        Ok(answer) => Err(format!("{} {}", answer.status, answer.text())),
        Err(error) => Err(error.to_string()),
    }
}

fn record(key: u32) -> String {
    format!("/v1/collections/{COLLECTION}/records/id/k{key}")
}

fn line(key: u32, seq: u32) -> String {
    upsert(&format!("k{key}"), &json!({ "n": seq }))
}

/// Whether a batch changes a record.
fn holds(seq: u32, key: u32) -> bool {
    (key + KEYS - seq * 7 % KEYS) % KEYS < BATCH
}

fn write(clients: &[Client], path: &str, stop: &AtomicBool, count: &AtomicU32) -> Written {
    let mut written = Written { acknowledged: vec![1; KEYS as usize], ..Written::default() };
    let (mut turn, mut seq, mut last) = (0, 1, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        seq += 1;
        let lines: String = (0..KEYS).filter(|key| holds(seq, *key)).map(|key| line(key, seq)).collect();
        let path = format!("{path}/batches/{seq}");
        written.unsure = Some(seq);
        while written.traffic.send(clients, turn, |client| client.ndjson(&path, &lines)).is_none() {
            if stop.load(Ordering::Relaxed) {
                return written;
            }
            turn += 1;
            std::thread::sleep(PAUSE);
        }
        written.unsure = None;
        count.fetch_add(1, Ordering::Relaxed);
        turn += 1;
        written.traffic.pause = written.traffic.pause.max(last.elapsed());
        last = Instant::now();
        for key in (0..KEYS).filter(|key| holds(seq, *key)) {
            written.acknowledged[key as usize] = seq;
        }
    }
    written
}

/// Looks up at a fixed rate, or as fast as the answers come if they come slower.
fn look_up(clients: &[Client], stop: &AtomicBool) -> Traffic {
    let mut traffic = Traffic::default();
    let (mut last, mut next) = (Instant::now(), Instant::now());
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = u32::try_from(turn % KEYS as usize).unwrap_or(0);
        if traffic.send(clients, turn, |client| client.get(&record(key))).is_some() {
            traffic.pause = traffic.pause.max(last.elapsed());
            last = Instant::now();
        }
        next = (next + LOOKUP_EVERY).max(Instant::now().checked_sub(LOOKUP_EVERY).unwrap_or(next));
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    traffic
}
