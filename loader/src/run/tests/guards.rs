//! Guards, what they hold, and how it is let go.

use super::*;

const STRICT: Limit = Limit { percent: 10.0, rows: 2 };

/// Thirty rows acknowledged, and a guard that lets three go.
fn guarded() -> World {
    let mut world = world(ExitMode::Delete);
    world.spec().guard = Guard { max_removed: STRICT, ..Guard::default() };
    world.write(&rows(0..30));
    world.run();
    world
}

#[track_caller]
fn blocked(world: &World) -> (String, String) {
    let error = world.try_run(RunOptions::default()).unwrap_err();
    assert_eq!(error.exit_class(), ExitClass::Blocked, "{error}");
    (error.report().unwrap().id.clone(), error.to_string())
}

#[test]
fn an_approved_run_passes_once_and_with_no_more_than_was_shown() {
    let world = guarded();
    world.write(&rows(4..30));
    let (id, message) = blocked(&world);
    assert!(message.contains(&format!("larder-loader approve {id}")), "{message}");
    let held = holds(&world.project, None).unwrap();
    assert_eq!((held.len(), held[0].run.as_str(), held[0].found.removed), (1, id.as_str(), 4));
    blocked(&world);

    // A newer run was stopped, so the older one cannot be approved any more.
    let error = approve(&world.project, &id).unwrap_err();
    assert!(error.to_string().contains("a newer run of the sync has taken its place"), "{error}");
    let (id, _) = blocked(&world);
    approve(&world.project, &id).unwrap();
    assert_eq!(world.cluster.records().len(), 30, "approving has pushed");
    world.write(&rows(5..30));
    let (grown, message) = blocked(&world);
    assert!(message.contains("this is more than it had found"), "{message}");
    assert_eq!(world.cluster.records().len(), 30);

    approve(&world.project, &grown).unwrap();
    world.write(&rows(4..30));
    let report = world.run();
    assert_eq!((report.rows.removed, report.outcome), (4, Outcome::Succeeded));
    assert!(report.notes[0].contains(&grown), "{:?}", report.notes);
    assert_eq!(holds(&world.project, None).unwrap(), []);
    // It is used up.
    world.write(&rows(8..30));
    blocked(&world);
}

#[test]
fn an_approval_is_gone_once_a_run_needs_none() {
    let world = guarded();
    world.write(&rows(4..30));
    let (id, _) = blocked(&world);
    approve(&world.project, &id).unwrap();
    world.write(&rows(0..30));
    world.run();
    assert!(approve(&world.project, &id).is_err());
    world.write(&rows(4..30));
    blocked(&world);
}

#[test]
fn an_empty_result_can_be_approved_and_not_merely_accepted() {
    let world = guarded();
    world.write(&Rows::new());
    let error = world.try_run(RunOptions { accept_removals: true, ..RunOptions::default() }).unwrap_err();
    assert!(error.to_string().contains("min_rows"), "{error}");
    let (id, message) = blocked(&world);
    assert!(message.contains("min_rows") && message.contains("30 of 30"), "{message}");
    approve(&world.project, &id).unwrap();
    world.run();
    assert_eq!(world.cluster.records().len(), 0);
}

#[test]
fn what_was_approved_for_a_delta_is_enough_for_a_full_run() {
    let world = guarded();
    world.write(&rows(4..30));
    let (id, _) = blocked(&world);
    approve(&world.project, &id).unwrap();
    assert_eq!(world.run_full().swept, 4);
    assert_eq!(world.cluster.records(), expected(&rows(4..30)));
}

#[test]
fn too_many_changes_are_stopped_if_the_sync_says_so() {
    let mut world = guarded();
    world.spec().guard.max_changed = Some(STRICT);
    let mut table = rows(0..30);
    table.values_mut().take(4).for_each(|row| row.0 += 100);
    world.write(&table);
    let (_, message) = blocked(&world);
    assert!(message.contains("4 of 30 rows changed"), "{message}");
    assert!(plan(&world.project, &sync_name(), PlanOptions::default(), &Silent).unwrap().blocked.is_some());
    // Every row is sent for another reason, so nobody knows how many differ.
    world.spec().fields[1].from = Expression::Template("[{{ row.b }}]".into());
    assert_eq!(world.run().resend, Some(ResendReason::MappingChanged));
}

/// Gives the source more rows once it was read.
struct Growing<'a>(&'a World, Rows);

impl Progress for Growing<'_> {
    fn phase(&self, phase: Phase, _total: Option<u64>) {
        if phase == Phase::Comparing {
            self.0.write(&self.1);
        }
    }
    fn advance(&self, _rows: u64) {}
}

#[test]
fn rows_that_the_source_counts_and_did_not_return_stop_removals() {
    let mut world = guarded();
    world.spec().guard.verify_row_count = Some(true);
    let run = |before: Rows, after: Rows| {
        world.write(&before);
        let growing = Growing(&world, after);
        let audience = Audience { progress: &growing, observer: &Unobserved };
        run_tuned(&world.project, &sync_name(), &RunOptions::default(), audience, world.tuning)
    };
    let error = run(rows(0..29), rows(0..30)).unwrap_err();
    assert!(error.exit_class() == ExitClass::Blocked && error.to_string().contains("counts 30"), "{error}");
    assert_eq!(world.cluster.records().len(), 30);
    // Nothing would be removed, so nobody counts; and fewer rows than were read have not been lost.
    assert_eq!(run(rows(0..30), rows(0..31)).unwrap().outcome, Outcome::Succeeded);
    assert_eq!(run(rows(0..29), rows(0..28)).unwrap().rows.removed, 1);
}

#[test]
fn a_guard_is_not_asked_about_rows_that_were_not_asked_for() {
    let mut world = guarded();
    world.spec().guard.min_rows = 20;
    world.write(&rows(0..40));
    let report = world.try_run(RunOptions { scope: Scope::First(5), ..RunOptions::default() }).unwrap();
    assert_eq!((report.rows.read, report.rows.removed, report.rows.unchanged), (5, 0, 5));
    assert_eq!(world.cluster.records().len(), 30);
}
