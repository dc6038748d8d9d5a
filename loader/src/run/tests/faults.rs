//! The cluster misbehaves, or is not the one it was.

use super::*;

#[test]
fn transient_faults_lose_nothing_and_send_nothing_twice() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..40));
    world.cluster.decide(|arrival| match arrival.before {
        0 => Fate::Status(503, "overloaded", None),
        1 => Fate::DropAfter,
        2 => Fate::DropBefore,
        4 => Fate::Status(429, "rate_limited", None),
        6 => Fate::Status(500, "internal", None),
        8 | 9 => Fate::DropAfter,
        _ => Fate::Apply,
    });
    let report = world.run();
    assert_eq!((report.outcome, report.sent, report.acknowledged, report.batches), (Outcome::Succeeded, 40, 40, 14));
    assert_eq!(world.cluster.take_applied().len(), 40, "a batch was applied twice");
    assert_eq!(world.cluster.records(), expected(&rows(0..40)));
    world.cluster.decide(|_| Fate::Apply);
    assert_eq!(world.run().sent, 0);
}

#[test]
fn the_server_says_how_long_to_wait() {
    let mut world = world(ExitMode::Keep);
    world.write(&rows(0..1));
    // More than the budget is asked for: the run must give up at once instead of waiting or ignoring it.
    world.tuning.retry.budget = Duration::from_secs(3600);
    world.cluster.decide(|_| Fate::Status(503, "draining", Some(7200)));
    let message = world.fails();
    assert!(message.contains("gave up trying to take a batch") && message.contains("because draining"), "{message}");
}

#[test]
fn what_was_not_acknowledged_is_sent_by_the_next_run() {
    let mut world = world(ExitMode::Delete);
    world.write(&rows(0..30));
    world.tuning.retry.budget = Duration::from_millis(1);
    world.cluster.decide(
        |arrival| {
            if arrival.before < 4 { Fate::Apply } else { Fate::Status(503, "shard_unavailable", None) }
        },
    );
    let error = world.try_run(RunOptions::default()).unwrap_err();
    let report = error.report().unwrap();
    assert_eq!((report.outcome, report.acknowledged), (Outcome::Failed, 12));
    assert!(report.sent > 12, "{}", report.sent);
    world.cluster.take_applied();
    world.cluster.decide(|_| Fate::Apply);
    let report = world.run();
    assert_eq!((report.sent, report.rows.unchanged, report.resend), (18, 12, None));
    assert_eq!(world.cluster.records(), expected(&rows(0..30)));
    assert_eq!(world.run().sent, 0);
}

#[test]
fn a_row_that_may_have_been_stored_is_sent_again_even_if_it_is_back_to_what_it_was() {
    let mut world = world(ExitMode::Delete);
    let before = rows(0..3);
    world.write(&before);
    world.run();
    let mut after = before.clone();
    after.get_mut("k1").unwrap().0 = 50;
    world.write(&after);
    world.tuning.retry.budget = Duration::ZERO;
    world.cluster.decide(|_| Fate::DropAfter);
    world.fails();
    assert_eq!(world.cluster.records(), expected(&after), "the batch was meant to arrive");
    world.cluster.decide(|_| Fate::Apply);
    world.write(&before);
    assert_eq!(world.run().sent, 1);
    assert_eq!(world.cluster.records(), expected(&before));
}

#[test]
fn rejected_rows_are_recorded_and_tried_again() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..10));
    world.cluster.decide(|_| Fate::Reject(vec!["k2".into(), "k7".into()]));
    let report = world.run();
    assert_eq!((report.outcome, report.sent, report.acknowledged), (Outcome::Partial, 10, 8));
    assert_eq!(report.rows.rejected, 2);
    let keys: BTreeSet<Option<&str>> = report.rejections.iter().map(|rejection| rejection.key.as_deref()).collect();
    assert_eq!(keys, BTreeSet::from([Some("k2"), Some("k7")]));
    assert_eq!(rejected(&world.project, &report.id).unwrap().len(), 2);
    world.cluster.decide(|_| Fate::Apply);
    let report = world.run();
    assert_eq!((report.outcome, counts(&report), report.sent), (Outcome::Succeeded, [2, 0, 0, 8], 2));
    assert_eq!(world.cluster.records(), expected(&rows(0..10)));
}

