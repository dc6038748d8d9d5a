//! Proposals: from encoded commands to what applying them did.
//!
//! Invariants:
//! - Bytes in flight are bounded over all groups. Credits are taken before anything is handed to Raft and held by the
//!   task that waits for the answers, so a caller that goes away neither leaks them nor frees them too early.
//! - Commands of one proposal enter the log in their order, whatever becomes of the caller.
//! - *Nothing was done* is claimed only when every command was refused before it was appended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use larder_storage::log::Log;
use larder_types::error::ErrorCode;
use larder_types::ids::GroupId;
use openraft::errors::ClientWriteError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::error::ProposeError;
use super::group::Group;
use crate::catalog::CatalogError;
use crate::raft::types::{Command, Response};

/// Bytes that one credit stands for. Every command costs at least one, for what surrounds its bytes.
const CREDIT_BYTES: usize = 1024;

/// How long a proposal waits for others to finish when too much is in flight. Callers retry with longer pauses, so
/// this only evens out bursts.
const CREDIT_WAIT: Duration = Duration::from_secs(2);

/// Bytes of commands handed to Raft at once, unless one alone is larger: as many as are worth one append to the log,
/// and few enough for other proposals to come in between.
const HAND_OVER_BYTES: usize = 1 << 20;

/// Largest command, in bytes. What makes commands stays far below it, except for a patch or a definition that is larger
/// than anything it could be applied to. The log takes no entry larger than a quarter of its segments.
pub(crate) const MAX_COMMAND_BYTES: usize = 4 << 20;

/// What came of each command: its log index and the state machine's answer.
pub(crate) type Answers = Vec<(u64, Response)>;

/// Takes proposals to groups.
pub(crate) struct Proposer {
    /// By group id.
    groups: Vec<Group>,
    log: Log,
    credits: Arc<Semaphore>,
    all_credits: u32,
    max_command_bytes: usize,
    /// How long a proposal waits for credits.
    patience: Duration,
    stopping: AtomicBool,
}

impl Proposer {
    /// A proposer for these groups, in order of their ids from 0 on. The log must take entries of `max_command_bytes`.
    pub(crate) fn new(groups: Vec<Group>, log: Log, max_inflight_bytes: usize, max_command_bytes: usize) -> Self {
        let all_credits = u32::try_from(max_inflight_bytes.div_ceil(CREDIT_BYTES)).unwrap_or(u32::MAX).max(1);
        let credits = Arc::new(Semaphore::new(all_credits as usize));
        Self {
            groups,
            log,
            credits,
            all_credits,
            max_command_bytes,
            patience: CREDIT_WAIT,
            stopping: AtomicBool::new(false),
        }
    }

    /// All groups, in order of their ids.
    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Bytes in flight, as credits count them.
    pub(crate) fn inflight_bytes(&self) -> usize {
        (self.all_credits as usize - self.credits.available_permits()) * CREDIT_BYTES
    }

    /// Refuses proposals from now on.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.credits.close();
    }

    /// Proposes commands to a group and waits until all are applied here.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub(crate) async fn propose(&self, group: GroupId, commands: Vec<Bytes>) -> Result<Answers, ProposeError> {
        let group = self.groups.get(usize::from(group.0)).ok_or(ProposeError::Unavailable)?.clone();
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(large) = commands.iter().map(Bytes::len).find(|&bytes| bytes > self.max_command_bytes) {
            let most = self.max_command_bytes;
            let message = format!("a change of {large} bytes is larger than {most}: make it smaller");
            return Err(CatalogError::new(ErrorCode::PayloadTooLarge, message).into());
        }
        if !self.log.has_room() {
            return Err(ProposeError::DiskFull);
        }
        let credit = self.credit(&commands).await?;
        let (answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            let answers = carry_out(&group, commands).await;
            drop(credit);
            // The caller may have gone away.
            let _ = answer.send(answers);
        });
        match answered.await {
            Ok(Err(ProposeError::Unavailable)) if self.stopping.load(Ordering::Relaxed) => Err(ProposeError::Stopping),
            Ok(answers) => answers,
            Err(_) => Err(ProposeError::Unknown),
        }
    }

    async fn credit(&self, commands: &[Bytes]) -> Result<OwnedSemaphorePermit, ProposeError> {
        let cost: usize = commands.iter().map(|command| command.len() / CREDIT_BYTES + 1).sum();
        // What is larger than all credits together may pass when nothing else does.
        let cost = u32::try_from(cost).unwrap_or(u32::MAX).min(self.all_credits);
        let credit = Arc::clone(&self.credits).acquire_many_owned(cost);
        match tokio::time::timeout(self.patience, credit).await {
            Ok(Ok(credit)) => Ok(credit),
            // They are closed when the node stops.
            Ok(Err(_)) => Err(ProposeError::Stopping),
            Err(_) => Err(ProposeError::Overloaded),
        }
    }
}

/// Hands all commands over, in portions, then gathers the answers.
async fn carry_out(group: &Group, commands: Vec<Bytes>) -> Result<Answers, ProposeError> {
    let count = commands.len();
    let mut streams = Vec::new();
    for portion in portions(commands) {
        match group.raft.client_write_many(portion).await {
            Ok(stream) => streams.push(stream),
            // The group has ended. It had taken what was handed over before.
            Err(_) if streams.is_empty() => return Err(ProposeError::Unavailable),
            Err(_) => return Err(ProposeError::Unknown),
        }
    }
    let mut answers = Vec::with_capacity(count);
    let mut refused = 0;
    let mut results = futures_util::stream::iter(streams).flatten();
    while let Some(result) = results.next().await {
        match result {
            Ok(Ok(write)) => answers.push((write.log_id.index, write.response)),
            // Refused before it was appended.
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => refused += 1,
            // Appended, but what another leader makes of it is not known; or the group has ended.
            Ok(Err(_)) | Err(_) => {}
        }
    }
    match (answers.len(), refused) {
        (applied, _) if applied == count => Ok(answers),
        (_, refused) if refused == count => Err(ProposeError::Unavailable),
        _ => Err(ProposeError::Unknown),
    }
}

/// Splits commands, in order, into portions of at most [`HAND_OVER_BYTES`], or one larger command.
fn portions(commands: Vec<Bytes>) -> Vec<Vec<Command>> {
    let mut portions: Vec<Vec<Command>> = Vec::new();
    let mut room = 0;
    for command in commands {
        match portions.last_mut() {
            Some(portion) if command.len() <= room => {
                room -= command.len();
                portion.push(Command(command));
            }
            _ => {
                room = HAND_OVER_BYTES.saturating_sub(command.len());
                portions.push(vec![Command(command)]);
            }
        }
    }
    portions
}

#[cfg(test)]
impl Proposer {
    /// The same with another patience.
    pub(crate) fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Takes all credits.
    pub(crate) fn hold_all(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.credits).try_acquire_many_owned(self.all_credits).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(of: &[usize]) -> Vec<Vec<usize>> {
        let commands = of.iter().map(|&len| Bytes::from(vec![0; len])).collect();
        portions(commands).iter().map(|portion| portion.iter().map(|command| command.0.len()).collect()).collect()
    }

    #[test]
    fn portions_keep_order_and_bound() {
        const M: usize = HAND_OVER_BYTES;
        assert_eq!(sizes(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(sizes(&[1, 2, 3]), [vec![1, 2, 3]]);
        assert_eq!(sizes(&[M - 1, 1, 1]), [vec![M - 1, 1], vec![1]]);
        assert_eq!(sizes(&[5, M + 1, 0, 6]), [vec![5], vec![M + 1, 0], vec![6]]);
    }
}
