//! One connection against the clock. Time stands still here until nothing else is left to do.

use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::*;
use crate::peers::traffic::Traffic;
use crate::peers::wire::{End, Inbox, Line, Wire};

const QUIET: Duration = Duration::from_secs(8);

/// Hands frames on, and takes its time for each.
struct Sink {
    frames: mpsc::UnboundedSender<usize>,
    takes: Duration,
}

impl Inbox for Sink {
    async fn receive(&mut self, _head: Head, body: Bytes) -> Result<(), End> {
        sleep(self.takes).await;
        let _ = self.frames.send(body.len());
        Ok(())
    }
}

/// Runs one side; returns its end and the lengths of the bodies that it received.
fn run(
    socket: DuplexStream,
    is_caller: bool,
    takes: Duration,
) -> (tokio::task::JoinHandle<End>, mpsc::UnboundedReceiver<usize>) {
    let (frames, received) = mpsc::unbounded_channel();
    let limits = LaneLimits { silence: QUIET, ..PeerLimits::default().lanes[0] };
    let wire = Wire::new(limits, Arc::new(Traffic::new()), is_caller);
    let end = tokio::spawn(async move {
        wire.run(Line::new(Box::new(socket)), &mut Sink { frames, takes }, std::future::pending()).await
    });
    (end, received)
}

fn request(body: usize) -> Vec<u8> {
    frame(Sort::Request, &vec![0; body])
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_lives() {
    let (one, two) = duplex(1 << 10);
    let (one, two) = (run(one, true, Duration::ZERO).0, run(two, false, Duration::ZERO).0);
    sleep(Duration::from_secs(3600)).await;
    assert!(!one.is_finished() && !two.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_not_heard_is_lost_after_the_silence() {
    for is_caller in [true, false] {
        let (one, mut other) = duplex(1 << 10);
        let since = Instant::now();
        let (end, _) = run(one, is_caller, Duration::ZERO);
        let drain = tokio::spawn(async move { while other.read(&mut [0; 64]).await.is_ok_and(|bytes| bytes > 0) {} });
        assert_eq!(end.await.unwrap(), End::Silent(QUIET));
        assert_eq!(since.elapsed().as_secs(), QUIET.as_secs());
        drain.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_is_lost_though_it_is_heard() {
    let (one, mut other) = duplex(32);
    let (end, _) = run(one, true, Duration::ZERO);
    let talk = tokio::spawn(async move {
        let ping = request(0);
        while other.write_all(&ping).await.is_ok() {
            sleep(QUIET / 3).await;
        }
    });
    assert_eq!(end.await.unwrap(), End::Stalled(QUIET));
    talk.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_long_frame_over_a_slow_way_is_no_silence() {
    let (one, mut other) = duplex(1 << 20);
    let (end, mut received) = run(one, false, Duration::ZERO);
    let frame = request(50);
    for byte in &frame {
        other.write_all(&[*byte]).await.unwrap();
        sleep(QUIET / 2).await;
    }
    assert_eq!(received.recv().await, Some(50));
    assert!(!end.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_side_that_does_not_listen_does_not_call_the_other_silent() {
    let (one, mut other) = duplex(1 << 20);
    let (end, mut received) = run(one, false, QUIET * 5);
    other.write_all(&request(1)).await.unwrap();
    assert_eq!(received.recv().await, Some(1));
    sleep(QUIET / 2).await;
    assert!(!end.is_finished(), "it listens again since half of the silence");
    assert_eq!(end.await.unwrap(), End::Silent(QUIET));
}

#[tokio::test(start_paused = true)]
async fn a_busy_side_is_heard_while_the_way_to_it_is_full() {
    // The called side takes long for each of many requests, whose bytes fill the way, so that no ping gets through.
    let (one, two) = duplex(64);
    let (frames, _received) = mpsc::unbounded_channel();
    let limits = LaneLimits { silence: QUIET, ..PeerLimits::default().lanes[0] };
    let wire = Arc::new(Wire::new(limits, Arc::new(Traffic::new()), true));
    let caller = tokio::spawn({
        let wire = Arc::clone(&wire);
        async move {
            let mut sink = Sink { frames, takes: Duration::ZERO };
            wire.run(Line::new(Box::new(one)), &mut sink, std::future::pending()).await
        }
    });
    let (called, mut received) = run(two, false, QUIET / 2);
    for _ in 0..20 {
        wire.send(Head::new(Sort::Request, 1), Bytes::from(vec![0; 64]).into()).await.unwrap();
    }
    for _ in 0..20 {
        assert_eq!(received.recv().await, Some(64));
    }
    assert!(!caller.is_finished() && !called.is_finished());
}