#[test]
fn a_batch_that_is_too_large_is_halved() {
    let mut world = world(ExitMode::Delete);
    world.tuning.batch_rows = 8;
    world.write(&rows(0..16));
    world.cluster.decide(|arrival| {
        let alone = arrival.keys == ["k5"];
        if arrival.keys.len() > 2 || alone { Fate::Status(413, "payload_too_large", None) } else { Fate::Apply }
    });
    let report = world.run();
    assert_eq!((report.outcome, report.sent, report.acknowledged + report.rows.rejected), (Outcome::Succeeded, 16, 16));
    assert_eq!(world.cluster.records(), expected(&rows(0..16)));
    assert_eq!(world.run().sent, 0);

    world.cluster.decide(|arrival| {
        let has_it = arrival.keys.iter().any(|key| key == "big");
        if has_it { Fate::Status(413, "payload_too_large", None) } else { Fate::Apply }
    });
    let mut table = rows(0..20);
    table.insert("big".into(), (1, "b".into()));
    world.write(&table);
    let report = world.run();
    assert_eq!((report.outcome, report.sent, report.acknowledged, report.rows.rejected), (Outcome::Partial, 5, 4, 1));
    assert_eq!(
        (report.rejections[0].key.as_deref(), report.rejections[0].code.as_str()),
        (Some("big"), "payload_too_large")
    );
    let again = world.run();
    assert_eq!(
        (counts(&again), again.rows.rejected),
        ([1, 0, 0, 20], 1),
        "a row that was never stored is in the state"
    );
}

#[test]
fn a_refusal_ends_the_run_with_the_clusters_words() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..10));
    world.cluster.decide(|_| Fate::Status(400, "invalid_request", None));
    let error = world.try_run(RunOptions::default()).unwrap_err();
    assert_eq!(error.exit_class(), ExitClass::Failed);
    assert!(error.to_string().contains("because invalid_request (400 invalid_request)"), "{error}");
    assert_eq!(error.report().unwrap().acknowledged, 0);
    world.cluster.decide(|_| Fate::Apply);
    assert_eq!(world.run().sent, 10);
}

#[test]
fn a_superseded_run_stops_and_the_next_one_trusts_nothing() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..10));
    world.cluster.decide(
        |arrival| {
            if arrival.before == 0 { Fate::Apply } else { Fate::Status(409, "stale_generation", None) }
        },
    );
    let message = world.fails();
    assert!(message.contains("newer run"), "{message}");
    world.cluster.content().generation += 1;
    world.cluster.decide(|_| Fate::Apply);
    let report = world.run();
    assert_eq!((report.sent, report.resend), (10, Some(ResendReason::Overtaken)));
    assert_eq!(world.run().sent, 0);
}

#[test]
fn a_cluster_that_was_reset_gets_everything_again() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..10));
    world.run();
    world.run();
    *world.cluster.content() = Content::default();
    let report = world.run();
    assert_eq!((report.sent, report.resend), (10, Some(ResendReason::DestinationNew)));
    assert_eq!(world.cluster.records(), expected(&rows(0..10)));
    assert_eq!(world.run().sent, 0);
}

#[test]
fn a_run_by_another_loader_is_noticed() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..10));
    world.run();
    {
        let mut content = world.cluster.content();
        content.generation += 1;
        content.records.get_mut("k1").unwrap().insert("fa".into(), "666".into());
    }
    let report = world.run();
    assert_eq!((report.sent, report.resend), (10, Some(ResendReason::Overtaken)));
    assert_eq!(world.cluster.records(), expected(&rows(0..10)));
}

#[test]
fn runs_whose_opening_was_lost_are_not_taken_for_another_loaders() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..10));
    world.cluster.lose_openings(2);
    assert_eq!(world.run().sent, 10);
    assert_eq!(world.run().resend, None, "the openings were retried by the run itself");
    // As if the loader had died before it could note the generation.
    {
        let mut content = world.cluster.content();
        content.generation += 1;
        let generation = content.generation;
        content.add_idle_run(generation);
    }
    let report = world.run();
    assert_eq!((report.sent, report.resend), (0, None));
}

#[test]
fn a_run_that_another_loader_opens_meanwhile_is_noticed_by_the_next() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..10));
    world.run();
    world.cluster.get_ahead();
    assert_eq!(world.run().sent, 0);
    let report = world.run();
    assert_eq!((report.sent, report.resend), (10, Some(ResendReason::Overtaken)));
    assert_eq!(world.run().sent, 0);
}

#[test]
fn a_refusal_after_a_lost_answer_proves_nothing() {
    let world = world(ExitMode::Delete);
    let before = rows(0..3);
    world.write(&before);
    world.run();
    let mut after = before.clone();
    after.get_mut("k1").unwrap().0 = 50;
    world.write(&after);
    let mut first = true;
    world.cluster.decide(move |_| {
        if std::mem::take(&mut first) { Fate::DropAfter } else { Fate::Status(400, "run_closed", None) }
    });
    world.fails();
    assert_eq!(world.cluster.records(), expected(&after), "the batch was meant to arrive");
    world.cluster.decide(|_| Fate::Apply);
    world.write(&before);
    assert_eq!(world.run().sent, 1);
    assert_eq!(world.cluster.records(), expected(&before));
}

