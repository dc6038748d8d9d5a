//! One example for each thing that a schedule can say.

use super::*;

#[test]
fn manual_syncs_run_when_asked_to() {
    let mut world = World::new("2026-11-24T12:00:00Z", &[("s", Schedule::default())]);
    assert!(world.run_until("2027-11-24T12:00:00Z").is_empty());
    let run = world.trigger("s", Request { full: true, ..Request::default() });
    let starts = world.starts();
    assert_eq!(starts.len(), 1);
    assert_eq!((starts[0].1.run.as_str(), starts[0].1.request.full), (run.as_str(), true));
}

#[test]
fn every_fires_at_once_and_then_at_whole_multiples() {
    let mut world = World::new("2026-11-24T12:03:10Z", &[("s", every(600))]);
    let starts = world.run_until("2026-11-24T12:30:00Z");
    assert_eq!(times(&starts), ["12:03:10", "12:10:00", "12:20:00", "12:30:00"]);
}

#[test]
fn every_waits_for_its_time_once_the_sync_has_run() {
    let mut world = World::new("2026-11-24T12:03:10Z", &[("s", every(600))]);
    world.entry("s").past.began = Some(at("2026-11-24T11:00:00Z"));
    assert_eq!(times(&world.run_until("2026-11-24T12:10:00Z")), ["12:10:00"]);
}

#[test]
fn cron_fires_in_its_zone() {
    let mut world = World::new("2026-11-24T12:03:10Z", &[("s", cron("30 13 * * *", "Europe/Paris"))]);
    assert_eq!(times(&world.run_until("2026-11-25T13:00:00Z")), ["12:30:00", "12:30:00"]);
}

#[test]
fn jitter_delays_by_the_same_every_time_it_is_asked() {
    let schedule = Schedule { jitter: seconds(300), ..every(600) };
    let mut first = World::new("2026-11-24T12:00:01Z", &[("a", schedule.clone()), ("b", schedule)]);
    for sync in ["a", "b"] {
        first.entry(sync).past.began = Some(at("2026-11-24T11:00:00Z"));
    }
    let mut again = World::new("2026-11-24T12:00:01Z", &[]);
    again.plan = Plan::new(&[("a", first.plan.schedules["a"].clone()), ("b", first.plan.schedules["b"].clone())]);
    again.book = first.book.clone();
    let starts = first.run_until("2026-11-24T14:00:00Z");
    assert_eq!(starts, again.run_until("2026-11-24T14:00:00Z"));
    for sync in ["a", "b"] {
        let delays: Vec<i64> =
            starts.iter().filter(|(other, _)| other == sync).map(|(_, at)| at.as_millisecond() % 600_000).collect();
        assert!((11..=12).contains(&delays.len()), "{sync}: {delays:?}");
        assert!(delays.iter().all(|delay| *delay < 300_000), "{sync}: {delays:?}");
        assert!(delays.iter().any(|delay| *delay != delays[0]), "{sync}: {delays:?}");
    }
}

#[test]
fn after_waits_for_all_of_its_syncs_since_its_own_last_run() {
    let plan = [("a", Schedule::default()), ("b", Schedule::default()), ("s", after(&["a", "b"], On::Success))];
    let mut world = World::new("2026-11-24T12:00:00Z", &plan);
    assert!(world.decide().is_empty());
    let run = |world: &mut World, sync: &str, ending| {
        world.pass(1);
        let run = world.trigger(sync, Request::default());
        assert_eq!(world.starts().len(), 1);
        world.end(&name(sync), &run, ending);
    };
    run(&mut world, "a", Ending::Settled);
    run(&mut world, "a", Ending::Settled);
    run(&mut world, "b", Ending::Failed);
    assert!(world.decide().is_empty(), "b has failed");
    run(&mut world, "b", Ending::Settled);
    world.pass(1);
    let starts = world.starts();
    assert_eq!((starts.len(), starts[0].0.as_str(), starts[0].1.cause), (1, "s", Trigger::After));
    // While it runs both run again: it is made again, once, when it has ended.
    for sync in ["a", "b"] {
        world.pass(1);
        let entry = world.entry(sync);
        entry.past = super::super::book::Past { began: None, succeeded: None, finished: None };
        let now = world.now;
        world.entry(sync).past.succeeded = Some(now);
    }
    assert!(world.starts().is_empty());
    let began = world.now - SignedDuration::from_secs(3);
    world.end(&name("s"), &starts[0].1.run, Ending::Settled);
    world.entry("s").past.began = Some(began);
    assert_eq!(world.starts().len(), 1);
    world.pass(1);
    assert!(world.starts().is_empty());
}

