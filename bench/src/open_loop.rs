//! The open loop: requests are sent when they are due, whether or not earlier ones have been answered.
//!
//! Latency counts from the moment at which a request was *meant* to be sent. When the server stalls, the requests that
//! were due meanwhile are all late, and the figures say so; a loop that waits for each answer before it sends the next
//! request would have sent, and measured, almost none of them.
//!
//! One task releases requests into a queue at their intended times; one task a connection takes them from it. Nothing
//! of that waits for the server but a request that finds every connection busy, and its wait counts.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::{LocalSet, yield_now};
use tokio::time::timeout_at;

use crate::alarm::Alarm;
use crate::answer::Head;
use crate::arrivals::{Arrivals, Spread};
use crate::connection::{Connection, ExchangeError};
use crate::random::Random;
use crate::request::Template;
use crate::tally::{Latencies, Tally};

/// After so many overdue requests in a row the releasing task lets the connections work: a rate that cannot be reached
/// must still be measured.
const RELEASES_PER_TURN: u32 = 32;

/// The usual bound on waiting requests: 16 MB of memory, and ten seconds of a server that has stopped at 100 000
/// requests a second.
pub(crate) const MAX_WAITING: usize = 1_000_000;

/// What to send, how fast and how long.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Where to.
    pub(crate) address: SocketAddr,
    /// What.
    pub(crate) template: Template,
    /// Requests a second.
    pub(crate) rate: f64,
    /// How they are spread.
    pub(crate) spread: Spread,
    /// For how long.
    pub(crate) duration: Duration,
    /// From the intended send time until a request is given up.
    pub(crate) timeout: Duration,
    /// Most requests that may wait for a free connection; those due beyond it are counted as not sent.
    pub(crate) max_waiting: usize,
    /// Decides arrivals and keys.
    pub(crate) seed: u64,
}

/// What an open loop measured.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The requests; latencies count from the intended send time.
    pub(crate) tally: Tally,
    /// How late the generator itself released requests: its own share in the latencies.
    pub(crate) release_lag: Latencies,
    /// Most requests that waited for a free connection at one time.
    pub(crate) peak_waiting: usize,
    /// From the first to the last moment of the run, draining included.
    pub(crate) wall: Duration,
}

struct Shared {
    plan: Plan,
    end: Instant,
    waiting: RefCell<VecDeque<Instant>>,
    /// One permit for each waiting request; closed when no more will come.
    ready: Semaphore,
    idle: Cell<usize>,
    peak_waiting: Cell<usize>,
    tally: RefCell<Tally>,
}

/// Runs `plan` over connections that are open already. Must be called on a current-thread runtime. Ends by itself
/// `plan.timeout` after the last request at the latest.
///
/// # Errors
/// When the kernel refuses a timer.
pub(crate) async fn run(plan: Plan, connections: Vec<Connection>) -> io::Result<Outcome> {
    assert!(!connections.is_empty(), "requests need a connection");
    let alarm = Alarm::new()?;
    let start = Instant::now();
    let shared = Rc::new(Shared {
        end: start + plan.duration,
        waiting: RefCell::default(),
        ready: Semaphore::new(0),
        idle: Cell::new(connections.len()),
        peak_waiting: Cell::new(0),
        tally: RefCell::new(Tally::new()),
        plan,
    });
    let tasks = LocalSet::new();
    for (number, connection) in (1..).zip(connections) {
        tasks.spawn_local(carry_requests(shared.clone(), connection, number));
    }
    let released = tasks.run_until(release_requests(&shared, &alarm, start)).await;
    shared.ready.close();
    tasks.await;
    let tally = shared.tally.replace(Tally::new());
    Ok(Outcome { tally, release_lag: released?, peak_waiting: shared.peak_waiting.get(), wall: start.elapsed() })
}

async fn release_requests(shared: &Shared, alarm: &Alarm, start: Instant) -> io::Result<Latencies> {
    let plan = &shared.plan;
    let mut lag = Latencies::new();
    let mut overdue = 0;
    for offset in Arrivals::new(plan.spread, plan.rate, plan.duration, Random::new(plan.seed)) {
        let intended = start + offset;
        if intended > Instant::now() {
            alarm.wait_until(intended).await?;
            overdue = 0;
        } else {
            overdue += 1;
            if overdue % RELEASES_PER_TURN == 0 {
                yield_now().await;
            }
        }
        lag.record(intended.elapsed());
        shared.release(intended);
    }
    Ok(lag)
}

impl Shared {
    fn release(&self, intended: Instant) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= self.plan.max_waiting {
            return self.tally.borrow_mut().not_sent();
        }
        waiting.push_back(intended);
        let without_connection = waiting.len().saturating_sub(self.idle.get());
        self.peak_waiting.set(self.peak_waiting.get().max(without_connection));
        self.ready.add_permits(1);
    }

    /// The next request that is due; `None` when all are done.
    async fn next(&self) -> Option<Instant> {
        if let Ok(permit) = self.ready.acquire().await {
            permit.forget();
        }
        let next = self.waiting.borrow_mut().pop_front()?;
        self.idle.set(self.idle.get() - 1);
        Some(next)
    }
}

async fn carry_requests(shared: Rc<Shared>, connection: Connection, number: u64) {
    let plan = &shared.plan;
    let mut random = Random::new(plan.seed ^ number.rotate_left(32));
    let mut connection = Some(connection);
    let mut request = Vec::new();
    while let Some(intended) = shared.next().await {
        let deadline = intended + plan.timeout;
        if Instant::now() < deadline {
            plan.template.fill(&mut random, &mut request);
            let exchanged = timeout_at(deadline.into(), exchange(&mut connection, plan.address, &request)).await;
            let (now, mut tally) = (Instant::now(), shared.tally.borrow_mut());
            match exchanged {
                Ok(Ok(head)) => tally.answered(&head, now - intended, now <= shared.end),
                Ok(Err(error)) => tally.failed(&error),
                Err(_) => tally.timed_out(now - intended),
            }
        } else {
            shared.tally.borrow_mut().timed_out(intended.elapsed());
        }
        shared.idle.set(shared.idle.get() + 1);
    }
}

/// Sends one request, on a new connection if need be, and keeps the connection only while it is sound: an exchange
/// that fails, or is given up half way, leaves none behind.
async fn exchange(slot: &mut Option<Connection>, address: SocketAddr, request: &[u8]) -> Result<Head, ExchangeError> {
    let mut connection = match slot.take() {
        Some(connection) => connection,
        None => Connection::open(address).await?,
    };
    let head = connection.exchange(request).await?;
    if !head.closes {
        *slot = Some(connection);
    }
    Ok(head)
}
