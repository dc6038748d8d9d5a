//! One step of a change of a group's replicas, taken by its leader.
//!
//! Invariant: a step looks at the membership, does the one thing that brings it nearer to what is wished, and says how
//! things stand. So it can be asked for again and again, by whoever leads the catalog, of whoever leads the group; a step
//! taken twice, or by two at once, does no harm, since openraft refuses a change of a membership that has moved on.
//!
//! A replica that was deposed and has not heard of it sees a membership that may have moved on, and what it says of a
//! change would have replicas wiped: so a majority confirms the leader before it looks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use larder_types::ids::{GroupId, NodeId, ReplicaId};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::Precondition;
use openraft::{ChangeMembers, RaftMetrics};
use serde::{Deserialize, Serialize};

use super::replica::Replica;
use super::report::NEARLY;
use crate::catalog::ChangeKind;
use crate::raft::types::{ReplicaNode, TypeConfig};

/// How long one step may wait for a majority.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is wished of a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Wish {
    /// The group.
    pub(crate) group: GroupId,
    /// The change.
    pub(crate) kind: ChangeKind,
    /// Where the replica is that it is about.
    pub(crate) node: NodeId,
    /// Whether to undo what was begun instead, as far as that is possible.
    pub(crate) give_up: bool,
}

/// How a change stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Progress {
    /// The membership is as wished, and that is committed.
    Done,
    /// The membership is as before, and that is committed.
    Undone,
    /// It is under way: entries that the new replica still lacks, if it is being filled.
    Working {
        /// How many.
        lacking: Option<u64>,
    },
    /// This replica does not lead, or could not do what it should: ask again.
    Failed(String),
}

/// What the group looks like to its leader.
struct View {
    /// Two while a change of voters is under way.
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeSet<u64>,
    is_committed: bool,
    log_id: Option<crate::raft::types::LogId>,
    last: u64,
    matched: BTreeMap<u64, Option<u64>>,
}

/// Takes one step.
pub(crate) async fn step(replica: &Replica, wish: &Wish) -> Progress {
    if replica.read_index().await.is_err() {
        return Progress::Failed(
            "this replica does not lead the group, or no majority confirms that it does".to_owned(),
        );
    }
    let view = {
        let metrics = replica.raft.metrics();
        let metrics = metrics.borrow_watched();
        match View::of(&metrics) {
            Some(view) => view,
            None => return Progress::Failed("this replica does not lead the group".to_owned()),
        }
    };
    let act = async {
        match wish.kind {
            _ if wish.give_up => undo(replica, wish, &view).await,
            ChangeKind::AddVoter { replica: new, instead } => add_voter(replica, wish, &view, new.0, instead).await,
            ChangeKind::AddLearner { replica: new } => add_learner(replica, wish, &view, new.0).await,
            ChangeKind::Promote { replica: new, instead } => promote(replica, &view, new.0, instead).await,
            ChangeKind::Remove { replica: gone } => remove(replica, &view, gone.0).await,
        }
    };
    match tokio::time::timeout(PATIENCE, act).await {
        Ok(Ok(progress)) => progress,
        Ok(Err(error)) => Progress::Failed(error),
        Err(_) => Progress::Failed("a majority of the group does not answer".to_owned()),
    }
}

type Step = Result<Progress, String>;

const WORKING: Step = Ok(Progress::Working { lacking: None });

async fn add_voter(here: &Replica, wish: &Wish, view: &View, new: u64, instead: Option<ReplicaId>) -> Step {
    let gone = instead.map(|replica| replica.0);
    if view.is_settled(|voters| voters.contains(&new) && gone.is_none_or(|gone| !voters.contains(&gone)))
        && gone.is_none_or(|gone| !view.nodes.contains(&gone))
    {
        return Ok(Progress::Done);
    }
    if !view.votes(new) {
        match fill(here, wish, view, new).await? {
            Progress::Working { lacking: Some(lacking) } if lacking <= NEARLY => {}
            progress => return Ok(progress),
        }
    }
    change(here, view, [new].into(), gone, false).await
}

async fn add_learner(here: &Replica, wish: &Wish, view: &View, new: u64) -> Step {
    if view.votes(new) {
        return Ok(Progress::Done);
    }
    match fill(here, wish, view, new).await? {
        Progress::Working { lacking: Some(lacking) } if lacking <= NEARLY && view.is_committed => Ok(Progress::Done),
        progress => Ok(progress),
    }
}

