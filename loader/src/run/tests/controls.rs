//! Runs that are cancelled, retried, reset, or cut to a part of the rows.

use std::sync::{Arc, Mutex};

use super::*;
use crate::cancel::Why;

#[test]
fn a_cancelled_run_keeps_what_was_acknowledged_and_the_next_sends_the_rest() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..60));
    let cancel = Cancel::default();
    let asked = cancel.clone();
    world.cluster.decide(move |arrival| {
        if arrival.before == 5 {
            asked.cancel(Why::Asked);
        }
        Fate::Apply
    });
    let error = world.try_run(RunOptions { cancel, ..RunOptions::default() }).unwrap_err();
    assert_eq!(error.exit_class(), ExitClass::Failed);
    assert!(matches!(error, RunError::Cancelled { .. }), "{error}");
    let acknowledged = error.report().unwrap().acknowledged;
    assert!((1..60).contains(&acknowledged), "{acknowledged}");
    assert_eq!(history(&world.project, None, 1).unwrap()[0].state, "cancelled");
    world.cluster.decide(|_| Fate::Apply);
    let report = world.run();
    assert_eq!(report.rows.unchanged + report.sent, 60);
    assert!(report.rows.unchanged >= acknowledged, "{report:?}");
    assert_eq!(world.cluster.records(), expected(&rows(0..60)));
}

#[test]
fn a_run_is_cancelled_through_the_database_while_a_cluster_does_not_answer() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..9));
    let ids: Arc<Mutex<Option<String>>> = Arc::default();
    let project = self::project(world.dir.path(), &world.project.state_dir, &world.cluster.url, ExitMode::Delete);
    world.cluster.decide(move |_| {
        let id = history(&project, None, 1).unwrap()[0].id.clone();
        let mut asked = ids.lock().unwrap();
        if asked.is_none() {
            cancel(&project, &id).unwrap();
            *asked = Some(id);
        }
        Fate::Status(503, "overloaded", None)
    });
    let error = world.try_run(RunOptions::default()).unwrap_err();
    assert!(matches!(error, RunError::Cancelled { .. }), "{error}");
    let id = error.report().unwrap().id.clone();
    assert!(cancel(&world.project, &id).is_err(), "a run that has ended was cancelled");
    world.cluster.decide(|_| Fate::Apply);
    world.run();
    assert_eq!(world.cluster.records(), expected(&rows(0..9)));
}

#[test]
fn a_run_that_takes_too_long_fails_at_its_time_limit() {
    let mut world = world(ExitMode::Delete);
    world.write(&rows(0..9));
    world.spec().timeout = Some(Duration::from_millis(300));
    world.cluster.decide(|_| Fate::Status(503, "overloaded", None));
    let error = world.try_run(RunOptions::default()).unwrap_err();
    assert!(error.to_string().contains("time limit"), "{error}");
    assert_eq!(error.report().unwrap().outcome, Outcome::Failed);
}

#[test]
fn rejected_rows_are_retried_alone() {
    retries_alone(world(ExitMode::Delete));
}

#[test]
fn rejected_rows_are_retried_although_their_keys_are_not_kept() {
    let mut world = world(ExitMode::Delete);
    world.project.redaction.keys = true;
    retries_alone(world);
}

fn retries_alone(world: World) {
    world.write(&rows(0..10));
    world.cluster.decide(|_| Fate::Reject(vec!["k3".into(), "k5".into()]));
    let first = world.run();
    world.cluster.decide(|_| Fate::Apply);
    // Others have changed and left since: they are no business of the retry.
    let mut table = rows(1..12);
    table.get_mut("k7").unwrap().0 = 70;
    world.write(&table);
    let retried = retry(&world.project, &first.id, RunOptions::default(), quiet()).unwrap().unwrap();
    assert_eq!((retried.sent, retried.rows.removed, retried.trigger), (2, 0, Trigger::Retry));
    assert_eq!(world.cluster.records(), expected(&rows(0..10)));
    assert!(retry(&world.project, "s", RunOptions::default(), quiet()).unwrap().is_none(), "there is nothing left");
    world.run();
    assert_eq!(world.cluster.records(), expected(&table));
}

