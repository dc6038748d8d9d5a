//! openraft's words in our encoding: what of them reaches disk is written and read here and nowhere else, so that a new
//! version of openraft never changes a file.
//!
//! All numbers are little-endian. Each encoding begins with its version, a byte; a version that is not known is an
//! error that asks for a newer Larder.
//!
//! ```text
//! membership  version = 1 | configs u16 | per config: voters u16, voters × replica u64
//!             | replicas u16, replicas × (replica u64, node u32), ascending by replica
//! head        version = 1 | last log id | membership log id | membership (to the end)
//! log id      0 u8  or  1 u8, term u64, leader u64, index u64
//! ```
//!
//! A membership is the payload of a log entry of that kind; a head stands at the front of a snapshot. Of the lists in a
//! membership, one holds the voters, two are a change under way; replicas that vote in none are learners.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;
use larder_storage::log::{self as storage, EntryKind, LogEntry};
use larder_types::ids::{NodeId, ReplicaId};
use openraft::EntryPayload;

use super::types::{Command, Entry, LeaderId, LogId, Membership, ReplicaNode, SnapshotMeta, StoredMembership, Vote};

const MEMBERSHIP_VERSION: u8 = 1;
const HEAD_VERSION: u8 = 1;

/// Bytes that are no encoding of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    /// A newer version wrote them.
    #[error("a newer version of Larder wrote the {what} (its format is {version}): run that version")]
    Newer {
        /// What it should be.
        what: &'static str,
        /// The version found.
        version: u8,
    },
    /// They break the format.
    #[error("the {0} cannot be decoded")]
    Malformed(&'static str),
}

impl From<CodecError> for io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// A log id for the log.
pub(crate) fn to_log_id(id: &LogId) -> storage::LogId {
    storage::LogId { term: id.leader_id.term, leader: ReplicaId(id.leader_id.node_id), index: id.index }
}

/// A log id from the log.
pub(crate) fn from_log_id(id: storage::LogId) -> LogId {
    LogId::new(LeaderId { term: id.term, node_id: id.leader.0 }, id.index)
}

/// A vote for the log.
pub(crate) fn to_vote(vote: &Vote) -> storage::Vote {
    storage::Vote { term: vote.leader_id.term, candidate: ReplicaId(vote.leader_id.node_id), committed: vote.committed }
}

/// A vote from the log.
pub(crate) fn from_vote(vote: storage::Vote) -> Vote {
    let leader_id = LeaderId { term: vote.term, node_id: vote.candidate.0 };
    Vote { leader_id, committed: vote.committed }
}

/// An entry for the log. The bytes of a command are shared, not copied.
pub(crate) fn to_entry(entry: Entry) -> LogEntry {
    let (kind, payload) = match entry.payload {
        EntryPayload::Blank => (EntryKind::Blank, Bytes::new()),
        EntryPayload::Normal(command) => (EntryKind::Command, command.0),
        EntryPayload::Membership(membership) => (EntryKind::Membership, Bytes::from(encode_membership(&membership))),
    };
    LogEntry { id: to_log_id(&entry.log_id), kind, payload }
}

/// An entry from the log.
///
/// # Errors
/// When it holds a membership that cannot be decoded.
pub(crate) fn from_entry(entry: LogEntry) -> Result<Entry, CodecError> {
    let payload = match entry.kind {
        EntryKind::Blank => EntryPayload::Blank,
        EntryKind::Command => EntryPayload::Normal(Command(entry.payload)),
        EntryKind::Membership => EntryPayload::Membership(decode_membership(&entry.payload)?),
    };
    Ok(Entry { log_id: from_log_id(entry.id), payload })
}

/// What a snapshot must say of its place in the log.
pub(crate) fn encode_head(meta: &SnapshotMeta) -> Vec<u8> {
    let mut out = vec![HEAD_VERSION];
    put_log_id(meta.last_log_id.as_ref(), &mut out);
    put_log_id(meta.last_membership.log_id().as_ref(), &mut out);
    put_membership(meta.last_membership.membership(), &mut out);
    out
}

