//! A node at its memory limit: what is refused, what goes on, that it recovers without a restart, and what the process
//! really takes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use larder_tests::fixture::{Collection, upsert};
use larder_tests::http::Client;
use larder_tests::process::{Node, free_address};
use larder_tests::scratch;
use serde_json::{Value, json};

const ROWS: usize = 1000;

fn lines(seq: usize, text: &str) -> String {
    (0..ROWS).map(|row| upsert(&format!("{seq}-{row}"), &json!({ "text": text }))).collect()
}

fn memory(client: &Client) -> Result<Value> {
    Ok(client.get("/v1/cluster")?.expect(200).value()["memory"].clone())
}

#[test]
fn a_full_node_refuses_what_adds_and_takes_what_makes_room() -> Result<()> {
    let dir = scratch::folder()?;
    let config = dir.path().join("larder.toml");
    std::fs::write(&config, "max_memory = \"16MiB\"\nshards = 2\n")?;
    let config = config.to_str().context("a path that is no text")?;
    let node = Node::start_with(&dir.path().join("data"), free_address()?, &["--config", config])?;
    let client = node.client();
    let c = Collection::put(&client, "c")?;
    c.sync("s", &json!(["text"]), "keep")?.expect(201);
    let run = c.open("s", "delta")?;
    let text = "x".repeat(1000);
    let mut sent = 0;
    let refused = loop {
        sent += 1;
        assert!(sent < 20, "15 MB were taken, of which 14 fit: {}", memory(&client)?);
        let answer = run.batch(sent, &lines(sent as usize, &text))?;
        if answer.status != 200 {
            break answer.expect(507);
        }
    };
    assert_eq!(refused.code(), "memory_limit");
    assert!(refused.header("retry-after").is_some());
    let (body, memory_then) = (refused.value(), memory(&client)?);
    assert_eq!(body["details"]["used"], memory_then["bytes"]);
    assert_eq!(body["details"]["usable"], 16 * 1024 * 1024 / 100 * 85 + 13);
    assert!(body["message"].as_str().is_some_and(|text| text.contains("raise max_memory")), "{body}");
    let shown = client.get("/v1/collections/c")?.expect(200).value()["bytes"].clone();
    assert_eq!(shown, memory_then["bytes"], "there is no other collection");
    // Lookups go on, and nothing of the refused batch is there.
    assert_eq!(c.get("1-0")?.expect(200).value(), json!({ "text": text }));
    assert_eq!(c.get(&format!("{sent}-0"))?.status, 404);
    assert_eq!(run.batch(sent, &lines(sent as usize, &text))?.expect(507).code(), "memory_limit");
    // Room is made, by the same run.
    let delete: String =
        (0..ROWS).map(|row| json!({"op": "delete", "key": format!("1-{row}")}).to_string() + "\n").collect();
    run.batch(sent + 1, &delete)?.expect(200);
    assert_eq!(c.get("1-0")?.status, 404);
    run.batch(sent, &lines(sent as usize, &text))?.expect(200);
    assert_eq!(c.get(&format!("{sent}-0"))?.expect(200).value(), json!({ "text": text }));
    run.commit()?;
    Ok(())
}

const MIB: u64 = 1 << 20;

/// The samples without labels, and those of `larder_memory_held_bytes` by kind.
fn metrics(client: &Client) -> Result<BTreeMap<String, u64>> {
    let text = client.get("/metrics")?.expect(200).text();
    let samples = text.lines().filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        let kind = name.strip_prefix("larder_memory_held_bytes{kind=\"").and_then(|rest| rest.strip_suffix("\"}"));
        Some((kind.unwrap_or(name).to_owned(), value.parse().ok()?))
    });
    Ok(samples.collect())
}

/// What the process takes at one moment.
#[derive(Debug)]
struct Taken {
    resident: u64,
    /// Records and all that counts against the limit, dead records and copies for snapshots too.
    limited: u64,
    /// All that is counted.
    counted: u64,
}

