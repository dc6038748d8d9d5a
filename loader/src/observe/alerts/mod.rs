//! Alerts: telling people when a sync goes wrong and when it is well again, once each.
//!
//! [`rules`] judge a run, or the time since one; [`lifecycle`] makes changes of findings; a change is written down with
//! its [`notice`]s in one transaction ([`crate::state::alerts`]); the [`courier`] carries them to their [`channel`]s.
//! A run waits only for the transaction. What a process could not send before it ended is sent by the next one that
//! works on the same state directory.

mod channel;
mod courier;
mod lifecycle;
mod notice;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use larder_types::names::SyncName;

pub(crate) use self::channel::ChannelError;
use self::courier::Courier;
pub(crate) use self::lifecycle::Alert;
pub(crate) use self::notice::Notice;
use self::notice::Place;
use self::rules::{End, Finding, Part, RunFacts, judge_age, judge_part, judge_run, judge_running};
pub(crate) use self::rules::{Memory, Rule};
use super::{Observer, RunEnded, RunStarted, between};
use crate::project::alerts::{AlertPolicy, Channel};
use crate::project::{Project, SyncSpec};
use crate::push::retry::random;
use crate::run::{Outcome, RunReport};
use crate::state::alerts::AlertTables;
use crate::state::database::Database;
use crate::state::{State, StateError};

/// A sync as a whole, among destinations.
const WHOLE: &str = "";

/// Watches the runs of a project.
pub(crate) struct Alerts {
    database: Database,
    syncs: BTreeMap<SyncName, Watched>,
    /// The runs that this process has begun, by id.
    running: Mutex<HashMap<String, Running>>,
    /// `None` if there is no channel to carry anything to.
    courier: Option<Courier>,
}

/// What is known of a sync.
struct Watched {
    policy: AlertPolicy,
    /// Its destinations, if it has several; else none.
    destinations: Vec<String>,
}

struct Running {
    sync: SyncName,
    since: Timestamp,
}

impl Alerts {
    /// Begins to watch. `None` if the project has no rules at all.
    ///
    /// # Errors
    /// When the state directory cannot be opened.
    pub(crate) fn start(project: &Project) -> Result<Option<Self>, StateError> {
        let syncs: BTreeMap<SyncName, Watched> =
            project.syncs.values().map(|spec| (spec.name.clone(), Watched::of(spec))).collect();
        let channels = &project.alerting.channels;
        if channels.is_empty()
            && syncs.values().all(|sync| Rule::ALL.iter().all(|rule| rule.is_off(&sync.policy.rules)))
        {
            return Ok(None);
        }
        let database = State::open(&project.state_dir)?.database;
        forget_others(&database, &syncs)?;
        let courier =
            if channels.is_empty() { None } else { Some(Courier::start(project.state_dir.clone(), channels.clone())?) };
        Ok(Some(Self { database, syncs, running: Mutex::default(), courier }))
    }

    /// Looks at what only the clock tells: syncs that have not succeeded for long, runs that take long. To be called
    /// every few seconds by a process that stays.
    pub(crate) fn tick(&self, now: Timestamp) {
        let running: Vec<(String, SyncName, Timestamp)> =
            self.running().iter().map(|(run, at)| (run.clone(), at.sync.clone(), at.since)).collect();
        for (sync, watched) in &self.syncs {
            let rules = &watched.policy.rules;
            let slow = running
                .iter()
                .filter(|(_, of, _)| of == sync)
                .filter_map(|(run, _, since)| Some((Some(run.as_str()), judge_running(rules, run, *since, now)?)));
            let slow: Vec<_> = slow.collect();
            if rules.stale.is_off() && slow.is_empty() {
                continue;
            }
            self.log(self.database.alerts(|tables| {
                let change = Changing { tables, sync, policy: &watched.policy, now };
                for (run, finding) in &slow {
                    change.take(WHOLE, *run, vec![finding.clone()])?;
                }
                if rules.stale.is_off() {
                    return Ok(());
                }
                for destination in watched.subjects(Rule::Stale) {
                    let memory = change.memory(destination)?;
                    let stale = judge_age(rules, &memory, now);
                    change.take(destination, None, stale.into_iter().collect())?;
                }
                Ok(())
            }));
        }
        self.wake();
    }

