//! The record of runs: numbers, repeats, pages, and what is forgotten when.

use larder_types::api::{Counts, RunState};
use larder_types::error::ErrorCode;
use larder_types::patch::ExitMode;

use super::super::RejectsKept;
use super::super::run::RUN_REJECT_BYTES;
use super::super::runs::{DETAIL_BYTES, KEPT_RUNS};
use super::*;

fn with_run() -> Fixture {
    let mut fixture = Fixture::with_facts(ExitMode::Keep);
    fixture.open("r", RunKind::Delta);
    fixture
}

#[test]
fn numbers_are_the_sums_over_batches() {
    let mut fixture = with_run();
    fixture.ok(record("r", batch(1, 1, 9)));
    fixture.ok(record("r", batch(2, 0, 9)));
    let info = fixture.state.runs().get(FACTS.0, FACTS.1, "r").unwrap();
    assert_eq!(info.opened_at, "2026-01-01T00:00:00Z");
    assert_eq!((info.ended_at, info.state), (None, RunState::Open));
    assert_eq!(info.planned, Counts { added: 3, changed: 2, removed: 1 });
    assert_eq!(info.successful, Counts { added: 8, changed: 6, removed: 2 });
    assert_eq!(info.failed, Counts { added: 1, changed: 0, removed: 0 });
    assert_eq!((info.batches, info.unchanged, info.swept), (2, 3, 0));
}

#[test]
fn a_batch_counts_once() {
    let mut fixture = with_run();
    let first = batch(1, 1, 9);
    fixture.ok(record("r", first.clone()));
    // A repeat is measured at another time; the first outcome stays.
    fixture.ok(record("r", BatchOutcome { latency_micros: 1, revision: "r1.AAI".into(), ..first.clone() }));
    let runs = fixture.state.runs();
    assert_eq!(runs.get(FACTS.0, FACTS.1, "r").unwrap().batches, 1);
    assert_eq!(runs.outcome(FACTS.0, FACTS.1, "r", 1), Some(first));
    assert_eq!(runs.outcome(FACTS.0, FACTS.1, "r", 2), None);
    assert_eq!(runs.outcome(FACTS.0, FACTS.1, "other", 1), None);
}

#[test]
fn another_body_under_the_same_number_is_refused() {
    let mut fixture = with_run();
    fixture.ok(record("r", batch(1, 0, 0)));
    let error = fixture.refused(ErrorCode::SeqReused, record("r", BatchOutcome { body_hash: 8, ..batch(1, 0, 0) }));
    assert!(error.message.contains("batch 1 of run `r`"), "{error}");
}

#[test]
fn requests_are_shown_in_pages_in_order_of_arrival() {
    let mut fixture = with_run();
    for seq in [3, 1, 2] {
        fixture.ok(record("r", batch(seq, 4, 9)));
    }
    let runs = fixture.state.runs();
    let page = |offset, limit| runs.requests(FACTS.0, FACTS.1, "r", offset, limit);
    let seqs = |offset, limit| page(offset, limit).iter().map(|request| request.seq).collect::<Vec<_>>();
    assert_eq!(seqs(0, 10), [3, 1, 2]);
    assert_eq!(seqs(1, 1), [1]);
    assert!(page(3, 10).is_empty());
    let first = &page(0, 1)[0];
    assert_eq!(first.at, "2026-01-01T00:00:01Z");
    assert_eq!((first.rows, first.accepted, first.rejected), (10, 6, 4));
    assert_eq!((first.bytes, first.status, first.latency_ms), (1000, 200, 12));
}

#[test]
fn rejects_are_shown_in_pages_across_batches() {
    let mut fixture = with_run();
    fixture.ok(record("r", batch(7, 2, 9)));
    fixture.ok(record("r", batch(8, 0, 9)));
    fixture.ok(record("r", batch(9, 2, 9)));
    let runs = fixture.state.runs();
    let rows = |offset, limit| {
        let rejects = runs.rejects(FACTS.0, FACTS.1, "r", offset, limit);
        rejects.into_iter().map(|(seq, reject)| (seq, reject.row)).collect::<Vec<_>>()
    };
    assert_eq!(rows(0, 10), [(7, 0), (7, 1), (9, 0), (9, 1)]);
    assert_eq!(rows(1, 2), [(7, 1), (9, 0)]);
    assert!(rows(4, 2).is_empty());
    assert_eq!(runs.rejects_kept(FACTS.0, FACTS.1, "r"), Some(RejectsKept { total: 4, cut: false }));
    assert_eq!(runs.rejects_kept(FACTS.0, FACTS.1, "other"), None);
}

#[test]
fn rejects_that_the_proposer_cut_are_counted() {
    let mut fixture = with_run();
    let mut outcome = batch(1, 3, 9);
    outcome.rejects.truncate(1);
    outcome.rejects_cut = true;
    fixture.ok(record("r", outcome));
    let kept = fixture.state.runs().rejects_kept(FACTS.0, FACTS.1, "r");
    assert_eq!(kept, Some(RejectsKept { total: 3, cut: true }));
}