#[test]
fn a_field_of_another_sync_is_named_with_its_owner() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..3));
    world.cluster.own("fb", "crm");
    let message = world.fails();
    assert!(message.contains("field `fb`") && message.contains("sync `crm`"), "{message}");
}

#[test]
fn an_unreachable_cluster_is_named_and_costs_no_state() {
    let mut world = world(ExitMode::Delete);
    world.write(&rows(0..3));
    world.run();
    let url = std::mem::replace(&mut world.cluster_of_project().url, "http://127.0.0.1:1".into());
    world.tuning.retry.budget = Duration::from_millis(5);
    let message = world.fails();
    assert!(message.contains("gave up trying to describe the collection"), "{message}");
    world.cluster_of_project().url = url;
    assert_eq!(world.run().sent, 0);
}

#[test]
fn a_damaged_state_file_is_an_error_that_a_full_run_heals() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..10));
    world.run();
    for part in 0..3 {
        let size = std::fs::metadata(world.state_file()).unwrap().len();
        let at = [9, size / 2, size - 1][part];
        crate::diff::snapshot::damage(&world.state_file(), at);
        if part == 0 {
            // Another format: not damage, and no reason to throw the state away.
            assert!(world.fails().contains("use the newer loader"));
            crate::diff::snapshot::damage(&world.state_file(), at);
            continue;
        }
        let message = world.fails();
        assert!(message.contains("damaged") && message.contains("run s --full"), "{message}");
        let planned = plan(&world.project, &sync_name(), PlanOptions::default(), &Silent);
        assert!(planned.is_err_and(|error| error.to_string().contains("run s --full")));
        let report = world.run_full();
        assert_eq!((report.sent, report.outcome), (10, Outcome::Succeeded));
        assert!(report.notes[0].contains("this full run replaces it"), "{:?}", report.notes);
        assert_eq!(world.run().sent, 0);
    }
}

#[test]
fn a_full_run_sends_everything_and_the_cluster_sweeps_the_rest() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..10));
    world.run();
    // The state is lost, and rows have left meanwhile.
    std::fs::remove_dir_all(&world.project.state_dir).unwrap();
    world.write(&rows(3..12));
    let report = world.run_full();
    assert_eq!((report.kind, report.sent, report.swept), (RunKind::Full, 9, 3));
    assert_eq!(world.cluster.records(), expected(&rows(3..12)));
    assert_eq!(world.run().sent, 0);
    let again = world.run_full();
    assert_eq!((counts(&again), again.sent), ([0, 0, 0, 9], 9));
    world.write(&rows(5..12));
    let swept = world.run_full();
    assert_eq!((counts(&swept), swept.sent, swept.swept), ([0, 0, 2, 7], 7, 2));
    assert_eq!(counts(&world.run()), [0, 0, 0, 7], "what was swept is removed once more");
}

#[test]
fn an_answer_that_does_not_add_up_is_believed_in_nothing() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..3));
    world.cluster.decide(|_| Fate::Miscount);
    let error = world.try_run(RunOptions::default()).unwrap_err();
    assert!(error.to_string().contains("3 rows were sent, 4 accepted and 0 rejected"), "{error}");
    assert_eq!(error.report().unwrap().acknowledged, 0);
    world.cluster.decide(|_| Fate::Apply);
    assert_eq!(world.run().sent, 3);
}

#[test]
fn a_full_run_without_state_is_guarded_by_what_the_cluster_has() {
    let mut world = world(ExitMode::Delete);
    world.spec().guard = Guard { max_removed: Limit { percent: 10.0, rows: 2 }, ..Guard::default() };
    world.write(&rows(0..30));
    world.run();
    std::fs::remove_dir_all(&world.project.state_dir).unwrap();
    world.write(&rows(0..10));
    let error = world.try_run(RunOptions { full: true, ..RunOptions::default() }).unwrap_err();
    assert!(error.to_string().contains("20 of 30"), "{error}");
    assert_eq!(world.cluster.records().len(), 30);
}

#[test]
fn a_full_run_is_guarded_by_what_the_cluster_has_beyond_the_state() {
    let mut world = world(ExitMode::Delete);
    world.spec().guard = Guard { max_removed: Limit { percent: 10.0, rows: 2 }, ..Guard::default() };
    world.write(&rows(0..30));
    world.run();
    // A new state knows only the ten rows that are left.
    std::fs::remove_dir_all(&world.project.state_dir).unwrap();
    world.write(&rows(0..10));
    world.run();
    let error = world.try_run(RunOptions { full: true, ..RunOptions::default() }).unwrap_err();
    assert!(error.exit_class() == ExitClass::Blocked && error.to_string().contains("20 of 30"), "{error}");
    assert_eq!(counts(error.report().unwrap()), [0, 0, 20, 10]);
    assert_eq!(world.cluster.records().len(), 30);
    let report = world.try_run(RunOptions { full: true, accept_removals: true, ..RunOptions::default() }).unwrap();
    assert_eq!((report.swept, world.cluster.records()), (20, expected(&rows(0..10))));
}

