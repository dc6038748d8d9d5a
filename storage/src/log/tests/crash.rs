//! The process is killed, or the power cut, at every operation of the disk: everything acknowledged is there, and what
//! is there is a beginning of what was asked for.

use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::model::{Model, Run, Step, step};
use super::*;
use crate::disk::Operation;

/// Scripts of steps, always the same ones.
fn scripts(count: usize) -> Vec<Vec<Step>> {
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| vec(step(), 40).new_tree(&mut runner).unwrap().current()).collect()
}

/// Runs a script until it ends or the disk does. Returns the states that may be found, the surest first.
fn run(disk: &FakeDisk, script: &[Step]) -> Vec<Model> {
    let Ok(log) = try_open(disk) else { return vec![Model::default()] };
    let mut run = Run::new(log, Model::default());
    let _ = script.iter().try_for_each(|step| run.take(step));
    let _ = run.wait();
    run.log.close();
    run.history.split_off(run.acknowledged)
}

/// Opens the log, which must hold one of these states, and says which.
fn assert_recovers(disk: &FakeDisk, allowed: &[Model], when: &str) -> usize {
    let log = try_open(disk).unwrap_or_else(|error| panic!("{when}: {error}"));
    let found = allowed.iter().position(|model| *model == Model::of(&log, model.term()));
    let found = found.unwrap_or_else(|| panic!("{when}: found {:?}", Model::of(&log, 0)));
    // It must also be possible to go on, and to find that again.
    let group = log.group(GroupId(0));
    let next = group.state().last.map_or(0, |id| id.index + 1);
    append(&group, vec![entry(next, 999, 100)]).unwrap();
    for disk in [disk.power_cut(0), disk.after_kill()] {
        assert_eq!(open(&disk).group(GroupId(0)).state().last, Some(id(next, 999)), "{when}");
    }
    found
}

/// What the next process may find of a disk.
fn aftermaths(disk: &FakeDisk, seed: u64) -> Vec<(String, FakeDisk)> {
    let cuts = [0, 1, 8 * seed + 2, 8 * seed + 3];
    let cut = |seed| (format!("power cut {seed}"), disk.power_cut(seed));
    let mut all: Vec<_> = cuts.into_iter().map(cut).collect();
    all.push(("kill".to_owned(), disk.after_kill()));
    all
}

#[test]
fn nothing_acknowledged_is_lost_by_a_crash_at_any_operation() {
    for (number, script) in scripts(3).iter().enumerate() {
        for operations in 0.. {
            let disk = FakeDisk::new();
            disk.crash_after(operations);
            let allowed = run(&disk, script);
            for (name, disk) in aftermaths(&disk, operations) {
                let when = format!("script {number}, operation {operations}, {name}");
                assert_recovers(&disk, &allowed, &when);
            }
            if !disk.has_crashed() {
                assert!(operations > 60, "the script has kept the disk busy");
                break;
            }
        }
    }
}

#[test]
fn a_crash_at_any_operation_of_recovery_loses_nothing() {
    let script = &scripts(4)[3];
    for operations in (30..90).step_by(7) {
        let first = FakeDisk::new();
        first.crash_after(operations);
        let allowed = run(&first, script);
        for (name, broken) in aftermaths(&first, operations) {
            for in_recovery in 0..25 {
                let disk = broken.after_kill();
                disk.crash_after(in_recovery);
                drop(try_open(&disk));
                for (again, disk) in aftermaths(&disk, in_recovery) {
                    let when = format!("operation {operations}, {name}; operation {in_recovery} of recovery, {again}");
                    assert_recovers(&disk, &allowed, &when);
                }
            }
        }
    }
}

#[test]
fn an_error_of_any_operation_stops_the_log_and_loses_nothing() {
    use Operation::{Create, Read, Remove, Rename, SyncData, SyncDir, Write};
    let script = &scripts(5)[4];
    for operation in [Create, Read, Remove, Rename, SyncData, SyncDir, Write] {
        for after in 0.. {
            let disk = FakeDisk::new();
            disk.fail(operation, after, 1, io::ErrorKind::Other);
            let allowed = run(&disk, script);
            let when = format!("{operation:?} {after}");
            assert_recovers(&disk.power_cut(after), &allowed, &when);
            assert_recovers(&disk.after_kill(), &allowed, &when);
            if !disk.has_failed() {
                break;
            }
        }
    }
}
