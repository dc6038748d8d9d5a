//! The demo of the README does what it shows.

use std::process::{Command, Stdio};

use anyhow::Result;
use larder_tests::process::{binary, free_address};
use larder_tests::scratch::repository;

#[test]
fn the_demo_shows_every_exit_mode_on_real_data() -> Result<()> {
    let bin = binary("larder-server")?.with_file_name("");
    let output = Command::new(repository().join("docs/demo/run"))
        .env("LARDER_DEMO_ONCE", "1")
        .env("LARDER_DEMO_BIN", bin)
        .env("LARDER_DEMO_PORT", free_address()?.port().to_string())
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let parts: Vec<&str> = text.split("== ").collect();
    let part = |title: &str| parts.iter().find(|part| part.starts_with(title)).copied().unwrap_or_default();
    let first = part("Three syncs");
    assert!(first.contains("plane_facts: added 3322 "), "{text}");
    assert!(first.contains("plane_usage: added 4043 "), "{text}");
    assert!(first.contains("airports: added 1458 "), "{text}");
    let lookups = part("Lookups");
    assert_eq!(lookups.matches("200 OK").count(), 3, "{text}");
    assert!(lookups.contains("\"manufacturer\":\"EMBRAER\"") && lookups.contains("\"destinations\":[{"), "{text}");
    let second = part("Only the changes");
    assert!(second.contains("plane_facts: added 0 changed 3 removed 14 "), "{text}");
    assert!(second.contains("plane_usage: added 0 changed 0 removed 42 "), "{text}");
    assert!(second.contains("airports: added 0 changed 0 removed 1 "), "{text}");
    let after = part("What became");
    assert!(after.contains("/planes/records/id/N380HA -> HTTP/1.1 404"), "{text}");
    assert!(after.contains("/planes/records/id/N693CA -> HTTP/1.1 200"), "{text}");
    assert!(after.contains("/airports/records/faa/06A -> HTTP/1.1 200"), "{text}");
    assert!(after.contains("\"seats\":50"), "{text}");
    Ok(())
}
