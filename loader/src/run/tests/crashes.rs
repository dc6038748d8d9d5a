//! The loader dies. Its folder is copied at every moment at which a batch arrives, and a new loader starts from the
//! copy, against the cluster as it was then.

use std::fs;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::state::journal::{self, Intent, Journal, JournalHeader};

/// The loader's folder and the cluster's content at one moment.
struct Moment {
    state: TempDir,
    content: Content,
    arrived: Vec<String>,
}

pub(super) fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    copy_into(from, to.path());
    to
}

fn copy_into(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_into(&path, &target);
        } else if let Err(error) = fs::copy(&path, &target) {
            // A temporary file may be gone since the folder was listed.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}", path.display());
        }
    }
}

/// Runs, and returns the moments at which batches arrived.
fn run_and_watch(world: &World, options: RunOptions) -> Vec<Moment> {
    let moments: Arc<Mutex<Vec<Moment>>> = Arc::default();
    let (watching, state_dir) = (Arc::clone(&moments), world.project.state_dir.clone());
    world.cluster.decide(move |arrival| {
        let moment =
            Moment { state: copy(&state_dir), content: arrival.content.clone(), arrived: arrival.keys.clone() };
        watching.lock().unwrap().push(moment);
        Fate::Apply
    });
    world.try_run(options).unwrap();
    world.cluster.decide(|_| Fate::Apply);
    std::mem::take(&mut moments.lock().unwrap())
}

/// A new loader starts from the moment; returns what it reports.
fn resume(world: &World, moment: &Moment, applied: bool) -> (RunReport, BTreeMap<String, Record>) {
    let mut content = moment.content.clone();
    if applied {
        // The batch was taken, and the loader died before it heard so.
        let all = world.cluster.records();
        for key in &moment.arrived {
            match all.get(key) {
                Some(record) => drop(content.records.insert(key.clone(), record.clone())),
                None => drop(content.records.remove(key)),
            }
        }
    }
    let cluster = FakeCluster::start(content);
    let state = copy(moment.state.path());
    let mut project = project(world.dir.path(), state.path(), &cluster.url, world.project.syncs["s"].on_exit);
    project.syncs.get_mut("s").unwrap().fields = world.project.syncs["s"].fields.clone();
    let report = run_tuned(&project, &sync_name(), &RunOptions::default(), quiet(), world.tuning).unwrap();
    let again = run_tuned(&project, &sync_name(), &RunOptions::default(), quiet(), world.tuning).unwrap();
    assert_eq!(again.sent, 0, "the state after the resumed run is not complete");
    (report, cluster.records())
}

#[test]
fn a_first_run_that_dies_is_taken_up_where_it_stopped() {
    let world = world(ExitMode::Delete);
    let table = rows(0..30);
    world.write(&table);
    let moments = run_and_watch(&world, RunOptions::default());
    assert_eq!(moments.len(), 10);
    let mut fewest = u64::MAX;
    for (at, moment) in moments.iter().enumerate() {
        for applied in [false, true] {
            let (report, records) = resume(&world, moment, applied);
            assert_eq!(records, expected(&table), "moment {at}");
            assert!(report.notes[0].contains("was cut off"), "{:?}", report.notes);
            fewest = fewest.min(report.sent);
            let in_cluster = moment.content.records.len() as u64;
            // Of what the cluster has, only answers on their way may be sent again: four batches of three.
            assert!(report.sent <= 30 - in_cluster + 12, "moment {at}: {} with {in_cluster} stored", report.sent);
        }
    }
    assert!(fewest <= 12, "even at the last moment {fewest} rows were sent again");
}

#[test]
fn changes_and_removals_survive_a_death() {
    for mode in [ExitMode::Keep, ExitMode::Clear, ExitMode::Delete] {
        let world = world(mode);
        world.write(&rows(0..12));
        world.run();
        let mut table = rows(4..16);
        table.values_mut().for_each(|row| row.0 += 1000);
        world.write(&table);
        let moments = run_and_watch(&world, RunOptions::default());
        let end = world.cluster.records();
        for (at, moment) in moments.iter().enumerate() {
            for applied in [false, true] {
                let (_, records) = resume(&world, moment, applied);
                assert_eq!(records, end, "{mode:?}, moment {at}");
            }
        }
    }
}

