//! Peers that vanish, and what callers are told.

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::peers::NotSent;

/// A node 1 that waits for a short silence only.
async fn impatient(book: &Arc<Book>) -> Arc<TestNode> {
    Arc::new(start(book, 1, Setup { limits: limits(SILENCE), ..Setup::default() }).await)
}

fn spawn_call(one: &Arc<TestNode>, kind: u8, body: Vec<u8>) -> tokio::task::JoinHandle<Result<Bytes, PeerError>> {
    let one = Arc::clone(one);
    tokio::spawn(async move { one.ask(2, kind, body).await })
}

#[tokio::test]
async fn nobody_listens_and_nothing_was_delivered() {
    let book = Arc::new(Book::default());
    let one = start(&book, 1, Setup::default()).await;
    let fake = Fake::start(&book, 2).await;
    drop(fake);
    let error = one.ask(2, ECHO, "").await.unwrap_err();
    assert!(matches!(&error, PeerError::Unreachable(why) if why.contains("node 2 at 127.0.0.1")), "{error}");
    assert!(error.was_not_delivered());
}

#[tokio::test]
async fn a_node_that_is_in_no_directory_cannot_be_reached() {
    let (one, ..) = pair().await;
    let error = one.ask(9, ECHO, "").await.unwrap_err();
    assert!(matches!(&error, PeerError::Unreachable(why) if why.contains("node 9")), "{error}");
}

#[tokio::test]
async fn a_peer_that_never_says_who_it_is_is_given_up() {
    let book = Arc::new(Book::default());
    let one = impatient(&book).await;
    let _fake = Fake::start(&book, 2).await;
    let error = one.ask(2, ECHO, "").await.unwrap_err();
    assert!(matches!(&error, PeerError::Unreachable(why) if why.contains("no connection within")), "{error}");
}

#[tokio::test]
async fn a_peer_that_takes_all_and_answers_nothing_is_lost() {
    let book = Arc::new(Book::default());
    let one = impatient(&book).await;
    let fake = Fake::start(&book, 2).await;
    let calls: Vec<_> = (0..10).map(|_| spawn_call(&one, ECHO, vec![1])).collect();
    let mut stream = fake.welcome().await;
    let drained = tokio::spawn(async move { while stream.read(&mut [0; 4096]).await.is_ok_and(|bytes| bytes > 0) {} });
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(&error, PeerError::Lost(why) if why.contains("nothing was heard")), "{error:?}");
        assert!(!error.was_not_delivered());
    }
    drained.await.unwrap();
    assert!(!one.peers.status()[0].connected);
}

#[tokio::test]
async fn a_peer_that_stops_reading_is_lost_and_what_was_not_sent_is_told_apart() {
    let book = Arc::new(Book::default());
    let one = impatient(&book).await;
    let fake = Fake::start(&book, 2).await;
    let calls: Vec<_> = (0..32).map(|_| spawn_call(&one, ECHO, vec![1; 1 << 20])).collect();
    let _stream = fake.welcome().await;
    let (mut sent, mut unsent) = (0, 0);
    for call in calls {
        match call.await.unwrap().unwrap_err() {
            PeerError::Lost(_) => sent += 1,
            PeerError::Unreachable(_) => unsent += 1,
            error => panic!("{error:?}"),
        }
    }
    assert!(sent > 0 && unsent > 0, "{sent} and {unsent}");
}

