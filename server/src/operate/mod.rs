//! `larder-server cluster`: shows a cluster and gives orders to it, over HTTP like anybody else.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line answers on standard output")]

pub(crate) mod client;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use larder_types::cluster::{ClusterStatus, Health, NodeInfo, Rebalance, TransferLeader};
use larder_types::ids::NodeId;
use serde_json::json;

use self::client::Client;
pub use self::client::ClientError;
use crate::cli::{ClusterArgs, ClusterCommand};

/// Pause between two looks at what an order has come to.
const PAUSE: Duration = Duration::from_millis(500);
/// An answer that does not come while nodes restart is waited for so often.
const MISSES: u32 = 60;

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// There is no key to send.
    #[error("an API key with the scope admin is needed: set LARDER_KEY, or name a file that holds it with --key-file")]
    NoKey,
    /// The file with the key cannot be read.
    #[error("cannot read the key from {0}: {1}")]
    KeyFile(PathBuf, std::io::Error),
    /// The cluster cannot be asked or refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// New nodes cannot reach this cluster.
    #[error(
        "no node of this cluster listens to others: give one a section [cluster] with `peer_listen` and its own address in \
         `seeds`, restart it, and others can join it"
    )]
    NobodyListens,
}

impl OperateError {
    /// The exit code that `--help` lists.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoKey | Self::KeyFile(..) | Self::Client(ClientError::Url(_)) => 2,
            Self::Client(ClientError::Refused { status: 400..500, .. }) | Self::NobodyListens => 7,
            Self::Client(_) => 1,
        }
    }
}

/// Carries a command out and returns the exit code.
///
/// # Errors
/// See [`OperateError`].
pub async fn run(args: &ClusterArgs) -> Result<u8, OperateError> {
    let operator = Operator { client: Client::new(&args.server, key(args)?)?, json: args.json };
    match &args.command {
        ClusterCommand::Status => return operator.status().await,
        ClusterCommand::Add { host, zone } => operator.add(host, zone).await?,
        ClusterCommand::Drain { node, wait } => {
            operator.order(*node, "drain").await?;
            if *wait {
                operator.wait(|status| status.node(NodeId(*node)).is_none_or(|node| node.replicas == 0)).await?;
            }
        }
        ClusterCommand::Resume { node } => operator.order(*node, "resume").await?,
        ClusterCommand::Remove { node, wait } => {
            operator.order(*node, "remove").await?;
            if *wait {
                operator.wait(|status| status.node(NodeId(*node)).is_none()).await?;
            }
        }
        ClusterCommand::TransferLeader { shard, to } => operator.transfer(*shard, NodeId(*to)).await?,
        ClusterCommand::Rebalance { wait } => {
            operator.rebalance().await?;
            if *wait {
                operator.wait(|status| status.moves.is_empty()).await?;
            }
        }
    }
    Ok(0)
}

fn key(args: &ClusterArgs) -> Result<String, OperateError> {
    let key = match &args.key_file {
        Some(file) => std::fs::read_to_string(file).map_err(|error| OperateError::KeyFile(file.clone(), error))?,
        None => std::env::var("LARDER_KEY").map_err(|_| OperateError::NoKey)?,
    };
    Some(key.trim().to_owned()).filter(|key| !key.is_empty()).ok_or(OperateError::NoKey)
}

/// Whoever gives orders.
struct Operator {
    client: Client,
    json: bool,
}

impl Operator {
    async fn status(&self) -> Result<u8, OperateError> {
        let body = self.client.ask(Method::GET, "/v1/cluster", None).await?;
        let status: ClusterStatus = self.client.read(&body)?;
        if self.json {
            println!("{}", String::from_utf8_lossy(&body));
        } else {
            print!("{}", table::status(&status));
        }
        Ok(if status.health == Health::Ok { 0 } else { 8 })
    }

    async fn add(&self, host: &str, zone: &str) -> Result<(), OperateError> {
        let status = self.client.status().await?;
        let config = config_of_new_node(&status, host, zone).ok_or(OperateError::NobodyListens)?;
        if self.json {
            println!("{}", json!({ "config": config }));
        } else {
            print!("{config}");
        }
        Ok(())
    }

    async fn order(&self, node: u32, order: &str) -> Result<(), OperateError> {
        let body = self.client.order(&format!("/v1/cluster/nodes/{node}/{order}"), None).await?;
        if self.json {
            println!("{}", String::from_utf8_lossy(&body));
            return Ok(());
        }
        // A node that was removed already is not described.
        match self.client.read::<Option<NodeInfo>>(&body)? {
            Some(NodeInfo { state, replicas, .. }) => println!("node {node} is {state} and holds {replicas} shards"),
            None => println!("node {node} was removed"),
        }
        Ok(())
    }

