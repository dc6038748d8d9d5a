//! Who calls whom: the first words of both sides, and the judgement of whether they may go on. Pure.
//!
//! Either side begins with [`MAGIC`], so that a stray client of another protocol is told from a peer at once. The caller
//! says hello, the called side says welcome, or farewell with a sentence that says what to do. Whatever a newer version
//! appends to hello or welcome is passed over; the range of versions comes first, where every version finds it.
//!
//! ```text
//! hello    lowest u16 | highest u16 | purpose u8 | boot u64 | from node? | to node? | cluster?
//! welcome  version u16 | boot u64 | node? | cluster?
//! node?    0 u8, or 1 u8 | u32          cluster?  length u8 (0: none) | text
//! ```

use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut, TryGetError};
use larder_types::ids::NodeId;

use super::error::{Mismatch, Refused};
use super::options::Lane;

/// What both sides begin with.
pub(super) const MAGIC: [u8; 8] = *b"larder\x00\x01";
/// The lowest and the highest version of the protocol that this code speaks.
pub(super) const VERSIONS: (u16, u16) = (1, 1);
/// Bytes of a cluster's id, at most.
pub(super) const MAX_CLUSTER_BYTES: usize = 64;

/// Says that a connection is for a single call, which need not come from a member.
const SINGLE: u8 = 255;

/// Who a node is, once it has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) cluster: Arc<str>,
    pub(super) node: NodeId,
}

/// What a caller says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    /// The connection that this is to be; `None`: one for a single call.
    pub(super) lane: Option<Lane>,
    pub(super) boot: u64,
    pub(super) from: Option<NodeId>,
    /// Who is meant; `None`: whoever is at the address.
    pub(super) to: Option<NodeId>,
    pub(super) cluster: Option<Arc<str>>,
}

/// What a called node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Welcome {
    /// What both sides speak from here on.
    pub(super) version: u16,
    pub(super) boot: u64,
    pub(super) node: Option<NodeId>,
    pub(super) cluster: Option<Arc<str>>,
}

impl Hello {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u16_le(VERSIONS.0);
        bytes.put_u16_le(VERSIONS.1);
        bytes.put_u8(self.lane.map_or(SINGLE, |lane| lane as u8));
        bytes.put_u64_le(self.boot);
        put_node(&mut bytes, self.from);
        put_node(&mut bytes, self.to);
        put_cluster(&mut bytes, self.cluster.as_deref());
        bytes.freeze()
    }

    /// Reads a hello, if it is of a version that this code speaks, and the highest version that both sides speak.
    pub(super) fn decode(mut bytes: Bytes) -> Result<(Self, u16), Refused> {
        let (lowest, highest) = (bytes.try_get_u16_le()?, bytes.try_get_u16_le()?);
        if lowest > VERSIONS.1 || highest < VERSIONS.0 {
            let message = format!(
                "this node speaks the versions {} to {} of the peer protocol, the caller {lowest} to {highest}: \
                 bring both to releases of Larder that are next to each other",
                VERSIONS.0, VERSIONS.1
            );
            return Err(Refused::new(Mismatch::Version, message));
        }
        let lane = match bytes.try_get_u8()? {
            SINGLE => None,
            lane => Some(*Lane::ALL.get(usize::from(lane)).ok_or_else(malformed)?),
        };
        let boot = bytes.try_get_u64_le()?;
        let (from, to) = (get_node(&mut bytes)?, get_node(&mut bytes)?);
        let hello = Self { lane, boot, from, to, cluster: get_cluster(&mut bytes)? };
        Ok((hello, highest.min(VERSIONS.1)))
    }

    /// Decides whether a node with the identity `own`, in its run `boot`, goes on with this caller. Returns who the
    /// caller is: a node only if both are members of the same cluster.
    pub(super) fn judge(&self, own: Option<&Identity>, boot: u64) -> Result<Option<NodeId>, Refused> {
        let Some(own) = own else {
            return match self.to {
                None => Ok(None),
                Some(to) => Err(not_joined(to)),
            };
        };
        if let Some(to) = self.to.filter(|&to| to != own.node) {
            return Err(wrong_node(own.node, to));
        }
        let Some(cluster) = &self.cluster else {
            return match self.lane {
                None => Ok(None),
                Some(_) => Err(malformed()),
            };
        };
        if *cluster != own.cluster {
            return Err(wrong_cluster("this node", &own.cluster, "the caller", cluster));
        }
        if self.from == Some(own.node) && self.boot != boot {
            return Err(duplicate(own.node));
        }
        Ok(self.from)
    }
}

