//! A prepared batch on its way through the shards: proposed to all at once, and what they say put together.

use std::sync::Arc;

use bytes::Bytes;
use larder_replication::node::{Node, ProposeError};
use larder_storage::command::{Outcome, Patched};
use larder_types::api::Counts;
use larder_types::error::ErrorCode;
use larder_types::ids::ShardId;
use larder_types::revision::Revision;
use tokio::task::JoinSet;

use super::validate::{Fault, PlacedRow, Prepared, Rejected, rejected_row};
use crate::error::ApiError;

/// What a batch did, over all shards.
pub(super) struct Applied {
    pub(super) successful: Counts,
    pub(super) unchanged: u64,
    /// All rejected rows in order.
    pub(super) rejected: Vec<Rejected>,
    pub(super) revision: Revision,
}

/// What one shard did with its part.
enum Part {
    Applied {
        index: u64,
        sum: Patched,
        rows: Vec<PlacedRow>,
    },
    /// The shard takes nothing of the run any more.
    Fenced,
    OtherBody,
    OutOfOrder,
}

/// Proposes a batch to all its shards and waits for all of them. `ended` tells why the run takes no batches any more, if
/// it does not; it is asked when a shard has refused its part.
///
/// # Errors
/// `memory_limit` when there is no memory for what the batch may add, asked once for all shards so that it is not
/// applied by halves; what `ended` says when the run was fenced off; `seq_reused` when a shard has applied other patches
/// under this batch number; those of [`ProposeError`] when no shard has applied its part; `outcome_unknown` when some
/// have: repeating the batch is then safe and completes it.
pub(super) async fn submit(
    node: &Arc<Node>,
    prepared: Prepared,
    ended: impl Fn() -> Option<ApiError>,
) -> Result<Applied, ApiError> {
    node.admit(prepared.shards.iter().flat_map(|(_, entries, _)| entries))?;
    let mut shards = JoinSet::new();
    for (shard, entries, rows) in prepared.shards {
        let node = Arc::clone(node);
        shards.spawn(async move { (shard, propose(&node, shard, entries, rows).await) });
    }
    let mut applied = Applied {
        successful: Counts::default(),
        unchanged: 0,
        rejected: prepared.rejected,
        revision: Revision::default(),
    };
    let (mut positions, mut failures) = (Vec::new(), Vec::new());
    while let Some(part) = shards.join_next().await {
        match part {
            Ok((shard, Ok(Part::Applied { index, sum, rows }))) => {
                positions.push((shard, index));
                applied.add(&sum, &rows);
            }
            Ok((_, Ok(Part::OtherBody))) => failures.push(reused()),
            // If the run has not ended as far as this node knows, it has not heard of it yet; or twice in a row somebody
            // else's parts of this batch came between. Only a repeat can tell.
            Ok((_, Ok(Part::Fenced | Part::OutOfOrder))) => {
                failures.push(ended().unwrap_or_else(|| ProposeError::Unknown.into()));
            }
            Ok((_, Err(error))) => failures.push(error.into()),
            Err(_) => failures.push(ProposeError::Unknown.into()),
        }
    }
    if let Some(failure) = worst(failures, !positions.is_empty()) {
        return Err(failure);
    }
    applied.rejected.sort_by_key(|rejected| rejected.row.row);
    applied.revision = Revision::new(positions);
    Ok(applied)
}

/// The answer when the batch number stands for other patches: a repeat could never be applied.
pub(super) fn reused() -> ApiError {
    let message = "this batch number was used for another body in this run: use a new number";
    ApiError::new(ErrorCode::SeqReused, message)
}

async fn propose(node: &Node, shard: ShardId, entries: Vec<Bytes>, rows: Vec<PlacedRow>) -> Result<Part, ProposeError> {
    // Once more is once all the same: a shard applies a part once. So what is not known, since a leader has died, is asked
    // again in the client's place.
    let outcomes = match node.propose(shard, entries.clone()).await {
        Ok(outcomes) if outcomes.iter().any(|(_, outcome)| *outcome == Outcome::OutOfOrder) => {
            node.propose(shard, entries).await?
        }
        Err(ProposeError::Unknown) => node.propose(shard, entries).await.map_err(|_| ProposeError::Unknown)?,
        first => first?,
    };
    Ok(sum(outcomes, rows))
}

fn sum(outcomes: Vec<(u64, Outcome)>, rows: Vec<PlacedRow>) -> Part {
    let mut total = Patched::default();
    let mut last = 0;
    for (index, outcome) in outcomes {
        last = last.max(index);
        match outcome {
            Outcome::Patched(part) => {
                total.added += part.added;
                total.changed += part.changed;
                total.unchanged += part.unchanged;
                total.removed += part.removed;
                total.too_large.extend(part.too_large);
            }
            Outcome::Stale { .. } => return Part::Fenced,
            Outcome::OtherBody => return Part::OtherBody,
            _ => return Part::OutOfOrder,
        }
    }
    Part::Applied { index: last, sum: total, rows }
}