    async fn transfer(&self, shard: u16, to: NodeId) -> Result<(), OperateError> {
        let path = format!("/v1/cluster/shards/{shard}/transfer-leader");
        let body = self.client.order(&path, Some(&json!(TransferLeader { to }))).await?;
        match self.json {
            true => println!("{}", String::from_utf8_lossy(&body)),
            false => println!("the leader of shard {shard} was told to let node {to} lead"),
        }
        Ok(())
    }

    async fn rebalance(&self) -> Result<(), OperateError> {
        let body = self.client.order("/v1/cluster/rebalance", None).await?;
        let answer: Rebalance = self.client.read(&body)?;
        if self.json {
            println!("{}", String::from_utf8_lossy(&body));
        } else if answer.balanced {
            println!("replicas and leaders are where they should be");
        } else {
            let mut text = String::new();
            table::moves(&mut text, &answer.moves);
            print!("{text}");
        }
        Ok(())
    }

    /// Waits until the cluster is as wished, and tells meanwhile what is under way.
    async fn wait(&self, is_done: impl Fn(&ClusterStatus) -> bool) -> Result<(), OperateError> {
        let (mut told, mut misses): (Vec<String>, u32) = (Vec::new(), 0);
        loop {
            match self.client.status().await {
                Ok(status) if is_done(&status) => return Ok(()),
                Ok(status) => {
                    misses = 0;
                    if status.moves != told {
                        status
                            .moves
                            .iter()
                            .filter(|sentence| !told.contains(sentence))
                            .for_each(|new| eprintln!("{new}"));
                        told = status.moves;
                    }
                }
                Err(error @ ClientError::Refused { status: 400..500, .. }) => return Err(error.into()),
                Err(error) => {
                    misses += 1;
                    if misses >= MISSES {
                        return Err(error.into());
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What a node on this host needs to join; `None` if no node listens to others.
fn config_of_new_node(status: &ClusterStatus, host: &str, zone: &str) -> Option<String> {
    let seeds: Vec<_> = status.nodes.iter().filter(|node| !node.address.is_empty()).map(|node| &node.address).collect();
    if seeds.is_empty() {
        return None;
    }
    let port_of =
        |text: &str, default: u16| text.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(default);
    let (first, asked) = (status.nodes.first(), seeds.first());
    let listen = first.map_or(8080, |node| port_of(node.advertise.trim_end_matches('/'), 8080));
    let peers = asked.map_or(7600, |seed| port_of(seed, 7600));
    let shards = status.placement.iter().filter(|group| group.shard.is_some()).count();
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    Some(format!(
        "# A new node of cluster {cluster}. Save it as larder.toml on {host}, then:\n\
         #     larder-server start --config larder.toml\n\
         # If nodes speak TLS, give it a section [cluster.tls] with a certificate of its own from the same CA.\n\
         listen = \"0.0.0.0:{listen}\"\n\
         data_dir = \"/var/lib/larder\"\n\
         shards = {shards}\n\n\
         [cluster]\n\
         peer_listen = \"0.0.0.0:{peers}\"\n\
         peer_address = {peer_address}\n\
         advertise = {advertise}\n\
         seeds = [{seeds}]\n\
         zone = {zone}\n\
         replication_factor = {factor}\n",
        cluster = status.cluster,
        peer_address = quoted(&format!("{host}:{peers}")),
        advertise = quoted(&format!("http://{host}:{listen}")),
        seeds = seeds.iter().map(|seed| quoted(seed)).collect::<Vec<_>>().join(", "),
        zone = quoted(zone),
        factor = status.replication_factor,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::StartArgs;
    use crate::config::Config;

    fn status(address: &str) -> ClusterStatus {
        let node = json!({
            "node": 1, "state": "active", "liveness": "up", "silent_millis": 1, "zone": "a", "address": address,
            "advertise": "http://10.0.0.1:9000", "replicas": 4, "leads": 4, "bytes": 0
        });
        let group = |group: u16, shard: Option<u16>| json!({"group": group, "shard": shard, "health": "ok", "leader": 1, "last": 1, "replicas": []});
        let status = json!({
            "cluster": "ab", "node": 1, "replication_factor": 5, "health": "ok", "nodes": [node],
            "placement": [group(0, None), group(1, Some(0)), group(2, Some(1))], "moves": []
        });
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn a_new_node_is_configured_as_the_cluster_is() {
        let text = config_of_new_node(&status("10.0.0.1:7700"), "db-4.internal", "b").unwrap();
        let config = Config::new(&text, &StartArgs::default()).unwrap();
        let cluster = config.cluster.unwrap();
        assert_eq!((config.shards.get(), cluster.replication_factor), (2, 5));
        assert_eq!(cluster.seeds, ["10.0.0.1:7700"]);
        assert_eq!((cluster.address.as_str(), cluster.zone.as_str()), ("db-4.internal:7700", "b"));
        assert_eq!(config.advertise, "http://db-4.internal:9000");
        assert_eq!(config_of_new_node(&status(""), "db-4.internal", ""), None);
    }
}
