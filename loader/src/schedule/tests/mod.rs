//! Schedules by a mock clock: each kind by example, and all of them at once by chance.

mod kinds;
mod model;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use larder_types::names::SyncName;

use super::book::{Book, Ending, Entry, Request, Rule, Rules, Started, Ticket};
use super::cron::Cron;
use super::decide::{Remark, decide, finish, next_decision};
use crate::project::schedule::{CatchUp, On, Overlap, Retries, Schedule, When};
use crate::run::Trigger;

fn name(text: &str) -> SyncName {
    SyncName::new(text).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn every(span: u64) -> Schedule {
    Schedule { when: When::Every(seconds(span)), ..Schedule::default() }
}

fn after(syncs: &[&str], on: On) -> Schedule {
    Schedule { when: When::After { syncs: syncs.iter().map(|sync| name(sync)).collect(), on }, ..Schedule::default() }
}

fn cron(text: &str, zone: &str) -> Schedule {
    Schedule { when: When::Cron(Cron::parse(text, zone).unwrap()), ..Schedule::default() }
}

/// Schedules by the names of their syncs; the source of a sync is the first letter of its name.
struct Plan {
    schedules: BTreeMap<SyncName, Schedule>,
    most: usize,
    most_of_source: BTreeMap<&'static str, usize>,
}

impl Plan {
    fn new(schedules: &[(&str, Schedule)]) -> Self {
        let schedules = schedules.iter().map(|(sync, schedule)| (name(sync), schedule.clone())).collect();
        Self { schedules, most: 100, most_of_source: BTreeMap::new() }
    }

    /// Gives each sync its page.
    fn open(&self, book: &mut Book) {
        for name in self.schedules.keys() {
            book.0.entry(name.clone()).or_default();
        }
    }

    fn rules(&self) -> Rules<'_> {
        let mut syncs = BTreeMap::new();
        for (name, schedule) in &self.schedules {
            syncs.insert(name, Rule { schedule, source: &name.as_str()[..1] });
        }
        Rules { syncs, most: self.most, most_of_source: self.most_of_source.clone() }
    }
}

/// A world with one loader, whose runs end when the test says so.
struct World {
    plan: Plan,
    book: Book,
    now: Timestamp,
    ids: u32,
}

impl World {
    fn new(start: &str, schedules: &[(&str, Schedule)]) -> Self {
        Self { plan: Plan::new(schedules), book: Book::default(), now: at(start), ids: 0 }
    }

    fn decide(&mut self) -> Vec<Remark> {
        self.plan.open(&mut self.book);
        let ids = &mut self.ids;
        let mut new_id = |_| {
            *ids += 1;
            format!("r{ids}")
        };
        decide(&mut self.book, &self.plan.rules(), self.now, &mut new_id)
    }

    /// Lets the time go on, deciding whenever there is something to decide, and returns the starts: sync and time.
    fn run_until(&mut self, until: &str) -> Vec<(String, Timestamp)> {
        let until = at(until);
        let mut starts = Vec::new();
        loop {
            for remark in self.decide() {
                if let Remark::Start(sync, started) = remark {
                    starts.push((sync.to_string(), self.now));
                    self.end(&sync, &started.ticket.run, Ending::Settled);
                }
            }
            let next = next_decision(&self.book, &self.plan.rules(), self.now);
            match next {
                Some(next) if next <= until => self.now = next.max(self.now),
                _ => break,
            }
        }
        self.now = until;
        starts
    }

    /// The runs that begin now.
    fn starts(&mut self) -> Vec<(String, Ticket)> {
        let of_remark = |remark| match remark {
            Remark::Start(sync, started) => Some((sync.to_string(), started.ticket)),
            _ => None,
        };
        self.decide().into_iter().filter_map(of_remark).collect()
    }

    fn end(&mut self, sync: &SyncName, run: &str, ending: Ending) {
        let now = self.now;
        let retries = self.plan.schedules[sync].retries;
        let ids = &mut self.ids;
        let entry = self.book.0.get_mut(sync).unwrap();
        entry.past.began = Some(now);
        if ending == Ending::Settled {
            entry.past.succeeded = Some(now);
        }
        entry.past.finished = Some(now);
        let mut new_id = |_| {
            *ids += 1;
            format!("r{ids}")
        };
        let begun = entry.started.clone().unwrap();
        assert_eq!(begun.ticket.run, run);
        finish(entry, &begun, ending, retries, now, &mut new_id);
    }

    fn entry(&mut self, sync: &str) -> &mut Entry {
        self.book.0.entry(name(sync)).or_default()
    }

    fn pass(&mut self, span: u64) {
        self.now += SignedDuration::from_secs(i64::try_from(span).unwrap());
    }

    fn trigger(&mut self, sync: &str, request: Request) -> String {
        let (run, due) = (format!("t{}", self.ids), self.now);
        self.ids += 1;
        let ticket = Ticket { run, cause: Trigger::Api, request, due, failures: 0, vanished: 0 };
        self.entry(sync).queue(ticket).to_owned()
    }
}

/// The starts of one sync as times of day.
fn times(starts: &[(String, Timestamp)]) -> Vec<String> {
    starts.iter().map(|(_, at)| at.strftime("%H:%M:%S").to_string()).collect()
}