    /// Gives what waits to be sent so much time, and ends.
    pub(crate) fn finish(&self, patience: Duration) {
        if let Some(courier) = &self.courier {
            courier.drain(patience);
        }
    }

    fn judge(&self, sync: &SyncName, policy: &AlertPolicy, run: &RunFacts) {
        let rules = &policy.rules;
        let result = self.database.alerts(|tables| {
            let change = Changing { tables, sync, policy, now: run.at };
            let mut memory = change.memory(WHOLE)?;
            let mut findings = judge_run(rules, run, &mut memory);
            if !run.parts.is_empty() {
                // Of these, each destination has its own.
                findings.retain(|finding| finding.rule == Rule::Failed || !finding.rule.is_of_destinations());
            }
            tables.remember(sync, WHOLE, &memory)?;
            change.take(WHOLE, Some(&run.run), findings)?;
            for (destination, part) in &run.parts {
                let mut memory = change.memory(destination)?;
                let findings = judge_part(rules, run, part, &mut memory);
                tables.remember(sync, destination, &memory)?;
                change.take(destination, Some(&run.run), findings)?;
            }
            Ok(())
        });
        self.log(result);
        self.wake();
    }

    /// A run goes on without its alerts; whoever reads the log is told instead.
    fn log(&self, result: Result<(), StateError>) {
        if let Err(error) = result {
            tracing::error!(%error, "alerts cannot be judged");
        }
    }

    fn wake(&self) {
        self.courier.iter().for_each(Courier::wake);
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        // One insertion or removal at a time, so it is whole whatever happened to its last holder.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Alerts {
    fn started(&self, run: &RunStarted<'_>) {
        self.running().insert(run.run.to_owned(), Running { sync: run.spec.name.clone(), since: run.at });
    }

    fn ended(&self, run: &RunEnded<'_>) {
        self.running().remove(run.started.run);
        let SyncSpec { name, alerts: policy, .. } = run.started.spec;
        if Rule::ALL.iter().any(|rule| !rule.is_off(&policy.rules)) {
            self.judge(name, policy, &facts(run));
        }
    }
}

impl Watched {
    fn of(spec: &SyncSpec) -> Self {
        let several = spec.destinations.len() > 1;
        let destinations = spec.destinations.iter().filter(|_| several).map(ToString::to_string).collect();
        Self { policy: spec.alerts.clone(), destinations }
    }

    /// What a rule has alerts of.
    fn subjects(&self, rule: Rule) -> Vec<&str> {
        if !rule.is_of_destinations() || self.destinations.is_empty() {
            return vec![WHOLE];
        }
        let whole = (rule == Rule::Failed).then_some(WHOLE);
        whole.into_iter().chain(self.destinations.iter().map(String::as_str)).collect()
    }

    fn has(&self, destination: &str, rule: Rule) -> bool {
        !rule.is_off(&self.policy.rules) && self.subjects(rule).contains(&destination)
    }
}

/// Forgets the alerts that the project has no rule for any more.
fn forget_others(database: &Database, syncs: &BTreeMap<SyncName, Watched>) -> Result<(), StateError> {
    database.alerts(|tables| {
        tables.keep_alerts(|sync, destination, rule| {
            let watched = SyncName::new(sync).ok().and_then(|sync| syncs.get(&sync));
            watched.zip(rule).is_some_and(|(watched, rule)| watched.has(destination, rule))
        })
    })
}

/// One transaction on the alerts of a sync.
struct Changing<'a> {
    tables: &'a AlertTables<'a>,
    sync: &'a SyncName,
    policy: &'a AlertPolicy,
    now: Timestamp,
}

