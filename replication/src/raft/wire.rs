//! What replicas of a group say to each other, as bytes.
//!
//! All numbers are little-endian; a log id is as in `codec`. Every message of a replica to another begins with an
//! *envelope*, so that one that reaches the wrong node, or a replica that has taken another's place, is refused and
//! never taken for its own:
//!
//! ```text
//! envelope          version = 1 | group u16 | to, a replica u64 | from, a replica u64
//! vote              term u64 | candidate u64 | committed u8
//! append            envelope | echo | vote | previous log id | commit log id | entries u32 | entry × entries
//! echo              0 u8  or  1 u8, moment, committed index u64 (see `echo`)
//! moment            run u64 | microseconds u64
//! entry             log id | kind u8 (0 blank, 1 command, 2 membership) | length u32 | payload
//! append answer     moment | 0 success | 1 conflict | 2 partial: log id | 3 higher: vote
//! vote request      envelope | vote | last log id | transfer u8
//! vote answer       vote | granted u8 | last log id
//! transfer          envelope | vote | heir u64 | last log id; said to all voters, so the heir need not be who is told
//! transfer answer   0 | 1 vote changed: expected vote, actual vote | 2 not flushed: expected log id, actual log id
//! ```
//!
//! Invariant: nothing here panics, whatever the bytes.

use bytes::{Buf, Bytes};
use larder_storage::log::{EntryKind, LogEntry};
use larder_types::ids::{GroupId, ReplicaId};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};

use super::codec::{CodecError, Reader, from_entry, from_vote, put_log_id, to_entry, to_log_id, to_vote};
use super::echo::{Echo, Moment};
use super::types::{LeaderId, TypeConfig, Vote};

const VERSION: u8 = 1;

/// Bytes of an envelope.
const ENVELOPE_BYTES: usize = 1 + 2 + 8 + 8;

/// Which replica says something to which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// The group of both.
    pub(crate) group: GroupId,
    /// Whom it is for.
    pub(crate) to: ReplicaId,
    /// Who says it.
    pub(crate) from: ReplicaId,
}

impl Envelope {
    /// Puts the envelope at the front of a message.
    pub(crate) fn put(self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend(self.group.0.to_le_bytes());
        out.extend(self.to.0.to_le_bytes());
        out.extend(self.from.0.to_le_bytes());
    }

    /// Takes the envelope off the front of a message.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn take(message: &mut Bytes) -> Result<Self, CodecError> {
        let mut reader = Reader { rest: message, what: "envelope of a message" };
        reader.version(VERSION)?;
        let group = GroupId(reader.u16()?);
        let (to, from) = (ReplicaId(reader.u64()?), ReplicaId(reader.u64()?));
        message.advance(ENVELOPE_BYTES);
        Ok(Self { group, to, from })
    }
}

