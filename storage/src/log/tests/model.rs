//! The log against a plain model: whatever is done to it, in whatever order, it shows and recovers the same.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Groups that take part. Few, so that they share segments and meet often.
const GROUPS: u16 = 3;

/// What a log should amount to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Model {
    groups: BTreeMap<u16, ModelGroup>,
    term: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct ModelGroup {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: Vec<LogEntry>,
}

/// Something to do, in words that make sense in every state.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Append entries of these sizes, perhaps in a new term.
    Append { group: u16, sizes: Vec<usize>, new_term: bool },
    /// Truncate this many entries.
    Truncate { group: u16, gone: usize },
    /// Purge this many indexes, whether there are entries or not.
    Purge { group: u16, gone: u64 },
    /// Vote in the next term.
    Vote { group: u16 },
    /// Note as committed the entry that is so far from the last one.
    Commit { group: u16, behind: usize },
    /// Forget the group.
    Forget { group: u16 },
    /// Wait for everything.
    Wait,
    /// Close and open again; or, unless cleanly, as after a kill.
    Reopen { cleanly: bool },
}

/// One record of the log.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Entry(LogEntry),
    Truncate(Option<u64>),
    Purge(LogId),
    Vote(Vote),
    Committed(Option<LogId>),
    Forget,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let group = 0..GROUPS;
    let size = prop_oneof![0..60usize, 900..1100usize, Just(4096)];
    prop_oneof![
        8 => (group.clone(), vec(size, 1..5), any::<bool>())
            .prop_map(|(group, sizes, new_term)| Step::Append { group, sizes, new_term }),
        2 => (group.clone(), 1..6usize).prop_map(|(group, gone)| Step::Truncate { group, gone }),
        3 => (group.clone(), 1..12u64).prop_map(|(group, gone)| Step::Purge { group, gone }),
        2 => group.clone().prop_map(|group| Step::Vote { group }),
        1 => group.clone().prop_map(|group| Step::Forget { group }),
        2 => (group, 0..4usize).prop_map(|(group, behind)| Step::Commit { group, behind }),
        4 => Just(Step::Wait),
    ]
}

impl Model {
    /// What the log shows.
    pub(super) fn of(log: &Log, term: u64) -> Self {
        let read = |number: u16| {
            let group = log.group(GroupId(number));
            let GroupState { vote, committed, purged, last } = group.state();
            let entries = all(&group);
            assert_eq!(last, entries.last().map(|entry| entry.id).or(purged));
            let bytes: usize = entries.iter().map(|entry| frame::frame_bytes(entry.payload.len())).sum();
            assert_eq!(group.bytes(), bytes as u64);
            (number, ModelGroup { vote, committed, purged, entries })
        };
        Self { groups: (0..GROUPS).map(read).collect(), term }.tidy()
    }

    /// The newest term that was used.
    pub(super) fn term(&self) -> u64 {
        self.term
    }

    /// A group of which nothing is known is none.
    fn tidy(mut self) -> Self {
        self.groups.retain(|_, group| *group != ModelGroup::default());
        self
    }

    /// The records that a step means in this state.
    pub(super) fn changes(&mut self, step: &Step) -> (u16, Vec<Change>) {
        match step {
            Step::Append { group, sizes, new_term } => {
                self.term += u64::from(*new_term);
                let next = self.group(*group).next();
                let entries = sizes.iter().zip(next..).map(|(&size, index)| entry(index, self.term, size));
                (*group, entries.map(Change::Entry).collect())
            }
            Step::Truncate { group, gone } => {
                let known = self.group(*group);
                let gone = (*gone).min(known.entries.len()) as u64;
                let after = (known.next() - gone).checked_sub(1);
                (*group, if gone == 0 { Vec::new() } else { vec![Change::Truncate(after)] })
            }
            Step::Purge { group, gone } => {
                let known = self.group(*group);
                let index = known.first() + gone - 1;
                let found = known.entries.iter().find(|entry| entry.id.index == index).map(|entry| entry.id);
                (*group, vec![Change::Purge(found.unwrap_or(id(index, self.term)))])
            }
            Step::Vote { group } => {
                self.term += 1;
                let committed = self.term.is_multiple_of(2);
                (*group, vec![Change::Vote(Vote { term: self.term, candidate: ReplicaId(9), committed })])
            }
            Step::Commit { group, behind } => {
                let entries = &self.group(*group).entries;
                let id = entries.len().checked_sub(behind + 1).map(|at| entries[at].id);
                (*group, vec![Change::Committed(id)])
            }
            Step::Forget { group } => (*group, vec![Change::Forget]),
            Step::Wait | Step::Reopen { .. } => (0, Vec::new()),
        }
    }

