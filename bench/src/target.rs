//! Where requests go: the address, the `Host` header and the path of a plain HTTP URL.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, bail, ensure};

/// A server to send requests to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The address that connections are made to.
    pub(crate) address: SocketAddr,
    /// Host and port as the URL names them.
    pub(crate) authority: String,
    /// The URL's path and query, `/` if it has none.
    pub(crate) path: String,
}

impl Target {
    /// Reads `http://HOST[:PORT][/PATH]` and looks its host up.
    pub(crate) fn resolve(url: &str) -> anyhow::Result<Self> {
        let Some(rest) = url.strip_prefix("http://") else {
            bail!("the target must begin with http:// (TLS is not spoken here), as in http://127.0.0.1:8080");
        };
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) if rest[at..].starts_with('/') => (&rest[..at], &rest[at..]),
            Some(_) => bail!("the target needs a path before its query"),
            None => (rest, "/"),
        };
        ensure!(!authority.is_empty() && !authority.contains('@'), "the target needs a host and takes no user name");
        ensure!(
            url.bytes().all(|b| b.is_ascii_graphic()),
            "the target may hold visible ASCII characters only; percent-encode the others"
        );
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
        let named = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        let address = named
            .to_socket_addrs()
            .with_context(|| format!("cannot look up the host of {named}"))?
            .next()
            .with_context(|| format!("{named} has no address"))?;
        Ok(Self { address, authority: authority.to_owned(), path: path.to_owned() })
    }

    /// The target behind an address that is already known.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self { address, authority: address.to_string(), path: "/".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_split_into_address_authority_and_path() {
        let target = Target::resolve("http://127.0.0.1:8080/v1/x?fields=a").unwrap();
        assert_eq!(target.address, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(target.authority, "127.0.0.1:8080");
        assert_eq!(target.path, "/v1/x?fields=a");
        assert_eq!(Target::resolve("http://127.0.0.1").unwrap().address.port(), 80);
        assert_eq!(Target::resolve("http://[::1]:81").unwrap().address, "[::1]:81".parse().unwrap());
        assert_eq!(Target::resolve("http://[::1]").unwrap().address, "[::1]:80".parse().unwrap());
    }

    #[test]
    fn what_cannot_be_sent_to_is_refused() {
        for bad in [
            "https://127.0.0.1",
            "127.0.0.1:80",
            "http://",
            "http://u@127.0.0.1/",
            "http://127.0.0.1?x",
            "http://127.0.0.1/a b",
        ] {
            assert!(Target::resolve(bad).is_err(), "{bad}");
        }
    }
}
