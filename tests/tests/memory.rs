//! A node at its memory limit: what is refused, what goes on, and that it recovers without a restart.

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
