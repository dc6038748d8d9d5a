//! What can be seen of runs afterwards: requests, rejected rows, keys explained, samples of plans, and for how long.

use super::*;
use crate::inspect::explain::{Explanation, explain};
use crate::inspect::records::Record as Held;
use crate::inspect::samples::complete;
use crate::inspect::status::status;
use crate::state::requests::RequestEntry;

fn database(world: &World) -> Connection {
    Connection::open(world.project.state_dir.join("state.db")).unwrap()
}

fn explained(world: &World, key: &str) -> Explanation {
    explain(&world.project, &sync_name(), key).unwrap()
}

fn verdict(world: &World, key: &str) -> String {
    explained(world, key).destinations[0].verdict.clone()
}

#[test]
fn requests_are_remembered_with_their_repeats() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..7));
    world.cluster.decide(|arrival| match arrival.before {
        0 => Fate::Status(503, "overloaded", None),
        1 => Fate::DropAfter,
        _ => Fate::Apply,
    });
    let run = world.run();
    let all = requests(&world.project, &run.id).unwrap();
    assert_eq!(all.len(), 5, "three batches, two of which were sent twice or one thrice: {all:?}");
    let failed: Vec<&RequestEntry> = all.iter().filter(|entry| entry.status != Some(200)).collect();
    assert_eq!(failed.len(), 2);
    assert!(failed.iter().any(|entry| entry.status == Some(503) && entry.code.as_deref() == Some("overloaded")));
    assert!(failed.iter().any(|entry| entry.status.is_none() && entry.error.is_some()));
    assert_eq!(all.iter().filter(|entry| entry.attempt == 1).map(|entry| entry.rows).sum::<u64>(), 7);
    assert!(all.iter().all(|entry| entry.op == "upsert" && entry.destination == "main" && entry.bytes > 0));
    assert!(requests(&world.project, "none").is_err());

    let keys: Vec<Vec<u8>> = database(&world)
        .prepare("SELECT keys FROM requests WHERE keys IS NOT NULL")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(keys.iter().map(Vec::len).sum::<usize>(), 7 * 8, "a hash for each key, once");
}

#[test]
fn a_log_that_cannot_be_written_fails_no_run() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..7));
    world.run();
    let broken = "CREATE TRIGGER broken BEFORE INSERT ON requests BEGIN SELECT RAISE(ABORT, 'no'); END";
    database(&world).execute_batch(broken).unwrap();
    world.write(&rows(0..9));
    let run = world.run();
    assert_eq!((run.outcome, run.sent), (Outcome::Succeeded, 2));
    assert!(requests(&world.project, &run.id).unwrap().is_empty());
}

#[test]
fn a_key_is_explained_by_what_became_of_it() {
    let mut world = world(ExitMode::Delete);
    let mut table = rows(0..6);
    world.write(&table);
    assert!(verdict(&world, "k1").contains("the next run sends every row"));
    let run = world.run();
    let seen = explained(&world, "k1");
    assert_eq!((seen.source.rows, seen.source.row), (1, Some(2)));
    assert_eq!(seen.source.fields["fa"].get(), "1");
    let main = &seen.destinations[0];
    assert_eq!((main.acknowledged, main.row_hash.is_some()), ("same", true));
    assert_eq!(main.row_hash, main.acknowledged_hash);
    assert_eq!(main.last_push.as_ref().unwrap().run, run.id);
    assert!(matches!(&main.record, Held::Found { fields } if fields["fb"].get() == "\"<b1>\""));
    assert!(main.verdict.contains("is as the row says"), "{}", main.verdict);

    table.get_mut("k1").unwrap().0 = 50;
    table.remove("k2");
    world.write(&table);
    assert!(verdict(&world, "k1").contains("the next run sends it"));
    assert!(verdict(&world, "k2").contains("the next run removes it"));
    world.cluster.decide(|_| Fate::Reject(vec!["k1".into()]));
    world.run();
    assert!(verdict(&world, "k1").contains("the row was rejected, and each run tries it again: field `f`: no"));
    assert!(verdict(&world, "k2").contains("neither a row nor a record"));
    world.cluster.content().records.remove("k3");
    assert!(verdict(&world, "k3").contains("somebody else has deleted it"));
    world.cluster.forbid_lookups();
    let main = &explained(&world, "k4").destinations[0];
    assert!(matches!(&main.record, Held::Unknown { reason } if reason.contains("scope `read`")));
    assert!(main.verdict.contains("the cluster cannot be asked"), "{}", main.verdict);

    world.spec().fields[0].from = Expression::Template("{{ row.b }}".into());
    let seen = explained(&world, "k4");
    assert!(seen.source.error.as_ref().unwrap().contains("field `fa`"), "{:?}", seen.source);
    assert!(seen.destinations[0].verdict.contains("cannot be mapped"));
}