#[test]
fn a_full_run_and_a_remap_survive_a_death() {
    let mut world = world(ExitMode::Delete);
    world.write(&rows(0..12));
    world.run();
    world.spec().fields[1].from = Expression::Template("[{{ row.b }}]".into());
    for full in [false, true] {
        let moments = run_and_watch(&world, RunOptions { full, ..RunOptions::default() });
        let end = world.cluster.records();
        for (at, moment) in moments.iter().enumerate() {
            let (_, records) = resume(&world, moment, at % 2 == 0);
            assert_eq!(records, end, "full: {full}, moment {at}");
        }
        world.spec().fields[1].from = Expression::Template("({{ row.b }})".into());
    }
}

#[test]
fn a_cut_off_run_is_in_the_history() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..9));
    let moments = run_and_watch(&world, RunOptions::default());
    let mut project = project(world.dir.path(), moments[2].state.path(), "http://127.0.0.1:1", ExitMode::Delete);
    plan(&project, &sync_name(), PlanOptions::default(), &Silent).unwrap();
    let entry = history(&project, None, 1).unwrap().remove(0);
    assert_eq!((entry.state.as_str(), entry.reason.as_deref()), ("partial", Some("interrupted")));
    assert!(entry.sent >= entry.acknowledged && entry.sent >= 3, "{entry:?}");
    project.state_dir = world.project.state_dir.clone();
    assert_eq!(history(&project, None, 1).unwrap()[0].state, "succeeded");
}

/// A journal of one batch that was answered and one that was not.
fn write_journal(path: &Path) {
    let header = JournalHeader {
        hashes: crate::diff::snapshot::Hashes::Cells,
        run: "r".into(),
        sync: "s".into(),
        collection: "c".into(),
        fingerprint: 1,
        secret: crate::diff::hash::HashSecret::random().unwrap(),
        base: None,
        base_known: false,
    };
    let mut journal = Journal::create(path, &header).unwrap();
    let hash = header.secret.row(b"x");
    journal.intend(1, [("a", Intent::Upsert(hash)), ("b", Intent::Removal)].into_iter()).unwrap();
    journal.answered(1, &[1]).unwrap();
    journal.intend(2, std::iter::once(("c", Intent::Upsert(hash)))).unwrap();
}

#[test]
fn a_torn_journal_is_read_up_to_its_last_whole_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    write_journal(&path);
    let whole = fs::read(&path).unwrap();
    let mut tallies = BTreeSet::new();
    for len in 0..=whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        match journal::read(&path).unwrap() {
            Some(journal) => {
                let tally = journal.tally().unwrap();
                tallies.insert((tally.sent, tally.acknowledged));
            }
            None => assert!(tallies.is_empty(), "{len} bytes"),
        }
    }
    assert_eq!(tallies, BTreeSet::from([(0, 0), (2, 0), (2, 1), (3, 1)]));
}

#[test]
fn a_damaged_journal_is_an_error_that_a_full_run_heals() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..9));
    let moments = run_and_watch(&world, RunOptions::default());
    let state = &moments[2].state;
    let path = state.path().join("s/main/journal");
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let cluster = FakeCluster::start(moments[2].content.clone());
    let project = project(world.dir.path(), state.path(), &cluster.url, ExitMode::Delete);
    let run =
        |full| run_tuned(&project, &sync_name(), &RunOptions { full, ..RunOptions::default() }, quiet(), world.tuning);
    let message = run(false).unwrap_err().to_string();
    assert!(message.contains("journal") && message.contains("run s --full"), "{message}");
    let listed = || -> Vec<(String, Option<String>, Option<String>)> {
        let entries = history(&project, None, 9).unwrap();
        entries.into_iter().map(|entry| (entry.state, entry.reason, entry.error)).collect()
    };
    let cut_off = ("partial".to_owned(), Some("interrupted".to_owned()), None);
    let failed = ("failed".to_owned(), None, Some(message.clone()));
    assert_eq!(listed(), [failed.clone(), cut_off.clone()]);
    // The killed run must stay known: its journal still counts.
    assert_eq!(run(false).unwrap_err().to_string(), message);
    let report = run(true).unwrap();
    assert_eq!(report.sent, 9);
    assert!(report.notes[0].contains("what it sent is not known"), "{:?}", report.notes);
    assert_eq!(listed()[1..], [failed.clone(), failed, cut_off]);
    assert_eq!(cluster.records(), expected(&rows(0..9)));
    assert_eq!(run(false).unwrap().sent, 0);
}

