//! Damaged files: never served, always explained.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use larder_tests::fixture::{Collection, upsert};
use larder_tests::process::{Node, free_address};
use larder_tests::scratch;
use serde_json::json;

/// All files below a folder whose path holds `part`, by name.
fn files(dir: &Path, part: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, part)?);
        } else if path.to_string_lossy().contains(part) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Flips a bit of the first place where the bytes occur.
fn damage(path: &Path, needle: &[u8]) -> Result<bool> {
    let mut bytes = fs::read(path)?;
    let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) else { return Ok(false) };
    bytes[at] ^= 1;
    fs::write(path, bytes)?;
    Ok(true)
}

fn filled(dir: &Path, arguments: &[&str]) -> Result<Node> {
    let node = Node::start_with(dir, free_address()?, arguments)?;
    let client = node.client();
    let c = Collection::put(&client, "c")?;
    c.sync("s", &json!(["n"]), "keep")?.expect(201);
    for round in 0..20 {
        c.load("s", &upsert("k", &json!({"n": format!("needle-{round:02}")})))?;
    }
    Ok(node)
}

fn refuses_to_start(dir: &Path, words: &[&str]) -> Result<()> {
    let mut node = Node::spawn(dir, free_address()?, &[])?;
    let status = node.wait()?;
    let output = node.output();
    assert!(!status.success(), "it started: {output}");
    for word in words {
        assert!(output.contains(word), "no `{word}` in: {output}");
    }
    assert!(!output.contains("panicked"), "{output}");
    Ok(())
}

#[test]
fn a_damaged_frame_in_the_middle_of_the_log_stops_the_start() -> Result<()> {
    let dir = scratch::folder()?;
    filled(dir.path(), &[])?.kill()?;
    let hit = files(dir.path(), "log")?.iter().map(|file| damage(file, b"needle-03")).collect::<Result<Vec<_>>>()?;
    assert!(hit.contains(&true), "the needle is in no log file");
    refuses_to_start(dir.path(), &["damaged", "offset"])
}

#[test]
fn a_torn_frame_at_the_end_of_the_log_is_cut() -> Result<()> {
    let dir = scratch::folder()?;
    filled(dir.path(), &[])?.kill()?;
    // What a crash leaves of a frame that was being written: a length and some bytes after the last good one.
    let log = files(dir.path(), "log")?;
    let newest = log
        .iter()
        .rfind(|file| fs::read(file).is_ok_and(|bytes| bytes.windows(9).any(|w| w == b"needle-19")))
        .context("the needle is in no log file")?;
    let mut bytes = fs::read(newest)?;
    let end = bytes.iter().rposition(|byte| *byte != 0).context("an empty file")? + 1;
    let end = end.next_multiple_of(8);
    if bytes.len() < end + 64 {
        bytes.resize(end + 64, 0);
    }
    bytes[end..end + 4].copy_from_slice(&40u32.to_le_bytes());
    bytes[end + 4..end + 24].fill(0xab);
    fs::write(newest, bytes)?;
    let node = Node::start(dir.path())?;
    let record = node.client().get("/v1/collections/c/records/id/k")?.expect(200);
    assert_eq!(record.value(), json!({"n": "needle-19"}));
    Ok(())
}

#[test]
fn a_damaged_snapshot_stops_the_start() -> Result<()> {
    let dir = scratch::folder()?;
    let config = dir.path().join("config.toml");
    fs::write(&config, "snapshot_log_bytes = \"1KiB\"\n")?;
    let data = dir.path().join("data");
    let mut node = filled(&data, &["--config", &config.to_string_lossy()])?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let hit = loop {
        let snapshots = files(&data, "snapshot")?;
        if let Some(file) = snapshots.iter().find(|f| fs::read(f).is_ok_and(|b| b.windows(7).any(|w| w == b"needle-")))
        {
            break file.clone();
        }
        assert!(std::time::Instant::now() < deadline, "no snapshot was taken: {}", node.output());
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    node.kill()?;
    // A newer one may have been written since.
    let hit = if hit.exists() { hit } else { files(&data, "snapshot")?.pop().context("no snapshot")? };
    assert!(damage(&hit, b"needle-")?, "the needle is not in {}", hit.display());
    refuses_to_start(&data, &["damaged"])
}

#[test]
fn a_second_process_on_the_same_data_is_refused() -> Result<()> {
    let dir = scratch::folder()?;
    let node = Node::start(dir.path())?;
    refuses_to_start(dir.path(), &["in use"])?;
    node.client().get("/readyz")?.expect(200);
    Ok(())
}
