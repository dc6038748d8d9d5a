//! Networks that break: what a part of a cluster may still say, and what is true when they are whole again.

#![allow(clippy::panic, clippy::unwrap_used, reason = "what is behind a test fails it by panicking")]

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use larder_tests::cluster::{Cluster, PATIENCE, Settings};
use larder_tests::fixture::{Collection, upsert};
use larder_tests::http::{Client, Response};
use larder_tests::net::{Fault, Net, Place};
use larder_tests::wait::wait_for;
use serde_json::json;

/// How old answers may be in these tests, in seconds.
const STALENESS: u32 = 2;

/// Answers may be as old, and the machine may be busy when a node is to notice that they are.
const MAX_AGE: Duration = Duration::from_secs(STALENESS as u64 + 3);

/// Keys, of which each shard of a few has some.
const KEYS: u32 = 40;

/// A cluster with a collection of which every node has all records, and an open run.
struct Stage {
    cluster: Cluster,
    run: String,
}

/// What was sent while the network was broken.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Sent {
    Acknowledged,
    /// Nothing was done, as the cluster said.
    Refused,
    /// It may have been done.
    Unknown,
}

impl Stage {
    fn set(nodes: Place) -> Result<Self> {
        let cluster = Cluster::start(nodes, 0, Settings { max_staleness: STALENESS, ..Settings::default() })?;
        let client = cluster.client(1);
        let c = Collection::put(&client, "c")?;
        c.sync("s", &json!(["n"]), "keep")?.expect(201);
        let run = c.open("s", "delta")?;
        run.batch(1, &all(1))?.expect(200);
        let run = run.path().to_owned();
        Ok(Self { cluster, run })
    }
}

/// Sends a batch of a run.
#[allow(clippy::panic, reason = "any other answer fails the test that asks")]
fn write(client: &Client, run: &str, seq: u32, lines: &str) -> Sent {
    match client.ndjson(&format!("{run}/batches/{seq}"), lines) {
        Ok(answer) if answer.status == 200 => Sent::Acknowledged,
        Ok(answer) if answer.code() == "outcome_unknown" => Sent::Unknown,
        Ok(answer) if answer.status == 503 => Sent::Refused,
        Ok(answer) => panic!("{} {}", answer.status, answer.text()),
        Err(_) => Sent::Unknown,
    }
}

fn line(key: &str, n: u32) -> String {
    upsert(key, &json!({ "n": n }))
}

fn look(client: &Client, key: &str, consistency: &str) -> Result<Response> {
    Ok(client.get(&format!("/v1/collections/c/records/id/{key}?consistency={consistency}"))?)
}

/// Looks all records up, all at once since each may take its time to be refused.
#[allow(clippy::unwrap_used, reason = "a lookup that cannot be sent fails the test that asks")]
fn look_all(client: &Client, consistency: &str) -> Vec<Response> {
    thread::scope(|scope| {
        let lookups: Vec<_> =
            (0..KEYS).map(|key| scope.spawn(move || look(client, &format!("k{key}"), consistency))).collect();
        lookups.into_iter().map(|lookup| lookup.join().unwrap().unwrap()).collect()
    })
}

/// Waits until a node answers all lookups of a kind.
#[track_caller]
fn wait_for_lookups(client: &Client, consistency: &str) {
    wait_for("lookups to be answered", PATIENCE, || {
        match look_all(client, consistency).iter().find(|answer| answer.status != 200) {
            None => Ok(()),
            Some(answer) => Err(answer.text()),
        }
    });
}

/// What the lone node neither hears nor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alone {
    /// Connections break, both ways.
    Cut,
    /// Nothing arrives, either way, and no connection breaks.
    Silence,
    /// Nothing that it says arrives. It hears all.
    Mute,
    /// It hears nothing. What it says arrives.
    Deaf,
}

impl Alone {
    fn begin(self, net: &Net, lone: Place, others: &[Place]) {
        for other in others {
            match self {
                Self::Cut => net.part(&[lone], &[*other], Fault::Cut),
                Self::Silence => net.part(&[lone], &[*other], Fault::Stall),
                Self::Mute => net.fault(lone, *other, Fault::Stall),
                Self::Deaf => net.fault(*other, lone, Fault::Stall),
            }
        }
    }
}