#[tokio::test]
async fn a_connection_cut_inside_a_frame_is_lost() {
    let book = Arc::new(Book::default());
    let one = Arc::new(start(&book, 1, Setup::default()).await);
    let fake = Fake::start(&book, 2).await;
    let call = spawn_call(&one, ECHO, vec![1]);
    let mut stream = fake.welcome().await;
    let answer = frame(Sort::Answer, &[0; 100]);
    // Read all, so that closing is no reset.
    until("the request has come", async || read_frame(&mut stream).await.unwrap().0.sort == Sort::Request).await;
    stream.write_all(&answer[..60]).await.unwrap();
    stream.shutdown().await.unwrap();
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(&error, PeerError::Lost(why) if why.contains("middle of a frame")), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_leaves_the_connection_alone() {
    let (one, two, _book) = pair().await;
    one.ask(2, ECHO, "").await.unwrap();
    let short = Duration::from_millis(20);
    let ask = async || one.peers.call(NodeId(2), Lane::Data, WAIT, Bytes::from_static(&[0]), short).await.unwrap_err();
    // On a busy machine the time may be over before the request is sent, which is another error.
    until("a call ends after it was sent", async || matches!(ask().await, PeerError::Timeout)).await;
    // The answers come late, to nobody.
    until("it is served", async || two.desk.serving.load(SeqCst) > 0).await;
    two.desk.gates[0].add_permits(1000);
    until("all are answered", async || two.desk.serving.load(SeqCst) == 0).await;
    assert_eq!(one.ask(2, ECHO, "x").await.unwrap(), "x");
    assert_eq!(one.peers.status()[0].reconnects, 0);
}

#[tokio::test]
async fn a_peer_that_is_restarted_is_reached_again() {
    let (one, two, book) = pair().await;
    one.ask(2, ECHO, "").await.unwrap();
    let listen = two.peers.local_address();
    two.peers.shutdown().await;
    until("it is noticed", async || !one.peers.status()[0].connected).await;
    assert!(one.ask(2, ECHO, "").await.unwrap_err().was_not_delivered());
    let two = start(&book, 2, Setup { listen, boot: 2, ..Setup::default() }).await;
    until("it is reached", async || one.ask(2, ECHO, "").await.is_ok()).await;
    assert_eq!(one.peers.status()[0].reconnects, 1);
    drop(two);
}

#[tokio::test]
async fn a_peer_that_moves_is_reached_at_its_new_address() {
    let (one, two, book) = pair().await;
    one.ask(2, ECHO, "").await.unwrap();
    two.peers.shutdown().await;
    let _two = start(&book, 2, Setup { boot: 2, ..Setup::default() }).await;
    until("it is reached", async || one.ask(2, ECHO, "").await.is_ok()).await;
}

#[tokio::test]
async fn the_connection_to_a_peer_that_left_the_cluster_is_closed() {
    let book = Arc::new(Book::default());
    let one = impatient(&book).await;
    let fake = Fake::start(&book, 2).await;
    let call = spawn_call(&one, ECHO, vec![1]);
    let mut stream = fake.welcome().await;
    until("it is connected", async || one.peers.status()[0].connected).await;
    book.0.lock().unwrap().remove(&NodeId(2));
    // A peer that is heard is closed for this reason alone.
    let pong = frame(Sort::Pong, b"");
    until("it is closed", async || stream.write_all(&pong).await.is_err()).await;
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(&error, PeerError::Lost(why) if why.contains("left the cluster")), "{error:?}");
    assert!(one.peers.status().is_empty());
}

#[tokio::test]
async fn who_stops_tells_those_who_wait() {
    let (one, two, _book) = pair().await;
    let one = Arc::new(one);
    let call = spawn_call(&one, WAIT, vec![0]);
    until("it is served", async || two.desk.serving.load(SeqCst) == 1).await;
    one.peers.shutdown().await;
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(&error, PeerError::Lost(why) if why.contains("shutting down")), "{error:?}");
    let error = one.ask(2, ECHO, "").await.unwrap_err();
    assert!(error.was_not_delivered(), "{error:?}");
    let error = one.ask(3, ECHO, "").await.unwrap_err();
    assert!(matches!(error, PeerError::NotSent(NotSent::ShuttingDown)), "{error:?}");
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_nothing_behind() {
    let (one, two, _book) = pair().await;
    for _ in 0..100 {
        let call = one.ask(2, WAIT, [0]);
        assert!(tokio::time::timeout(Duration::from_millis(1), call).await.is_err());
    }
    two.desk.gates[0].add_permits(1000);
    assert_eq!(one.ask(2, ECHO, "x").await.unwrap(), "x");
    assert_eq!(one.peers.status()[0].queued_bytes, 0);
}

#[tokio::test]
async fn a_call_to_an_address_tells_what_is_unknown() {
    let book = Arc::new(Book::default());
    let one = start(&book, 1, Setup::default()).await;
    let fake = Fake::start(&book, 2).await;
    let address = fake.0.local_addr().unwrap().to_string();
    let ask = |deadline| one.peers.call_address(&address, OPEN, Bytes::new(), deadline);
    let error = ask(Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(error, PeerError::NotSent(NotSent::NoConnection)), "{error:?}");
    drop(fake.0.accept().await.unwrap());
    let (answer, stream) = tokio::join!(ask(Duration::from_secs(1)), fake.welcome());
    assert!(matches!(answer, Err(PeerError::Timeout)), "{answer:?}");
    drop(stream);
    let cut = async {
        let mut stream = fake.welcome().await;
        until("the request has come", async || read_frame(&mut stream).await.unwrap().0.sort == Sort::Request).await;
    };
    let (answer, ()) = tokio::join!(ask(LONG), cut);
    assert!(matches!(answer, Err(PeerError::Lost(_))), "{answer:?}");
}

#[tokio::test]
async fn what_is_served_ends_with_the_connection() {
    let (one, two, _book) = pair().await;
    let one = Arc::new(one);
    let call = spawn_call(&one, WAIT, vec![0]);
    until("it is served", async || two.desk.serving.load(SeqCst) == 1).await;
    one.peers.shutdown().await;
    until("it is dropped", async || Arc::strong_count(&two.desk) == 2).await;
    assert!(call.await.unwrap().is_err());
}

#[tokio::test]
async fn a_panic_of_the_service_ends_the_connection() {
    let (one, _two, _book) = pair().await;
    let one = Arc::new(one);
    let call = spawn_call(&one, PANIC, vec![]);
    until("it is noticed", async || one.ask(2, ECHO, "").await.is_err()).await;
    assert!(matches!(call.await.unwrap(), Err(PeerError::Lost(_))));
}