impl Changing<'_> {
    /// What is remembered; from now on, if nothing is.
    fn memory(&self, destination: &str) -> rusqlite::Result<Memory> {
        if let Some(memory) = self.tables.memory(self.sync, destination)? {
            return Ok(memory);
        }
        let memory = Memory::new(self.now);
        self.tables.remember(self.sync, destination, &memory)?;
        Ok(memory)
    }

    /// Takes findings in, and queues a notice for each change.
    fn take(&self, destination: &str, run: Option<&str>, findings: Vec<Finding>) -> rusqlite::Result<()> {
        for finding in findings.into_iter().filter(|finding| !finding.rule.is_off(&self.policy.rules)) {
            let known = self.tables.alert(self.sync, destination, finding.rule)?;
            let mut alert = known.unwrap_or_else(|| Alert::new(self.now));
            // A single success is all that is missed.
            let recover_after = if finding.rule == Rule::Stale { 1 } else { self.policy.recover_after };
            let before = alert;
            let change = alert.find(finding.level, self.now, recover_after);
            if alert != before || known.is_none() {
                self.tables.set_alert(self.sync, destination, finding.rule, &alert, &finding.what)?;
            }
            let Some(change) = change else { continue };
            let place = Place {
                sync: self.sync.as_str(),
                destination: Some(destination).filter(|name| *name != WHOLE),
                run,
                at: self.now,
            };
            let channels = self.policy.notify.get(&change.peak);
            let notice = Notice::of_change(new_id(), place, change, finding);
            tracing::info!(sync = %self.sync, title = %notice.title, "an alert changed");
            for channel in channels.into_iter().flatten() {
                if self.tables.queue(channel, &notice, self.now)? > 0 {
                    tracing::error!(%channel, "too many notices wait to be sent; the oldest was dropped");
                }
            }
        }
        Ok(())
    }
}

/// Sends a notice that only shows that the channel works. Blocking.
///
/// # Errors
/// Why the channel did not take it.
pub(crate) fn test_channel(name: &str, channel: &Channel) -> Result<(), ChannelError> {
    let now = Timestamp::now();
    channel::send(channel, &Notice::of_test(new_id(), name, now), now)
}

fn new_id() -> String {
    format!("{:08x}{:08x}", random(), random())
}

fn facts(ended: &RunEnded<'_>) -> RunFacts {
    let report = ended.report();
    let outcome = ended.outcome();
    let error = ended.result.err().map(ToString::to_string);
    let mut deliveries = report.map_or(&[][..], |report| &report.deliveries[..]);
    let part = |outcome, error| Part { end: end(outcome), error };
    let is_counted =
        |report: &&RunReport| report.rows.read > 0 || !matches!(end(outcome), End::Failed | End::Cancelled);
    let rows = report.filter(is_counted).map(|report| report.rows.read);
    let rejected = deliveries.iter().map(|delivery| delivery.rows.rejected).max().unwrap_or(0);
    // What kept the rows from every destination, such as a source that is away, is told once.
    let is_common = deliveries.iter().all(|of| of.outcome == Outcome::Failed && of.error == deliveries[0].error);
    if ended.started.spec.destinations.len() < 2 || is_common {
        deliveries = &[];
    }
    let is_cancelled = deliveries.iter().any(|delivery| delivery.outcome == Outcome::Cancelled);
    RunFacts {
        run: ended.started.run.to_owned(),
        at: ended.at,
        took: between(ended.started.at, ended.at),
        whole: match deliveries {
            [] => part(outcome, error),
            _ if is_cancelled => part(Outcome::Cancelled, None),
            _ => part(Outcome::Succeeded, None),
        },
        parts: deliveries.iter().map(|of| (of.destination.to_string(), part(of.outcome, of.error.clone()))).collect(),
        rows,
        rejected,
    }
}

fn end(outcome: Outcome) -> End {
    match outcome {
        Outcome::Succeeded | Outcome::Partial => End::Good,
        Outcome::Blocked => End::Blocked,
        Outcome::Cancelled => End::Cancelled,
        Outcome::Failed => End::Failed,
    }
}
