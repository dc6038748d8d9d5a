//! What all connections of a node share, and how one is made.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use larder_types::ids::NodeId;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::{Mismatch, PeerError, Refused, message_of_peer};
use super::frame::{Head, Sort};
use super::handshake::{Hello, Identity, MAGIC, Welcome};
use super::link::Links;
use super::options::{Lane, PeerLimits};
use super::throttle::Throttle;
use super::tls::{self, Tls};
use super::traffic::Traffic;
use super::wire::{End, Line, Socket, greet};
use super::{Directory, Service};

/// What all connections share.
pub(super) struct Site {
    pub(super) limits: PeerLimits,
    pub(super) boot: u64,
    pub(super) tls: Option<Tls>,
    /// Where this node listens.
    pub(super) address: SocketAddr,
    pub(super) identity: RwLock<Option<Identity>>,
    pub(super) directory: Arc<dyn Directory>,
    pub(super) service: Arc<dyn Service>,
    pub(super) links: Links,
    pub(super) traffic: Mutex<HashMap<NodeId, Arc<Traffic>>>,
    pub(super) throttle: Throttle,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// Whom a connection is to reach.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    /// Host and port.
    pub(super) address: &'a str,
    /// The node that must be there.
    pub(super) node: Option<NodeId>,
    /// `None`: for a single call.
    pub(super) lane: Option<Lane>,
}

impl Site {
    pub(super) fn identity(&self) -> Option<Identity> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The counters of a node.
    pub(super) fn traffic(&self, node: NodeId) -> Arc<Traffic> {
        let mut all = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(node).or_insert_with(|| Arc::new(Traffic::new())))
    }

    /// Makes a connection and shakes hands over it. The caller bounds the time.
    pub(super) async fn connect(&self, target: Target<'_>) -> Result<(Line, Welcome), PeerError> {
        let unreachable = |what: &dyn std::fmt::Display| {
            let at = target.node.map_or_else(String::new, |node| format!("node {node} at "));
            PeerError::Unreachable(format!("{at}{} cannot be reached: {what}", target.address).into())
        };
        let stream = self.dial(target.address).await.map_err(|error| unreachable(&error))?;
        let socket: Box<dyn Socket> = match &self.tls {
            None => Box::new(stream),
            Some(tls) => match tls.connect(stream).await {
                Ok(stream) => Box::new(stream),
                Err(error) if tls::is_tls(&error) => return Err(PeerError::Refused(tls::refused(&error))),
                Err(error) => return Err(unreachable(&error)),
            },
        };
        match self.greet(socket, target).await {
            Ok(Ok(greeted)) => Ok(greeted),
            Ok(Err(refused)) => Err(PeerError::Refused(refused)),
            Err(End::Closed) => Err(unreachable(&"it closed the connection during the handshake")),
            Err(end) => Err(unreachable(&end)),
        }
    }

    async fn greet(
        &self,
        mut socket: Box<dyn Socket>,
        target: Target<'_>,
    ) -> Result<Result<(Line, Welcome), Refused>, End> {
        let own = self.identity();
        let (from, cluster) = own.as_ref().map(|own| (own.node, Arc::clone(&own.cluster))).unzip();
        let hello = Hello { lane: target.lane, boot: self.boot, from, to: target.node, cluster };
        greet(&mut socket, Head::new(Sort::Hello, 0), hello.encode()).await?;
        // Cut into frames only behind the magic, so that a stranger's bytes are not taken for the length of a frame.
        let mut magic = [0; MAGIC.len()];
        if let Err(error) = socket.read_exact(&mut magic).await {
            return if tls::is_tls(&error) { Ok(Err(tls::refused(&error))) } else { Err(error.into()) };
        }
        if magic != MAGIC {
            return Ok(Err(stranger(&magic)));
        }
        let mut line = Line::new(socket);
        let (head, body) = line.greeting().await?;
        Ok(match head.sort {
            Sort::Welcome => Welcome::decode(body).and_then(|welcome| {
                welcome.judge(own.as_ref(), target.node)?;
                Ok((line, welcome))
            }),
            Sort::Farewell => Err(Refused::new(Mismatch::from_code(head.tag), message_of_peer(&body))),
            other => Err(Refused::new(Mismatch::Protocol, format!("the peer began with a frame {other:?}"))),
        })
    }

    /// Connects to the first address of a host that takes it, from the address that this node listens on: others then
    /// see who calls.
    async fn dial(&self, address: &str) -> io::Result<TcpStream> {
        let own = Some(self.address.ip()).filter(|ip| !ip.is_unspecified());
        let mut failed = None;
        for to in lookup_host(address).await? {
            match connect_from(own, to).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host has no address")))
    }
}

async fn connect_from(own: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(own) = own.filter(|own| own.is_ipv4() == to.is_ipv4()) {
        socket.bind(SocketAddr::new(own, 0))?;
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn stranger(magic: &[u8; MAGIC.len()]) -> Refused {
    if magic[0] == tls::ALERT_RECORD || magic[0] == tls::HANDSHAKE_RECORD {
        let message = "the peer speaks TLS and this node does not: configure TLS on this node too";
        return Refused::new(Mismatch::Tls, message);
    }
    let message = "what answers at this address is no node of Larder, or one too new or old: correct the address";
    Refused::new(Mismatch::Protocol, message)
}