/// What a snapshot says of its place in the log.
///
/// # Errors
/// When the bytes are no head.
pub(crate) fn decode_head(bytes: &[u8]) -> Result<SnapshotMeta, CodecError> {
    let mut reader = Reader { rest: bytes, what: "head of a snapshot" };
    reader.version(HEAD_VERSION)?;
    let last_log_id = reader.log_id()?;
    let membership_log_id = reader.log_id()?;
    let membership = decode_membership(reader.rest)?;
    Ok(SnapshotMeta { last_log_id, last_membership: StoredMembership::new(membership_log_id, membership) })
}

fn encode_membership(membership: &Membership) -> Vec<u8> {
    let mut out = Vec::new();
    put_membership(membership, &mut out);
    out
}

fn put_membership(membership: &Membership, out: &mut Vec<u8>) {
    out.push(MEMBERSHIP_VERSION);
    put_count(membership.get_joint_config().len(), out);
    for voters in membership.get_joint_config() {
        put_count(voters.len(), out);
        voters.iter().for_each(|replica| out.extend(replica.to_le_bytes()));
    }
    let nodes: Vec<_> = membership.nodes().collect();
    put_count(nodes.len(), out);
    for (replica, ReplicaNode { node }) in nodes {
        out.extend(replica.to_le_bytes());
        out.extend(node.0.to_le_bytes());
    }
}

fn decode_membership(bytes: &[u8]) -> Result<Membership, CodecError> {
    let mut reader = Reader { rest: bytes, what: "membership" };
    reader.version(MEMBERSHIP_VERSION)?;
    let mut configs = Vec::new();
    for _ in 0..reader.u16()? {
        let voters = reader.u16()?;
        configs.push((0..voters).map(|_| reader.u64()).collect::<Result<BTreeSet<u64>, _>>()?);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..reader.u16()? {
        nodes.insert(reader.u64()?, ReplicaNode { node: NodeId(reader.u32()?) });
    }
    reader.end()?;
    // It refuses an empty list of voters, and voters that live on no node.
    Membership::new(configs, nodes).map_err(|_| CodecError::Malformed("membership"))
}

fn put_count(count: usize, out: &mut Vec<u8>) {
    let count = u16::try_from(count).unwrap_or_else(|_| panic_on_count(count));
    out.extend(count.to_le_bytes());
}

#[allow(clippy::panic, reason = "a group of 65 536 replicas is a programmer's error")]
fn panic_on_count(count: usize) -> u16 {
    panic!("a membership of {count} members cannot be encoded")
}

pub(super) fn put_log_id(id: Option<&LogId>, out: &mut Vec<u8>) {
    let Some(id) = id.map(to_log_id) else {
        out.push(0);
        return;
    };
    out.push(1);
    out.extend(id.term.to_le_bytes());
    out.extend(id.leader.0.to_le_bytes());
    out.extend(id.index.to_le_bytes());
}

/// Takes one thing after another off the front of some bytes.
pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
    pub(super) what: &'static str,
}

