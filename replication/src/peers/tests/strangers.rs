//! Bytes that no node would send: the connection is closed, and the node goes on.

use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::peers::frame::{MAX_BODY_BYTES, frame_bytes};
use crate::peers::handshake::Identity;

#[tokio::test]
async fn strangers_are_shown_out_before_they_say_who_they_are() {
    let (one, two, _book) = pair().await;
    let too_long = u32::try_from(frame_bytes(4097)).unwrap().to_le_bytes();
    let cases: [Vec<u8>; 6] = [
        b"GET / HTTP/1.1\r\nhost: larder\r\n\r\n".to_vec(),
        vec![0; 4096],
        [MAGIC.as_slice(), &too_long].concat(),
        [MAGIC.as_slice(), &frame(Sort::Request, b"x")].concat(),
        [MAGIC.as_slice(), &frame(Sort::Hello, b"")].concat(),
        [MAGIC.as_slice(), &frame(Sort::Hello, &[1, 0, 1, 0, 77])].concat(),
    ];
    for bytes in cases {
        let mut stream = TcpStream::connect(one.address()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        closed(stream).await;
    }
    assert_eq!(two.ask(1, ECHO, "x").await.unwrap(), "x");
}

#[tokio::test]
async fn half_words_are_waited_for_a_while_only() {
    let book = Arc::new(Book::default());
    let one = start(&book, 1, Setup { limits: limits(SILENCE), ..Setup::default() }).await;
    let half = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(one.address()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        closed(stream).await;
    };
    tokio::join!(half(b""), half(&MAGIC[..3]), half(&MAGIC));
}

#[tokio::test]
async fn a_node_that_breaks_the_protocol_is_cut_off() {
    let (one, two, _book) = pair().await;
    let too_long = u32::try_from(frame_bytes(MAX_BODY_BYTES + 1)).unwrap().to_le_bytes();
    let mut flipped = frame(Sort::Request, b"hello");
    flipped[20] ^= 1;
    let cases = [too_long.to_vec(), flipped, vec![0; 64], frame(Sort::Answer, b""), frame(Sort::Hello, b"")];
    for bytes in cases {
        let (mut stream, head, _) = knock(&one.address(), hello(1).encode()).await;
        assert_eq!(head.sort, Sort::Welcome);
        stream.write_all(&bytes).await.unwrap();
        closed(stream).await;
    }
    assert_eq!(two.ask(1, ECHO, "x").await.unwrap(), "x");
}

#[tokio::test]
async fn a_called_peer_that_breaks_the_protocol_is_lost() {
    for bytes in [vec![0xff; 64], frame(Sort::Request, b""), frame(Sort::Welcome, b"")] {
        let book = Arc::new(Book::default());
        let one = start(&book, 1, Setup::default()).await;
        let fake = Fake::start(&book, 2).await;
        let bad = async {
            let mut stream = fake.welcome().await;
            until("the request has come", async || read_frame(&mut stream).await.unwrap().0.sort == Sort::Request)
                .await;
            stream.write_all(&bytes).await.unwrap();
            stream
        };
        let (answer, _stream) = tokio::join!(one.ask(2, ECHO, ""), bad);
        let error = answer.unwrap_err();
        assert!(matches!(&error, PeerError::Lost(why) if why.contains("broke the protocol")), "{error:?}");
    }
}

#[tokio::test]
async fn what_answers_but_is_no_node_is_named() {
    let book = Arc::new(Book::default());
    let one = start(&book, 1, Setup::default()).await;
    let fake = Fake::start(&book, 2).await;
    let web = async {
        let (mut stream, _) = fake.0.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream
    };
    let (answer, _stream) = tokio::join!(one.ask(2, ECHO, ""), web);
    let error = answer.unwrap_err();
    assert!(matches!(&error, PeerError::Refused(why) if why.message.contains("no node of Larder")), "{error:?}");
}

proptest! {
    #[test]
    fn no_first_words_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let own = Identity { cluster: "A".into(), node: NodeId(1) };
        // Behind a range of versions that is spoken, else nothing else is read.
        let words = [&[1, 0, 1, 0][..], &bytes].concat();
        for words in [words, bytes] {
            if let Ok((hello, _)) = Hello::decode(words.clone().into()) {
                let _ = hello.judge(Some(&own), 1);
            }
            if let Ok(welcome) = Welcome::decode(words.into()) {
                let _ = welcome.judge(Some(&own), Some(NodeId(2)));
            }
        }
    }

    #[test]
    fn first_words_come_back_as_they_were(
        lane in prop::sample::select(vec![None, Some(Lane::Data), Some(Lane::Heartbeat), Some(Lane::Snapshot)]),
        boot: u64, from: Option<u32>, to: Option<u32>, cluster in prop::option::of("[a-z0-9é]{1,32}"),
    ) {
        let (from, to) = (from.map(NodeId), to.map(NodeId));
        let cluster: Option<Arc<str>> = cluster.map(Into::into);
        let welcome = Welcome { version: 1, boot, node: from, cluster: cluster.clone() };
        prop_assert_eq!(Welcome::decode(welcome.encode()), Ok(welcome));
        let hello = Hello { lane, boot, from, to, cluster };
        prop_assert_eq!(Hello::decode(hello.encode()), Ok((hello, 1)));
    }
}
