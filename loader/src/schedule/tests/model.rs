//! Any number of loaders on one book, with crashes, callers and clocks in any order.
//!
//! The world keeps what a state database would, and what really happens: which loader runs what. After every step the
//! promises of the module are checked.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::book::{LeaseSeen, Past, Record};
use super::*;

const LOADERS: usize = 2;
const SYNCS: [&str; 6] = ["a1", "a2", "b1", "b2", "c1", "c2"];

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Decide(usize),
    Trigger {
        sync: usize,
        full: bool,
    },
    /// The run of a sync ends.
    End {
        sync: usize,
        ending: Ending,
    },
    /// The run of a sync ends in the history, and its loader dies before it can say so in the book.
    EndAndDie {
        sync: usize,
    },
    Kill(usize),
    Restart(usize),
    Pause {
        sync: usize,
        paused: bool,
    },
    /// A run from the command line begins, if the sync is free, or ends.
    ByHand {
        sync: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let sync = 0..SYNCS.len();
    let ending = prop_oneof![4 => Just(Ending::Settled), 2 => Just(Ending::Failed), 1 => Just(Ending::Locked), 1 => Just(Ending::Stopped)];
    prop_oneof![
        4 => (0u64..40).prop_map(Step::Pass),
        6 => (0..LOADERS).prop_map(Step::Decide),
        3 => (sync.clone(), any::<bool>()).prop_map(|(sync, full)| Step::Trigger { sync, full }),
        4 => (sync.clone(), ending).prop_map(|(sync, ending)| Step::End { sync, ending }),
        1 => sync.clone().prop_map(|sync| Step::EndAndDie { sync }),
        1 => (0..LOADERS).prop_map(Step::Kill),
        1 => (0..LOADERS).prop_map(Step::Restart),
        1 => (sync.clone(), any::<bool>()).prop_map(|(sync, paused)| Step::Pause { sync, paused }),
        1 => sync.prop_map(|sync| Step::ByHand { sync }),
    ]
}

/// Somebody who holds a sync.
#[derive(Debug, Clone, PartialEq)]
enum Holder {
    Loader(usize, Started),
    Hand,
}

#[derive(Default)]
struct Reality {
    now: Timestamp,
    book: Book,
    alive: [bool; LOADERS],
    holders: BTreeMap<SyncName, Holder>,
    records: BTreeMap<String, Record>,
    pasts: BTreeMap<SyncName, Past>,
    /// Triggers that no run has served yet: when, and whether in full.
    owed: Vec<(SyncName, Timestamp, bool)>,
    /// Times that have fired, by sync.
    fired: BTreeSet<(SyncName, Timestamp)>,
    ids: u32,
}

fn plan() -> Plan {
    let queue = |schedule| Schedule { overlap: Overlap::Queue, ..schedule };
    let retries = Retries { times: 2, backoff: seconds(5), max_backoff: seconds(8) };
    let mut plan = Plan::new(&[
        ("a1", every(10)),
        ("a2", queue(Schedule { retries, jitter: seconds(3), ..every(7) })),
        ("b1", after(&["a1", "a2"], On::Success)),
        ("b2", Schedule { retries, ..Schedule::default() }),
        ("c1", Schedule { catch_up: CatchUp::None, jitter: seconds(20), ..cron("*/15 * * * * *", "UTC") }),
        ("c2", after(&["b1"], On::Finished)),
    ]);
    plan.most = 3;
    plan.most_of_source.insert("a", 1);
    plan
}

impl Reality {
    fn look(&mut self) {
        for (name, entry) in &mut self.book.0 {
            entry.past = self.pasts.get(name).copied().unwrap_or_default();
            entry.lease.is_live = match self.holders.get(name) {
                None => false,
                Some(Holder::Hand) => true,
                Some(Holder::Loader(loader, _)) => self.alive[*loader],
            };
            entry.record = entry
                .started
                .as_ref()
                .and_then(|started| self.records.get(&started.ticket.run).copied())
                .unwrap_or_default();
        }
    }

