//! Frames of any shape survive any cut of the stream, and no damage is taken for a frame.

use bytes::{Buf as _, Bytes, BytesMut};
use proptest::prelude::*;
use tokio_util::codec::Decoder as _;

use crate::peers::frame::{Body, FrameError, Head, MAX_GREETING_BYTES, Packed, Sort, codec, decode};

fn sort() -> impl Strategy<Value = Sort> {
    prop::sample::select(vec![
        Sort::Hello,
        Sort::Welcome,
        Sort::Farewell,
        Sort::Request,
        Sort::Answer,
        Sort::Refusal,
        Sort::Ping,
        Sort::Pong,
    ])
}

fn head() -> impl Strategy<Value = Head> {
    (sort(), any::<u8>(), any::<u64>()).prop_map(|(sort, tag, id)| Head { sort, tag, id })
}

/// Parts around the length from which on they are not copied.
fn body() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let part = (prop_oneof![0usize..20, 4090usize..4102], any::<u8>()).prop_map(|(len, byte)| vec![byte; len]);
    prop::collection::vec(part, 0..4)
}

fn pack(frames: &[(Head, Vec<Vec<u8>>)]) -> Packed {
    let mut packed = Packed::default();
    for (head, parts) in frames {
        let parts: Vec<_> = parts.iter().map(|part| Bytes::from(part.clone())).collect();
        packed.push(*head, &Body::from(parts)).unwrap();
    }
    packed.seal();
    packed
}

fn bytes(head: Head, body: &[u8]) -> Vec<u8> {
    let mut packed = pack(&[(head, vec![body.to_vec()])]);
    packed.copy_to_bytes(packed.remaining()).to_vec()
}

const PING: Head = Head { sort: Sort::Ping, tag: 0, id: 0x0102_0304_0506_0708 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_survive_any_cut(
        frames in prop::collection::vec((head(), body()), 1..6),
        cuts in prop::collection::vec(1usize..5000, 1..8),
    ) {
        let mut packed = pack(&frames);
        let mut codec = codec(1 << 20);
        let (mut stream, mut found) = (BytesMut::new(), Vec::new());
        for cut in cuts.iter().cycle() {
            if !packed.has_remaining() {
                break;
            }
            // Piece by piece through the vectored way, as a socket takes them.
            let mut slices = [std::io::IoSlice::new(&[]); 3];
            let filled = packed.chunks_vectored(&mut slices);
            let joined: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            let taken = (*cut).min(joined.len());
            stream.extend_from_slice(&joined[..taken]);
            packed.advance(taken);
            while let Some(frame) = codec.decode(&mut stream).unwrap() {
                found.push(decode(frame).unwrap());
            }
        }
        prop_assert!(stream.is_empty());
        let sent: Vec<_> = frames.iter().map(|(head, parts)| (*head, Bytes::from(parts.concat()))).collect();
        prop_assert_eq!(found, sent);
    }

    #[test]
    fn a_flipped_bit_is_noticed(head in head(), body in prop::collection::vec(any::<u8>(), 0..50), at: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = bytes(head, &body).split_off(4);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert_eq!(decode(BytesMut::from(&bytes[..])), Err(FrameError::Checksum));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut codec = codec(100);
        let mut stream = BytesMut::from(&bytes[..]);
        while let Ok(Some(frame)) = codec.decode(&mut stream) {
            let _ = decode(frame);
        }
    }
}

#[test]
fn a_frame_looks_as_documented() {
    let frame = bytes(PING, b"ab");
    assert_eq!(frame[..4], 16u32.to_le_bytes());
    assert_eq!(frame[4..8], crc32c::crc32c(&frame[8..]).to_le_bytes());
    assert_eq!(frame[8..], [6, 0, 8, 7, 6, 5, 4, 3, 2, 1, b'a', b'b']);
}

#[test]
fn a_frame_beyond_the_limit_is_refused_before_memory_is_set_aside() {
    let fits = bytes(PING, &[0; MAX_GREETING_BYTES]);
    assert!(codec(MAX_GREETING_BYTES).decode(&mut BytesMut::from(&fits[..])).unwrap().is_some());
    let large = bytes(PING, &[0; MAX_GREETING_BYTES + 1]);
    // Only the length has arrived.
    let mut stream = BytesMut::from(&large[..4]);
    let before = stream.capacity();
    codec(MAX_GREETING_BYTES).decode(&mut stream).unwrap_err();
    assert_eq!(stream.capacity(), before);
}

#[test]
fn short_and_unknown_frames_are_told_apart() {
    for length in 0..14 {
        assert_eq!(decode(BytesMut::zeroed(length)), Err(FrameError::Short));
    }
    let mut unknown = bytes(PING, b"").split_off(8);
    unknown[0] = 8;
    let framed = [&crc32c::crc32c(&unknown).to_le_bytes()[..], &unknown].concat();
    assert_eq!(decode(BytesMut::from(&framed[..])), Err(FrameError::Sort(8)));
}

#[test]
fn large_bodies_are_not_copied() {
    let body = Bytes::from(vec![1; 1 << 20]);
    let mut packed = Packed::default();
    packed.push(PING, &body.clone().into()).unwrap();
    packed.seal();
    packed.advance(18);
    assert_eq!(packed.chunk().as_ptr(), body.as_ptr());
}
