//! A cluster of three nodes and more: any node answers any request, and none of them is needed.

use std::time::Duration;

use anyhow::Result;
use larder_tests::cluster::{Cluster, Settings, list};
use larder_tests::fixture::{Collection, upsert};
use larder_tests::load::Load;
use serde_json::json;

#[test]
fn three_nodes_form_and_any_answers_any_request() -> Result<()> {
    let cluster = Cluster::start(3, 0, Settings::default())?;
    let clients = cluster.clients(&[1, 2, 3]);
    let c = Collection::put(&clients[0], "c")?;
    c.sync("s", &json!(["n"]), "keep")?.expect(201);
    let ids: Vec<_> =
        clients.iter().map(|client| client.get("/v1/cluster").unwrap().value()["cluster"].clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let run = c.open("s", "delta")?;
    for (at, client) in (0u32..).zip(&clients) {
        let lines: String = (0..50).map(|n| upsert(&format!("k{at}-{n}"), &json!({ "n": n }))).collect();
        let path = format!("{}/batches/{}", run.path(), at + 1);
        assert_eq!(client.ndjson(&path, &lines)?.expect(200).value()["accepted"], 50);
    }
    let info = clients[2].json("POST", &format!("{}/commit", run.path()), &json!({}))?.expect(200).value();
    assert_eq!(info["state"], "committed", "{info}");
    for client in &clients {
        for (at, n) in (0..3).flat_map(|at| (0..50).map(move |n| (at, n))) {
            let path = format!("/v1/collections/c/records/id/k{at}-{n}?consistency=linearizable");
            assert_eq!(client.get(&path)?.expect(200).value(), json!({ "n": n }));
        }
    }
    let status = cluster.status(2).unwrap();
    for group in list(&status["placement"]) {
        assert_eq!(list(&group["replicas"]).len(), 3, "{group}");
    }
    Ok(())
}

/// The promise for writes and lookups after a node has died.
const BACK: Duration = Duration::from_secs(5);

#[test]
fn a_killed_leader_is_replaced_and_nothing_acknowledged_is_lost() -> Result<()> {
    let mut cluster = Cluster::start(3, 0, Settings::default())?;
    let load = Load::start(cluster.clients(&[1, 2, 3]))?;
    let leader = cluster.leader(0, &[1, 2, 3]);
    load.wait_for_writes(20);
    cluster.kill(leader)?;
    load.wait_for_writes(20);
    let report = load.stop()?;
    let others: Vec<_> = [1, 2, 3].into_iter().filter(|node| *node != leader).collect();
    report.expect_kept(&cluster.clients(&others))?;
    report.expect_cured();
    assert!(report.writes.pause < BACK, "no write for {:?}", report.writes.pause);
    assert!(report.lookups.pause < BACK, "no lookup for {:?}", report.lookups.pause);
    cluster.restart(leader)?;
    cluster.wait_settled(3);
    report.expect_kept(&cluster.clients(&[leader]))
}

#[test]
fn a_rolling_restart_is_seen_by_nobody_who_repeats_once() -> Result<()> {
    let mut cluster = Cluster::start(3, 0, Settings::default())?;
    let load = Load::start(cluster.clients(&[1, 2, 3]))?;
    for node in [1, 2, 3] {
        load.wait_for_writes(10);
        let status = cluster.terminate(node)?;
        assert_eq!(status.code(), Some(0));
        load.wait_for_writes(10);
        cluster.restart(node)?;
        cluster.wait_settled(3);
    }
    load.wait_for_writes(10);
    let report = load.stop()?;
    report.expect_cured();
    report.expect_kept(&cluster.clients(&[1, 2, 3]))
}

#[test]
fn a_node_is_added_and_another_one_drained_and_removed_under_load() -> Result<()> {
    let mut cluster = Cluster::start(3, 1, Settings::default())?;
    let load = Load::start(cluster.clients(&[1, 2, 3]))?;
    cluster.restart(4)?;
    cluster.wait_settled(4);
    let id = cluster.id_of(1);
    cluster.order(2, id, "drain")?.expect(200);
    cluster.wait_drained(id);
    load.wait_for_writes(10);
    cluster.order(2, id, "remove")?.expect(200);
    let (code, said) = cluster.ended(1)?;
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains(&format!("node {id} was removed from the cluster: empty its data directory")), "{said}");
    cluster.wait_settled(3);
    load.wait_for_writes(10);
    let report = load.stop()?;
    report.expect_kept(&cluster.clients(&[2, 3, 4]))?;
    report.expect_cured();
    Ok(())
}

#[test]
fn every_node_answers_for_every_record_as_fresh_as_asked() -> Result<()> {
    let cluster = Cluster::start(5, 0, Settings::default())?;
    let clients = cluster.clients(&[1, 2, 3, 4, 5]);
    let holders = |shard: &serde_json::Value| list(&shard["replicas"]).len();
    let status = cluster.status(1).unwrap();
    let shards: Vec<_> = list(&status["placement"]).iter().filter(|group| !group["shard"].is_null()).collect();
    assert!(shards.iter().all(|shard| holders(shard) == 3), "{shards:?}");
    let c = Collection::put(&clients[0], "c")?;
    c.sync("s", &json!(["n"]), "keep")?.expect(201);
    let run = c.open("s", "delta")?;
    for round in 1..=20u32 {
        let writer = &clients[round as usize % clients.len()];
        let lines: String = (0..8).map(|key| upsert(&format!("k{key}"), &json!({ "n": round }))).collect();
        let answer = writer.ndjson(&format!("{}/batches/{round}", run.path()), &lines)?.expect(200).value();
        let revision = answer["revision"].as_str().unwrap();
        for (client, consistency) in
            clients.iter().flat_map(|c| ["any", "leader", "linearizable"].map(|level| (c, level)))
        {
            let path = format!("/v1/collections/c/records/id/k{}?consistency={consistency}", round % 8);
            let found = client.send("GET", &path, &[("X-Min-Revision", revision)], b"")?.expect(200);
            assert_eq!(found.value(), json!({ "n": round }), "{consistency} at {}", client.address());
        }
    }
    Ok(())
}
