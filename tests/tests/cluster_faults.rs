//! Nodes that stand still, and nodes that lose their disks.

#![allow(clippy::unwrap_used, reason = "what is behind a test fails it by panicking")]

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use larder_tests::cluster::{Cluster, PATIENCE, Settings};
use larder_tests::fixture::{Collection, upsert};
use larder_tests::http::Client;
use larder_tests::load::Load;
use larder_tests::wait::wait_for;
use serde_json::json;

const KEYS: u32 = 16;

/// How old answers may be in these tests, in seconds.
const STALENESS: u32 = 2;

fn record(key: u32, consistency: &str) -> String {
    format!("/v1/collections/c/records/id/k{key}?consistency={consistency}")
}

fn lines(n: u32) -> String {
    (0..KEYS).map(|key| upsert(&format!("k{key}"), &json!({ "n": n }))).collect()
}

/// What a node that wakes up shows of each record, asked while it still sleeps: the requests are the first thing it sees.
#[allow(clippy::unwrap_used, reason = "what cannot be asked fails the test that asks")]
fn ask_sleeper(cluster: &mut Cluster, client: &Client, node: u8, consistency: &str) -> Result<()> {
    thread::scope(|scope| {
        let lookups: Vec<_> = (0..KEYS).map(|key| scope.spawn(move || client.get(&record(key, consistency)))).collect();
        cluster.thaw(node)?;
        for lookup in lookups {
            let answer = lookup.join().unwrap()?;
            let is_old = answer.status == 200 && answer.value()["n"] == 1;
            assert!(!is_old, "a {consistency} lookup shows what was overwritten while the node slept");
            assert!(matches!(answer.status, 200 | 503), "{}", answer.text());
        }
        Ok(())
    })
}

fn a_sleeper(consistency: &str) -> Result<()> {
    let mut cluster = Cluster::start(3, 0, Settings { max_staleness: STALENESS, ..Settings::default() })?;
    let first = cluster.client(1);
    let c = Collection::put(&first, "c")?;
    c.sync("s", &json!(["n"]), "keep")?.expect(201);
    let run = c.open("s", "delta")?;
    run.batch(1, &lines(1))?.expect(200);
    let leader = cluster.leader(0, &[1, 2, 3]);
    let (client, path) = (cluster.client(leader), run.path().to_owned());
    let awake = cluster.client(leader % 3 + 1);
    cluster.freeze(leader)?;
    wait_for("a write by the others", PATIENCE, || {
        let answer = awake.ndjson(&format!("{path}/batches/2"), &lines(2)).map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    });
    let written = Instant::now();
    wait_for("what the sleeper has to be too old", PATIENCE, || {
        let age = written.elapsed();
        if age > Duration::from_secs(STALENESS.into()) { Ok(()) } else { Err(format!("{age:?}")) }
    });
    ask_sleeper(&mut cluster, &client, leader, consistency)?;
    cluster.wait_settled(3);
    for key in 0..KEYS {
        assert_eq!(client.get(&record(key, consistency))?.expect(200).value()["n"], 2);
    }
    Ok(())
}

#[test]
fn a_leader_that_slept_through_an_election_gives_no_stale_linearizable_answer() -> Result<()> {
    a_sleeper("linearizable")
}

#[test]
fn a_node_that_slept_shows_nothing_older_than_allowed() -> Result<()> {
    a_sleeper("any")
}

#[test]
fn a_node_that_has_lost_its_disk_comes_back_as_a_new_one() -> Result<()> {
    let mut cluster = Cluster::start(3, 0, Settings::default())?;
    let load = Load::start(cluster.clients(&[2, 3]))?;
    // The first of the seeds, which makes a cluster where there is none.
    let id = cluster.id_of(1);
    load.wait_for_writes(10);
    cluster.kill(1)?;
    cluster.wipe(1)?;
    let (code, said) = cluster.refused(1)?;
    assert_eq!(code, Some(6), "{said}");
    let advice = format!("if it has lost its disk, remove node {id} first (`larder-server cluster remove {id}`)");
    assert!(said.contains(&advice), "{said}");
    cluster.order(2, id, "remove")?.expect(200);
    cluster.wait_removed(2, id);
    load.wait_for_writes(10);
    cluster.restart(1)?;
    cluster.wait_settled(3);
    assert_ne!(cluster.id_of(1), id);
    load.wait_for_writes(10);
    let report = load.stop()?;
    report.expect_cured();
    report.expect_kept(&cluster.clients(&[1, 2, 3]))
}
