//! Several destinations: one reading, and each its own state, counts and outcome.

use super::*;

/// A world with a second cluster, `us`, beside the first, whose destination is `main`.
struct Regions {
    world: World,
    us: FakeCluster,
}

fn us() -> DestinationName {
    DestinationName::new("us").unwrap()
}

fn regions(on_exit: ExitMode) -> Regions {
    let mut world = world(on_exit);
    let us_cluster = FakeCluster::start(Content::default());
    world.project.clusters.insert(us(), cluster(&us_cluster.url));
    world.spec().destinations = vec![main(), us()];
    Regions { world, us: us_cluster }
}

impl Regions {
    /// Both clusters hold just these rows.
    #[track_caller]
    fn expect(&self, main: &Rows, us: &Rows) {
        assert_eq!(self.world.cluster.records(), expected(main), "main");
        assert_eq!(self.us.records(), expected(us), "us");
    }
}

fn outcomes(report: &RunReport) -> Vec<(&str, Outcome, u64)> {
    report.deliveries.iter().map(|one| (one.destination.as_str(), one.outcome, one.sent)).collect()
}

#[test]
fn rows_are_read_once_and_each_destination_gets_what_it_misses() {
    let Regions { mut world, us: us_cluster } = regions(ExitMode::Delete);
    world.spec().destinations = vec![main()];
    world.write(&rows(0..10));
    world.run();
    world.spec().destinations = vec![main(), us()];
    world.write(&rows(2..12));
    let report = world.run();
    assert_eq!(outcomes(&report), [("main", Outcome::Succeeded, 4), ("us", Outcome::Succeeded, 10)]);
    assert_eq!((report.rows.read, report.rows.added, report.rows.removed, report.sent), (10, 12, 2, 14));
    let all = Regions { world, us: us_cluster };
    all.expect(&rows(2..12), &rows(2..12));
    assert_eq!(all.world.run().sent, 0);
    let entry = history(&all.world.project, None, 2).unwrap().remove(1);
    let states: Vec<(&str, &str, u64)> =
        entry.deliveries.iter().map(|one| (one.destination.as_str(), one.state.as_str(), one.sent)).collect();
    assert_eq!(states, [("main", "succeeded", 4), ("us", "succeeded", 10)]);
    assert_eq!((entry.sent, entry.rows.read), (14, 10));
    let plan = plan(&all.world.project, &sync_name(), PlanOptions::default(), &Silent).unwrap();
    assert_eq!((plan.to_send, plan.deliveries.len()), (0, 2));
}

#[test]
fn a_destination_that_is_away_stops_no_other_and_gets_what_it_misses_later() {
    let mut all = regions(ExitMode::Delete);
    all.world.write(&rows(0..10));
    all.world.run();
    let url =
        std::mem::replace(&mut all.world.project.clusters.get_mut(&us()).unwrap().url, "http://127.0.0.1:1".into());
    all.world.tuning.retry.budget = Duration::from_millis(5);
    for range in [2..12, 5..15] {
        all.world.write(&rows(range.clone()));
        let error = all.world.try_run(RunOptions::default()).unwrap_err();
        assert_eq!(error.exit_class(), ExitClass::Failed);
        assert!(error.to_string().starts_with("us: gave up trying to describe the collection"), "{error}");
        let report = error.report().unwrap();
        assert_eq!(report.deliveries[0].outcome, Outcome::Succeeded);
        assert_eq!((report.outcome, report.deliveries[1].outcome), (Outcome::Failed, Outcome::Failed));
        all.expect(&rows(range), &rows(0..10));
    }
    all.world.project.clusters.get_mut(&us()).unwrap().url = url;
    all.world.tuning.retry = QUICK;
    let report = all.world.run();
    assert_eq!(outcomes(&report), [("main", Outcome::Succeeded, 0), ("us", Outcome::Succeeded, 10)]);
    all.expect(&rows(5..15), &rows(5..15));
}

#[test]
fn a_source_is_not_asked_if_no_destination_is_there() {
    let mut all = regions(ExitMode::Delete);
    // There is no table: reading it would fail with another message.
    all.world.tuning.retry.budget = Duration::from_millis(5);
    for name in [main(), us()] {
        all.world.project.clusters.get_mut(&name).unwrap().url = "http://127.0.0.1:1".into();
    }
    let message = all.world.fails();
    assert!(message.contains("main: gave up") && message.contains("us: gave up"), "{message}");
    assert!(!message.contains("no such table"), "{message}");
}