#[test]
fn after_finished_takes_failures_too() {
    let plan = [("a", Schedule::default()), ("s", after(&["a"], On::Finished))];
    let mut world = World::new("2026-11-24T12:00:00Z", &plan);
    let run = world.trigger("a", Request::default());
    world.decide();
    world.end(&name("a"), &run, Ending::Failed);
    assert_eq!(world.starts()[0].0, "s");
}

#[test]
fn after_is_not_made_again_by_a_run_that_failed_to_begin() {
    let plan = [("a", Schedule::default()), ("s", after(&["a"], On::Success))];
    let mut world = World::new("2026-11-24T12:00:00Z", &plan);
    let now = world.now;
    world.entry("a").past.succeeded = Some(now);
    let starts = world.starts();
    let entry = world.entry("s");
    let begun = entry.started.clone().unwrap();
    assert_eq!(begun.ticket, starts[0].1);
    finish(entry, &begun, Ending::Failed, Retries::default(), now, &mut |_| "x".to_owned());
    assert!(world.decide().is_empty());
}

#[test]
fn overlapping_fires_are_left_out_or_wait() {
    for (overlap, expected) in [(Overlap::Skip, 0), (Overlap::Queue, 1)] {
        let mut world = World::new("2026-11-24T12:00:00Z", &[("s", Schedule { overlap, ..every(60) })]);
        let first = world.starts();
        assert_eq!(first.len(), 1);
        for _ in 0..3 {
            world.pass(60);
            let skipped = world.decide().iter().filter(|remark| matches!(remark, Remark::Skipped(..))).count();
            assert_eq!(skipped, 1 - expected, "{overlap:?}");
        }
        world.pass(1);
        world.end(&name("s"), &first[0].1.run, Ending::Settled);
        assert_eq!(world.starts().len(), expected, "{overlap:?}");
    }
}

#[test]
fn calls_wait_for_the_run_under_way_and_become_one() {
    let mut world = World::new("2026-11-24T12:00:00Z", &[("s", Schedule::default())]);
    let first = world.trigger("s", Request::default());
    assert_eq!(world.starts().len(), 1);
    let second = world.trigger("s", Request { reset: true, ..Request::default() });
    let third = world.trigger("s", Request { full: true, ..Request::default() });
    assert!(second == third && second != first);
    assert!(world.starts().is_empty());
    world.end(&name("s"), &first, Ending::Settled);
    let starts = world.starts();
    assert_eq!(starts.len(), 1);
    assert_eq!(starts[0].1.request, Request { full: true, reset: true });
}

#[test]
fn missed_fires_are_caught_up_by_one_run_or_forgotten() {
    for (catch_up, expected) in [(CatchUp::One, 1), (CatchUp::None, 0)] {
        let mut world = World::new("2026-11-24T12:00:00Z", &[("s", Schedule { catch_up, ..every(600) })]);
        world.run_until("2026-11-24T12:05:00Z");
        // Nobody decides for a week and a bit.
        world.now = at("2026-12-01T12:05:00Z");
        let starts = world.starts();
        assert_eq!(starts.len(), expected, "{catch_up:?}");
        if let Some((sync, ticket)) = starts.first() {
            world.end(&name(sync), &ticket.run, Ending::Settled);
        }
        assert_eq!(times(&world.run_until("2026-12-01T12:25:00Z")), ["12:10:00", "12:20:00"]);
    }
}