/// One node of three, which leads, is alone. The others go on. It takes no write, and answers no lookup by what it cannot
/// know. When the network is whole again, all nodes show all that was acknowledged, and nothing that was refused.
fn a_lone_node(alone: Alone) -> Result<()> {
    let stage = Stage::set(3)?;
    let cluster = &stage.cluster;
    let lone = cluster.leader(0, &[1, 2, 3]);
    let others: Vec<_> = [1, 2, 3].into_iter().filter(|node| *node != lone).collect();
    let (client, other) = (cluster.client(lone), cluster.client(others[0]));
    wait_for_lookups(&client, "any");
    alone.begin(cluster.net(), lone, &others);
    wait_for("a write by the majority", PATIENCE, || match write(&other, &stage.run, 2, &all(2)) {
        Sent::Acknowledged => Ok(()),
        sent => Err(format!("{sent:?}")),
    });
    let acknowledged = Instant::now();
    let attempts = ask_in_vain(&client, &stage.run);
    wait_for("the lone node to show nothing that is too old", PATIENCE, || {
        let too_old = acknowledged.elapsed() > MAX_AGE;
        for answer in look_all(&client, "any") {
            let old = answer.status == 200 && answer.value()["n"] == 1;
            assert!(!(old && too_old), "a record is older than it may be");
            if old {
                return Err("a record is old".to_owned());
            }
            // Whoever hears nothing knows nothing.
            assert!(answer.status == 503 || alone == Alone::Mute, "{} {}", answer.status, answer.text());
        }
        Ok(())
    });
    cluster.net().heal();
    stage.check_whole(&attempts)
}

/// Asks a node that is alone for what it cannot do, all at once since each takes its time to be refused. Returns the
/// batches that were sent and what came of them.
#[allow(clippy::unwrap_used, reason = "a thread that has panicked fails the test that asks")]
fn ask_in_vain(lone: &Client, run: &str) -> Vec<(u32, Sent)> {
    thread::scope(|scope| {
        let batches: Vec<_> =
            (10..13).map(|seq| scope.spawn(move || (seq, write(lone, run, seq, &own(seq))))).collect();
        for answer in look_all(lone, "linearizable") {
            assert_eq!((answer.status, answer.code().as_str()), (503, "shard_unavailable"));
            assert!(answer.header("retry-after").is_some());
        }
        let attempts: Vec<_> = batches.into_iter().map(|batch| batch.join().unwrap()).collect();
        for (seq, sent) in &attempts {
            assert_ne!(*sent, Sent::Acknowledged, "batch {seq} cannot have reached a majority");
        }
        attempts
    })
}

impl Stage {
    /// Waits until all nodes serve, and checks what they show.
    fn check_whole(&self, attempts: &[(u32, Sent)]) -> Result<()> {
        self.cluster.wait_settled(3);
        for client in self.cluster.clients(&[1, 2, 3]) {
            wait_for_lookups(&client, "linearizable");
            for answer in look_all(&client, "linearizable") {
                assert_eq!(answer.expect(200).value()["n"], 2);
            }
            for (seq, sent) in attempts {
                for key in 0..KEYS {
                    let answer = look(&client, &format!("own{seq}-{key}"), "linearizable")?;
                    let fits = match sent {
                        Sent::Acknowledged => answer.status == 200,
                        Sent::Refused => answer.status == 404,
                        Sent::Unknown => matches!(answer.status, 200 | 404),
                    };
                    assert!(fits, "batch {seq} was {sent:?}, record {key}: {}", answer.text());
                }
            }
        }
        Ok(())
    }
}

/// A patch of each record.
fn all(n: u32) -> String {
    (0..KEYS).map(|key| line(&format!("k{key}"), n)).collect()
}

/// Records that no other batch knows.
fn own(seq: u32) -> String {
    (0..KEYS).map(|key| line(&format!("own{seq}-{key}"), seq)).collect()
}

#[test]
fn a_node_that_is_cut_off_refuses_what_it_cannot_know() -> Result<()> {
    a_lone_node(Alone::Cut)
}

#[test]
fn a_node_between_silent_peers_refuses_what_it_cannot_know() -> Result<()> {
    a_lone_node(Alone::Silence)
}

#[test]
fn a_leader_that_is_not_heard_is_replaced() -> Result<()> {
    a_lone_node(Alone::Mute)
}

#[test]
fn a_leader_that_hears_nobody_is_replaced() -> Result<()> {
    a_lone_node(Alone::Deaf)
}