impl Welcome {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u16_le(self.version);
        bytes.put_u64_le(self.boot);
        put_node(&mut bytes, self.node);
        put_cluster(&mut bytes, self.cluster.as_deref());
        bytes.freeze()
    }

    pub(super) fn decode(mut bytes: Bytes) -> Result<Self, Refused> {
        let version = bytes.try_get_u16_le()?;
        if !(VERSIONS.0..=VERSIONS.1).contains(&version) {
            return Err(malformed());
        }
        let boot = bytes.try_get_u64_le()?;
        Ok(Self { version, boot, node: get_node(&mut bytes)?, cluster: get_cluster(&mut bytes)? })
    }

    /// Decides whether the caller goes on with whoever says this. The called side has judged already; a caller trusts
    /// what it has seen itself.
    pub(super) fn judge(&self, own: Option<&Identity>, wanted: Option<NodeId>) -> Result<(), Refused> {
        if let (Some(own), Some(cluster)) = (own, &self.cluster)
            && own.cluster != *cluster
        {
            return Err(wrong_cluster("the called node", cluster, "this node", &own.cluster));
        }
        match (wanted, self.node) {
            (Some(wanted), None) => Err(not_joined(wanted)),
            (Some(wanted), Some(node)) if wanted != node => Err(wrong_node(node, wanted)),
            _ => Ok(()),
        }
    }
}

fn malformed() -> Refused {
    Refused::new(Mismatch::Protocol, "the first words of the connection make no sense: is this a node of Larder?")
}

impl From<TryGetError> for Refused {
    fn from(_: TryGetError) -> Self {
        malformed()
    }
}

fn not_joined(wanted: NodeId) -> Refused {
    let message = format!(
        "the called node has not joined a cluster, node {wanted} was wanted: let it join, or correct the address of \
         node {wanted}"
    );
    Refused::new(Mismatch::NotJoined, message)
}

fn wrong_node(found: NodeId, wanted: NodeId) -> Refused {
    let message =
        format!("node {found} is at this address, node {wanted} was wanted: correct the address of node {wanted}");
    Refused::new(Mismatch::Node, message)
}

fn wrong_cluster(called: &str, cluster: &str, caller: &str, other: &str) -> Refused {
    let message = format!(
        "{called} belongs to cluster {cluster}, {caller} to cluster {other}: correct the address, or empty the data \
         directory of the node that is to change its cluster and let it join"
    );
    Refused::new(Mismatch::Cluster, message)
}

/// Two processes are the same node.
pub(crate) fn duplicate(node: NodeId) -> Refused {
    let message = format!(
        "another process runs as node {node}: stop the one that should not, or give it an empty data directory and let \
         it join"
    );
    Refused::new(Mismatch::Duplicate, message)
}

fn put_node(bytes: &mut BytesMut, node: Option<NodeId>) {
    bytes.put_u8(u8::from(node.is_some()));
    if let Some(node) = node {
        bytes.put_u32_le(node.0);
    }
}

fn get_node(bytes: &mut Bytes) -> Result<Option<NodeId>, Refused> {
    match bytes.try_get_u8()? {
        0 => Ok(None),
        1 => Ok(Some(NodeId(bytes.try_get_u32_le()?))),
        _ => Err(malformed()),
    }
}

fn put_cluster(bytes: &mut BytesMut, cluster: Option<&str>) {
    let cluster = cluster.unwrap_or_default();
    // `Peers::set_identity` sees to the length.
    bytes.put_u8(u8::try_from(cluster.len()).unwrap_or(0));
    bytes.put_slice(cluster.as_bytes());
}

fn get_cluster(bytes: &mut Bytes) -> Result<Option<Arc<str>>, Refused> {
    let length = usize::from(bytes.try_get_u8()?);
    if length > MAX_CLUSTER_BYTES || length > bytes.len() {
        return Err(malformed());
    }
    let cluster = bytes.split_to(length);
    let cluster = std::str::from_utf8(&cluster).map_err(|_| malformed())?;
    if cluster.chars().any(char::is_control) {
        return Err(malformed());
    }
    Ok((!cluster.is_empty()).then(|| Arc::from(cluster)))
}
