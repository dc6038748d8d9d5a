//! One lane to one node: makes the connection when it is first needed, keeps it, and makes it again when it is needed
//! after it ended, with a pause that grows while that fails.
//!
//! Invariants: at most one connection of a lane is made at a time, however many calls wait for it, and it goes on when
//! they give up; during the pause calls fail at once with the reason of the failure, so that a reader can go elsewhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use larder_types::ids::NodeId;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::calls::Calls;
use super::error::{NotSent, PeerError};
use super::options::Lane;
use super::site::{Site, Target};
use super::wire::{End, Line, Wire};

/// The links of a node.
#[derive(Default)]
pub(super) struct Links(Mutex<HashMap<(NodeId, Lane), Arc<Link>>>);

/// A lane to a node.
pub(super) struct Link {
    node: NodeId,
    lane: Lane,
    state: Mutex<State>,
}

struct State {
    stage: Stage,
    /// Attempts since the last connection that lived.
    failures: u32,
    /// Whether there was a connection before.
    was_connected: bool,
}

type Connected = Result<Arc<Calls>, PeerError>;

enum Stage {
    /// Nobody needed it, or it ended after it had lived.
    Idle,
    Connecting(watch::Receiver<Option<Connected>>),
    Connected(Arc<Calls>),
    Pausing {
        until: Instant,
        error: PeerError,
    },
}

/// What is decided at once, or what to wait for.
enum Look {
    Decided(Connected),
    Wait(watch::Receiver<Option<Connected>>),
}

impl Links {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<(NodeId, Lane), Arc<Link>>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The link to a node.
    pub(super) fn get(&self, node: NodeId, lane: Lane) -> Arc<Link> {
        let new = || {
            let state = State { stage: Stage::Idle, failures: 0, was_connected: false };
            Arc::new(Link { node, lane, state: Mutex::new(state) })
        };
        self.with(|all| Arc::clone(all.entry((node, lane)).or_insert_with(new)))
    }

    /// Whether any lane to a node is connected, and how many bytes wait on all of them.
    pub(super) fn load(&self, node: NodeId) -> (bool, usize) {
        let links: Vec<_> =
            self.with(|all| Lane::ALL.iter().filter_map(|lane| all.get(&(node, *lane)).cloned()).collect());
        links
            .iter()
            .filter_map(|link| link.connected())
            .fold((false, 0), |(_, bytes), calls| (true, bytes + calls.queued_bytes()))
    }

    fn forget(&self, link: &Link) {
        self.with(|all| all.remove(&(link.node, link.lane)));
    }
}

impl Link {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn connected(&self) -> Option<Arc<Calls>> {
        self.with(|state| match &state.stage {
            Stage::Connected(calls) if !calls.has_ended() => Some(Arc::clone(calls)),
            _ => None,
        })
    }

    /// The connection; makes it if there is none.
    pub(super) async fn calls(self: &Arc<Self>, site: &Arc<Site>) -> Connected {
        let mut made = match self.with(|state| self.look(state, site)) {
            Look::Decided(connected) => return connected,
            Look::Wait(made) => made,
        };
        match made.wait_for(Option::is_some).await {
            Ok(made) => made.clone().unwrap_or(Err(PeerError::NotSent(NotSent::NoConnection))),
            // The task that connects was dropped: the runtime stops.
            Err(_) => Err(PeerError::NotSent(NotSent::ShuttingDown)),
        }
    }

    fn look(self: &Arc<Self>, state: &mut State, site: &Arc<Site>) -> Look {
        match &state.stage {
            // If it has just ended, the call itself will say so.
            Stage::Connected(calls) => return Look::Decided(Ok(Arc::clone(calls))),
            Stage::Pausing { until, error } if Instant::now() < *until => return Look::Decided(Err(error.clone())),
            Stage::Connecting(made) => return Look::Wait(made.clone()),
            Stage::Idle | Stage::Pausing { .. } => {}
        }
        if site.stop.is_cancelled() {
            return Look::Decided(Err(PeerError::NotSent(NotSent::ShuttingDown)));
        }
        let (made, receiver) = watch::channel(None);
        state.stage = Stage::Connecting(receiver.clone());
        site.tasks.spawn(Arc::clone(self).live(Arc::clone(site), made));
        Look::Wait(receiver)
    }

