//! The closed loop: each connection sends its next request when it has the answer to the last.
//!
//! It finds how many requests a server can answer a second. Its latencies must not be quoted: while the server stalls,
//! no requests are sent, so none are seen to be late.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;
use tokio::time::timeout_at;

use crate::connection::Connection;
use crate::random::Random;
use crate::request::Template;
use crate::tally::Tally;

/// What to send and how long.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Where to.
    pub(crate) address: SocketAddr,
    /// What.
    pub(crate) template: Template,
    /// For how long.
    pub(crate) duration: Duration,
    /// From the end until a request that is still under way is given up.
    pub(crate) timeout: Duration,
    /// Decides keys.
    pub(crate) seed: u64,
}

/// What a closed loop measured.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The requests; latencies count from the actual send time.
    pub(crate) tally: Tally,
    /// From the first to the last moment of the run.
    pub(crate) wall: Duration,
}

/// Runs `plan` over connections that are open already. Must be called on a current-thread runtime. Ends by itself
/// `plan.timeout` after `plan.duration` at the latest.
pub(crate) async fn run(plan: Plan, connections: Vec<Connection>) -> Outcome {
    let start = Instant::now();
    let end = start + plan.duration;
    let last_moment = end + plan.timeout;
    let tally = Rc::new(RefCell::new(Tally::new()));
    let plan = Rc::new(plan);
    let tasks = LocalSet::new();
    for (number, connection) in (1_u64..).zip(connections) {
        let (plan, tally) = (plan.clone(), tally.clone());
        tasks.spawn_local(async move {
            let random = Random::new(plan.seed ^ number.rotate_left(32));
            let sent = Cell::new(start);
            let work = repeat(&plan, end, connection, random, &sent, &tally);
            if timeout_at(last_moment.into(), work).await.is_err() {
                tally.borrow_mut().timed_out(sent.get().elapsed());
            }
        });
    }
    tasks.await;
    Outcome { tally: tally.replace(Tally::new()), wall: start.elapsed() }
}

/// Sends requests one after another until `end`, or until the server takes no more connections. Notes when the last
/// one was sent.
async fn repeat(
    plan: &Plan,
    end: Instant,
    mut connection: Connection,
    mut random: Random,
    sent: &Cell<Instant>,
    tally: &RefCell<Tally>,
) {
    let mut request = Vec::new();
    let mut now = Instant::now();
    while now < end {
        plan.template.fill(&mut random, &mut request);
        sent.set(now);
        let exchanged = connection.exchange(&request).await;
        now = Instant::now();
        let reconnects = match exchanged {
            Ok(head) => {
                tally.borrow_mut().answered(&head, now - sent.get(), now <= end);
                head.closes
            }
            Err(error) => {
                tally.borrow_mut().failed(&error);
                true
            }
        };
        if reconnects {
            match Connection::open(plan.address).await {
                Ok(fresh) => connection = fresh,
                Err(error) => return tally.borrow_mut().failed(&error),
            }
        }
    }
}