#[test]
fn what_is_redacted_is_not_shown_and_not_kept() {
    let mut world = world(ExitMode::Delete);
    world.project.redaction = Redaction { fields: BTreeSet::from(["fb".into(), "b".into()]), keys: true };
    world.write(&rows(0..4));
    world.run();
    world.cluster.decide(|_| Fate::Reject(vec!["k2".into()]));
    let mut table = rows(0..4);
    table.get_mut("k2").unwrap().0 = 9;
    world.write(&table);
    let run = world.run();
    let kept = rejected(&world.project, &run.id).unwrap();
    let key = kept[0].rejection.key.clone().unwrap();
    assert!(key.starts_with('#') && key.len() == 17, "{key}");
    assert_eq!(run.rejections[0].key.as_ref(), Some(&key));
    let seen = explained(&world, "k2");
    assert_eq!(seen.key, key);
    assert_eq!((seen.source.fields["fb"].get(), seen.source.columns["b"].get()), ("\"***\"", "\"***\""));
    assert!(seen.destinations[0].rejected.is_some(), "the hash is not found again");
    let shows = |text: &str| ["\"b2\"", "<b2>", "\"k2\""].iter().any(|hidden| text.contains(hidden));
    let text = serde_json::to_string(&seen).unwrap();
    assert!(!shows(&text), "{text}");
    let plan = plan(&world.project, &sync_name(), PlanOptions { full: false, samples: 5 }, &Silent).unwrap();
    let plan = complete(&world.project, &world.project.syncs[&sync_name()], plan).unwrap();
    let text = serde_json::to_string(&plan).unwrap();
    assert!(!shows(&text) && text.contains(&key), "{text}");
}

#[test]
fn samples_show_each_field_old_and_new() {
    let world = world(ExitMode::Delete);
    let mut table = rows(0..6);
    world.write(&table);
    world.run();
    table.get_mut("k1").unwrap().0 = 50;
    table.remove("k2");
    table.insert("new".into(), (1, "x".into()));
    world.write(&table);
    let planned = |world: &World| {
        let plan = plan(&world.project, &sync_name(), PlanOptions { full: false, samples: 5 }, &Silent).unwrap();
        let plan = complete(&world.project, &world.project.syncs[&sync_name()], plan).unwrap();
        assert_eq!(plan.samples.len(), 3);
        plan.samples.into_iter().map(|sample| (sample.key.clone(), sample)).collect::<BTreeMap<_, _>>()
    };
    let samples = planned(&world);
    let values = |key: &str, at: usize| {
        let field = &samples[key].fields[at];
        let text =
            |value: &Option<Box<serde_json::value::RawValue>>| value.as_ref().map(|value| value.get().to_owned());
        (text(&field.old), text(&field.new), field.changes)
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(values("k1", 0), (some("1"), some("50"), true));
    assert_eq!(values("k1", 1), (some("\"<b1>\""), some("\"<b1>\""), false));
    assert_eq!(values("k2", 0), (some("2"), None, true));
    assert_eq!(values("new", 0), (None, some("1"), true));
    assert_eq!(samples["k1"].old, OldRecord::Read);
    assert_eq!(samples["new"].old, OldRecord::NotRead);
    world.cluster.forbid_lookups();
    let samples = planned(&world);
    assert!(matches!(&samples["k1"].old, OldRecord::Unknown { reason } if reason.contains("scope `read`")));
}

#[test]
fn what_is_old_is_forgotten_but_for_the_newest_run() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..4));
    world.cluster.decide(|_| Fate::Reject(vec!["k2".into()]));
    let ids: Vec<String> = (0..3).map(|_| world.run().id).collect();
    let (old, middle) = (&ids[0], &ids[1]);
    let age = "UPDATE runs SET started_at = ?2 WHERE id = ?1";
    database(&world).execute(age, [old, "2020-01-01T00:00:00Z"]).unwrap();
    let day = (jiff::Timestamp::now() - Duration::from_secs(40 * 86_400)).to_string();
    database(&world).execute(age, [middle, &day]).unwrap();
    let last = world.run().id;
    let left: Vec<String> = history(&world.project, None, 10).unwrap().into_iter().map(|run| run.id).collect();
    assert_eq!(left.iter().collect::<Vec<_>>(), [&last, &ids[2], middle], "older than 90 days goes");
    assert!(rejected(&world.project, middle).unwrap().is_empty(), "rejected rows go after 30 days");
    assert_eq!(rejected(&world.project, &ids[2]).unwrap().len(), 1);
    assert!(requests(&world.project, old).is_err() && !requests(&world.project, &last).unwrap().is_empty());
}

#[test]
fn the_request_log_keeps_to_its_size() {
    let mut world = world(ExitMode::Delete);
    world.project.retention.requests_bytes = 700;
    world.write(&rows(0..30));
    let first = world.run();
    let kept = |run: &RunReport| requests(&world.project, &run.id).unwrap().len();
    assert_eq!((first.batches, kept(&first)), (10, 3), "a batch of three rows takes 224 bytes");
    world.write(&rows(0..60));
    let second = world.run();
    assert_eq!((second.batches, kept(&first), kept(&second)), (10, 0, 3), "the newest are kept");
}

#[test]
fn a_status_says_how_a_sync_is_doing() {
    let mut world = world(ExitMode::Delete);
    world.write(&rows(0..30));
    let look = |world: &World| {
        let specs: Vec<&SyncSpec> = world.project.syncs.values().collect();
        status(&world.project, &specs, jiff::Timestamp::now()).unwrap().remove(0)
    };
    let never = look(&world);
    assert!(never.last_run.is_none() && never.last_success_at.is_none() && never.destinations[0].rows.is_none());
    world.run();
    let good = look(&world);
    assert_eq!(good.destinations[0].rows, Some(30));
    assert!(good.age_seconds.is_some_and(|age| age < 3600));
    world.spec().guard = Guard { max_removed: Limit { percent: 1.0, rows: 0 }, min_rows: 0, ..Guard::default() };
    world.write(&rows(0..3));
    world.fails();
    let held = look(&world);
    assert_eq!(held.held, held.last_run.map(|run| run.id));
    assert_eq!(held.last_success_at, good.last_success_at);
}