#[test]
fn a_run_keeps_its_first_rejects_up_to_its_budget() {
    const EACH: usize = 100_000;
    let mut fixture = with_run();
    for seq in 0..4 {
        fixture.ok(record("r", batch(seq, 5, EACH)));
    }
    fixture.ok(record("r", batch(4, 1, 1)));
    let runs = fixture.state.runs();
    let rejects = runs.rejects(FACTS.0, FACTS.1, "r", 0, 100);
    assert_eq!(rejects.len(), 10, "ten rows of 100 kB are what fits into 1 MiB");
    assert!(rejects.len() as u64 * EACH as u64 <= RUN_REJECT_BYTES);
    assert_eq!(rejects.last().map(|(seq, reject)| (*seq, reject.row)), Some((1, 4)));
    assert_eq!(runs.rejects_kept(FACTS.0, FACTS.1, "r"), Some(RejectsKept { total: 21, cut: true }));
    let outcome = |seq| runs.outcome(FACTS.0, FACTS.1, "r", seq).unwrap();
    assert!(!outcome(1).rejects_cut);
    assert!(outcome(2).rejects_cut);
    assert!(outcome(4).rejects_cut && outcome(4).rejects.is_empty(), "what is kept has no gaps");
    assert_eq!(runs.get(FACTS.0, FACTS.1, "r").unwrap().failed.added, 21);
}

#[test]
fn the_newest_runs_of_a_sync_are_kept() {
    let mut fixture = with_run();
    for number in 1..=KEPT_RUNS {
        fixture.open(&format!("r{number}"), RunKind::Delta);
    }
    let list = fixture.state.runs().list(FACTS.0, FACTS.1);
    assert_eq!(list.len(), KEPT_RUNS);
    assert_eq!((list[0].run.as_str(), list[0].state), ("r50", RunState::Open));
    assert_eq!(list.last().unwrap().run, "r1");
    fixture.refused(ErrorCode::RunNotFound, abort_run("facts", "r"));
    fixture.refused(ErrorCode::RunNotFound, record("r", batch(1, 0, 0)));
}

#[test]
fn old_details_make_room_for_new_ones_and_open_runs_keep_theirs() {
    let mut fixture = Fixture::with_facts(ExitMode::Keep);
    fixture.ok(put_sync("planes", "usage", &["miles"], ExitMode::Keep));
    fixture.ok(open_run("usage", "still open", RunKind::Delta));
    let of_usage = |run: &str, outcome| CatalogCommand::RecordBatch {
        collection: FACTS.0,
        slot: SyncSlot(1),
        run: run.into(),
        outcome,
    };
    fixture.ok(of_usage("still open", batch(0, 1, 9)));
    let runs = fixture.state.runs();
    let has_details = |run: &str| runs.outcome(FACTS.0, FACTS.1, run, 0).is_some();

    // Revisions are the cheapest way to much memory: 2 MiB a run, each with a rejected row.
    let big = |seq| BatchOutcome { revision: "x".repeat(2 * 1024 * 1024), ..batch(seq, 1, 9) };
    let fitting = DETAIL_BYTES / (2 * 1024 * 1024) - 1;
    for number in 0..fitting {
        fixture.open(&format!("r{number}"), RunKind::Delta);
        fixture.ok(record(&format!("r{number}"), big(0)));
    }
    assert!(has_details("r0"));
    fixture.open("more", RunKind::Delta);
    fixture.ok(record("more", big(0)));
    assert!(!has_details("r0") && has_details("r1"), "the run that ended first is shed first, and only that");
    assert!(has_details("more"));

    // Its numbers stay, but a batch that comes late cannot be told from a repeat and changes nothing.
    assert!(runs.requests(FACTS.0, FACTS.1, "r0", 0, 9).is_empty());
    assert!(runs.rejects(FACTS.0, FACTS.1, "r0", 0, 9).is_empty());
    assert_eq!(runs.rejects_kept(FACTS.0, FACTS.1, "r0"), Some(RejectsKept { total: 1, cut: true }));
    fixture.ok(record("r0", batch(0, 0, 0)));
    fixture.ok(record("r0", batch(1, 0, 0)));
    assert_eq!(runs.get(FACTS.0, FACTS.1, "r0").unwrap().batches, 1);

    // An open run keeps every outcome, however much that is, but no rejects once there is no room.
    for seq in 1..=fitting {
        fixture.ok(of_usage("still open", BatchOutcome { seq: u32::try_from(seq).unwrap(), ..big(0) }));
    }
    fixture.ok(of_usage("still open", BatchOutcome { seq: 99, ..big(0) }));
    assert!(!has_details(&format!("r{}", fitting - 1)));
    assert!(has_details("more"), "it is open");
    assert!(runs.outcome(FACTS.0, SyncSlot(1), "still open", 0).is_some());
    let last = runs.outcome(FACTS.0, SyncSlot(1), "still open", 99).unwrap();
    assert!(last.rejects.is_empty() && last.rejects_cut);
    let record = fixture.state.read_runs();
    assert!(record.rebuilt().unwrap() == *record, "the budget is what the runs come to");
}