impl Reader<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (head, tail) = self.rest.split_first_chunk().ok_or(CodecError::Malformed(self.what))?;
        self.rest = tail;
        Ok(*head)
    }

    pub(super) fn version(&mut self, known: u8) -> Result<(), CodecError> {
        let [version] = self.take()?;
        if version > known {
            return Err(CodecError::Newer { what: self.what, version });
        }
        if version == known { Ok(()) } else { Err(CodecError::Malformed(self.what)) }
    }

    pub(super) fn u16(&mut self) -> Result<u16, CodecError> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, CodecError> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, CodecError> {
        self.take().map(u64::from_le_bytes)
    }

    pub(super) fn log_id(&mut self) -> Result<Option<LogId>, CodecError> {
        match self.take()? {
            [0] => Ok(None),
            [1] => {
                let (term, node_id, index) = (self.u64()?, self.u64()?, self.u64()?);
                Ok(Some(LogId::new(LeaderId { term, node_id }, index)))
            }
            _ => Err(CodecError::Malformed(self.what)),
        }
    }

    pub(super) fn end(&self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::Malformed(self.what)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(super) fn log_id(term: u64, node_id: u64, index: u64) -> LogId {
        LogId::new(LeaderId { term, node_id }, index)
    }

    /// Replica 7 votes alone and gives way to 8 and 9, which vote with it until the change is done; 3 only learns.
    fn joint() -> Membership {
        let nodes = [(3, 30), (7, 70), (8, 80), (9, 0x0102_0304)];
        let nodes: BTreeMap<u64, ReplicaNode> = nodes.map(|(r, n)| (r, ReplicaNode { node: NodeId(n) })).into();
        Membership::new(vec![BTreeSet::from([7]), BTreeSet::from([8, 9])], nodes).unwrap()
    }

    const JOINT: &str = "01 0200 0100 0700000000000000 0200 0800000000000000 0900000000000000 \
         0400 0300000000000000 1e000000 0700000000000000 46000000 \
         0800000000000000 50000000 0900000000000000 04030201";

    fn hex(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
    }

    #[test]
    fn memberships_keep_their_bytes_for_ever() {
        assert_eq!(encode_membership(&joint()), hex(JOINT));
        assert_eq!(decode_membership(&hex(JOINT)), Ok(joint()));
        assert_eq!(encode_membership(&Membership::default()), hex("01 0000 0000"));
        assert_eq!(decode_membership(&hex("01 0000 0000")), Ok(Membership::default()));
    }

    #[test]
    fn heads_keep_their_bytes_for_ever() {
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(5, 7, 1000)),
            last_membership: StoredMembership::new(Some(log_id(4, 7, 12)), joint()),
        };
        let bytes = hex(&format!(
            "01 01 0500000000000000 0700000000000000 e803000000000000 \
             01 0400000000000000 0700000000000000 0c00000000000000 {JOINT}"
        ));
        assert_eq!(encode_head(&meta), bytes);
        assert_eq!(decode_head(&bytes), Ok(meta));
        assert_eq!(encode_head(&SnapshotMeta::default()), hex("01 00 00 01 0000 0000"));
        assert_eq!(decode_head(&hex("01 00 00 01 0000 0000")), Ok(SnapshotMeta::default()));
    }

    #[test]
    fn a_newer_format_asks_for_a_newer_larder() {
        assert_eq!(decode_head(&[2, 0, 0]), Err(CodecError::Newer { what: "head of a snapshot", version: 2 }));
        assert_eq!(decode_membership(&[9]), Err(CodecError::Newer { what: "membership", version: 9 }));
    }

    #[test]
    fn what_is_no_membership_is_refused() {
        // A voter without a node, an empty list of voters, a byte too many, none at all, version 0.
        for bad in ["01 0100 0100 0700000000000000 0000", "01 0100 0000 0000", "01 0000 0000 00", "", "00 0000 0000"] {
            assert_eq!(decode_membership(&hex(bad)), Err(CodecError::Malformed("membership")), "{bad}");
        }
        for cut in 0..hex(JOINT).len() {
            assert_eq!(decode_membership(&hex(JOINT)[..cut]), Err(CodecError::Malformed("membership")));
        }
    }

    #[test]
    fn entries_survive_the_log() {
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(Command(Bytes::from_static(b"patch"))),
            EntryPayload::Membership(joint()),
        ];
        for payload in payloads {
            let entry = Entry { log_id: log_id(3, 9, 17), payload };
            assert_eq!(from_entry(to_entry(entry.clone())), Ok(entry));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoders_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_membership(&bytes);
            let _ = decode_head(&bytes);
        }
    }
}