#[test]
fn a_short_restart_misses_nothing() {
    let schedule = Schedule { catch_up: CatchUp::None, ..every(600) };
    let mut world = World::new("2026-11-24T12:00:00Z", &[("s", schedule)]);
    world.run_until("2026-11-24T12:05:00Z");
    world.now = at("2026-11-24T12:10:59Z");
    assert_eq!(world.starts().len(), 1);
}

#[test]
fn a_clock_that_goes_back_repeats_nothing() {
    let mut world = World::new("2026-11-24T12:00:00Z", &[("s", every(600))]);
    world.run_until("2026-11-24T12:10:00Z");
    world.now = at("2026-11-24T11:00:00Z");
    assert_eq!(times(&world.run_until("2026-11-24T12:20:00Z")), ["12:20:00"]);
}

#[test]
fn a_changed_schedule_counts_from_now_on() {
    let mut world = World::new("2026-11-24T12:00:00Z", &[("s", every(600))]);
    world.run_until("2026-11-24T12:05:00Z");
    world.now = at("2026-11-24T15:03:00Z");
    world.plan = Plan::new(&[("s", cron("*/5 * * * *", "UTC"))]);
    assert_eq!(times(&world.run_until("2026-11-24T15:10:00Z")), ["15:05:00", "15:10:00"]);
}

#[test]
fn paused_syncs_run_only_when_asked_to_and_catch_up_when_resumed() {
    let mut world = World::new("2026-11-24T12:00:00Z", &[("s", every(600))]);
    world.run_until("2026-11-24T12:05:00Z");
    world.entry("s").is_paused = true;
    assert!(world.run_until("2026-11-24T13:05:00Z").is_empty());
    world.trigger("s", Request::default());
    assert_eq!(world.run_until("2026-11-24T13:15:00Z").len(), 1);
    world.entry("s").is_paused = false;
    assert_eq!(times(&world.run_until("2026-11-24T13:20:00Z")), ["13:15:00", "13:20:00"]);
}

#[test]
fn failed_runs_are_tried_again_with_growing_pauses() {
    let retries = Retries { times: 3, backoff: seconds(60), max_backoff: seconds(150) };
    let mut world = World::new("2026-11-24T12:00:00Z", &[("s", Schedule { retries, ..Schedule::default() })]);
    world.trigger("s", Request { full: true, ..Request::default() });
    let mut pauses = Vec::new();
    for _ in 0..4 {
        let starts = world.starts();
        assert_eq!(starts.len(), 1);
        assert!(starts[0].1.request.full, "a retry asks for the same");
        let ended = world.now;
        world.end(&name("s"), &starts[0].1.run, Ending::Failed);
        let Some(pending) = &world.entry("s").pending else { continue };
        let due = pending.due;
        pauses.push(due.duration_since(ended).as_secs());
        world.now = due - SignedDuration::from_secs(1);
        assert!(world.starts().is_empty());
        world.now = due;
    }
    assert_eq!(pauses, [60, 120, 150]);
    assert_eq!(world.entry("s").pending, None);
}

#[test]
fn a_fire_does_not_wait_for_a_retry() {
    let retries = Retries { times: 3, ..Retries::default() };
    let mut world = World::new("2026-11-24T12:00:00Z", &[("s", Schedule { retries, ..every(30) })]);
    let starts = world.starts();
    world.end(&name("s"), &starts[0].1.run, Ending::Failed);
    world.pass(30);
    let starts = world.starts();
    assert_eq!((starts.len(), starts[0].1.cause, starts[0].1.failures), (1, Trigger::Schedule, 0));
}