    fn new_id(ids: &mut u32) -> String {
        *ids += 1;
        format!("r{ids}")
    }

    fn decide(&mut self, loader: usize, plan: &Plan) -> Result<(), TestCaseError> {
        if !self.alive[loader] {
            return Ok(());
        }
        plan.open(&mut self.book);
        self.look();
        let before = self.book.clone();
        let ids = &mut self.ids;
        let remarks = decide(&mut self.book, &plan.rules(), self.now, &mut |_| Self::new_id(ids));
        for (name, entry) in &self.book.0 {
            let was = before.0.get(name).and_then(|entry| entry.next);
            if let (Some(was), Some(is)) = (was, entry.next) {
                prop_assert!(is >= was, "{name} goes back from {was} to {is}");
                if is > was {
                    prop_assert!(self.fired.insert((name.clone(), was)), "{name} fires for {was} again");
                }
            }
        }
        for remark in remarks {
            match remark {
                Remark::Start(sync, started) => self.begin(loader, sync, started, plan)?,
                // Who takes every loader along that runs it has been served as well as can be.
                Remark::GivenUp(sync, _) => self.owed.retain(|(owed, ..)| *owed != sync),
                _ => {}
            }
        }
        Ok(())
    }

    fn begin(&mut self, loader: usize, sync: SyncName, started: Started, plan: &Plan) -> Result<(), TestCaseError> {
        let in_use = self.holders.get(&sync).is_some_and(|holder| match holder {
            Holder::Hand => true,
            Holder::Loader(other, _) => self.alive[*other],
        });
        prop_assert!(!in_use, "{sync} begins while it is held");
        let entry = &self.book.0[&sync];
        prop_assert!(!entry.is_paused || started.ticket.cause.is_call(), "{sync} is paused");
        prop_assert!(started.ticket.due <= self.now);
        let request = started.ticket.request;
        self.owed.retain(|(owed, _, full)| *owed != sync || (*full && !request.full));
        self.pasts.entry(sync.clone()).or_default().began = Some(self.now);
        self.records.insert(started.ticket.run.clone(), Record::Begun);
        self.holders.insert(sync, Holder::Loader(loader, started));
        let live = |holder: &&Holder| matches!(holder, Holder::Loader(loader, _) if self.alive[*loader]);
        prop_assert!(self.holders.values().filter(live).count() <= plan.most);
        let of_a = |(name, holder): &(&SyncName, &Holder)| name.as_str().starts_with('a') && live(holder);
        prop_assert!(self.holders.iter().filter(of_a).count() <= 1);
        Ok(())
    }

    fn end(&mut self, sync: &SyncName, ending: Ending, plan: &Plan, dies: bool) {
        let Some(Holder::Loader(loader, started)) = self.holders.get(sync).cloned() else { return };
        if !self.alive[loader] {
            return;
        }
        let past = self.pasts.entry(sync.clone()).or_default();
        match ending {
            Ending::Locked => {
                self.records.remove(&started.ticket.run);
            }
            ending => {
                past.finished = Some(self.now);
                if ending == Ending::Settled {
                    past.succeeded = Some(self.now);
                }
                self.records.insert(started.ticket.run.clone(), Record::Ended(ending));
            }
        }
        if ending != Ending::Settled {
            // What was asked for is still owed if nobody gives up on it; retries are not owed for ever, so only these.
            if matches!(ending, Ending::Locked | Ending::Stopped) && started.ticket.cause.is_call() {
                self.owed.push((sync.clone(), self.now, started.ticket.request.full));
            }
        }
        if dies {
            self.kill(loader);
            return;
        }
        self.holders.remove(sync);
        self.look();
        let entry = self.book.0.get_mut(sync).unwrap();
        let ids = &mut self.ids;
        let retries = plan.schedules[sync].retries;
        finish(entry, &started, ending, retries, self.now, &mut |_| Self::new_id(ids));
    }

