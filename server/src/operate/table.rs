//! A cluster as text, for people with a terminal of 100 columns.

use std::fmt::Write as _;

use larder_types::cluster::{ClusterStatus, GroupInfo, Health, NodeInfo};

/// Columns of a line, and of a zone's name in it.
const WIDTH: usize = 100;
const ZONE: usize = 10;

/// The whole status.
pub(super) fn status(status: &ClusterStatus) -> String {
    let shards = status.placement.iter().filter(|group| group.shard.is_some()).count();
    let mut text = format!(
        "cluster {:.8}: {}   {} nodes, {shards} shards, up to {} replicas of each (node {} tells)\n\n",
        status.cluster,
        word(status.health),
        status.nodes.len(),
        status.replication_factor,
        status.node
    );
    nodes(&mut text, &status.nodes);
    text.push('\n');
    groups(&mut text, &status.placement);
    if !status.moves.is_empty() {
        text.push('\n');
        moves(&mut text, &status.moves);
    }
    text
}

/// What is under way, a line each.
pub(super) fn moves(text: &mut String, moves: &[String]) {
    const SHOWN: usize = 20;
    for sentence in moves.iter().take(SHOWN) {
        line(text, sentence);
    }
    if let Some(more) = moves.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        line(text, &format!("… and {more} more"));
    }
}

fn nodes(text: &mut String, nodes: &[NodeInfo]) {
    line(text, "NODE  STATE     HEARD    ZONE        SHARDS  LEADS     MEMORY  CLIENTS");
    for node in nodes {
        let NodeInfo { node: id, state, liveness, replicas, leads, advertise, .. } = node;
        let (zone, memory) = (cut(&node.zone, ZONE), size(node.bytes));
        let what = format!("{id:>4}  {state:<8}  {liveness:<7}  {zone:<ZONE$}");
        line(text, &format!("{what}  {replicas:>6}  {leads:>5}  {memory:>9}  {advertise}"));
    }
}

fn groups(text: &mut String, groups: &[GroupInfo]) {
    line(text, "SHARD    HEALTH       LEADER    ENTRIES  NODES (entries behind)");
    for group in groups {
        let name = group.shard.map_or_else(|| "catalog".to_owned(), |shard| shard.to_string());
        let leader = group.leader.map_or_else(|| "none".to_owned(), |node| node.to_string());
        let last = group.last.map_or_else(|| "?".to_owned(), |last| last.to_string());
        let health = word(group.health);
        let mut row = format!("{name:<7}  {health:<11}  {leader:>6}  {last:>9} ");
        for replica in &group.replicas {
            let _ = write!(row, " {}", replica.node);
            let lag = replica.lag.map_or_else(|| "?".to_owned(), |lag| lag.to_string());
            match replica.role.as_str() {
                "joining" => drop(write!(row, "(filling, {lag})")),
                _ if !replica.serves && group.shard.is_some() => drop(write!(row, "(not serving, {lag})")),
                _ if replica.lag != Some(0) => drop(write!(row, "({lag})")),
                _ => {}
            }
        }
        line(text, &row);
    }
}

fn line(text: &mut String, line: &str) {
    text.push_str(&cut(line.trim_end(), WIDTH));
    text.push('\n');
}

/// A text in so many columns at most.
fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns - 1).chain(['…']).collect()
}

fn word(health: Health) -> &'static str {
    match health {
        Health::Ok => "ok",
        Health::Degraded => "degraded",
        Health::Unavailable => "unavailable",
    }
}

fn size(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit behind the point")]
    let mut amount = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if amount < 1000.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{amount:.1} {unit}") };
        }
        amount /= 1024.0;
    }
    format!("{amount:.1} TiB")
}

#[cfg(test)]
mod tests {
    use larder_types::cluster::ReplicaInfo;
    use larder_types::ids::{GroupId, NodeId, ReplicaId};

    use super::*;

    fn node(id: u32) -> NodeInfo {
        NodeInfo {
            node: NodeId(id),
            state: "draining".into(),
            liveness: "suspect".into(),
            silent_millis: Some(1),
            zone: "eu-central-1-availability-zone-a".into(),
            address: "a-long-name-of-a-host.internal.example.com:7600".into(),
            advertise: "http://a-long-name-of-a-host.internal.example.com:8080".into(),
            replicas: 1024,
            leads: 512,
            bytes: 999 << 30,
        }
    }

    fn group(shard: Option<u16>, replicas: u32) -> GroupInfo {
        let replica = |node| ReplicaInfo {
            replica: ReplicaId(u64::from(node)),
            node: NodeId(node),
            role: if node == 3 { "joining".into() } else { "voter".into() },
            leads: node == 1,
            serves: node != 4,
            applied: Some(1),
            lag: Some(u64::from(node) - 1),
            age_millis: None,
            bytes: 0,
        };
        GroupInfo {
            group: GroupId(shard.map_or(0, |shard| shard + 1)),
            shard,
            health: Health::Unavailable,
            leader: Some(NodeId(1)),
            last: Some(123_456_789),
            replicas: (1..=replicas).map(replica).collect(),
        }
    }

    #[test]
    fn everything_fits_a_hundred_columns() {
        let cluster = ClusterStatus {
            cluster: "0123456789abcdef".into(),
            node: NodeId(1),
            replication_factor: 7,
            health: Health::Degraded,
            nodes: vec![node(1), node(1024)],
            placement: vec![group(None, 7), group(Some(1023), 7)],
            moves: (0..30).map(|shard| format!("shard {shard}: {}", "moves ".repeat(30))).collect(),
        };
        let text = status(&cluster);
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{} columns: {line}", line.chars().count());
        }
        assert!(text.starts_with("cluster 01234567: degraded   2 nodes, 1 shards, up to 7 replicas"), "{text}");
        assert!(
            text.contains("\n1023     unavailable       1  123456789  1 2(1) 3(filling, 2) 4(not serving, 3) 5(4)"),
            "{text}"
        );
        assert!(text.contains("… and 10 more"), "{text}");
    }

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [(0, "0 B"), (999, "999 B"), (1 << 20, "1.0 MiB"), (3 << 40, "3.0 TiB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
