//! How many batches may be in flight: found out by trying, as in congestion control.
//!
//! The window grows by one for each window full of good answers, and is halved when the cluster asks for patience (429,
//! 503), does not answer in time, or answers ever later: what takes three times as long as it could waits there rather
//! than being worked at. It is halved once for all that was in flight at the time, because they all tell of the same
//! moment. Pure: times are given to it.

use std::time::Duration;

/// Batches in flight at first: two keep the cluster busy while answers travel.
const START: usize = 2;
/// An answer is late if it takes this many times as long as the best of late …
const LATE_FACTOR: u32 = 3;
/// … and this much more, so that the noise of a disk or network counts for nothing.
const LATE_SLACK: Duration = Duration::from_millis(25);
/// The window of one run.
#[derive(Debug)]
pub(crate) struct Window {
    limit: f64,
    most: usize,
    /// Batches launched so far.
    launched: u64,
    /// Most that were in flight since the limit last changed.
    peak: usize,
    /// Batches launched before this one say nothing that the last halving has not answered.
    calm_from: u64,
    /// The largest body answered so far, in bytes.
    largest: usize,
    latency: Latency,
}

/// Stands for a batch in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    number: u64,
    /// Nothing else was in flight when it left.
    is_first: bool,
}

/// What answers took.
#[derive(Debug, Default)]
struct Latency {
    /// A moving average of late; none before the first answer.
    recent: Option<Duration>,
    /// The best so far, or what an answer took of late that was alone in flight: nothing but work, then, and no waiting.
    best: Option<Duration>,
}

impl Window {
    /// A window that never exceeds `most`.
    pub(crate) fn new(most: usize) -> Self {
        let limit = u16::try_from(START.min(most)).unwrap_or(u16::MAX);
        Self {
            limit: f64::from(limit),
            most,
            launched: 0,
            peak: 0,
            calm_from: 0,
            largest: 0,
            latency: Latency::default(),
        }
    }

    /// How many may be in flight now; at least one.
    pub(crate) fn limit(&self) -> usize {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and `most`")]
        let limit = self.limit as usize;
        limit.clamp(1, self.most)
    }

    /// A batch leaves; `flying` are in flight now, itself included.
    pub(crate) fn launch(&mut self, flying: usize) -> Ticket {
        self.peak = self.peak.max(flying);
        self.launched += 1;
        Ticket { number: self.launched - 1, is_first: flying == 1 }
    }

    /// A batch of `bytes` was taken after `latency`.
    pub(crate) fn taken(&mut self, ticket: Ticket, latency: Duration, bytes: usize) {
        self.largest = self.largest.max(bytes);
        // Small batches are quick without meaning anything.
        let is_alone = ticket.is_first && self.launched == ticket.number + 1;
        if bytes >= self.largest / 2 && self.latency.is_late(latency, is_alone) {
            self.push_back(ticket);
        } else if self.peak >= self.limit() {
            // A window that is not used shows nothing of what would happen if it were larger.
            let before = self.limit();
            let most = u16::try_from(self.most).unwrap_or(u16::MAX);
            self.limit = (self.limit + 1.0 / self.limit).min(f64::from(most));
            if self.limit() != before {
                self.peak = 0;
            }
        }
    }

    /// The cluster wants less, or does not keep up.
    pub(crate) fn push_back(&mut self, ticket: Ticket) {
        if ticket.number >= self.calm_from {
            self.calm_from = self.launched;
            self.limit = (self.limit / 2.0).max(1.0);
            self.peak = 0;
            self.latency.recent = None;
        }
    }
}

impl Latency {
    /// Takes an answer's latency in, and tells whether answers have become late.
    fn is_late(&mut self, latency: Duration, is_alone: bool) -> bool {
        let best = match self.best {
            Some(best) if latency > best && is_alone => best * 3 / 4 + latency / 4,
            Some(best) => best.min(latency),
            None => latency,
        };
        self.best = Some(best);
        let recent = self.recent.map_or(latency, |recent| recent * 3 / 4 + latency / 4);
        self.recent = Some(recent);
        recent > best * LATE_FACTOR + LATE_SLACK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 1 << 20;

    /// Runs rounds of full windows against a cluster whose latency depends on how many are in flight.
    fn settle(window: &mut Window, rounds: usize, latency: impl Fn(usize) -> Duration) -> Vec<usize> {
        let mut limits = Vec::new();
        for _ in 0..rounds {
            let flying = window.limit();
            let tickets: Vec<Ticket> = (1..=flying).map(|flying| window.launch(flying)).collect();
            for ticket in tickets {
                window.taken(ticket, latency(flying), BYTES);
            }
            limits.push(window.limit());
        }
        limits
    }

    #[test]
    fn grows_by_one_a_round_up_to_its_bound() {
        let limits = settle(&mut Window::new(8), 12, |_| Duration::from_millis(20));
        assert_eq!(limits.last(), Some(&8));
        assert!(limits.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{limits:?}");
        assert_eq!(Window::new(1).limit(), 1);
        assert_eq!(settle(&mut Window::new(1), 5, |_| Duration::from_millis(20)), [1; 5]);
    }

    #[test]
    fn stays_small_where_batches_only_queue() {
        // One at a time: whatever is in flight beyond that waits.
        let queue = |flying: usize| Duration::from_millis(50) * u32::try_from(flying).unwrap();
        let limits = settle(&mut Window::new(64), 300, queue);
        assert!(limits.iter().all(|limit| (1..=8).contains(limit)), "{limits:?}");
    }

    #[test]
    fn gets_used_to_a_cluster_that_has_become_slower() {
        let mut window = Window::new(8);
        settle(&mut window, 20, |_| Duration::from_millis(20));
        let limits = settle(&mut window, 100, |_| Duration::from_millis(400));
        assert!(limits.contains(&1), "it looks like a queue: {limits:?}");
        assert_eq!(limits.last(), Some(&8), "but it is none: {limits:?}");
    }

    #[test]
    fn is_halved_once_for_what_was_in_flight_together() {
        let mut window = Window::new(8);
        settle(&mut window, 12, |_| Duration::from_millis(20));
        let tickets: Vec<Ticket> = (1..=8).map(|flying| window.launch(flying)).collect();
        tickets.iter().for_each(|ticket| window.push_back(*ticket));
        assert_eq!(window.limit(), 4);
        let next = window.launch(1);
        window.push_back(next);
        assert_eq!(window.limit(), 2);
        for _ in 0..5 {
            let next = window.launch(1);
            window.push_back(next);
        }
        assert_eq!(window.limit(), 1, "less than one is none");
    }

    #[test]
    fn noise_and_small_batches_change_nothing() {
        let mut window = Window::new(4);
        settle(&mut window, 5, |_| Duration::from_millis(2));
        let ticket = window.launch(1);
        window.taken(ticket, Duration::from_millis(20), BYTES);
        assert_eq!(window.limit(), 4, "a hiccup");
        for _ in 0..10 {
            let ticket = window.launch(1);
            window.taken(ticket, Duration::from_millis(1), 10);
        }
        settle(&mut window, 3, |_| Duration::from_millis(20));
        assert_eq!(window.limit(), 4, "small batches have set the mark");
    }

    #[test]
    fn does_not_grow_while_it_is_not_used() {
        let mut window = Window::new(64);
        for _ in 0..100 {
            let ticket = window.launch(1);
            window.taken(ticket, Duration::from_millis(20), BYTES);
        }
        assert_eq!(window.limit(), START);
    }
}