#[test]
fn a_destination_that_refuses_in_the_middle_stops_no_other() {
    let all = regions(ExitMode::Delete);
    all.world.write(&rows(0..30));
    all.us.decide(|arrival| if arrival.before < 2 { Fate::Apply } else { Fate::Status(400, "invalid_request", None) });
    let error = all.world.try_run(RunOptions::default()).unwrap_err();
    assert_eq!(error.report().unwrap().deliveries[0].outcome, Outcome::Succeeded);
    assert_eq!(all.world.cluster.records(), expected(&rows(0..30)));
    all.us.decide(|_| Fate::Apply);
    let report = all.world.run();
    assert_eq!(report.deliveries[0].sent, 0);
    assert!(report.deliveries[1].sent < 30, "what was acknowledged is sent again");
    all.expect(&rows(0..30), &rows(0..30));
}

#[test]
fn a_row_that_one_destination_rejects_is_tried_there_alone() {
    let all = regions(ExitMode::Delete);
    all.world.write(&rows(0..10));
    all.us.decide(|_| Fate::Reject(vec!["k3".into()]));
    let report = all.world.run();
    assert_eq!(outcomes(&report), [("main", Outcome::Succeeded, 10), ("us", Outcome::Partial, 10)]);
    assert_eq!((report.outcome, report.rows.rejected), (Outcome::Partial, 1));
    let kept = rejected(&all.world.project, &report.id).unwrap();
    assert_eq!((kept.len(), kept[0].destination.as_str(), kept[0].rejection.key.as_deref()), (1, "us", Some("k3")));
    all.us.decide(|_| Fate::Apply);
    assert_eq!(outcomes(&all.world.run()), [("main", Outcome::Succeeded, 0), ("us", Outcome::Succeeded, 1)]);
    all.expect(&rows(0..10), &rows(0..10));
}

#[test]
fn a_guard_holds_the_destination_that_it_is_about() {
    let mut all = regions(ExitMode::Delete);
    all.world.spec().guard = Guard { max_removed: Limit { percent: 10.0, rows: 2 }, ..Guard::default() };
    all.world.spec().destinations = vec![main()];
    all.world.write(&rows(0..30));
    all.world.run();
    all.world.write(&rows(0..10));
    all.world.spec().destinations = vec![main(), us()];
    let error = all.world.try_run(RunOptions::default()).unwrap_err();
    assert_eq!(error.exit_class(), ExitClass::Blocked);
    assert_eq!(outcomes(error.report().unwrap()), [("main", Outcome::Blocked, 0), ("us", Outcome::Succeeded, 10)]);
    all.expect(&rows(0..30), &rows(0..10));
}

#[test]
fn a_destination_that_was_left_out_for_a_while_goes_on_where_it_was() {
    let mut all = regions(ExitMode::Delete);
    all.world.write(&rows(0..10));
    all.world.run();
    all.world.spec().destinations = vec![main()];
    all.world.write(&rows(1..11));
    all.world.run();
    all.expect(&rows(1..11), &rows(0..10));
    all.world.spec().destinations = vec![us(), main()];
    assert_eq!(outcomes(&all.world.run()), [("us", Outcome::Succeeded, 2), ("main", Outcome::Succeeded, 0)]);
    all.expect(&rows(1..11), &rows(1..11));
}

#[test]
fn damaged_state_of_one_destination_stops_no_other() {
    let all = regions(ExitMode::Delete);
    all.world.write(&rows(0..10));
    all.world.run();
    let file = all.world.project.state_dir.join("s/us/snapshot-1");
    crate::diff::snapshot::damage(&file, std::fs::metadata(&file).unwrap().len() - 1);
    all.world.write(&rows(1..11));
    let error = all.world.try_run(RunOptions::default()).unwrap_err();
    assert!(error.to_string().contains("us: ") && error.to_string().contains("run s --full"), "{error}");
    all.expect(&rows(1..11), &rows(0..10));
    all.world.run_full();
    all.expect(&rows(1..11), &rows(1..11));
    assert_eq!(all.world.run().sent, 0);
}