/// Entries to be appended, or a heartbeat.
pub(crate) fn encode_append(
    envelope: Envelope,
    echo: Option<Echo>,
    request: AppendEntriesRequest<TypeConfig>,
) -> Vec<u8> {
    let entries: Vec<LogEntry> = request.entries.into_iter().map(to_entry).collect();
    let payloads: usize = entries.iter().map(|entry| entry.payload.len() + 40).sum();
    let mut out = Vec::with_capacity(128 + payloads);
    envelope.put(&mut out);
    out.push(u8::from(echo.is_some()));
    if let Some(Echo { moment, committed }) = echo {
        put_moment(moment, &mut out);
        out.extend(committed.to_le_bytes());
    }
    put_vote(&request.vote, &mut out);
    put_log_id(request.prev_log_id.as_ref(), &mut out);
    put_log_id(request.leader_commit.as_ref(), &mut out);
    out.extend(u32::try_from(entries.len()).unwrap_or(u32::MAX).to_le_bytes());
    for entry in entries {
        put_log_id(Some(&super::codec::from_log_id(entry.id)), &mut out);
        out.push(match entry.kind {
            EntryKind::Blank => 0,
            EntryKind::Command => 1,
            EntryKind::Membership => 2,
        });
        out.extend(u32::try_from(entry.payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&entry.payload);
    }
    out
}

/// The payloads of the entries are copied: they are kept for long, and would keep all that was received with them.
///
/// # Errors
/// When the bytes are no such message, or no leader can have sent it: openraft, and the log, take it for granted that the
/// vote was won and that the entries follow each other and are none of a later leader.
pub(crate) fn decode_append(message: &Bytes) -> Result<(Option<Echo>, AppendEntriesRequest<TypeConfig>), CodecError> {
    const WHAT: &str = "entries of a leader";
    let mut reader = Reader { rest: message, what: WHAT };
    let echo = match flag(&mut reader)? {
        false => None,
        true => Some(Echo { moment: moment(&mut reader)?, committed: reader.u64()? }),
    };
    let (vote, prev_log_id, leader_commit) = (vote(&mut reader)?, reader.log_id()?, reader.log_id()?);
    let count = reader.u32()?;
    let mut entries = Vec::new();
    let (mut next, mut leader) = match &prev_log_id {
        Some(id) => (id.index.checked_add(1).ok_or(CodecError::Malformed(WHAT))?, id.leader_id),
        None => (0, LeaderId { term: 0, node_id: 0 }),
    };
    if !vote.committed || leader > vote.leader_id {
        return Err(CodecError::Malformed(WHAT));
    }
    for _ in 0..count {
        let id = reader.log_id()?.ok_or(CodecError::Malformed(WHAT))?;
        if id.index != next || id.leader_id < leader || id.leader_id > vote.leader_id {
            return Err(CodecError::Malformed(WHAT));
        }
        (next, leader) = (next.checked_add(1).ok_or(CodecError::Malformed(WHAT))?, id.leader_id);
        let kind = match reader.take()? {
            [0] => EntryKind::Blank,
            [1] => EntryKind::Command,
            [2] => EntryKind::Membership,
            _ => return Err(CodecError::Malformed(WHAT)),
        };
        let length = usize::try_from(reader.u32()?).map_err(|_| CodecError::Malformed(WHAT))?;
        let (payload, rest) = reader.rest.split_at_checked(length).ok_or(CodecError::Malformed(WHAT))?;
        reader.rest = rest;
        if kind == EntryKind::Blank && length > 0 {
            return Err(CodecError::Malformed(WHAT));
        }
        entries.push(from_entry(LogEntry { id: to_log_id(&id), kind, payload: Bytes::copy_from_slice(payload) })?);
    }
    reader.end()?;
    Ok((echo, AppendEntriesRequest { vote, prev_log_id, entries, leader_commit }))
}

/// What became of entries, and when that is.
pub(crate) fn encode_append_answer(now: Moment, answer: &AppendEntriesResponse<TypeConfig>) -> Vec<u8> {
    let mut out = Vec::new();
    put_moment(now, &mut out);
    match answer {
        AppendEntriesResponse::Success => out.push(0),
        AppendEntriesResponse::Conflict => out.push(1),
        AppendEntriesResponse::PartialSuccess(upto) => {
            out.push(2);
            put_log_id(upto.as_ref(), &mut out);
        }
        AppendEntriesResponse::HigherVote(vote) => {
            out.push(3);
            put_vote(vote, &mut out);
        }
    }
    out
}

/// # Errors
/// When the bytes are no such answer.
pub(crate) fn decode_append_answer(bytes: &[u8]) -> Result<(Moment, AppendEntriesResponse<TypeConfig>), CodecError> {
    let mut reader = Reader { rest: bytes, what: "answer to entries" };
    let now = moment(&mut reader)?;
    let answer = match reader.take()? {
        [0] => AppendEntriesResponse::Success,
        [1] => AppendEntriesResponse::Conflict,
        [2] => AppendEntriesResponse::PartialSuccess(reader.log_id()?),
        [3] => AppendEntriesResponse::HigherVote(vote(&mut reader)?),
        _ => return Err(CodecError::Malformed(reader.what)),
    };
    reader.end()?;
    Ok((now, answer))
}

/// A request for a vote, be it in earnest or before.
pub(crate) fn encode_vote_request(envelope: Envelope, request: &VoteRequest<TypeConfig>) -> Vec<u8> {
    let mut out = Vec::new();
    envelope.put(&mut out);
    put_vote(&request.vote, &mut out);
    put_log_id(request.last_log_id.as_ref(), &mut out);
    out.push(u8::from(request.leadership_transfer));
    out
}

/// # Errors
/// When the bytes are no such request.
pub(crate) fn decode_vote_request(message: &[u8]) -> Result<VoteRequest<TypeConfig>, CodecError> {
    let mut reader = Reader { rest: message, what: "request for a vote" };
    let mut request = VoteRequest::new(vote(&mut reader)?, reader.log_id()?);
    request.leadership_transfer = flag(&mut reader)?;
    reader.end()?;
    Ok(request)
}

/// A vote, given or not.
pub(crate) fn encode_vote_answer(answer: &VoteResponse<TypeConfig>) -> Vec<u8> {
    let mut out = Vec::new();
    put_vote(&answer.vote, &mut out);
    out.push(u8::from(answer.vote_granted));
    put_log_id(answer.last_log_id.as_ref(), &mut out);
    out
}

/// # Errors
/// When the bytes are no such answer.
pub(crate) fn decode_vote_answer(bytes: &[u8]) -> Result<VoteResponse<TypeConfig>, CodecError> {
    let mut reader = Reader { rest: bytes, what: "answer to a request for a vote" };
    let (vote, vote_granted, last_log_id) = (vote(&mut reader)?, flag(&mut reader)?, reader.log_id()?);
    reader.end()?;
    Ok(VoteResponse { vote, vote_granted, last_log_id })
}

/// A leader's word that another replica is to lead.
pub(crate) fn encode_transfer(envelope: Envelope, request: &TransferLeaderRequest<TypeConfig>) -> Vec<u8> {
    let mut out = Vec::new();
    envelope.put(&mut out);
    put_vote(request.from_leader(), &mut out);
    out.extend(request.to_node_id().to_le_bytes());
    put_log_id(request.last_log_id(), &mut out);
    out
}

/// # Errors
/// When the bytes are no such request.
pub(crate) fn decode_transfer(message: &[u8]) -> Result<TransferLeaderRequest<TypeConfig>, CodecError> {
    let mut reader = Reader { rest: message, what: "transfer of a leader" };
    let (vote, heir, last) = (vote(&mut reader)?, reader.u64()?, reader.log_id()?);
    reader.end()?;
    Ok(TransferLeaderRequest::new(vote, heir, last))
}

/// What became of a transfer.
pub(crate) fn encode_transfer_answer(answer: &TransferLeaderResponse<TypeConfig>) -> Vec<u8> {
    let mut out = Vec::new();
    match answer {
        Ok(()) => out.push(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            out.push(1);
            put_vote(expected, &mut out);
            put_vote(actual, &mut out);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            out.push(2);
            put_log_id(expected.as_ref(), &mut out);
            put_log_id(actual.as_ref(), &mut out);
        }
    }
    out
}

/// # Errors
/// When the bytes are no such answer.
pub(crate) fn decode_transfer_answer(bytes: &[u8]) -> Result<TransferLeaderResponse<TypeConfig>, CodecError> {
    let mut reader = Reader { rest: bytes, what: "answer to a transfer" };
    let answer = match reader.take()? {
        [0] => Ok(()),
        [1] => Err(TransferLeaderError::VoteChanged { expected: vote(&mut reader)?, actual: vote(&mut reader)? }),
        [2] => Err(TransferLeaderError::LogNotFlushed { expected: reader.log_id()?, actual: reader.log_id()? }),
        _ => return Err(CodecError::Malformed(reader.what)),
    };
    reader.end()?;
    Ok(answer)
}

/// A vote alone.
pub(crate) fn put_vote(vote: &Vote, out: &mut Vec<u8>) {
    let vote = to_vote(vote);
    out.extend(vote.term.to_le_bytes());
    out.extend(vote.candidate.0.to_le_bytes());
    out.push(u8::from(vote.committed));
}

fn vote(reader: &mut Reader<'_>) -> Result<Vote, CodecError> {
    let (term, candidate, committed) = (reader.u64()?, ReplicaId(reader.u64()?), flag(reader)?);
    Ok(from_vote(larder_storage::log::Vote { term, candidate, committed }))
}

/// A vote that is all of the bytes.
///
/// # Errors
/// When they are none.
pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
    let mut reader = Reader { rest: bytes, what: "vote" };
    let vote = vote(&mut reader)?;
    reader.end()?;
    Ok(vote)
}