impl Applied {
    fn add(&mut self, sum: &Patched, rows: &[PlacedRow]) {
        self.successful.added += sum.added;
        self.successful.changed += sum.changed;
        self.successful.removed += sum.removed;
        self.unchanged += sum.unchanged;
        let refused = sum.too_large.iter().filter_map(|at| rows.get(*at as usize));
        self.rejected.extend(refused.map(|placed| Rejected {
            op: placed.op,
            row: rejected_row(placed.row, Some(&placed.key), Fault::too_large()),
        }));
    }
}

/// The failure to answer with. Once a shard has applied its part, "nothing was done" would be a lie.
fn worst(failures: Vec<ApiError>, some_applied: bool) -> Option<ApiError> {
    let rank = |error: &ApiError| match error.code {
        // The run is over, whatever was applied.
        ErrorCode::StaleGeneration | ErrorCode::RunClosed => 4,
        ErrorCode::CollectionNotFound | ErrorCode::SyncNotFound | ErrorCode::RunNotFound => 4,
        ErrorCode::SeqReused => 3,
        ErrorCode::OutcomeUnknown => 2,
        ErrorCode::DiskFull | ErrorCode::MemoryLimit => 1,
        _ => 0,
    };
    let worst = failures.into_iter().max_by_key(rank)?;
    if !some_applied || rank(&worst) >= 2 {
        return Some(worst);
    }
    let message = format!("some shards have applied their part and others not ({}); repeat the batch", worst.message());
    Some(ApiError::new(ErrorCode::OutcomeUnknown, message))
}

#[cfg(test)]
mod tests {
    use larder_types::ids::Generation;
    use larder_types::key::Key;
    use larder_types::patch::Op;

    use super::*;

    fn failures(of: &[ProposeError]) -> Vec<ApiError> {
        of.iter().cloned().map(ApiError::from).collect()
    }

    #[test]
    fn a_partly_applied_batch_is_never_said_to_have_done_nothing() {
        use ProposeError::{DiskFull, MemoryLimit, Overloaded, Unknown};
        let full = MemoryLimit { used: 2, usable: 1, max: 1 };
        let code = |of: &[ProposeError], some| worst(failures(of), some).map(|error| error.code);
        assert_eq!(code(&[], true), None);
        assert_eq!(code(&[Overloaded, DiskFull], false), Some(ErrorCode::DiskFull));
        assert_eq!(code(&[Overloaded, full.clone()], false), Some(ErrorCode::MemoryLimit));
        assert_eq!(code(&[full], true), Some(ErrorCode::OutcomeUnknown));
        assert_eq!(code(&[Overloaded, Unknown], false), Some(ErrorCode::OutcomeUnknown));
        assert_eq!(code(&[Overloaded], true), Some(ErrorCode::OutcomeUnknown));
        assert_eq!(worst(vec![Unknown.into(), reused()], true).map(|e| e.code), Some(ErrorCode::SeqReused));
        for over in [ErrorCode::StaleGeneration, ErrorCode::RunClosed, ErrorCode::SyncNotFound] {
            let failures = vec![ApiError::new(over, "over"), Unknown.into(), reused()];
            assert_eq!(worst(failures, true).map(|e| e.code), Some(over));
        }
    }

    #[test]
    fn parts_add_up_and_refused_patches_find_their_rows() {
        let row = |row| PlacedRow { row, op: Op::Upsert, key: Key::new(&format!("k{row}")).unwrap() };
        let part = |added, too_large| Outcome::Patched(Patched { added, too_large, ..Patched::default() });
        let summed = sum(vec![(7, part(2, vec![1])), (9, part(1, vec![3]))], vec![row(4), row(5), row(8), row(9)]);
        let Part::Applied { index: 9, sum, rows } = summed else { panic!("not applied") };
        let mut applied = Applied {
            successful: Counts::default(),
            unchanged: 0,
            rejected: Vec::new(),
            revision: Revision::default(),
        };
        applied.add(&sum, &rows);
        assert_eq!(applied.successful.added, 3);
        let rejected: Vec<_> = applied.rejected.iter().map(|r| (r.row.row, r.row.key.as_deref())).collect();
        assert_eq!(rejected, [(5, Some("k5")), (9, Some("k9"))]);
        let fenced = sum_of(vec![(7, part(1, vec![])), (8, Outcome::Stale { newest: Generation(3) })]);
        assert!(matches!(fenced, Part::Fenced));
        assert!(matches!(sum_of(vec![(7, Outcome::OutOfOrder)]), Part::OutOfOrder));
        assert!(matches!(sum_of(vec![(7, Outcome::OtherBody), (8, Outcome::OutOfOrder)]), Part::OtherBody));
    }

    fn sum_of(outcomes: Vec<(u64, Outcome)>) -> Part {
        super::sum(outcomes, Vec::new())
    }
}
