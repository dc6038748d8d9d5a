//! The program as users start it.

use std::path::Path;
use std::process::Command;

#[test]
fn program_tells_how_it_is_used() {
    // That there is such a test has cargo build the program, which the tests of sources start as their worker.
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join("larder-loader");
    let done = Command::new(program).arg("--help").output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && text.contains("validate"), "{text}");
    assert!(!text.contains("source-worker"), "{text}");
}