/// Makes a replica a learner if it is none, and tells how much it lacks.
async fn fill(here: &Replica, wish: &Wish, view: &View, new: u64) -> Step {
    if !view.nodes.contains(&new) {
        let node = ReplicaNode { node: wish.node };
        here.raft.add_learner(new, node, false).await.map_err(|error| error.to_string())?;
        return WORKING;
    }
    let matched = view.matched.get(&new).copied().flatten();
    Ok(Progress::Working { lacking: matched.map(|matched| view.last.saturating_sub(matched)) })
}

async fn promote(here: &Replica, view: &View, new: u64, instead: Option<ReplicaId>) -> Step {
    let gone = instead.map(|replica| replica.0);
    if view.is_settled(|voters| voters.contains(&new) && gone.is_none_or(|gone| !voters.contains(&gone))) {
        return Ok(Progress::Done);
    }
    if !view.nodes.contains(&new) {
        return Err(format!("replica {new} is no learner of the group"));
    }
    change(here, view, [new].into(), gone, true).await
}

async fn remove(here: &Replica, view: &View, gone: u64) -> Step {
    if view.is_settled(|voters| !voters.contains(&gone)) && !view.nodes.contains(&gone) {
        return Ok(Progress::Done);
    }
    if view.votes(gone) {
        return change(here, view, BTreeSet::new(), Some(gone), false).await;
    }
    submit(here, view, ChangeMembers::RemoveNodes([gone].into()), false).await
}

async fn undo(here: &Replica, wish: &Wish, view: &View) -> Step {
    match wish.kind {
        ChangeKind::AddVoter { replica, .. } | ChangeKind::AddLearner { replica } => {
            if view.votes(replica.0) {
                // Too late: what has begun with votes is brought to its end.
                let onward = Wish { give_up: false, ..wish.clone() };
                return Box::pin(async { Ok(step(here, &onward).await) }).await;
            }
            if !view.nodes.contains(&replica.0) {
                return if view.is_committed { Ok(Progress::Undone) } else { WORKING };
            }
            submit(here, view, ChangeMembers::RemoveNodes([replica.0].into()), false).await
        }
        ChangeKind::Promote { replica, .. } if !view.votes(replica.0) => Ok(Progress::Undone),
        ChangeKind::Remove { .. } | ChangeKind::Promote { .. } => {
            let onward = Wish { give_up: false, ..wish.clone() };
            Box::pin(async { Ok(step(here, &onward).await) }).await
        }
    }
}

/// Makes voters of some, and takes the vote of another; both in one step, so that the group is never without either.
async fn change(here: &Replica, view: &View, add: BTreeSet<u64>, gone: Option<u64>, retain: bool) -> Step {
    let mut changes = Vec::new();
    if !add.is_empty() {
        changes.push(ChangeMembers::AddVoterIds(add));
    }
    if let Some(gone) = gone {
        changes.push(ChangeMembers::RemoveVoters([gone].into()));
    }
    submit(here, view, ChangeMembers::Batch(changes), retain).await
}

async fn submit(here: &Replica, view: &View, changes: ChangeMembers<u64, ReplicaNode>, retain: bool) -> Step {
    let unless_moved = Precondition::<TypeConfig>::LastMembershipLogId { last_membership_log_id: view.log_id };
    let changed = here.raft.change_membership_if(changes, retain, [unless_moved]).await;
    changed.map_err(|error| error.to_string())?;
    // Looked at again by the next step.
    WORKING
}

impl View {
    /// What the leader's metrics show; `None` if they are not a leader's.
    fn of(metrics: &RaftMetrics<TypeConfig>) -> Option<Self> {
        let matched = metrics.replication.as_ref()?;
        let membership = metrics.membership_config.membership();
        Some(Self {
            configs: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(replica, _)| *replica).collect(),
            is_committed: metrics.membership_config == metrics.committed_membership_config,
            log_id: *metrics.membership_config.log_id(),
            last: metrics.last_log_index.unwrap_or(0),
            matched: matched.iter().map(|(replica, id)| (*replica, id.map(|id| id.index))).collect(),
        })
    }

    /// Whether a replica has a vote, if only for now.
    fn votes(&self, replica: u64) -> bool {
        self.configs.iter().any(|voters| voters.contains(&replica))
    }

    /// Whether one set of voters decides, that is committed, and they are such.
    fn is_settled(&self, wished: impl Fn(&BTreeSet<u64>) -> bool) -> bool {
        matches!(&self.configs[..], [voters] if self.is_committed && wished(voters))
    }
}
