//! Nodes that do not belong together part with a sentence that helps.

use super::*;
use crate::peers::{Mismatch, Refused};

fn refused(error: PeerError) -> Refused {
    match error {
        PeerError::Refused(refused) => refused,
        error => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn two_clusters_do_not_talk() {
    let book = Arc::new(Book::default());
    let one = start(&book, 1, Setup::default()).await;
    let _two = start(&book, 2, Setup { cluster: Some("B"), ..Setup::default() }).await;
    let error = one.ask(2, ECHO, "").await.unwrap_err();
    assert!(error.was_not_delivered());
    let Refused { mismatch, message } = refused(error);
    assert_eq!(mismatch, Mismatch::Cluster);
    assert!(message.starts_with("this node belongs to cluster B, the caller to cluster A: correct"), "{message}");
    let error = one.peers.call_address(&_two.address(), OPEN, Bytes::new(), LONG).await.unwrap_err();
    assert_eq!(refused(error).mismatch, Mismatch::Cluster);
}

#[tokio::test]
async fn another_node_at_the_address_is_noticed() {
    let (one, two, book) = pair().await;
    book.set(5, two.peers.local_address());
    let Refused { mismatch, message } = refused(one.ask(5, ECHO, "").await.unwrap_err());
    assert_eq!(mismatch, Mismatch::Node);
    assert!(message.starts_with("node 2 is at this address, node 5 was wanted"), "{message}");
}

#[tokio::test]
async fn a_caller_trusts_what_it_sees_itself() {
    let book = Arc::new(Book::default());
    let one = start(&book, 1, Setup::default()).await;
    let fake = Fake::start(&book, 2).await;
    let answers = [
        (Some(NodeId(2)), Some("B".into()), Mismatch::Cluster),
        (Some(NodeId(3)), Some("A".into()), Mismatch::Node),
        (None, None, Mismatch::NotJoined),
    ];
    for (node, cluster, expected) in answers {
        let welcome = Welcome { version: 1, boot: 1, node, cluster }.encode();
        let call = async {
            until("the pause is over", async || {
                matches!(one.ask(2, ECHO, "").await, Err(PeerError::Refused(refused)) if refused.mismatch == expected)
            })
            .await;
        };
        let (_stream, ()) = tokio::join!(fake.greet(Sort::Welcome, 0, welcome), call);
    }
}

#[tokio::test]
async fn a_node_that_has_not_joined_takes_no_calls_by_number() {
    let book = Arc::new(Book::default());
    let one = start(&book, 1, Setup::default()).await;
    let two = start(&book, 2, Setup { cluster: None, ..Setup::default() }).await;
    let Refused { mismatch, message } = refused(one.ask(2, OPEN, "").await.unwrap_err());
    assert_eq!(mismatch, Mismatch::NotJoined);
    assert!(message.contains("has not joined a cluster"), "{message}");
    two.peers.set_identity("A", NodeId(2));
    until("it is a member", async || one.ask(2, ECHO, "").await.is_ok()).await;
}

#[tokio::test]
async fn other_versions_are_told_which_ones_would_do() {
    let (one, ..) = pair().await;
    let mut words = hello(1).encode().to_vec();
    words[..4].copy_from_slice(&[9, 0, 12, 0]);
    // What follows the versions may be anything.
    words.truncate(6);
    let (_stream, head, message) = knock(&one.address(), words.into()).await;
    assert_eq!((head.sort, head.tag), (Sort::Farewell, Mismatch::Version as u8));
    let message = String::from_utf8(message.to_vec()).unwrap();
    assert!(message.contains("versions 1 to 1 of the peer protocol, the caller 9 to 12"), "{message}");
}

#[tokio::test]
async fn a_newer_caller_that_still_speaks_this_version_is_welcome() {
    let (one, ..) = pair().await;
    let mut words = hello(1).encode().to_vec();
    words[2] = 200;
    words.extend(b"something new");
    let (_stream, head, welcome) = knock(&one.address(), words.into()).await;
    assert_eq!(head.sort, Sort::Welcome);
    assert_eq!(Welcome::decode(welcome).unwrap().version, 1);
}

#[tokio::test]
async fn a_farewell_is_passed_on_as_one_line() {
    let book = Arc::new(Book::default());
    let one = start(&book, 1, Setup::default()).await;
    let fake = Fake::start(&book, 2).await;
    let call = one.ask(2, ECHO, "");
    let farewell = fake.greet(Sort::Farewell, Mismatch::Version as u8, Bytes::from_static(b"too\nnew\xff"));
    let (error, _stream) = tokio::join!(call, farewell);
    assert_eq!(refused(error.unwrap_err()), Refused::new(Mismatch::Version, "too new\u{fffd}"));
}

#[tokio::test]
async fn a_newer_connection_takes_the_place_of_an_older_one() {
    let (one, ..) = pair().await;
    let (first, head, _) = knock(&one.address(), hello(5).encode()).await;
    assert_eq!(head.sort, Sort::Welcome);
    let (second, head, _) = knock(&one.address(), hello(5).encode()).await;
    assert_eq!(head.sort, Sort::Welcome);
    closed(first).await;
    let (_third, head, _) = knock(&one.address(), hello(6).encode()).await;
    assert_eq!(head.sort, Sort::Welcome);
    closed(second).await;
    // An older run of the node, or another process that says that it is the same node.
    let (_fourth, head, message) = knock(&one.address(), hello(5).encode()).await;
    assert_eq!((head.sort, head.tag), (Sort::Farewell, Mismatch::Duplicate as u8));
    assert!(message.starts_with(b"another process runs as node 3"));
    // Other lanes are no concern of it.
    let other = Hello { lane: Some(Lane::Snapshot), ..hello(5) };
    let (_fifth, head, _) = knock(&one.address(), other.encode()).await;
    assert_eq!(head.sort, Sort::Welcome);
}

#[tokio::test]
async fn another_process_with_the_own_number_is_refused() {
    let (one, ..) = pair().await;
    let words = Hello { from: Some(NodeId(1)), ..hello(99) };
    let (_stream, head, _) = knock(&one.address(), words.encode()).await;
    assert_eq!((head.sort, head.tag), (Sort::Farewell, Mismatch::Duplicate as u8));
}
