//! What waits is bounded, whoever does not read or does not answer.

use super::*;
use crate::peers::NotSent;

const MIB: usize = 1 << 20;

#[tokio::test]
async fn a_stalled_peer_holds_no_more_than_the_queue() {
    let book = Arc::new(Book::default());
    let one = Arc::new(start(&book, 1, Setup::default()).await);
    let limit = limits(LONG).lanes[0].queue_bytes;
    let fake = Fake::start(&book, 2).await;
    let mut calls = tokio::task::JoinSet::new();
    let body = Bytes::from(vec![0; MIB]);
    for _ in 0..100 {
        let (one, body) = (Arc::clone(&one), body.clone());
        let deadline = Duration::from_secs(2);
        calls.spawn(async move { one.peers.call(NodeId(2), Lane::Data, ECHO, body, deadline).await });
    }
    let _stream = fake.welcome().await;
    let queued = || one.peers.status()[0].queued_bytes;
    until("the queue is full", async || queued() > limit - 2 * MIB).await;
    let (mut timeout, mut overloaded) = (0, 0);
    while let Some(call) = calls.join_next().await {
        assert!(queued() <= limit);
        match call.unwrap().unwrap_err() {
            PeerError::Timeout => timeout += 1,
            PeerError::NotSent(NotSent::Overloaded) => overloaded += 1,
            error => panic!("{error:?}"),
        }
    }
    // What the kernels took is all that may have been delivered.
    assert!(timeout > 0 && overloaded > 80, "{timeout} and {overloaded}");
}

#[tokio::test]
async fn a_slow_service_holds_no_more_than_its_share() {
    let (one, two, _book) = pair().await;
    let one = Arc::new(one);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let one = Arc::clone(&one);
        calls.spawn(async move { one.ask(2, WAIT, vec![0; MIB]).await });
    }
    let share = limits(LONG).lanes[0].serving_bytes / MIB;
    until("the share is used", async || two.desk.serving.load(SeqCst) == share).await;
    // Another lane is not held up.
    let quick = one.peers.call(NodeId(2), Lane::Heartbeat, ECHO, Bytes::from_static(b"x"), LONG).await;
    assert_eq!(quick.unwrap(), "x");
    two.desk.gates[0].add_permits(60);
    while let Some(call) = calls.join_next().await {
        assert_eq!(call.unwrap().unwrap().len(), MIB);
    }
    assert_eq!(two.desk.most.load(SeqCst), share);
}