    pub(super) fn apply(&mut self, group: u16, change: &Change) {
        let group = self.groups.entry(group).or_default();
        match change {
            Change::Entry(entry) => group.entries.push(entry.clone()),
            Change::Truncate(after) => {
                group.entries.retain(|entry| after.is_some_and(|after| entry.id.index <= after));
            }
            Change::Purge(upto) => {
                group.entries.retain(|entry| entry.id.index > upto.index);
                group.purged = Some(*upto);
            }
            Change::Vote(vote) => group.vote = Some(*vote),
            Change::Committed(committed) => group.committed = *committed,
            Change::Forget => *group = ModelGroup::default(),
        }
    }

    fn group(&self, group: u16) -> ModelGroup {
        self.groups.get(&group).cloned().unwrap_or_default()
    }
}

impl ModelGroup {
    fn first(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }

    fn next(&self) -> u64 {
        self.first() + self.entries.len() as u64
    }
}

/// A log that is being used, and what it should amount to after each record.
pub(super) struct Run {
    pub(super) log: Log,
    model: Model,
    /// The model after each record, from the state in which the log was opened.
    pub(super) history: Vec<Model>,
    /// How much of the history must survive.
    pub(super) acknowledged: usize,
    waiting: Vec<(usize, Receipt)>,
}

impl Run {
    /// Goes on with a log that amounts to this.
    pub(super) fn new(log: Log, model: Model) -> Self {
        Self { log, history: vec![model.clone().tidy()], model, acknowledged: 0, waiting: Vec::new() }
    }

    /// Does a step.
    ///
    /// # Errors
    /// When the log has failed.
    pub(super) fn take(&mut self, step: &Step) -> io::Result<()> {
        let (number, changes) = self.model.changes(step);
        for change in &changes {
            self.model.apply(number, change);
            self.history.push(self.model.clone().tidy());
        }
        let group = self.log.group(GroupId(number));
        let (done, receipt) = Receipt::new();
        match changes.first() {
            Some(Change::Truncate(after)) => group.truncate_after(*after)?,
            Some(Change::Purge(upto)) => group.purge(*upto)?,
            Some(Change::Committed(committed)) => group.save_committed(*committed)?,
            Some(Change::Vote(vote)) => {
                group.save_vote(*vote, done);
                self.waiting.push((self.history.len() - 1, receipt));
            }
            Some(Change::Forget) => {
                group.forget(done);
                self.waiting.push((self.history.len() - 1, receipt));
            }
            Some(Change::Entry(_)) => {
                let entries = changes.into_iter().filter_map(|change| match change {
                    Change::Entry(entry) => Some(entry),
                    _ => None,
                });
                group.append(entries.collect(), done);
                self.waiting.push((self.history.len() - 1, receipt));
            }
            None => return self.wait(),
        }
        Ok(())
    }

    /// Waits for everything that was asked for.
    ///
    /// # Errors
    /// When the log has failed.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        for (position, receipt) in self.waiting.drain(..) {
            match receipt.wait() {
                Ok(()) => {
                    assert!(result.is_ok(), "nothing succeeds after a failure");
                    self.acknowledged = position;
                }
                Err(error) => result = Err(error),
            }
        }
        result
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_agrees_with_the_model(
        steps in vec(prop_oneof![9 => step(), 1 => any::<bool>().prop_map(|cleanly| Step::Reopen { cleanly })], 1..80),
    ) {
        let mut disk = FakeDisk::new();
        let mut run = Run::new(open(&disk), Model::default());
        for step in &steps {
            run.take(step).unwrap();
            if let Step::Reopen { cleanly } = step {
                if *cleanly {
                    run.log.close();
                } else {
                    // What nobody waits for is surely there only if somebody has waited for what came after it.
                    run.take(&Step::Vote { group: 0 }).unwrap();
                    run.wait().unwrap();
                    disk = disk.after_kill();
                }
                let model = run.model.clone();
                drop(run);
                run = Run::new(open(&disk), model);
            }
            prop_assert_eq!(&Model::of(&run.log, run.model.term), &run.model.clone().tidy());
        }
    }
}
