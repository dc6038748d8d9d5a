//! The sender against a scripted cluster, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_ipc::reader::StreamReader;
use bytes::Bytes;
use larder_types::api::{BatchAnswer, RejectedRow};
use larder_types::patch::{Nulls, Op};
use larder_types::value::{Value, ValueType};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::batch::{Patch, Press};
use super::client::PushError;
use super::log::{Attempt, RequestLog};
use super::retry::RetryPolicy;
use super::sender::{SendError, SendLimits, Sender, Sent};
use super::suspects::MAX_ISOLATED;
use super::wire::{Failure, Fault, Posted, Wire};
use crate::cancel::Cancel;
use crate::diff::hash::{HashSecret, RowHash};
use crate::diff::join::Change;
use crate::run::Rejection;
use crate::state::journal::{Journal, JournalHeader};

/// A batch as it arrives at the cluster.
struct Arrival {
    keys: Vec<String>,
    /// Arrivals before it.
    before: usize,
    /// In flight, itself included.
    flying: usize,
    /// Time since the run began.
    at: Duration,
}

/// What the cluster does with it.
#[derive(Clone)]
enum Act {
    Take,
    /// All but these keys, which are rejected with this code.
    TakeBut(Vec<&'static str>, &'static str),
    /// Answers with this status and code.
    Say(u16, &'static str, Option<u64>),
    /// Does not answer, and may have taken it.
    Hang,
}

type Decide = Box<dyn FnMut(&Arrival) -> Act + Send>;

#[derive(Clone)]
struct Script(Arc<Mutex<Scripted>>);

struct Scripted {
    began: Instant,
    decide: Decide,
    latency: fn(&Arrival) -> Duration,
    is_well: fn(Duration) -> bool,
    arrivals: usize,
    flying: usize,
    most_flying: usize,
    bodies: BTreeMap<u32, Bytes>,
    /// When each number was tried, and whether anything says it is a repeat.
    tried: Vec<(u32, Duration)>,
    taken: BTreeSet<String>,
}

fn keys_of(body: &Bytes) -> Vec<String> {
    let reader = StreamReader::try_new(body.as_ref(), None).unwrap();
    let batches = reader.map(|batch| batch.unwrap());
    batches
        .flat_map(|batch| batch.column(0).as_string::<i32>().iter().flatten().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

impl Wire for Script {
    async fn post(&self, _run: &str, seq: u32, body: Bytes, again: bool) -> Posted {
        let (arrival, act, latency) = {
            let mut script = self.0.lock().unwrap();
            let known = script.bodies.entry(seq).or_insert_with(|| body.clone()).clone();
            assert_eq!(known, body, "batch {seq} was repeated with another body");
            let at = script.began.elapsed();
            assert_eq!(again, script.tried.iter().any(|(tried, _)| *tried == seq));
            script.tried.push((seq, at));
            script.flying += 1;
            script.most_flying = script.most_flying.max(script.flying);
            script.arrivals += 1;
            let arrival = Arrival { keys: keys_of(&body), before: script.arrivals - 1, flying: script.flying, at };
            let act = (script.decide)(&arrival);
            let latency = (script.latency)(&arrival);
            (arrival, act, latency)
        };
        tokio::time::sleep(latency).await;
        let mut script = self.0.lock().unwrap();
        script.flying -= 1;
        let (taken, rejected): (Vec<&String>, Vec<&String>) = match &act {
            Act::Take => (arrival.keys.iter().collect(), Vec::new()),
            Act::TakeBut(bad, _) => arrival.keys.iter().partition(|key| !bad.contains(&key.as_str())),
            Act::Say(status, code, after) => {
                let after = after.map(Duration::from_secs);
                let fault = Fault::of_answer(*status, code, "because", after).unwrap();
                return Posted { status: Some(*status), result: Err(Failure::Fault(fault)) };
            }
            Act::Hang => {
                let fault = Fault::of_silence("no answer in time".to_owned(), true);
                return Posted { status: None, result: Err(Failure::Fault(fault)) };
            }
        };
        script.taken.extend(taken.iter().map(|key| (*key).clone()));
        let code = if let Act::TakeBut(_, code) = act { code } else { "" };
        let row = |key: &&String| RejectedRow {
            row: arrival.keys.iter().position(|other| other == *key).unwrap() as u64,
            key: Some((*key).clone()),
            code: code.to_owned(),
            field: Some("f".to_owned()),
            message: "no".to_owned(),
        };
        let rejected = rejected.iter().map(row).collect();
        let answer = BatchAnswer { accepted: taken.len() as u64, rejected, revision: String::new() };
        Posted { status: Some(200), result: Ok(answer) }
    }

    async fn probe(&self) -> Result<(), Failure> {
        let script = self.0.lock().unwrap();
        if (script.is_well)(script.began.elapsed()) {
            return Ok(());
        }
        Err(Failure::Fault(Fault::of_silence("no answer in time".to_owned(), true)))
    }
}

/// Number, attempt, status and code of an attempt.
type Note = (u32, u32, Option<u16>, Option<String>);

#[derive(Default)]
struct Notes(Mutex<Vec<Note>>);

impl RequestLog for Notes {
    fn note(&self, attempt: &Attempt<'_>) {
        let line = (attempt.batch.seq, attempt.number, attempt.status, attempt.code.map(str::to_owned));
        self.0.lock().unwrap().push(line);
    }
}

struct Run {
    script: Script,
    limits: SendLimits,
    notes: Notes,
    dir: TempDir,
}

struct Ended {
    sent: Sent,
    result: Result<(), SendError>,
    rejected: Vec<(String, String)>,
    advanced: u64,
}

fn run(decide: impl FnMut(&Arrival) -> Act + Send + 'static) -> Run {
    let scripted = Scripted {
        began: Instant::now(),
        decide: Box::new(decide),
        latency: |_| Duration::from_millis(10),
        is_well: |_| true,
        arrivals: 0,
        flying: 0,
        most_flying: 0,
        bodies: BTreeMap::new(),
        tried: Vec::new(),
        taken: BTreeSet::new(),
    };
    Run {
        script: Script(Arc::new(Mutex::new(scripted))),
        limits: SendLimits { in_flight: 8, retry: RetryPolicy::default() },
        notes: Notes::default(),
        dir: tempfile::tempdir().unwrap(),
    }
}

impl Run {
    fn script(&self) -> std::sync::MutexGuard<'_, Scripted> {
        self.script.0.lock().unwrap()
    }

    /// Sends `batches` batches of `rows` rows, with the keys `k0`, `k1`, ….
    async fn send(&self, batches: usize, rows: usize) -> Ended {
        let header = JournalHeader {
            hashes: crate::diff::snapshot::Hashes::Cells,
            run: "r".into(),
            sync: "s".into(),
            collection: "c".into(),
            fingerprint: 1,
            secret: HashSecret::random().unwrap(),
            base: None,
            base_known: true,
        };
        let journal = Mutex::new(Journal::create(&self.dir.path().join("journal"), &header).unwrap());
        let press = Press::new(vec![("f".parse().unwrap(), ValueType::Any, Nulls::Write)]);
        let (into, waiting) = mpsc::channel(1);
        let mut rejected = Vec::new();
        let mut reject = |rejection: Rejection| rejected.push((rejection.key.unwrap(), rejection.code));
        let advanced = Mutex::new(0);
        let sender = Sender {
            wire: &self.script,
            run: "r",
            press: &press,
            journal: &journal,
            reject: &mut reject,
            advance: &|rows| *advanced.lock().unwrap() += rows,
            log: &self.notes,
            limits: self.limits,
            cancel: &Cancel::default(),
        };
        let produce = async {
            for batch in 0..batches {
                let patches = (batch * rows..(batch + 1) * rows).map(patch).collect();
                let batch = press.batch(Op::Upsert, patches).unwrap();
                journal.lock().unwrap().intend(batch.seq, batch.intents()).unwrap();
                if into.send(batch).await.is_err() {
                    break;
                }
            }
            drop(into);
        };
        let ((sent, result), ()) = tokio::join!(sender.send_all(waiting), produce);
        rejected.sort();
        let advanced = *advanced.lock().unwrap();
        Ended { sent, result, rejected, advanced }
    }
}

fn patch(number: usize) -> Patch {
    let values = vec![Value::Int(1)];
    let (key, number) = (format!("k{number}"), number as u64 + 1);
    Patch { key, change: Change::Added, hash: RowHash::UNKNOWN, number, values }
}

fn has(arrival: &Arrival, key: &str) -> bool {
    arrival.keys.iter().any(|other| other == key)
}

#[tokio::test(start_paused = true)]
async fn all_is_sent_and_the_window_opens_up_to_its_bound() {
    let run = run(|_| Act::Take);
    let ended = run.send(60, 4).await;
    ended.result.unwrap();
    assert_eq!((ended.sent.rows, ended.sent.acknowledged, ended.sent.batches, ended.advanced), (240, 240, 60, 240));
    assert_eq!(run.script().most_flying, 8);
}

#[tokio::test(start_paused = true)]
async fn a_busy_cluster_gets_less_and_in_the_end_everything() {
    let run = run(|arrival| if arrival.flying > 2 { Act::Say(429, "rate_limited", None) } else { Act::Take });
    let ended = run.send(60, 4).await;
    ended.result.unwrap();
    assert_eq!((ended.sent.acknowledged, ended.rejected.len()), (240, 0));
    let refused = run.script().arrivals - 60;
    assert!(refused < 60, "{refused} of {} were too many", run.script().arrivals);
}

#[tokio::test(start_paused = true)]
async fn a_slow_cluster_is_not_made_slower() {
    let mut one_at_a_time = run(|_| Act::Take);
    one_at_a_time.limits.in_flight = 64;
    one_at_a_time.script().latency = |arrival| Duration::from_millis(50) * u32::try_from(arrival.flying).unwrap();
    one_at_a_time.send(300, 1).await.result.unwrap();
    let most = one_at_a_time.script().most_flying;
    assert!(most < 16, "{most} batches waited at the cluster");
}

#[tokio::test(start_paused = true)]
async fn the_cluster_says_how_long_to_wait() {
    let run = run(|arrival| if arrival.before == 0 { Act::Say(503, "draining", Some(7)) } else { Act::Take });
    run.send(1, 1).await.result.unwrap();
    let [(1, _), (1, second)] = run.script().tried[..] else { panic!("not two attempts at one batch") };
    assert!((7..8).contains(&second.as_secs()), "{second:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_away_is_waited_for_and_then_given_up() {
    let away = |until: u64| {
        move |arrival: &Arrival| {
            if arrival.at.as_secs() < until { Act::Say(503, "shard_unavailable", Some(1)) } else { Act::Take }
        }
    };
    let ended = run(away(600)).send(6, 2).await;
    ended.result.unwrap();
    assert_eq!(ended.sent.acknowledged, 12);

    let gone = run(away(3600));
    let ended = gone.send(6, 2).await;
    let error = ended.result.unwrap_err();
    assert!(matches!(error, SendError::Push(PushError::GaveUp { .. })), "{error}");
    assert!(error.to_string().contains("because (503 shard_unavailable)"), "{error}");
    let took = gone.script().began.elapsed();
    assert!((Duration::from_secs(800)..=Duration::from_secs(900)).contains(&took), "{took:?}");
    assert!(ended.rejected.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_falters_for_longer_than_the_budget_is_not_given_up() {
    // Every other minute it is away.
    let run =
        run(
            |arrival| {
                if arrival.at.as_secs() / 60 % 2 == 0 { Act::Say(503, "shard_unavailable", Some(1)) } else { Act::Take }
            },
        );
    run.script().latency = |_| Duration::from_secs(20);
    let ended = run.send(400, 1).await;
    ended.result.unwrap();
    assert!(run.script().began.elapsed() > RetryPolicy::default().budget);
    assert_eq!(ended.sent.acknowledged, 400);
}

#[tokio::test(start_paused = true)]
async fn a_bad_row_is_found_and_the_rest_goes_on() {
    for act in [Act::Say(500, "internal", None), Act::Say(400, "invalid_request", None), Act::Hang] {
        let fate = act.clone();
        let run = run(move |arrival| if has(arrival, "k77") { fate.clone() } else { Act::Take });
        let ended = run.send(5, 50).await;
        ended.result.unwrap();
        let code = if let Act::Say(_, code, _) = act { code } else { "not_taken" };
        assert_eq!(ended.rejected, [("k77".to_owned(), code.to_owned())]);
        assert_eq!((ended.sent.acknowledged, ended.sent.rejected, ended.advanced), (249, 1, 250));
        assert_eq!(run.script().taken.len(), 249);
        let arrivals = run.script().arrivals;
        assert!(arrivals < 50, "{arrivals} requests for one row");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_row_is_found_though_it_comes_in_the_only_batch() {
    let run = run(|arrival| if has(arrival, "k1") { Act::Say(500, "internal", None) } else { Act::Take });
    let ended = run.send(1, 2).await;
    ended.result.unwrap();
    assert_eq!(ended.rejected, [("k1".to_owned(), "internal".to_owned())]);
    assert_eq!(ended.sent.acknowledged, 1);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_fails_at_everything_costs_no_row_anything() {
    for (act, is_well) in [
        (Act::Say(500, "internal", None), true),
        (Act::Say(500, "internal", None), false),
        (Act::Hang, true),
        (Act::Hang, false),
    ] {
        for (until, batches, rows) in [(120, 12, 8), (120, 1, 1), (120, 1, 9)] {
            let fate = act.clone();
            let run = run(move |arrival| if arrival.at.as_secs() < until { fate.clone() } else { Act::Take });
            run.script().is_well = if is_well { |_| true } else { |at| at.as_secs() >= 120 };
            let ended = run.send(batches, rows).await;
            ended.result.unwrap();
            assert_eq!(ended.rejected, []);
            assert_eq!(ended.sent.acknowledged, (batches * rows) as u64);
        }
    }
    let run = run(|_| Act::Say(500, "internal", None));
    let ended = run.send(6, 8).await;
    let error = ended.result.unwrap_err();
    assert!(matches!(error, SendError::Push(PushError::GaveUp { .. })), "{error}");
    assert_eq!(ended.rejected, []);
    let arrivals = run.script().arrivals;
    assert!(arrivals < 1000, "{arrivals} requests");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_dies_in_the_middle_blames_nobody() {
    // Batches of a single row: each is alone already when the cluster goes silent, and others were taken just before.
    let run = run(|arrival| if (1..240).contains(&arrival.at.as_secs()) { Act::Hang } else { Act::Take });
    run.script().is_well = |at| !(1..240).contains(&at.as_secs());
    run.script().latency = |_| Duration::from_millis(90);
    let ended = run.send(300, 1).await;
    ended.result.unwrap();
    assert_eq!(ended.rejected, []);
    assert_eq!(ended.sent.acknowledged, 300);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_refuses_everything_is_believed_after_few_requests() {
    let run = run(|_| Act::Say(400, "invalid_request", None));
    let ended = run.send(50, 1000).await;
    let error = ended.result.unwrap_err().to_string();
    assert!(error.contains("refused to take a batch: because (400 invalid_request)"), "{error}");
    assert_eq!(ended.rejected, []);
    let arrivals = run.script().arrivals;
    assert!(arrivals < 40, "{arrivals} requests");
}

#[tokio::test(start_paused = true)]
async fn too_many_bad_rows_are_no_accident() {
    let is_bad = |key: &str| key.ends_with('7') || key.ends_with('3');
    let run = run(move |arrival| {
        if arrival.keys.iter().any(|key| is_bad(key)) { Act::Say(400, "invalid_request", None) } else { Act::Take }
    });
    let ended = run.send(10, 100).await;
    let error = ended.result.unwrap_err();
    assert!(matches!(error, SendError::TooManyIsolated(_)), "{error}");
    assert_eq!(ended.rejected.len(), MAX_ISOLATED as usize);
    assert!(ended.rejected.iter().all(|(key, _)| is_bad(key)));
}

#[tokio::test(start_paused = true)]
async fn rows_that_are_rejected_for_a_passing_reason_are_sent_again() {
    let mut refusals = 0;
    let run = run(move |arrival| {
        if has(arrival, "k3") && refusals < 3 {
            refusals += 1;
            return Act::TakeBut(vec!["k3"], "shard_unavailable");
        }
        if has(arrival, "k4") { Act::TakeBut(vec!["k4"], "type_mismatch") } else { Act::Take }
    });
    let ended = run.send(2, 5).await;
    ended.result.unwrap();
    // The first answer of the first batch rejects k3 alone, and takes k4.
    assert_eq!(ended.rejected, []);
    assert_eq!((ended.sent.rows, ended.sent.acknowledged, ended.advanced), (10, 10, 10));

    let run =
        self::run(|arrival| if has(arrival, "k1") { Act::TakeBut(vec!["k1"], "shard_unavailable") } else { Act::Take });
    let ended = run.send(1, 3).await;
    ended.result.unwrap();
    assert_eq!(ended.rejected, [("k1".to_owned(), "shard_unavailable".to_owned())], "not for ever");
    assert_eq!((ended.sent.acknowledged, ended.sent.rejected, ended.advanced), (2, 1, 3));

    let run =
        self::run(|arrival| if has(arrival, "k1") { Act::TakeBut(vec!["k1"], "type_mismatch") } else { Act::Take });
    let ended = run.send(1, 3).await;
    ended.result.unwrap();
    assert_eq!((ended.rejected.len(), run.script().arrivals), (1, 1), "what does not pass is not tried again");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_too_large_is_halved_and_a_row_that_is_too_large_rejected() {
    let run = run(|arrival| {
        let is_too_large = arrival.keys.len() > 4 || has(arrival, "k5");
        if is_too_large { Act::Say(413, "payload_too_large", None) } else { Act::Take }
    });
    let ended = run.send(2, 10).await;
    ended.result.unwrap();
    assert_eq!(ended.rejected, [("k5".to_owned(), "payload_too_large".to_owned())]);
    assert_eq!(ended.sent.acknowledged, 19);
}

#[tokio::test(start_paused = true)]
async fn every_attempt_is_noted() {
    let run = run(|arrival| match arrival.before {
        0 => Act::Say(503, "overloaded", None),
        1 => Act::Hang,
        _ => Act::TakeBut(vec!["k0"], "type_mismatch"),
    });
    run.send(1, 2).await.result.unwrap();
    let notes = run.notes.0.lock().unwrap();
    let overloaded = Some("overloaded".to_owned());
    assert_eq!(*notes, [(1, 1, Some(503), overloaded), (1, 2, None, None), (1, 3, Some(200), None)]);
}
