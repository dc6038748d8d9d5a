//! Nodes that do not belong where they are started: each is refused with a sentence that says what to do.

use anyhow::Result;
use larder_tests::cluster::{Cluster, PATIENCE, Settings, list};
use larder_tests::scratch;
use larder_tests::wait::wait_for;

/// What a process that the cluster does not take ends with.
const NOT_TAKEN: Option<i32> = Some(6);

fn alone(seeds: &[u8]) -> Settings {
    Settings { seeds: seeds.to_vec(), ..Settings::default() }
}

fn nodes_of(cluster: &Cluster, through: u8) -> usize {
    wait_for("the cluster's status", PATIENCE, || Ok(list(&cluster.status(through)?["nodes"]).len()))
}

fn id_of_cluster(cluster: &Cluster, through: u8) -> String {
    wait_for("the cluster's id", PATIENCE, || {
        cluster.status(through)?["cluster"].as_str().map(str::to_owned).ok_or_else(|| "none".to_owned())
    })
}

#[test]
fn two_clusters_that_were_made_apart_do_not_become_one() -> Result<()> {
    let mut cluster = Cluster::new(2, alone(&[1]))?;
    cluster.restart(1)?;
    cluster.settings = alone(&[2]);
    cluster.restart(2)?;
    let ids = [1, 2].map(|node| id_of_cluster(&cluster, node));
    assert_ne!(ids[0], ids[1]);
    // Pointed at each other, and at the other alone.
    for seeds in [&[1, 2][..], &[1][..]] {
        assert_eq!(cluster.terminate(2)?.code(), Some(0));
        cluster.settings = alone(seeds);
        let (code, said) = cluster.refused(2)?;
        assert_eq!(code, NOT_TAKEN, "{said}");
        assert!(ids.iter().all(|id| said.contains(id)), "{said}");
        assert!(said.contains("empty the data directory of the node that is to change its cluster"), "{said}");
        // Nothing is damaged: it goes on in its own cluster.
        cluster.settings = alone(&[2]);
        cluster.restart(2)?;
    }
    assert_eq!((nodes_of(&cluster, 1), nodes_of(&cluster, 2)), (1, 1));
    Ok(())
}

#[test]
fn a_copy_of_a_data_directory_is_no_second_node() -> Result<()> {
    let mut cluster = Cluster::start(3, 1, Settings::default())?;
    let id = cluster.id_of(2);
    cluster.terminate(2)?;
    scratch::copy(&cluster.data_dir(2), &cluster.data_dir(4))?;
    cluster.restart(2)?;
    cluster.wait_settled(3);
    let (code, said) = cluster.refused(4)?;
    assert_eq!(code, NOT_TAKEN, "{said}");
    assert!(said.contains(&format!("another process runs as node {id}: stop the one that should not")), "{said}");
    cluster.wait_settled(3);
    assert_eq!(cluster.id_of(2), id);
    Ok(())
}

#[test]
fn settings_that_all_nodes_share_cannot_differ() -> Result<()> {
    let mut cluster = Cluster::new(2, alone(&[1]))?;
    cluster.restart(1)?;
    let good = cluster.settings.clone();
    let (shards, factor) = (Settings { shards: 8, ..good.clone() }, Settings { replication_factor: 1, ..good.clone() });
    for (settings, advice) in [(shards, "set `shards = 4`"), (factor, "set `cluster.replication_factor = 3`")] {
        cluster.settings = settings;
        let (code, said) = cluster.refused(2)?;
        assert_eq!(code, NOT_TAKEN, "{said}");
        assert!(said.contains(advice) && said.contains("the same on all nodes"), "{said}");
        assert_eq!(nodes_of(&cluster, 1), 1, "a node that is refused is no member");
    }
    cluster.settings = good.clone();
    cluster.restart(2)?;
    // A member that is configured anew later is told too.
    assert_eq!(cluster.terminate(2)?.code(), Some(0));
    cluster.settings = Settings { replication_factor: 5, ..good };
    let (code, said) = cluster.refused(2)?;
    assert_eq!(code, NOT_TAKEN, "{said}");
    assert!(said.contains("set `cluster.replication_factor = 3`"), "{said}");
    Ok(())
}

#[test]
fn a_node_without_its_seeds_says_whom_it_waits_for_and_stops_when_asked() -> Result<()> {
    for seeds in [[2, 1], [1, 2]] {
        let mut cluster = Cluster::new(2, alone(&seeds))?;
        let missing = cluster.peer_address(2);
        cluster.spawn(1)?;
        let mut said = String::new();
        wait_for("the node to say whom it waits for", PATIENCE, || {
            said.push_str(&cluster.running(1).map_err(|error| error.to_string())?.output());
            let says = said.contains("waiting for") && said.contains(&format!("{missing} cannot be reached"));
            if says { Ok(()) } else { Err(said.clone()) }
        });
        assert!(!cluster.is_ready(1));
        assert_eq!(cluster.terminate(1)?.code(), Some(0));
    }
    Ok(())
}

#[test]
fn a_node_that_was_removed_is_told_to_begin_anew() -> Result<()> {
    let mut cluster = Cluster::start(3, 0, Settings::default())?;
    let id = cluster.id_of(3);
    cluster.terminate(3)?;
    cluster.order(1, id, "remove")?.expect(200);
    cluster.wait_removed(1, id);
    let (code, said) = cluster.refused(3)?;
    assert_eq!(code, NOT_TAKEN, "{said}");
    let advice = format!("node {id} was removed from the cluster: empty its data directory to join as a new node");
    assert!(said.contains(&advice), "{said}");
    cluster.wipe(3)?;
    cluster.restart(3)?;
    cluster.wait_settled(3);
    assert!(cluster.id_of(3) > id);
    Ok(())
}