fn put_moment(moment: Moment, out: &mut Vec<u8>) {
    out.extend(moment.run.to_le_bytes());
    out.extend(moment.micros.to_le_bytes());
}

fn moment(reader: &mut Reader<'_>) -> Result<Moment, CodecError> {
    Ok(Moment { run: reader.u64()?, micros: reader.u64()? })
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, CodecError> {
    match reader.take()? {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(CodecError::Malformed(reader.what)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fmt::Debug;

    use larder_types::ids::NodeId;
    use openraft::EntryPayload;
    use proptest::prelude::*;

    use super::super::types::{Command, Entry, LeaderId, LogId, Membership, ReplicaNode};
    use super::*;

    fn log_id() -> impl Strategy<Value = LogId> {
        (any::<u64>(), any::<u64>(), any::<u64>())
            .prop_map(|(term, node_id, index)| LogId::new(LeaderId { term, node_id }, index))
    }

    fn any_vote() -> impl Strategy<Value = Vote> {
        (any::<u64>(), any::<u64>(), any::<bool>())
            .prop_map(|(term, node_id, committed)| Vote { leader_id: LeaderId { term, node_id }, committed })
    }

    fn envelope() -> impl Strategy<Value = Envelope> {
        (any::<u16>(), any::<u64>(), any::<u64>()).prop_map(|(group, to, from)| Envelope {
            group: GroupId(group),
            to: ReplicaId(to),
            from: ReplicaId(from),
        })
    }

    fn payload() -> impl Strategy<Value = EntryPayload<Command, u64, ReplicaNode>> {
        let members = proptest::collection::btree_map(any::<u64>(), any::<u32>(), 1..5).prop_map(|members| {
            let voters: BTreeSet<u64> = members.keys().copied().collect();
            let nodes: BTreeMap<_, _> =
                members.into_iter().map(|(replica, node)| (replica, ReplicaNode { node: NodeId(node) })).collect();
            EntryPayload::Membership(Membership::new(vec![voters], nodes).unwrap())
        });
        prop_oneof![
            Just(EntryPayload::Blank),
            proptest::collection::vec(any::<u8>(), 0..200)
                .prop_map(|bytes| EntryPayload::Normal(Command(bytes.into()))),
            members,
        ]
    }

    fn same<T: Debug>(left: T, right: T) {
        assert_eq!(format!("{left:?}"), format!("{right:?}"));
    }

    /// What no leader sends would end the group if openraft got it.
    #[test]
    fn entries_that_no_leader_can_have_sent_are_refused() {
        let id = |term, index| LogId::new(LeaderId { term, node_id: 1 }, index);
        let decoded = |vote: Vote, prev_log_id: Option<LogId>, ids: &[LogId]| {
            let entries = ids.iter().map(|log_id| Entry { log_id: *log_id, payload: EntryPayload::Blank }).collect();
            let envelope = Envelope { group: GroupId(1), to: ReplicaId(1), from: ReplicaId(2) };
            let request = AppendEntriesRequest { vote, prev_log_id, entries, leader_commit: None };
            let mut message = Bytes::from(encode_append(envelope, None, request));
            Envelope::take(&mut message).and_then(|_| decode_append(&message)).is_ok()
        };
        let won = Vote { leader_id: LeaderId { term: 3, node_id: 1 }, committed: true };
        assert!(decoded(won, None, &[id(1, 0), id(3, 1)]));
        assert!(decoded(won, Some(id(2, 6)), &[id(3, 7)]));
        assert!(!decoded(Vote { committed: false, ..won }, None, &[]), "a vote that was not won");
        assert!(!decoded(won, Some(id(2, 6)), &[id(3, 8)]), "a gap");
        assert!(!decoded(won, None, &[id(1, 1)]), "a gap at the beginning");
        assert!(!decoded(won, None, &[id(3, 0), id(3, 0)]), "twice");
        assert!(!decoded(won, None, &[id(3, 0), id(2, 1)]), "back to an earlier leader");
        assert!(!decoded(won, None, &[id(4, 0)]), "of a later leader");
        assert!(!decoded(won, Some(id(4, 6)), &[]), "after a later leader");
        assert!(!decoded(won, Some(id(3, u64::MAX)), &[]), "no end");
    }

    proptest! {
        #[test]
        fn entries_survive(
            envelope in envelope(), mut vote in any_vote(), prev in proptest::option::of(log_id()),
            commit in proptest::option::of(log_id()), payloads in proptest::collection::vec(payload(), 0..6),
        ) {
            let prev = prev.filter(|id: &LogId| id.index < u64::MAX - 10);
            vote.committed = true;
            vote.leader_id = vote.leader_id.max(prev.map_or(vote.leader_id, |id| id.leader_id));
            let first = prev.map_or(0, |id| id.index + 1);
            let entries = (first..).zip(payloads).map(|(index, payload)| {
                Entry { log_id: LogId::new(vote.leader_id, index), payload }
            });
            let request = AppendEntriesRequest { vote, prev_log_id: prev, entries: entries.collect(), leader_commit: commit };
            let moment = Moment { run: vote.leader_id.term, micros: first };
            let echo = commit.map(|id: LogId| Echo { moment, committed: id.index });
            let mut message = Bytes::from(encode_append(envelope, echo, request.clone()));
            let whole = message.clone();
            prop_assert_eq!(Envelope::take(&mut message).unwrap(), envelope);
            let (read_echo, read) = decode_append(&message).unwrap();
            prop_assert_eq!(read_echo, echo);
            prop_assert_eq!(&read.entries, &request.entries);
            same(read, request);
            // Whatever is cut off is missed, and nothing may follow.
            for end in 0..whole.len() {
                let mut cut = whole.slice(..end);
                prop_assert!(Envelope::take(&mut cut).and_then(|_| decode_append(&cut)).is_err());
            }
            let longer = Bytes::from([&message[..], &[0]].concat());
            prop_assert!(decode_append(&longer).is_err());
        }

        #[test]
        fn votes_survive(
            envelope in envelope(), vote in any_vote(), last in proptest::option::of(log_id()), flag in any::<bool>(),
        ) {
            let mut request = VoteRequest::new(vote, last);
            request.leadership_transfer = flag;
            let mut message = Bytes::from(encode_vote_request(envelope, &request));
            prop_assert_eq!(Envelope::take(&mut message).unwrap(), envelope);
            prop_assert_eq!(decode_vote_request(&message).unwrap(), request);
            let answer = VoteResponse { vote, vote_granted: flag, last_log_id: last };
            prop_assert_eq!(decode_vote_answer(&encode_vote_answer(&answer)).unwrap(), answer);
            let mut alone = Vec::new();
            put_vote(&vote, &mut alone);
            prop_assert_eq!(decode_vote(&alone).unwrap(), vote);
        }

        #[test]
        fn answers_survive(vote in any_vote(), other in any_vote(), last in proptest::option::of(log_id())) {
            for answer in [
                AppendEntriesResponse::Success,
                AppendEntriesResponse::Conflict,
                AppendEntriesResponse::PartialSuccess(last),
                AppendEntriesResponse::HigherVote(vote),
            ] {
                let now = Moment { run: vote.leader_id.term, micros: other.leader_id.term };
                prop_assert_eq!(decode_append_answer(&encode_append_answer(now, &answer)).unwrap(), (now, answer));
            }
            for answer in [
                Ok(()),
                Err(TransferLeaderError::VoteChanged { expected: vote, actual: other }),
                Err(TransferLeaderError::LogNotFlushed { expected: last, actual: None }),
            ] {
                prop_assert_eq!(decode_transfer_answer(&encode_transfer_answer(&answer)).unwrap(), answer);
            }
        }

        #[test]
        fn transfers_survive(
            envelope in envelope(), vote in any_vote(), heir in any::<u64>(), last in proptest::option::of(log_id()),
        ) {
            let request = TransferLeaderRequest::new(vote, heir, last);
            let mut message = Bytes::from(encode_transfer(envelope, &request));
            prop_assert_eq!(Envelope::take(&mut message).unwrap(), envelope);
            prop_assert_eq!(decode_transfer(&message).unwrap(), request);
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0u8..4], 0..120)) {
            let mut message = Bytes::from(bytes);
            let _ = decode_append(&message);
            let _ = (decode_append_answer(&message), decode_vote_request(&message), decode_vote_answer(&message));
            let _ = (decode_transfer(&message), decode_transfer_answer(&message), decode_vote(&message));
            let _ = Envelope::take(&mut message);
        }
    }
}