#[test]
fn rows_that_were_not_sent_are_retried_without_removals() {
    let mut world = world(ExitMode::Delete);
    world.write(&rows(0..30));
    world.run();
    world.write(&rows(5..60));
    world.tuning.retry.budget = Duration::from_millis(1);
    world.cluster.decide(|_| Fate::Status(503, "overloaded", None));
    let failed = world.try_run(RunOptions::default()).unwrap_err().report().unwrap().id.clone();
    world.cluster.decide(|_| Fate::Apply);
    let retried = retry(&world.project, &failed, RunOptions::default(), quiet()).unwrap().unwrap();
    assert_eq!((retried.rows.added + retried.rows.changed, retried.rows.removed), (30, 0));
    let plan = plan(&world.project, &sync_name(), PlanOptions::default(), &Silent).unwrap();
    assert_eq!(world.cluster.records().len() as u64, 55 + plan.rows.removed);
    world.run();
    assert_eq!(world.cluster.records(), expected(&rows(5..60)));
}

#[test]
fn a_blocked_run_is_not_retried_past_its_guard() {
    let mut world = world(ExitMode::Delete);
    world.write(&rows(0..30));
    world.run();
    world.spec().guard.max_removed = Limit { percent: 0.0, rows: 0 };
    world.write(&rows(1..31));
    world.fails();
    let error = retry(&world.project, "s", RunOptions::default(), quiet()).unwrap_err();
    assert!(error.to_string().contains("larder-loader approve"), "{error}");
}

#[test]
fn a_reset_pushes_nothing_and_the_next_run_sends_all() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..10));
    world.run();
    world.cluster.take_applied();
    assert_eq!(reset(&world.project, &sync_name(), None).unwrap(), [main()]);
    assert_eq!(world.cluster.take_applied(), Vec::<String>::new());
    assert!(!world.project.state_dir.join("s/main").exists());
    let report = world.run();
    assert_eq!((report.sent, report.resend), (10, Some(ResendReason::FirstRun)));
    assert_eq!(world.run().sent, 0);
    let report = world.try_run(RunOptions { reset: true, ..RunOptions::default() }).unwrap();
    assert_eq!((report.sent, report.resend), (10, Some(ResendReason::FirstRun)), "a run that begins with a reset");
    assert!(reset(&world.project, &sync_name(), Some("nowhere")).is_err());
}

#[test]
fn the_state_of_a_destination_that_is_fed_no_more_can_be_reset() {
    let mut world = world(ExitMode::Delete);
    world.write(&rows(0..10));
    world.run();
    let eu = DestinationName::new("eu").unwrap();
    let cluster = world.project.clusters.remove(&main()).unwrap();
    world.project.clusters.insert(eu.clone(), cluster);
    world.spec().destinations = vec![eu.clone()];
    // A cluster by another name is another destination.
    assert_eq!(world.run().resend, Some(ResendReason::FirstRun));
    assert_eq!(reset(&world.project, &sync_name(), Some("main")).unwrap(), [main()]);
    assert!(!world.project.state_dir.join("s/main").exists());
    assert_eq!(world.run().sent, 0, "the other destination was reset too");
}

#[test]
fn some_rows_say_nothing_of_the_others() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..10));
    world.run();
    world.write(&rows(5..15));
    let report = world.try_run(RunOptions { scope: Scope::First(7), ..RunOptions::default() }).unwrap();
    assert_eq!((report.rows.read, report.rows.removed), (7, 0));
    let full = RunOptions { full: true, scope: Scope::First(7), ..RunOptions::default() };
    assert_eq!(world.try_run(full).unwrap_err().exit_class(), ExitClass::Config);
    world.run();
    assert_eq!(world.cluster.records(), expected(&rows(5..15)));
}
