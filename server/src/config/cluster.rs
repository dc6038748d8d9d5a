//! The section `[cluster]`: how a node finds other nodes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use larder_replication::catalog::{MAX_LABEL_BYTES, MAX_REPLICATION_FACTOR};
use larder_replication::node::{ClusterOptions, TlsFiles};

use super::section::{MIB, Section};

/// A node that is silent for less may come back by itself: nothing is copied for it.
const MIN_DEAD_AFTER: Duration = Duration::from_secs(10);
/// No disk or network takes more.
const MAX_RATE: u64 = 1 << 40;

/// Reads the section, if there is one, and the URL at which clients reach the node. Seeds named on the command line take
/// the place of those in the file.
pub(super) fn read(root: &mut Section<'_>, listen: SocketAddr, join: &[String]) -> (Option<ClusterOptions>, String) {
    let own = format!("http://{listen}");
    let Some(mut section) = root.section("cluster", "cluster") else {
        if !join.is_empty() {
            root.problem("cluster", "is missing: `--join` needs it, with `peer_listen` at least");
        }
        return (None, own);
    };
    let advertise = advertise(&mut section, listen, own);
    let peer_listen: Option<SocketAddr> =
        section.required("peer_listen", "give the address at which this node listens to other nodes");
    let address = peer_address(&mut section, peer_listen);
    let seeds = seeds(&mut section, address.as_deref(), join);
    let zone: String = section.take("zone", String::new());
    if zone.len() > MAX_LABEL_BYTES {
        section.problem("zone", format_args!("may have {MAX_LABEL_BYTES} bytes at most"));
    }
    let replication_factor: u8 = section.take("replication_factor", 3);
    if replication_factor.is_multiple_of(2) || replication_factor > MAX_REPLICATION_FACTOR {
        section.problem("replication_factor", format_args!("must be odd, from 1 to {MAX_REPLICATION_FACTOR}"));
    }
    let max_staleness = section.time("max_staleness", Duration::from_secs(5));
    let dead_after = section.time("dead_after", Duration::from_secs(15 * 60));
    if dead_after < MIN_DEAD_AFTER {
        section.problem("dead_after", format_args!("must be {MIN_DEAD_AFTER:?} at least"));
    }
    let transfer_bytes_per_second = section.size("transfer_bytes_per_second", 64 * MIB, 0..=MAX_RATE);
    let tls = section.section("tls", "cluster.tls").map(tls);
    section.finish();
    let options = peer_listen.zip(address).map(|(listen, address)| ClusterOptions {
        listen,
        address,
        seeds,
        zone,
        replication_factor,
        max_staleness,
        dead_after,
        transfer_bytes_per_second,
        tls: tls.flatten(),
    });
    (options, advertise)
}

fn advertise(section: &mut Section<'_>, listen: SocketAddr, own: String) -> String {
    let given: Option<String> = section.optional("advertise");
    if given.is_none() && listen.ip().is_unspecified() {
        section.problem("advertise", "is missing: `listen` is no address at which clients could reach this node");
    }
    let url = given.unwrap_or(own);
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let host = rest.map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    if url.len() > MAX_LABEL_BYTES
        || host.is_none_or(|host| host.is_empty() || host.contains(['/', '?', '#', '@', ' ']))
    {
        section.problem("advertise", "must be a URL without a path, as `http://10.0.0.1:8080`");
    }
    url
}

/// Where peers reach this node.
fn peer_address(section: &mut Section<'_>, listen: Option<SocketAddr>) -> Option<String> {
    if let Some(address) = section.optional::<String>("peer_address") {
        if !is_address(&address) {
            section.problem("peer_address", "must be a host and a port, as `10.0.0.1:7600`");
        }
        return Some(address);
    }
    let listen = listen?;
    if listen.ip().is_unspecified() || listen.port() == 0 {
        section.problem("peer_address", "is missing: `peer_listen` is no address at which peers could reach this node");
    }
    Some(listen.to_string())
}

fn seeds(section: &mut Section<'_>, own: Option<&str>, join: &[String]) -> Vec<String> {
    let from_file: Option<Vec<String>> = section.optional("seeds");
    let (seeds, place) = match from_file {
        _ if !join.is_empty() => (join.to_vec(), "seeds"),
        Some(seeds) if !seeds.is_empty() => (seeds, "seeds"),
        _ => {
            section.problem(
                "seeds",
                "is missing: list the peer addresses of the first nodes, the same list on all of them, or use `--join`",
            );
            return Vec::new();
        }
    };
    for bad in seeds.iter().filter(|seed| !is_address(seed)) {
        section.problem(place, format_args!("names `{bad}`, which is no host and port, as `10.0.0.1:7600`"));
    }
    let mut known = BTreeSet::new();
    for twice in seeds.iter().filter(|seed| !known.insert(*seed)) {
        section.problem(place, format_args!("names `{twice}` twice"));
    }
    if let Some(own) = own.filter(|own| join.iter().any(|seed| seed == own)) {
        section.problem(place, format_args!("names this node itself (`{own}`) in `--join`: name nodes of the cluster"));
    }
    seeds
}