#[derive(Debug, Clone)]
enum Step {
    /// Gives these keys these values.
    Set(Vec<(u8, i64)>),
    /// Takes these keys away.
    Drop(Vec<u8>),
    /// Runs; each number picks the fate of one batch that arrives, and `give_up` makes the loader impatient.
    Run { faults: Vec<u8>, give_up: bool, full: bool },
    /// The loader's folder is put back to where it was when a batch of the last run arrived.
    Die(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let faults = proptest::collection::vec(0..12u8, 0..12);
    prop_oneof![
        3 => proptest::collection::vec((0..20u8, 0..4i64), 1..8).prop_map(Step::Set),
        2 => proptest::collection::vec(0..20u8, 1..5).prop_map(Step::Drop),
        4 => (faults, any::<bool>(), proptest::bool::weighted(0.2))
            .prop_map(|(faults, give_up, full)| Step::Run { faults, give_up, full }),
        1 => any::<u8>().prop_map(Step::Die),
    ]
}

fn fate(pick: u8, keys: &[String]) -> Fate {
    match pick {
        0 => Fate::Status(503, "overloaded", None),
        1 => Fate::DropBefore,
        2 => Fate::DropAfter,
        3 => Fate::Reject(keys.iter().take(1).cloned().collect()),
        4 => Fate::Status(400, "invalid_request", None),
        5 if keys.len() > 1 => Fate::Status(413, "payload_too_large", None),
        _ => Fate::Apply,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_a_clean_run_makes_the_cluster_what_the_query_says(steps in proptest::collection::vec(step(), 1..14)) {
        let mut world = world(ExitMode::Delete);
        let mut table = Rows::new();
        world.write(&table);
        let mut copies: Vec<TempDir> = Vec::new();
        for step in steps {
            match step {
                Step::Set(rows) => table.extend(rows.into_iter().map(|(key, a)| (format!("k{key}"), (a, "b".into())))),
                Step::Drop(keys) => keys.iter().for_each(|key| drop(table.remove(&format!("k{key}")))),
                Step::Run { faults, give_up, full } => {
                    world.write(&table);
                    world.tuning.retry.budget = if give_up { Duration::ZERO } else { Duration::from_secs(20) };
                    let made: Arc<Mutex<Vec<TempDir>>> = Arc::default();
                    let (keep, state_dir, mut faults) = (Arc::clone(&made), world.project.state_dir.clone(), faults);
                    world.cluster.decide(move |arrival| {
                        keep.lock().unwrap().push(copy(&state_dir));
                        faults.pop().map_or(Fate::Apply, |pick| fate(pick, &arrival.keys))
                    });
                    let _ = world.try_run(RunOptions { full, ..RunOptions::default() });
                    copies = std::mem::take(&mut made.lock().unwrap());
                }
                Step::Die(pick) => {
                    // What the cluster took after the moment stays taken: the loader died and did not hear of it, which
                    // can only be as much as was in flight.
                    let last = copies.len().saturating_sub(1);
                    let at = last.saturating_sub(usize::from(pick) % 2);
                    if let Some(copy) = (at == last).then(|| copies.get(at)).flatten() {
                        fs::remove_dir_all(&world.project.state_dir).unwrap();
                        copy_into(copy.path(), &world.project.state_dir);
                    }
                }
            }
        }
        world.write(&table);
        world.tuning.retry.budget = Duration::from_secs(20);
        world.cluster.decide(|_| Fate::Apply);
        let report = world.run();
        prop_assert_eq!(report.outcome, Outcome::Succeeded);
        prop_assert_eq!(world.cluster.records(), expected(&table));
        prop_assert_eq!(world.run().sent, 0);
    }
}
