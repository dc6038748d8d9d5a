//! Commands as a whole, without a cluster.

use std::fs;
use std::path::Path;

use clap::{CommandFactory, Parser};

use super::{Arguments, Command, dispatch, worst};
use crate::cancel::Cancel;
use crate::project::Project;
use crate::run::ExitClass;
use crate::{mapping, source};

fn run(arguments: &[&str]) -> ExitClass {
    dispatch(Arguments::try_parse_from([&["larder-loader"], arguments].concat()).unwrap().command)
}

fn started(folder: &Path) -> String {
    let dir = folder.to_string_lossy().into_owned();
    assert_eq!(run(&["init", &dir]), ExitClass::Ok);
    dir
}

#[test]
fn arguments_are_consistent() {
    Arguments::command().debug_assert();
    let Command::Run(arguments) =
        Arguments::try_parse_from(["larder-loader", "run", "a", "b", "--project", "p"]).unwrap().command
    else {
        panic!("not a run")
    };
    assert_eq!(arguments.syncs, ["a", "b"]);
    assert_eq!((arguments.shown.project.project.as_path(), arguments.shown.json), (Path::new("p"), false));
    let wrong = [
        &["run", "--fast"][..],
        &["run", "--full", "--limit", "3"],
        &["run", "--select", "nightly"],
        &["run", "--timeout", "soon"],
        &["run", "--destination", "no/name"],
        &["init", "a", "b"],
        &["history", "a", "--limit", "x"],
        &["rows"],
        &["explain-key", "a"],
        &["reset"],
        &[],
    ];
    for wrong in wrong {
        assert!(Arguments::try_parse_from([&["larder-loader"], wrong].concat()).is_err(), "{wrong:?}");
    }
}

#[test]
fn new_project_is_valid_and_its_model_gives_rows() {
    let folder = tempfile::tempdir().unwrap();
    let dir = started(&folder.path().join("new"));
    assert_eq!(run(&["validate", "--project", &dir]), ExitClass::Ok);

    let project = Project::load(Path::new(&dir), None).unwrap();
    let sync = project.syncs.values().next().unwrap();
    let stream = source::open(&project, &project.sources[&sync.source], &sync.model, &Cancel::default()).unwrap();
    assert!(mapping::compile(sync, &stream.schema).is_ok(), "the types of the rows do not suit the mapping");
    assert_eq!(stream.batches.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 3);
}

#[test]
fn init_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("larder.yml"), "mine").unwrap();
    assert_eq!(run(&["init", &folder.path().to_string_lossy()]), ExitClass::Config);
    assert_eq!(fs::read_to_string(folder.path().join("larder.yml")).unwrap(), "mine");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "files were written beside it");
}

#[test]
fn validate_finds_what_only_the_source_can_tell() {
    let folder = tempfile::tempdir().unwrap();
    let dir = started(folder.path());
    let model = folder.path().join("models/customers.sql");
    let good = fs::read_to_string(&model).unwrap();
    for bad in
        [good.replace("c.city,", ""), good.replace("count(o.id)", "count(o.idd)"), "DROP TABLE customers".to_owned()]
    {
        fs::write(&model, bad).unwrap();
        assert_eq!(run(&["validate", "--project", &dir]), ExitClass::Config);
    }
    fs::write(&model, good).unwrap();
    fs::remove_file(folder.path().join("data/orders.csv")).unwrap();
    assert_eq!(run(&["validate", "--project", &dir]), ExitClass::Config);
}

#[test]
fn wrong_project_or_sync_is_a_matter_of_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_string_lossy().into_owned();
    assert_eq!(run(&["validate", "--project", &dir]), ExitClass::Config);
    started(folder.path());
    assert_eq!(run(&["run", "costumers", "--project", &dir]), ExitClass::Config);
    assert_eq!(run(&["plan", "not a name", "--project", &dir]), ExitClass::Config);
    // The new project names a variable that holds the key, and nothing is sent without one.
    let yaml = fs::read_to_string(folder.path().join("larder.yml")).unwrap();
    fs::write(folder.path().join("larder.yml"), yaml.replace("${LARDER_KEY:-}", "${LARDER_KEY_OF_NOBODY:-}")).unwrap();
    assert_eq!(run(&["run", "customers", "--project", &dir]), ExitClass::Config);
}

#[test]
fn demo_project_is_valid() {
    let demo = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../docs/demo");
    let folder = tempfile::tempdir().unwrap();
    for name in ["sources", "models", "syncs"] {
        fs::create_dir(folder.path().join(name)).unwrap();
        for entry in fs::read_dir(demo.join(name)).unwrap().flatten() {
            fs::copy(entry.path(), folder.path().join(name).join(entry.file_name())).unwrap();
        }
    }
    std::os::unix::fs::symlink(demo.join("data").canonicalize().unwrap(), folder.path().join("data")).unwrap();
    let yaml = fs::read_to_string(demo.join("larder.yml")).unwrap();
    fs::write(folder.path().join("larder.yml"), yaml.replace("${LARDER_KEY}", "none")).unwrap();
    assert_eq!(run(&["validate", "--project", &folder.path().to_string_lossy()]), ExitClass::Ok);
}

#[test]
fn worst_exit_of_several_syncs_is_taken() {
    use ExitClass::{Blocked, Failed, Locked, Ok, Partial};
    assert_eq!(worst([]), Ok);
    assert_eq!(worst([Ok, Partial, Ok]), Partial);
    assert_eq!(worst([Blocked, Partial]), Blocked);
    assert_eq!(worst([Locked, Failed, Blocked]), Failed);
}
