//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

const AFTER_HELP: &str = "\
Environment:
  LARDER_ROOT_KEY  the root API key, 32 to 256 visible ASCII characters; read when the data directory is new
  LARDER_LOG       what to log, for example `debug` or `larder_server=debug`; default
                   `info,openraft=error`

Exit codes:
  0  stopped as asked
  1  could not start, or the server failed
  2  the command line, the configuration or LARDER_ROOT_KEY is not valid
  3  another process uses the data directory, or the address
  4  something in the data directory is damaged
  5  the node could not go on: its disk failed, or it found damage";

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
        let Command::Start(args) = cli.command;
        assert_eq!(args.data_dir.unwrap().to_str(), Some("d"));
        assert_eq!(args.listen.unwrap().port(), 0);
        assert!(Cli::try_parse_from(["larder-server", "start", "--listen", "here"]).is_err());
    }
}
