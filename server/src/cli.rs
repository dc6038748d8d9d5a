//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

const AFTER_HELP: &str = "\
Environment:
  LARDER_KEY       the API key that `cluster` sends, unless --key-file names a file with it
  LARDER_ROOT_KEY  the root API key, 32 to 256 visible ASCII characters; read when the data directory is new
  LARDER_LOG       what to log, for example `debug` or `larder_server=debug`; default
                   `info,openraft=error`

Exit codes:
  0  stopped as asked
  1  could not start, or the server failed
  2  the command line, the configuration or LARDER_ROOT_KEY is not valid
  3  another process uses the data directory or an address, or peers cannot be listened to
  4  something in the data directory is damaged
  5  the node could not go on: its disk failed, or it found damage
  6  the cluster does not take this node: the message says what to do
  7  `cluster`: the cluster refuses the order: the message says why
  8  `cluster status`: not all is well";

/// Serves results of warehouse queries over HTTP.
#[derive(Debug, Parser)]
#[command(name = "larder-server", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Starts a node and serves until SIGTERM or Ctrl-C
    Start(StartArgs),
    /// Shows a cluster and gives orders to it
    Cluster(ClusterArgs),
    /// Starts a cluster of several nodes on this machine, for trying things out, and stops it on Ctrl-C
    DevCluster(DevClusterArgs),
}

/// Whom to ask, and for what.
#[derive(Debug, Clone, Args)]
pub struct ClusterArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ClusterCommand,
    /// Any node of the cluster
    #[arg(long, value_name = "URL", global = true, default_value = "http://127.0.0.1:8080")]
    pub server: String,
    /// A file that holds an API key with the scope admin; without it, LARDER_KEY is read
    #[arg(long, value_name = "FILE", global = true)]
    pub key_file: Option<PathBuf>,
    /// Prints JSON in place of text
    #[arg(long, global = true)]
    pub json: bool,
}

/// What can be done with a cluster.
#[derive(Debug, Clone, Subcommand)]
pub enum ClusterCommand {
    /// Shows nodes, shards, leaders, and what is under way
    Status,
    /// Prints the configuration with which a new node joins
    Add {
        /// The new node's host name or address, at which nodes and clients reach it
        #[arg(long, value_name = "HOST")]
        host: String,
        /// Its zone
        #[arg(long, value_name = "ZONE", default_value = "")]
        zone: String,
    },
    /// Moves all replicas off a node, which stays in the cluster
    Drain {
        /// Its number
        node: u32,
        /// Returns when it holds no shard any more
        #[arg(long)]
        wait: bool,
    },
    /// Gives replicas to a node again that was drained
    Resume {
        /// Its number
        node: u32,
    },
    /// Moves all replicas off a node and takes it out of the cluster for ever
    Remove {
        /// Its number
        node: u32,
        /// Returns when it is out
        #[arg(long)]
        wait: bool,
    },
    /// Has another replica of a shard lead it
    TransferLeader {
        /// The shard's number
        shard: u16,
        /// The node that is to lead
        #[arg(long, value_name = "NODE")]
        to: u32,
    },
    /// Says what the cluster does to spread replicas and leaders evenly, which it does by itself
    Rebalance {
        /// Returns when there is nothing left to do
        #[arg(long)]
        wait: bool,
    },
}

/// A cluster on this machine.
#[derive(Debug, Clone, Args)]
pub struct DevClusterArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=7))]
    pub nodes: u16,
    /// Where configurations, data, logs and the root key go; made if it does not exist, taken up again if it does
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The first node's port for clients; the others follow, and ports for peers 100 above
    #[arg(long, value_name = "PORT", default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..=65_000))]
    pub port_base: u16,
}

/// What is given on the command line wins over the configuration file.
#[derive(Debug, Clone, Default, Args)]
pub struct StartArgs {
    /// Where the node keeps everything; made if it does not exist
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The address to serve on; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// The address to serve metrics on, without an API key: for the operator's network alone [default: none]
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<SocketAddr>,
    /// Peer addresses of nodes whose cluster this one is to join, in place of `cluster.seeds`
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub join: Vec<String>,
    /// A configuration file, see config.example.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn start_takes_its_options() {
        let cli =
            Cli::try_parse_from(["larder-server", "start", "--data-dir", "d", "--listen", "127.0.0.1:0"]).unwrap();
        let Command::Start(args) = cli.command else { panic!("{cli:?}") };
        assert_eq!(args.data_dir.unwrap().to_str(), Some("d"));
        assert_eq!(args.listen.unwrap().port(), 0);
        assert!(Cli::try_parse_from(["larder-server", "start", "--listen", "here"]).is_err());
    }

    #[test]
    fn options_of_cluster_may_stand_anywhere() {
        let words = ["larder-server", "cluster", "drain", "4", "--wait", "--json", "--server", "http://a:1"];
        let Command::Cluster(args) = Cli::try_parse_from(words).unwrap().command else { panic!() };
        assert!(args.json && args.server == "http://a:1");
        assert!(matches!(args.command, ClusterCommand::Drain { node: 4, wait: true }));
        assert!(Cli::try_parse_from(["larder-server", "cluster", "drain", "four"]).is_err());
        assert!(Cli::try_parse_from(["larder-server", "dev-cluster", "--dir", "d", "--nodes", "8"]).is_err());
    }
}
