//! Proof that the open loop shows what the closed loop hides: a server that stops for a while.
//!
//! The server under test stops after a fixed number of *requests*, so that the share of requests that meet a stop
//! depends on the kind of loop alone, not on the speed of the machine: under 1 % of a closed loop's, a tenth or more
//! of an open loop's.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::arrivals::Spread;
use crate::request::Template;
use crate::tally::Percentiles;
use crate::target::Target;
use crate::{closed_loop, load, open_loop};

const REQUESTS_BETWEEN_STOPS: u32 = 500;
const STOP: Duration = Duration::from_millis(100);
/// Two of 500 are 0.4 %: below what p99 sees.
const CONNECTIONS: u32 = 2;
const RUN: Duration = Duration::from_millis(1500);
const TIMEOUT: Duration = Duration::from_secs(20);

/// Starts a server whose only thread sleeps now and then. Its thread ends with the test's process.
fn start_stopping_server() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let requests = Rc::new(Cell::new(0_u32));
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                tokio::task::spawn_local(answer(stream, requests.clone()));
            }
        });
    });
    address
}

async fn answer(mut stream: TcpStream, requests: Rc<Cell<u32>>) {
    let mut received = Vec::new();
    while stream.read_buf(&mut received).await.is_ok_and(|count| count > 0) {
        if !received.ends_with(b"\r\n\r\n") {
            continue;
        }
        received.clear();
        requests.set(requests.get() + 1);
        if requests.get().is_multiple_of(REQUESTS_BETWEEN_STOPS) {
            // The only thread: all connections stop.
            std::thread::sleep(STOP);
        }
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
            return;
        }
    }
}

async fn open_loop_figures(spread: Spread) -> Percentiles {
    let target = Target::at(start_stopping_server());
    let plan = open_loop::Plan {
        address: target.address,
        template: Template::new(&target, "/", None, None).unwrap(),
        rate: 1000.0,
        spread,
        duration: RUN,
        timeout: TIMEOUT,
        max_waiting: open_loop::MAX_WAITING,
        seed: 5,
    };
    let connections = load::open_all(&target, CONNECTIONS).await.unwrap();
    let outcome = open_loop::run(plan, connections).await.unwrap();
    assert!(outcome.tally.errors().is_empty(), "{:?}", outcome.tally.errors());
    assert!(outcome.peak_waiting > 0, "requests that are due during a stop wait for a connection");
    outcome.tally.latencies.percentiles()
}

async fn closed_loop_figures() -> Percentiles {
    let target = Target::at(start_stopping_server());
    let template = Template::new(&target, "/", None, None).unwrap();
    let plan = closed_loop::Plan { address: target.address, template, duration: RUN, timeout: TIMEOUT, seed: 5 };
    let connections = load::open_all(&target, CONNECTIONS).await.unwrap();
    let outcome = closed_loop::run(plan, connections).await;
    assert!(outcome.tally.errors().is_empty(), "{:?}", outcome.tally.errors());
    outcome.tally.latencies.percentiles()
}

#[tokio::test]
async fn a_stopped_server_shows_in_the_open_loop_and_hides_from_the_closed_one() {
    let half_a_stop = STOP.as_micros() as f64 / 2.0;
    let closed = closed_loop_figures().await;
    assert!(closed.max >= half_a_stop, "the server must have stopped: {closed:?}");
    assert!(closed.p99 < half_a_stop, "a closed loop sends too little during a stop to show it: {closed:?}");
    for spread in [Spread::Poisson, Spread::Uniform] {
        let open = open_loop_figures(spread).await;
        assert!(open.p99 >= half_a_stop, "{spread:?}: {open:?}");
        assert!(open.p99 > 4.0 * closed.p99, "{spread:?}: {open:?}, closed loop: {closed:?}");
    }
}

/// Binds a port, so that nobody else has it, and takes connections that it never answers.
async fn start_silent_server() -> (TcpListener, Target) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::at(listener.local_addr().unwrap());
    (listener, target)
}

#[tokio::test]
async fn a_server_that_never_answers_ends_the_open_loop_and_counts_every_request() {
    let (_listener, target) = start_silent_server().await;
    let plan = short_plan(&target, Duration::from_millis(100), 1000);
    let connections = load::open_all(&target, CONNECTIONS).await.unwrap();
    let outcome = open_loop::run(plan, connections).await.unwrap();
    let timed_out = outcome.tally.errors()["timed out"];
    assert!((99..=100).contains(&timed_out), "{timed_out}");
    assert_eq!(outcome.tally.answers(), 0);
    assert!(outcome.tally.latencies.percentiles().p50 >= 99_000.0);
}

#[tokio::test]
async fn requests_beyond_the_bound_on_waiting_are_counted_as_not_sent() {
    let (_listener, target) = start_silent_server().await;
    // Nothing times out while requests are due, so that at most two are under way and ten wait. A releasing task that
    // wakes late may find the ten places taken before a connection has taken any.
    let connections = load::open_all(&target, CONNECTIONS).await.unwrap();
    let outcome = open_loop::run(short_plan(&target, Duration::from_secs(2), 10), connections).await.unwrap();
    let errors = outcome.tally.errors();
    let (timed_out, not_sent) = (errors["timed out"], errors["not sent, too many waited"]);
    assert!((10..=12).contains(&timed_out), "{timed_out}");
    assert!((99..=100).contains(&(timed_out + not_sent)), "{timed_out} + {not_sent}");
}

/// 100 requests in 200 ms.
fn short_plan(target: &Target, timeout: Duration, max_waiting: usize) -> open_loop::Plan {
    open_loop::Plan {
        address: target.address,
        template: Template::new(target, "/", None, None).unwrap(),
        rate: 500.0,
        spread: Spread::Uniform,
        duration: Duration::from_millis(200),
        timeout,
        max_waiting,
        seed: 5,
    }
}

#[tokio::test]
async fn a_server_that_never_answers_ends_the_closed_loop() {
    let (_listener, target) = start_silent_server().await;
    let plan = closed_loop::Plan {
        address: target.address,
        template: Template::new(&target, "/", None, None).unwrap(),
        duration: Duration::from_millis(50),
        timeout: Duration::from_millis(50),
        seed: 5,
    };
    let connections = load::open_all(&target, CONNECTIONS).await.unwrap();
    let outcome = closed_loop::run(plan, connections).await;
    assert_eq!(outcome.tally.errors()["timed out"], u64::from(CONNECTIONS));
}

#[tokio::test]
async fn a_server_that_goes_away_ends_the_closed_loop() {
    let (listener, target) = start_silent_server().await;
    let connections = load::open_all(&target, CONNECTIONS).await.unwrap();
    drop(listener);
    let template = Template::new(&target, "/", None, None).unwrap();
    let plan = closed_loop::Plan { address: target.address, template, duration: TIMEOUT, timeout: TIMEOUT, seed: 5 };
    let outcome = closed_loop::run(plan, connections).await;
    assert!(outcome.tally.errors()["cannot connect"] >= 1, "{:?}", outcome.tally.errors());
    assert!(outcome.wall < TIMEOUT, "it must not go on for the whole time");
}