#[test]
fn limits_let_the_longest_waiting_go_first() {
    let mut world = World::new("2026-11-24T12:00:00Z", &[]);
    let names = ["a1", "a2", "a3", "b1", "b2"];
    world.plan = Plan::new(&names.map(|name| (name, Schedule::default())));
    world.plan.most = 2;
    world.plan.most_of_source.insert("a", 1);
    for sync in ["a2", "a1", "b2", "b1", "a3"] {
        world.trigger(sync, Request::default());
        world.pass(1);
    }
    let mut order = Vec::new();
    let mut running = world.starts();
    while let Some((sync, ticket)) = running.pop() {
        order.push(sync.clone());
        assert!(running.len() < 2);
        world.end(&name(&sync), &ticket.run, Ending::Settled);
        running.extend(world.starts());
        assert!(running.iter().filter(|(sync, _)| sync.starts_with('a')).count() <= 1);
    }
    assert_eq!(order, ["b2", "b1", "a2", "a1", "a3"]);
}

#[test]
fn a_run_whose_loader_vanished_is_made_again_and_given_up_in_the_end() {
    let mut world = World::new("2026-11-24T12:00:00Z", &[("s", Schedule::default())]);
    world.trigger("s", Request { full: true, ..Request::default() });
    assert_eq!(world.starts().len(), 1);
    for _ in 0..2 {
        world.entry("s").lease.is_live = false;
        let starts = world.starts();
        assert_eq!(starts.len(), 1);
        assert!(starts[0].1.request.full);
    }
    world.entry("s").lease.is_live = false;
    assert!(matches!(world.decide()[..], [Remark::GivenUp(..)]));
    assert!(world.decide().is_empty());
}

#[test]
fn a_run_whose_end_was_recorded_is_not_made_again() {
    let mut world = World::new("2026-11-24T12:00:00Z", &[("s", Schedule::default())]);
    world.trigger("s", Request::default());
    assert_eq!(world.starts().len(), 1);
    let entry = world.entry("s");
    entry.lease.is_live = false;
    entry.record = super::super::book::Record::Ended(Ending::Settled);
    assert!(world.decide().is_empty());
    assert_eq!(world.entry("s").started, None);
}

#[test]
fn runs_that_a_stop_or_another_loader_kept_from_ending_are_made_again() {
    let mut world = World::new("2026-11-24T12:00:00Z", &[("s", Schedule::default())]);
    let run = world.trigger("s", Request::default());
    world.decide();
    world.end(&name("s"), &run, Ending::Locked);
    assert!(world.starts().is_empty());
    world.pass(5);
    let starts = world.starts();
    assert_eq!((starts.len(), &starts[0].1.run), (1, &run));
    world.end(&name("s"), &run, Ending::Stopped);
    let starts = world.starts();
    assert_eq!(starts.len(), 1);
    assert_ne!(starts[0].1.run, run);
}

#[test]
fn what_waits_for_a_sync_that_is_gone_is_dropped() {
    let mut world = World::new("2026-11-24T12:00:00Z", &[("s", Schedule::default())]);
    let run = world.trigger("s", Request::default());
    world.plan = Plan::new(&[]);
    assert_eq!(world.decide(), [Remark::Dropped(name("s"), run)]);
    assert!(world.decide().is_empty());
}

#[test]
fn the_end_of_a_run_that_was_taken_over_changes_nothing() {
    let mut world = World::new("2026-11-24T12:00:00Z", &[("s", Schedule::default())]);
    world.trigger("s", Request::default());
    world.decide();
    let before = world.book.clone();
    let now = world.now;
    let begun = world.entry("s").started.clone().unwrap();
    let overtaken = Started { fence: begun.fence - 1, ..begun };
    finish(world.entry("s"), &overtaken, Ending::Failed, Retries::default(), now, &mut |_| unreachable!());
    assert_eq!(world.book, before);
}