    fn kill(&mut self, loader: usize) {
        self.alive[loader] = false;
        for (sync, holder) in &self.holders {
            if let Holder::Loader(other, started) = holder
                && *other == loader
                && self.records.get(&started.ticket.run) == Some(&Record::Begun)
                && started.ticket.cause.is_call()
            {
                self.owed.push((sync.clone(), self.now, started.ticket.request.full));
            }
        }
    }

    fn restart(&mut self, loader: usize) {
        if !self.alive[loader] {
            // A new process: what the old one ran, nobody runs.
            self.holders.retain(|_, holder| !matches!(holder, Holder::Loader(other, _) if *other == loader));
            self.alive[loader] = true;
        }
    }

    fn apply(&mut self, step: &Step, plan: &Plan) -> Result<(), TestCaseError> {
        match *step {
            Step::Pass(span) => self.now += SignedDuration::from_secs(i64::try_from(span).unwrap()),
            Step::Decide(loader) => self.decide(loader, plan)?,
            Step::Trigger { sync, full } => {
                let (sync, now) = (name(SYNCS[sync]), self.now);
                let run = Self::new_id(&mut self.ids);
                let request = Request { full, ..Request::default() };
                let ticket = Ticket { run, cause: Trigger::Api, request, due: now, failures: 0, vanished: 0 };
                self.book.0.entry(sync.clone()).or_default().queue(ticket);
                self.owed.push((sync, now, full));
            }
            Step::End { sync, ending } => self.end(&name(SYNCS[sync]), ending, plan, false),
            Step::EndAndDie { sync } => self.end(&name(SYNCS[sync]), Ending::Settled, plan, true),
            Step::Kill(loader) => self.kill(loader),
            Step::Restart(loader) => self.restart(loader),
            Step::Pause { sync, paused } => {
                self.book.0.entry(name(SYNCS[sync])).or_default().is_paused = paused;
            }
            Step::ByHand { sync } => self.by_hand(&name(SYNCS[sync])),
        }
        Ok(())
    }

    fn by_hand(&mut self, sync: &SyncName) {
        match self.holders.get(sync) {
            Some(Holder::Hand) => {
                self.holders.remove(sync);
                let past = self.pasts.entry(sync.clone()).or_default();
                (past.succeeded, past.finished) = (Some(self.now), Some(self.now));
            }
            Some(Holder::Loader(loader, _)) if self.alive[*loader] => {}
            _ => {
                self.holders.insert(sync.clone(), Holder::Hand);
                let entry = self.book.0.entry(sync.clone()).or_default();
                entry.lease = LeaseSeen { fence: entry.lease.fence + 1, is_live: true };
                self.pasts.entry(sync.clone()).or_default().began = Some(self.now);
            }
        }
    }

    /// Lets everything go well until nothing waits any more.
    fn settle(&mut self, plan: &Plan) -> Result<(), TestCaseError> {
        for loader in 0..LOADERS {
            self.restart(loader);
        }
        for sync in SYNCS.map(name) {
            self.book.0.entry(sync.clone()).or_default().is_paused = false;
            if self.holders.get(&sync) == Some(&Holder::Hand) {
                self.by_hand(&sync);
            }
        }
        for round in 0..200 {
            self.decide(round % LOADERS, plan)?;
            for sync in SYNCS.map(name) {
                self.end(&sync, Ending::Settled, plan, false);
            }
            if self.owed.is_empty() {
                return Ok(());
            }
            self.now += SignedDuration::from_secs(1);
        }
        prop_assert!(false, "triggers were lost: {:?}", self.owed);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn loaders_that_share_a_book_lose_nothing_and_repeat_nothing(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let plan = plan();
        let now = at("2026-11-24T12:00:00Z");
        let mut reality = Reality { now, alive: [true; LOADERS], ..Reality::default() };
        for step in &steps {
            reality.apply(step, &plan)?;
        }
        reality.settle(&plan)?;
    }
}