fn tls(mut section: Section<'_>) -> Option<TlsFiles> {
    let mut file = |key, what| section.required::<PathBuf>(key, what);
    let ca = file("ca", "the PEM file of the CA that signs for this cluster alone");
    let certificate = file("certificate", "the PEM file of this node's certificate");
    let key = file("key", "the PEM file of this node's private key");
    section.finish();
    Some(TlsFiles { ca: ca?, certificate: certificate?, key: key? })
}

/// Whether a text is `host:port`, the host a name or an IP address, and the port not 0.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match bracketed {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    };
    is_host && text.len() <= MAX_LABEL_BYTES && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;
    use crate::cli::StartArgs;

    fn config(cluster: &str, join: &[&str]) -> Result<Config, String> {
        let join = join.iter().map(|&seed| seed.to_owned()).collect();
        let args = StartArgs { data_dir: Some("d".into()), join, ..StartArgs::default() };
        Config::new(cluster, &args).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let text = "[cluster]\npeer_listen = \"10.0.0.1:7600\"\nseeds = [\"10.0.0.1:7600\", \"db-2.example:7600\"]";
        let config = config(text, &[]).unwrap();
        assert_eq!(config.advertise, "http://127.0.0.1:8080");
        let cluster = config.cluster.unwrap();
        assert_eq!(cluster.address, "10.0.0.1:7600");
        assert_eq!((cluster.replication_factor, cluster.zone.as_str()), (3, ""));
        assert_eq!((cluster.max_staleness, cluster.dead_after), (Duration::from_secs(5), Duration::from_secs(900)));
        assert!(cluster.tls.is_none());
    }

    #[test]
    fn the_example_holds_the_defaults() {
        // What is commented out there without a blank is configuration.
        let text = include_str!("../../config.example.toml");
        let on = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest.to_owned(),
            _ => line.to_owned(),
        };
        let text: Vec<_> = text.lines().map(on).collect();
        let example = config(&text.join("\n"), &[]).unwrap();
        assert_eq!(example.advertise, "http://10.0.0.1:8080");
        let example = example.cluster.unwrap();
        assert!(example.tls.is_some());
        let bare = "[cluster]\npeer_listen = \"10.0.0.1:7600\"\n\
                    seeds = [\"10.0.0.1:7600\", \"10.0.0.2:7600\", \"10.0.0.3:7600\"]";
        assert_eq!(ClusterOptions { tls: None, ..example }, config(bare, &[]).unwrap().cluster.unwrap());
    }

    #[test]
    fn a_node_without_the_section_is_alone() {
        assert_eq!(config("", &[]).unwrap().cluster, None);
        assert!(config("", &["10.0.0.1:7600"]).unwrap_err().contains("`--join` needs it"));
    }

    #[test]
    fn the_command_line_names_whom_to_join() {
        let text = "[cluster]\npeer_listen = \"10.0.0.4:7600\"\nseeds = [\"10.0.0.1:7600\"]";
        let joined = config(text, &["10.0.0.2:7600", "[::1]:7600"]).unwrap().cluster.unwrap();
        assert_eq!(joined.seeds, ["10.0.0.2:7600", "[::1]:7600"]);
        assert!(config(text, &["10.0.0.4:7600"]).unwrap_err().contains("names this node itself"));
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let text = "listen = \"0.0.0.0:1\"\n[cluster]\npeer_listen = \"0.0.0.0:7600\"\nreplication_factor = 4\n\
                    seeds = [\"here\", \"a:1\", \"a:1\"]\ndead_after = \"1s\"\nseed = 1\n[cluster.tls]\nca = \"ca.pem\"\n";
        let problems = config(text, &[]).unwrap_err();
        for part in [
            "`cluster.advertise` is missing: `listen` is no address",
            "`cluster.peer_address` is missing: `peer_listen` is no address",
            "`cluster.seeds` names `here`, which is no host and port",
            "`cluster.seeds` names `a:1` twice",
            "`cluster.replication_factor` must be odd, from 1 to 7",
            "`cluster.dead_after` must be 10s at least",
            "`cluster.tls.certificate` is missing",
            "`cluster.tls.key` is missing",
            "`cluster.seed` is not known",
        ] {
            assert!(problems.contains(part), "no `{part}` in {problems}");
        }
        let bare = config("[cluster]", &[]).unwrap_err();
        assert!(bare.contains("`cluster.peer_listen` is missing") && bare.contains("`cluster.seeds` is missing"));
        for advertise in ["10.0.0.1:8080", "ftp://a", "http://", "http://a/b", "http://u@a"] {
            let text = format!("[cluster]\nadvertise = \"{advertise}\"");
            assert!(config(&text, &[]).unwrap_err().contains("must be a URL without a path"), "{advertise}");
        }
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for good in ["a:1", "10.0.0.1:65535", "[::1]:7600", "db_1.internal:7600"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["", "a", ":1", "a:0", "a:65536", "::1", "a b:1", "http://a:1", "[a]:1"] {
            assert!(!is_address(bad), "{bad}");
        }
    }
}