impl Taken {
    fn of(client: &Client) -> Result<Self> {
        let metrics = metrics(client)?;
        let sum = |kinds: &[&str]| kinds.iter().map(|kind| metrics[*kind]).sum::<u64>();
        let limited = sum(&["arena", "tables", "dictionaries", "batches"]);
        let others = sum(&["spare", "runs", "log_cache", "log_queue", "log_buffers", "log_index"]);
        Ok(Self { resident: metrics["process_resident_memory_bytes"], limited, counted: limited + others })
    }
}

/// The rows of a part of the keys, with texts of a length that drifts from round to round.
fn part(round: usize, part: usize) -> String {
    let row = |row: usize| {
        let length = 600 + (row * 7919 + round * 104_729) % 400;
        let text = format!("{round}-{row}-").repeat(length / 6);
        upsert(&format!("{part}-{row}"), &json!({ "text": text.get(..length).unwrap_or(&text) }))
    };
    (0..ROWS).map(row).collect()
}

#[test]
fn the_process_takes_what_is_promised_while_all_records_are_replaced_again_and_again() -> Result<()> {
    const SHARDS: u64 = 2;
    const MAX_MEMORY: u64 = 24 * MIB;
    /// Replaced records that are not cleaned up yet, and segments that are being filled.
    const BESIDE: u64 = SHARDS * 4 * MIB;
    /// The log's newest entries and buffers, and spare memory.
    const FIXED: u64 = 112 * MIB;
    /// What cannot be counted: a batch that is being parsed, connections, and what the allocator keeps of it.
    const UNCOUNTED: u64 = 32 * MIB;
    let dir = scratch::folder()?;
    let admin = free_address()?;
    let config = dir.path().join("larder.toml");
    let limits = format!("max_memory = \"{MAX_MEMORY}B\"\nshards = {SHARDS}\nsnapshot_log_bytes = \"8MiB\"\n");
    std::fs::write(&config, format!("{limits}admin_listen = \"{admin}\"\n"))?;
    let config = config.to_str().context("a path that is no text")?;
    let node = Node::start_with(&dir.path().join("data"), free_address()?, &["--config", config])?;
    let (client, admin) = (node.client(), Client::new(admin, ""));
    let c = Collection::put(&client, "c")?;
    c.sync("s", &json!(["text"]), "keep")?.expect(201);
    let run = c.open("s", "delta")?;
    let start = Taken::of(&admin)?;
    let mut seq = 0;
    let mut send = |lines: &str| {
        seq += 1;
        run.batch(seq, lines)
    };
    let mut parts = 0;
    while send(&part(0, parts))?.status == 200 {
        parts += 1;
        assert!(parts < 100, "never refused: {:?}", Taken::of(&admin)?);
    }
    // A little below the limit, so that records can be replaced.
    let delete = |row| json!({"op": "delete", "key": format!("0-{row}")}).to_string() + "\n";
    send(&(0..ROWS).map(delete).collect::<String>())?.expect(200);
    // The allocator keeps what was freed for what is needed next.
    let mut most = Taken::of(&admin)?.counted;
    for round in 1..=4 {
        for at in 1..parts {
            let answer = send(&part(round, at))?;
            assert!(matches!(answer.status, 200 | 507), "{}", answer.text());
            let taken = Taken::of(&admin)?;
            // A snapshot keeps what its shard held until it is written: the shard's half once more at worst.
            assert!(taken.limited <= MAX_MEMORY + MAX_MEMORY / SHARDS + BESIDE, "{taken:?}");
            most = most.max(taken.counted);
            let grown = taken.resident - start.resident;
            assert!(grown <= most + UNCOUNTED, "{taken:?} after {start:?}, at most {most}");
            assert!(
                grown <= MAX_MEMORY + MAX_MEMORY / SHARDS + BESIDE + FIXED + UNCOUNTED,
                "{taken:?} after {start:?}"
            );
        }
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while Taken::of(&admin)?.limited > MAX_MEMORY + BESIDE {
        assert!(Instant::now() < deadline, "no snapshot is written, and yet {:?}", Taken::of(&admin)?);
        std::thread::yield_now();
    }
    Ok(())
}