#[test]
fn records_that_the_state_does_not_know_are_remarked_until_a_full_run() {
    let world = world(ExitMode::Clear);
    world.write(&rows(0..5));
    assert_eq!(world.run().notes, Vec::<String>::new());
    std::fs::remove_dir_all(&world.project.state_dir).unwrap();
    world.write(&rows(0..4));
    let report = world.run();
    let words = "this state is new but the cluster holds 5 records of this sync: `larder-loader run s --full` removes";
    assert!(report.notes.len() == 1 && report.notes[0].starts_with(words), "{:?}", report.notes);
    assert!(world.run().notes[0].contains("knows only 4 records"));
    world.run_full();
    assert_eq!(world.run().notes, Vec::<String>::new());
}

#[test]
fn a_run_that_is_blocked_or_fails_early_declares_nothing() {
    let mut world = world(ExitMode::Delete);
    world.spec().guard.min_rows = 1;
    world.write(&Rows::new());
    assert_eq!(world.try_run(RunOptions::default()).unwrap_err().exit_class(), ExitClass::Blocked);
    assert!(history(&world.project, None, 1).unwrap()[0].error.as_ref().unwrap().contains("min_rows"));
    world.write_raw(&[(Some("a"), 1, ""), (Some("a"), 2, "")]);
    world.fails();
    assert!(!world.cluster.content().declared);
    world.write(&rows(0..2));
    world.run();
    assert!(world.cluster.content().declared);
}

#[test]
fn a_source_that_does_not_open_is_in_the_history() {
    let mut world = world(ExitMode::Delete);
    world.write(&rows(0..2));
    world.spec().model = Model::sql("m", "SELECT nope FROM t");
    let message = world.fails();
    world.spec().model = Model::sql("m", "SELECT id, a FROM t");
    let error = world.try_run(RunOptions::default()).unwrap_err();
    assert_eq!(error.exit_class(), ExitClass::Config);
    std::fs::remove_file(world.dir.path().join("w.db")).unwrap();
    let missing = world.fails();
    let entries = history(&world.project, None, 9).unwrap();
    let told: Vec<(&str, Option<&str>)> =
        entries.iter().map(|entry| (entry.state.as_str(), entry.error.as_deref())).collect();
    assert!(message.contains("nope") && missing.contains("w.db"), "{message} {missing}");
    let columns = error.to_string();
    let failed = [&missing, &columns, &message].map(|text| ("failed", Some(text.as_str())));
    assert_eq!(told, failed);
}

#[test]
fn a_full_run_with_rejected_rows_sweeps_nothing() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..10));
    world.run();
    world.write(&rows(1..10));
    world.cluster.decide(|_| Fate::Reject(vec!["k5".into()]));
    let report = world.run_full();
    assert_eq!((report.outcome, report.swept, report.rows.rejected), (Outcome::Partial, 0, 1));
    assert!(report.notes[0].contains("not asked to sweep"), "{:?}", report.notes);
    assert_eq!(world.cluster.records(), expected(&rows(0..10)), "a record was lost");
    world.cluster.decide(|_| Fate::Apply);
    // k5 is still as it was acknowledged, and k0 has yet to go.
    let report = world.run();
    assert_eq!((counts(&report), report.sent), ([0, 0, 1, 9], 1));
    assert_eq!(world.cluster.records(), expected(&rows(1..10)));
}

#[test]
fn a_query_that_breaks_off_is_not_the_end_of_its_rows() {
    let mut world = world(ExitMode::Delete);
    world.write(&rows(0..20));
    world.run();
    world.cluster.take_applied();
    let text = "SELECT id, a, b, CASE WHEN a = 15 THEN json('{') END AS broken FROM t ORDER BY a";
    world.spec().model = Model::sql("m", text);
    let error = world.try_run(RunOptions { accept_removals: true, ..RunOptions::default() }).unwrap_err();
    assert_eq!(error.exit_class(), ExitClass::Failed);
    assert_eq!(world.cluster.take_applied(), Vec::<String>::new());
    assert_eq!(world.cluster.records(), expected(&rows(0..20)));
}

#[test]
fn a_state_folder_that_cannot_be_written_is_named() {
    let mut world = world(ExitMode::Delete);
    world.write(&rows(0..3));
    let file = world.dir.path().join("taken");
    std::fs::write(&file, "x").unwrap();
    world.project.state_dir = file.clone();
    let message = world.fails();
    assert!(message.contains(file.to_str().unwrap()), "{message}");
    assert_eq!(world.cluster.records().len(), 0);
}
