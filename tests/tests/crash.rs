//! Crashes: whatever was acknowledged is there after any kill, and a load goes on where it stopped.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use larder_tests::fixture::{Collection, upsert};
use larder_tests::process::{Node, ROOT_KEY, binary, free_address, loader};
use larder_tests::random::Random;
use larder_tests::scratch;
use serde_json::{Value, json};

const ROWS: u64 = 300_000;
const KILLS: u32 = 50;

/// The whole of the test, however slow the machine.
const DEADLINE: Duration = Duration::from_secs(900);

#[test]
fn acknowledged_patches_survive_every_kill() -> Result<()> {
    let mut random = Random::from_environment();
    let dir = scratch::folder()?;
    let mut node = Node::start(dir.path())?;
    let client = node.client();
    let c = Collection::put(&client, "c")?;
    c.sync("s", &json!(["round", "n"]), "keep")?.expect(201);
    let mut run = c.open("s", "delta")?;
    let mut acknowledged: Vec<Option<u64>> = vec![None; 500];
    for round in 1..=12u64 {
        // Several batches, the last of which races with the kill.
        let mut unsure = None;
        let batches = 1 + random.below(4);
        for seq in 1..=batches {
            let keys: Vec<u64> = (0..50).map(|_| random.below(500)).collect();
            let lines: String =
                keys.iter().map(|k| upsert(&k.to_string(), &json!({"round": round, "n": seq}))).collect();
            let number = u32::try_from(round * 10 + seq)?;
            if seq < batches {
                run.batch(number, &lines)?.expect(200);
                for key in keys {
                    acknowledged[usize::try_from(key)?] = Some(round * 10 + seq);
                }
            } else {
                unsure = Some((number, lines, keys));
            }
        }
        let (number, lines, keys) = unsure.context("no last batch")?;
        let sender = {
            let client = client.clone();
            let path = format!("{}/batches/{number}", run.path());
            let lines = lines.clone();
            std::thread::spawn(move || client.ndjson(&path, &lines))
        };
        std::thread::sleep(Duration::from_micros(random.below(8000)));
        node = node.crash_and_restart()?;
        // Lost or not, the answer of the killed node does not matter: the repeat is applied exactly once.
        drop(sender.join());
        assert_eq!(run.batch(number, &lines)?.expect(200).value()["accepted"], 50, "{}", random.seed());
        for key in keys {
            acknowledged[usize::try_from(key)?] = Some(u64::from(number));
        }
        assert_eq!(run.info()?["state"], "open");
        for (key, expected) in acknowledged.iter().enumerate() {
            let answer = c.get(&key.to_string())?;
            let found = (answer.status == 200)
                .then(|| answer.value())
                .map(|v| v["round"].as_u64().unwrap_or_default() * 10 + v["n"].as_u64().unwrap_or_default());
            assert_eq!(found, *expected, "key {key} in round {round}, {}", random.seed());
        }
        if round % 5 == 0 {
            run.commit()?;
            run = c.open("s", "delta")?;
        }
    }
    Ok(())
}

#[test]
fn a_load_of_300_000_rows_survives_50_kills() -> Result<()> {
    let mut random = Random::from_environment();
    let start = Instant::now();
    let dir = scratch::folder()?;
    let project = dir.path().join("project");
    write_project(&project, 0)?;
    let address = free_address()?;
    let data = dir.path().join("node");
    let mut node = Node::start_with(&data, address, &[])?;
    let url = node.url();
    let (mut kills, mut edits) = (0, 0);
    let mut load = start_load(&project, &url)?;
    while kills < KILLS {
        if start.elapsed() > DEADLINE {
            bail!("only {kills} kills in {DEADLINE:?}, {}", random.seed());
        }
        std::thread::sleep(Duration::from_millis(20 + random.below(180)));
        if random.below(5) == 0 {
            load.kill()?;
            load.wait()?;
        } else {
            node = node.crash_and_restart()?;
            kills += 1;
        }
        if let Some(status) = load.try_wait()? {
            if status.success() {
                edits += 1;
                write_project(&project, edits)?;
            }
            load = start_load(&project, &url)?;
        }
    }
    if !load.wait()?.success() {
        assert!(loader(&project, &url, &["run"])?.status.success(), "{}", random.seed());
    }
    println!("{kills} kills, {edits} edits of the input, {:?}, {}", start.elapsed(), random.seed());
    check_result(&node, &project, edits, &mut random)
}

/// The collection holds exactly the rows of the input, the loader has nothing left to send, no run is left open.
fn check_result(node: &Node, project: &Path, edits: u64, random: &mut Random) -> Result<()> {
    let client = node.client();
    let info = client.get("/v1/collections/things")?.expect(200).value();
    assert_eq!(info["records"], ROWS, "{}", random.seed());
    for _ in 0..2000 {
        let row = random.below(ROWS);
        let record = client.get(&format!("/v1/collections/things/records/id/k{row}"))?.expect(200).value();
        assert_eq!(record, expected(row, edits), "row {row}, {}", random.seed());
    }
    let plan = loader(project, &node.url(), &["plan", "--json"])?;
    let plan: Value = serde_json::from_slice(&plan.stdout)?;
    assert_eq!(plan["plan"]["to_send"], 0, "{plan}");
    assert_eq!(plan["plan"]["rows"]["unchanged"], ROWS, "{plan}");
    let runs = client.get("/v1/collections/things/syncs/things/runs")?.expect(200).text();
    assert!(!runs.contains("\"open\"") && !runs.contains("\"committing\""), "{runs}");
    Ok(())
}

/// Each edit changes every tenth row, so that a finished load finds work again.
fn edited(row: u64, edits: u64) -> u64 {
    (0..=edits).rev().find(|edit| *edit == 0 || row % 10 == edit % 10).unwrap_or(0)
}

fn expected(row: u64, edits: u64) -> Value {
    json!({"name": format!("thing number {row}"), "edit": edited(row, edits), "size": row * 7})
}

fn write_project(project: &Path, edits: u64) -> Result<()> {
    let mut rows = String::with_capacity(12 << 20);
    rows.push_str("id,name,edit,size\n");
    for row in 0..ROWS {
        writeln!(rows, "k{row},thing number {row},{},{}", edited(row, edits), row * 7)?;
    }
    fs::create_dir_all(project.join("data"))?;
    let part = project.join("data/things.part");
    fs::write(&part, rows)?;
    fs::rename(part, project.join("data/things.csv"))?;
    scratch::write(
        &project.join("larder.yml"),
        "cluster: {url: \"${LARDER_URL}\", key: \"${LARDER_KEY}\"}\nstate: .larder\n",
    )?;
    scratch::write(&project.join("sources/files.yml"), "driver: files\ntables:\n  things: data/things.csv\n")?;
    scratch::write(
        &project.join("syncs/things.yml"),
        "source: files\ntable: things\nkey: id\ncollection: things\non_exit: delete\ncolumns: [name, edit, size]\n",
    )
}

fn start_load(project: &Path, url: &str) -> Result<Child> {
    Command::new(binary("larder-loader")?)
        .args(["run", "--project"])
        .arg(project)
        .env("LARDER_URL", url)
        .env("LARDER_KEY", ROOT_KEY)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start larder-loader")
}
