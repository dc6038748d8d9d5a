//! The format, pinned byte by byte. If one of these fails, data written by earlier versions cannot be read: give the
//! format a new version instead.

use super::frame::{Body, Frame};
use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn frame(body: Body<'_>) -> String {
    let mut bytes = Vec::new();
    Frame { group: GroupId(0x0102), synced: 0x1000, body }.encode(0xdead_beef, 0x1008, &mut bytes);
    assert_eq!(Frame::decode(&bytes, 0xdead_beef, 0x1008).unwrap().0.body, body, "it is read as it was written");
    hex(&bytes)
}

#[test]
fn the_bytes_of_frames_are_these() {
    let id = LogId { index: 0x11, term: 0x22, leader: ReplicaId(0x33) };
    let vote = Vote { term: 0x44, candidate: ReplicaId(0x55), committed: true };
    let entry = Body::Entry { id, kind: EntryKind::Membership, payload: b"abc" };
    let frames = [
        entry,
        Body::Entry { id, kind: EntryKind::Command, payload: b"" },
        Body::Vote(vote),
        Body::Truncate(Some(7)),
        Body::Truncate(None),
        Body::Purge(id),
        Body::Committed(Some(id)),
        Body::Committed(None),
        Body::Mark,
        Body::Forget,
    ];
    let found: Vec<String> = frames.into_iter().map(frame).collect();
    let expected: [&str; 10] = [
        "03000000001fd93401020201001000001100000000000000220000000000000033000000000000006162630000000000",
        "0000000047776b7e0101020100100000110000000000000022000000000000003300000000000000",
        "00000000032425f00201020100100000000000000000000044000000000000005500000000000000",
        "00000000277134f40300020100100000070000000000000000000000000000000000000000000000",
        "0000000013c748a50301020100100000000000000000000000000000000000000000000000000000",
        "000000002d84f1cd0400020100100000110000000000000022000000000000003300000000000000",
        "00000000e65457f00500020100100000110000000000000022000000000000003300000000000000",
        "00000000a9259e280501020100100000000000000000000000000000000000000000000000000000",
        "000000007934d2160600020100100000000000000000000000000000000000000000000000000000",
        "00000000b2e4742b0700020100100000000000000000000000000000000000000000000000000000",
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_bytes_of_a_segments_header_are_these() {
    let id = |index| Some(LogId { index, term: 0x22, leader: ReplicaId(0x33) });
    let vote = Some(Vote { term: 0x44, candidate: ReplicaId(0x55), committed: true });
    let full = GroupState { vote, committed: id(5), purged: id(3), last: id(9) };
    let header = Header {
        sequence: 0x0708,
        salt: 0xdead_beef,
        bytes: 0x4000,
        previous_end: 0x3ff8,
        checkpoint: BTreeMap::from([(GroupId(0), GroupState::default()), (GroupId(0x0102), full)]),
    };
    let bytes = header.encode();
    assert_eq!(Header::decode(&bytes).unwrap(), header);
    assert_eq!(bytes.len() as u64, segment::frames_start(2));
    assert!(bytes[48..4092].iter().all(|&byte| byte == 0));
    assert_eq!(
        hex(&bytes[..48]),
        "4c415244524c4f4701000000efbeadde08070000000000000040000000000000f83f000000000000c000000002bd5ca5"
    );
    assert_eq!(hex(&bytes[4092..4096]), "93c18288");
    assert_eq!(hex(&bytes[4096..4192]), "00".repeat(96));
    assert_eq!(
        hex(&bytes[4192..]),
        "02010f010000000044000000000000005500000000000000050000000000000022000000000000003300000000000000030000000000000022000000000000003300000000000000090000000000000022000000000000003300000000000000"
    );
    assert_eq!(segment::path(Path::new("log"), 0x0708), Path::new("log/00000000000000001800.log"));
}

#[test]
fn only_names_that_we_give_are_segments() {
    assert_eq!(segment::sequence_of("00000000000000001800.log"), Some(1800));
    for name in
        ["1800.log", "00000000000000001800", "spare", "lock", "0000000000000000180+.log", "99999999999999999999.log"]
    {
        assert_eq!(segment::sequence_of(name), None, "{name}");
    }
}
