//! Why a call to a peer failed. What the caller may do next depends on one question, whether the peer may have got the
//! request, so that is what the variants tell apart.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::tls::TlsError;

/// Bytes of a message of a peer that are kept.
pub(super) const MAX_MESSAGE_BYTES: usize = 1024;

/// Why a call failed. Cheap to clone.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum PeerError {
    /// There is no connection to the peer. It got nothing: try again later or elsewhere.
    #[error("{0}")]
    Unreachable(Arc<str>),
    /// The request did not leave this node in time. The peer got nothing: try again later or elsewhere.
    #[error("the request was not sent: {0}")]
    NotSent(NotSent),
    /// The two nodes must not talk to each other. The peer got nothing; somebody must change a configuration.
    #[error("{0}")]
    Refused(Refused),
    /// The peer did not answer in time. The outcome is unknown.
    #[error("the peer did not answer in time")]
    Timeout,
    /// The connection ended before the answer came. The outcome is unknown.
    #[error("the connection was lost before the answer came: {0}")]
    Lost(Arc<str>),
    /// The peer's service refused the request: its code and message say what that means.
    #[error("{}", .0.message)]
    Remote(Refusal),
}

impl PeerError {
    /// Tells whether it is certain that the peer did not get the request.
    pub(crate) fn was_not_delivered(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::NotSent(_) | Self::Refused(_) => true,
            Self::Timeout | Self::Lost(_) | Self::Remote(_) => false,
        }
    }
}

/// Why a request did not leave this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotSent {
    /// Earlier requests to the peer fill the queue.
    #[error("too many bytes wait for this peer")]
    Overloaded,
    /// The time was over before there was a connection.
    #[error("there was no connection to the peer in time")]
    NoConnection,
    /// It is longer than a frame may be.
    #[error("its {0} bytes are more than a request may have")]
    TooLarge(usize),
    /// This node has no identity, so it may only call addresses.
    #[error("this node has not joined a cluster")]
    NotJoined,
    /// This node stops.
    #[error("this node is shutting down")]
    ShuttingDown,
}

/// A request that the service of a peer refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What went wrong, in the service's numbering, but for the codes below.
    pub(crate) code: u8,
    /// The same for people.
    pub(crate) message: String,
}

impl Refusal {
    /// Of the transport: only a member of the cluster may ask this.
    pub(crate) const NOT_MEMBER: u8 = 255;
    /// Of the transport: the answer is longer than a frame may be.
    pub(crate) const TOO_LARGE: u8 = 254;

    pub(super) fn not_member() -> Self {
        let message = "only a node that has joined the cluster may ask this: join it first";
        Self { code: Self::NOT_MEMBER, message: message.to_owned() }
    }

    pub(super) fn too_large(bytes: usize) -> Self {
        let message = format!("the answer of {bytes} bytes is longer than the peer protocol allows: ask for less");
        Self { code: Self::TOO_LARGE, message }
    }
}

/// Why two nodes do not talk to each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refused {
    /// What does not match.
    pub(crate) mismatch: Mismatch,
    /// A sentence that says what does not match and what to do.
    pub(crate) message: String,
}

impl Refused {
    pub(super) fn new(mismatch: Mismatch, message: impl Into<String>) -> Self {
        Self { mismatch, message: message.into() }
    }
}

/// What does not match between two nodes. The numbers are those of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mismatch {
    /// One side does not speak this protocol, or breaks it.
    Protocol = 0,
    /// The versions of the protocol do not overlap.
    Version = 1,
    /// They belong to different clusters.
    Cluster = 2,
    /// Another node than the wanted one is at the address.
    Node = 3,
    /// Two processes say that they are the same node.
    Duplicate = 4,
    /// The called node belongs to no cluster yet.
    NotJoined = 5,
    /// One side wants TLS and the other does not, or does not trust its certificate.
    Tls = 6,
}

impl Mismatch {
    const ALL: [Self; 7] =
        [Self::Protocol, Self::Version, Self::Cluster, Self::Node, Self::Duplicate, Self::NotJoined, Self::Tls];

    /// Reads a code of the wire. A code of a newer version is a matter of the protocol.
    pub(super) fn from_code(code: u8) -> Self {
        Self::ALL.get(usize::from(code)).copied().unwrap_or(Self::Protocol)
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why the transport cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartPeersError {
    /// The address cannot be listened on.
    #[error("cannot listen for other nodes on {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// Certificates or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A message that a peer sent, fit for a log: bounded, one line.
pub(super) fn message_of_peer(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes.get(..MAX_MESSAGE_BYTES).unwrap_or(bytes));
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
