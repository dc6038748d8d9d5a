//! Calls between nodes that are well.

use std::collections::HashSet;

use super::*;
use crate::peers::{Body, MAX_BODY_BYTES, NotSent};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_get_their_own_answers() {
    let (one, two, _book) = pair().await;
    let (one, two) = (Arc::new(one), Arc::new(two));
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..2000u32 {
        // Both directions, all lanes, sizes around the length up to which bodies are copied.
        let (from, to) = if number % 2 == 0 { (Arc::clone(&one), 2) } else { (Arc::clone(&two), 1) };
        let lane = Lane::ALL[number as usize % 3];
        calls.spawn(async move {
            let mut body = vec![0; number as usize * 7 % 9000 + 4];
            body[..4].copy_from_slice(&number.to_le_bytes());
            let body = Bytes::from(body);
            let answer = from.peers.call(NodeId(to), lane, ECHO, body.clone(), LONG).await.unwrap();
            assert_eq!(answer, body);
            number
        });
    }
    let answered: HashSet<u32> = calls.join_all().await.into_iter().collect();
    assert_eq!(answered.len(), 2000);
}

#[tokio::test]
async fn a_slow_answer_does_not_hold_up_others() {
    let (one, two, _book) = pair().await;
    let slow = one.ask(2, WAIT, [0]);
    tokio::pin!(slow);
    assert!((&mut slow).now_or_never().is_none());
    for number in 0..100 {
        // The slow one was sent before, over the same connection.
        tokio::select! {
            biased;
            _ = &mut slow => panic!("answered too early"),
            quick = one.ask(2, ECHO, [number]) => assert_eq!(quick.unwrap(), vec![number]),
        }
    }
    two.desk.gates[0].add_permits(1);
    assert_eq!(slow.await.unwrap(), vec![0]);
}

#[tokio::test]
async fn answers_come_in_the_order_in_which_they_are_ready() {
    let (one, two, _book) = pair().await;
    let one = Arc::new(one);
    let ask = |gate: u8| {
        let one = Arc::clone(&one);
        tokio::spawn(async move { one.ask(2, WAIT, [gate]).await })
    };
    let mut waiting = [ask(0), ask(1), ask(2)];
    until("all are served", async || two.desk.serving.load(SeqCst) == 3).await;
    for gate in [2, 0, 1] {
        two.desk.gates[gate].add_permits(1);
        assert_eq!((&mut waiting[gate]).await.unwrap().unwrap(), vec![u8::try_from(gate).unwrap()]);
    }
}

#[tokio::test]
async fn bodies_of_the_largest_size_pass_and_no_larger() {
    let (one, _two, _book) = pair().await;
    let parts: Vec<Bytes> = (0..4).map(|part| Bytes::from(vec![part; MAX_BODY_BYTES / 4])).collect();
    let whole = parts.concat();
    let answer = one.peers.call(NodeId(2), Lane::Heartbeat, ECHO, parts.clone(), LONG).await.unwrap();
    assert!(answer == whole);
    let body: Body = [parts, vec![Bytes::from_static(b"x")]].concat().into();
    let error = one.peers.call(NodeId(2), Lane::Heartbeat, ECHO, body, LONG).await.unwrap_err();
    assert!(matches!(error, PeerError::NotSent(NotSent::TooLarge(bytes)) if bytes == MAX_BODY_BYTES + 1), "{error}");
}

#[tokio::test]
async fn a_refusal_keeps_its_code_and_message() {
    let (one, _two, _book) = pair().await;
    match one.ask(2, REFUSE, "").await.unwrap_err() {
        PeerError::Remote(refusal) => assert_eq!(refusal, Refusal { code: 7, message: "no".to_owned() }),
        error => panic!("{error:?}"),
    }
    match one.ask(2, RAMBLE, "").await.unwrap_err() {
        PeerError::Remote(refusal) => assert_eq!((refusal.code, refusal.message.chars().count()), (8, 512)),
        error => panic!("{error:?}"),
    }
    match one.ask(2, HUGE, "").await.unwrap_err() {
        PeerError::Remote(refusal) => assert_eq!(refusal.code, Refusal::TOO_LARGE),
        error => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn the_service_knows_who_calls() {
    let (one, _two, _book) = pair().await;
    assert_eq!(one.ask(2, WHO, "").await.unwrap(), "Some(1)");
}

#[tokio::test]
async fn a_node_that_has_not_joined_may_ask_what_is_open() {
    let (one, _two, book) = pair().await;
    let new = start(&book, 3, Setup { cluster: None, ..Setup::default() }).await;
    let (node, answer) = new.peers.call_address(&one.address(), OPEN, Bytes::from_static(b"hi"), LONG).await.unwrap();
    assert_eq!((node, &answer[..]), (Some(NodeId(1)), &b"hi"[..]));
    match new.peers.call_address(&one.address(), WHO, Bytes::new(), LONG).await.unwrap_err() {
        PeerError::Remote(refusal) => assert_eq!(refusal.code, Refusal::NOT_MEMBER),
        error => panic!("{error:?}"),
    }
    let error = new.ask(1, OPEN, "").await.unwrap_err();
    assert!(matches!(error, PeerError::NotSent(NotSent::NotJoined)), "{error}");
    new.peers.set_identity("A", NodeId(3));
    assert_eq!(new.ask(1, WHO, "").await.unwrap(), "Some(3)");
    assert_eq!(new.peers.call_address(&one.address(), WHO, Bytes::new(), LONG).await.unwrap().1, "Some(3)");
}

#[tokio::test]
async fn nodes_that_have_not_joined_may_talk_to_each_other() {
    let book = Arc::new(Book::default());
    let setup = || Setup { cluster: None, ..Setup::default() };
    let (one, two) = (start(&book, 1, setup()).await, start(&book, 2, setup()).await);
    let (node, answer) = one.peers.call_address(&two.address(), OPEN, Bytes::from_static(b"x"), LONG).await.unwrap();
    assert_eq!((node, &answer[..]), (None, &b"x"[..]));
}

#[tokio::test]
async fn a_member_may_ask_itself_by_its_address() {
    let (one, _two, _book) = pair().await;
    assert_eq!(one.peers.call_address(&one.address(), WHO, Bytes::new(), LONG).await.unwrap().1, "Some(1)");
}

#[tokio::test]
async fn status_tells_of_the_traffic() {
    let (one, two, _book) = pair().await;
    assert!(one.peers.status().is_empty());
    one.ask(2, ECHO, vec![0; 10_000]).await.unwrap();
    until("a ping is answered", async || one.peers.status()[0].round_trip.is_some()).await;
    let status = one.peers.status().remove(0);
    assert!(status.node == NodeId(2) && status.connected && status.last_heard.is_some(), "{status:?}");
    assert!(status.bytes_in > 10_000 && status.bytes_out > 10_000, "{status:?}");
    assert_eq!((status.queued_bytes, status.reconnects), (0, 0));
    let called = two.peers.status().remove(0);
    assert!(called.node == NodeId(1) && !called.connected && called.last_heard.is_some(), "{called:?}");
}

#[tokio::test]
async fn calls_come_from_the_address_that_the_node_listens_on() {
    let book = Arc::new(Book::default());
    let listen = SocketAddr::from(([127, 0, 0, 7], 0));
    let one = start(&book, 1, Setup { listen, ..Setup::default() }).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    book.set(2, listener.local_addr().unwrap());
    let call = tokio::spawn(async move { one.ask(2, ECHO, "").await });
    let (_stream, from) = listener.accept().await.unwrap();
    assert_eq!(from.ip(), listen.ip());
    call.abort();
}