    /// Connects, and runs the connection until it ends.
    async fn live(self: Arc<Self>, site: Arc<Site>, made: watch::Sender<Option<Connected>>) {
        let traffic = site.traffic(self.node);
        let connected = tokio::select! {
            connected = self.connect(&site) => connected,
            () = site.stop.cancelled() => Err(PeerError::NotSent(NotSent::ShuttingDown)),
        };
        let line = match connected {
            Ok(line) => line,
            Err(error) => {
                self.pause(&site, error.clone());
                made.send_replace(Some(Err(error)));
                return;
            }
        };
        let calls = Arc::new(Calls::new(Wire::new(site.limits.lane(self.lane), Arc::clone(&traffic), true)));
        let (again, failures) = self.with(|state| {
            state.stage = Stage::Connected(Arc::clone(&calls));
            (std::mem::replace(&mut state.was_connected, true), state.failures)
        });
        if again {
            traffic.reconnected();
        }
        if failures > 0 {
            tracing::info!(node = self.node.0, lane = ?self.lane, "the node can be reached");
        }
        made.send_replace(Some(Ok(Arc::clone(&calls))));
        let since = Instant::now();
        let end = calls.run(line, self.reason_to_stop(&site)).await;
        if end != End::GivenUp(STOPPED) && site.throttle.allows(format!("lost {}", self.node)) {
            tracing::warn!(node = self.node.0, lane = ?self.lane, reason = %end, "the connection to a node ended");
        }
        // A connection that lived is made again at once; one that did not counts as a failed attempt.
        if since.elapsed() > site.limits.backoff.1 {
            self.with(|state| (state.stage, state.failures) = (Stage::Idle, 0));
        } else {
            self.pause(&site, PeerError::Unreachable(format!("node {} cannot be reached: {end}", self.node).into()));
        }
    }

    async fn connect(&self, site: &Site) -> Result<Line, PeerError> {
        let Some(address) = site.directory.address(self.node) else {
            let message = format!("node {} cannot be reached: it is not a node of this cluster", self.node);
            return Err(PeerError::Unreachable(message.into()));
        };
        let target = Target { address: &address, node: Some(self.node), lane: Some(self.lane) };
        match timeout(site.limits.connect, site.connect(target)).await {
            Ok(connected) => connected.map(|(line, _)| line),
            Err(_) => {
                let (node, time) = (self.node, site.limits.connect);
                let message = format!("node {node} at {address} cannot be reached: no connection within {time:?}");
                Err(PeerError::Unreachable(message.into()))
            }
        }
    }

    /// Notes a failed attempt.
    fn pause(&self, site: &Site, error: PeerError) {
        if site.directory.address(self.node).is_none() {
            site.links.forget(self);
        }
        let failures = self.with(|state| {
            let until = Instant::now() + pause(site.limits.backoff, state.failures);
            state.failures = state.failures.saturating_add(1);
            state.stage = Stage::Pausing { until, error: error.clone() };
            state.failures
        });
        tracing::debug!(node = self.node.0, lane = ?self.lane, failures, %error, "no connection to a node");
        let subject = match &error {
            PeerError::Refused(refused) => format!("{} {}", self.node, refused.mismatch),
            PeerError::NotSent(NotSent::ShuttingDown) => return,
            _ => format!("unreachable {}", self.node),
        };
        if site.throttle.allows(subject) {
            tracing::warn!(node = self.node.0, %error, "no connection to a node; trying again when it is needed");
        }
    }

    /// Why a connection that works is to end.
    async fn reason_to_stop(&self, site: &Site) -> End {
        let mut look = interval(site.limits.lane(self.lane).silence);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = site.stop.cancelled() => return End::GivenUp(STOPPED),
                _ = look.tick() => {}
            }
            if site.directory.address(self.node).is_none() {
                site.links.forget(self);
                return End::GivenUp("the peer has left the cluster");
            }
        }
    }
}

/// Why connections end when the node stops.
pub(super) const STOPPED: &str = "this node is shutting down";

/// The pause after so many failures before: doubled each time, and between a half and the whole of it at random, so that
/// nodes that lost each other at the same time do not meet again and again.
fn pause((shortest, longest): (Duration, Duration), failures: u32) -> Duration {
    let whole = shortest.saturating_mul(1 << failures.min(16)).min(longest);
    let part = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    whole.mul_f64(0.5 + part / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_vary() {
        let bounds = (Duration::from_millis(50), Duration::from_secs(1));
        for failures in [0, 1, 2, 3, 4, 5, 40, u32::MAX] {
            let whole = (0.05 * 2f64.powi(failures.min(40) as i32)).min(1.0);
            for _ in 0..100 {
                let pause = pause(bounds, failures).as_secs_f64();
                assert!(pause >= whole / 2.0 - 1e-6 && pause <= whole + 1e-6, "{failures}: {pause}");
            }
        }
        assert!((0..100).any(|_| pause(bounds, 3) != pause(bounds, 3)));
    }
}
