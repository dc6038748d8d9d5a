//! Proposals: from encoded commands to what applying them did.
//!
//! Invariants:
//! - Bytes in flight are bounded, for each group that is led here and over all of them, and for what is led elsewhere.
//!   Credits are taken before anything is handed to Raft and held by the task that waits for the answers, so a caller that
//!   goes away neither leaks them nor frees them too early. What is led elsewhere has credits of its own: else two nodes
//!   could each wait for the other's.
//! - Commands of one proposal enter the log in their order, whatever becomes of the caller.
//! - *Nothing was done* is claimed only when every command was refused before it was appended, or never reached the node
//!   that leads. Only then is another attempt made.
//! - A proposal takes one hop at most: whoever is asked by another node proposes or refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use larder_storage::log::Log;
use larder_types::error::ErrorCode;
use larder_types::ids::{GroupId, NodeId};
use openraft::errors::ClientWriteError;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::answers;
use super::credits::Credits;
use super::error::ProposeError;
use super::kind::Kind;
use super::memory::MemoryLimit;
use super::replica::Replica;
use super::router::{Leader, Router};
use super::service::Code;
use crate::catalog::CatalogError;
use crate::peers::{Body, Lane, NotSent, PeerError, Refusal};
use crate::raft::network::Courier;
use crate::raft::types::{Command, Response};

/// Bytes of proposals in flight for one group: enough to keep its disks busy, and few enough for other groups to get
/// their turn.
pub(crate) const GROUP_BYTES: usize = 8 << 20;

/// How long a proposal waits for others to finish when too much is in flight. Callers retry with longer pauses, so
/// this only evens out bursts.
const CREDIT_WAIT: Duration = Duration::from_secs(2);

/// Bytes of commands handed to Raft at once, unless one alone is larger: as many as are worth one append to the log,
/// and few enough for other proposals to come in between.
const HAND_OVER_BYTES: usize = 1 << 20;

/// Largest command, in bytes. What makes commands stays far below it, except for a patch or a definition that is larger
/// than anything it could be applied to. The log takes no entry larger than a quarter of its segments.
pub(crate) const MAX_COMMAND_BYTES: usize = 4 << 20;

/// Bytes of commands in a message between nodes, unless one alone is larger. The group and one length are on top.
const MESSAGE_BYTES: usize = MAX_COMMAND_BYTES;

/// What came of each command: its log index and the state machine's answer.
pub(crate) type Answers = Vec<(u64, Response)>;

/// Takes proposals to groups, wherever they are led.
pub(crate) struct Proposer {
    router: Router,
    /// The way to other nodes.
    courier: Arc<dyn Courier>,
    log: Log,
    /// For groups that are led here.
    here: Credits,
    /// For groups that are led elsewhere.
    there: Credits,
    max_command_bytes: usize,
    memory: MemoryLimit,
    patience: Patience,
    stopping: AtomicBool,
}

/// How long a proposal waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For credits.
    pub(crate) credit: Duration,
    /// For a leader to be found or elected. An election takes up to 3 s.
    pub(crate) leader: Duration,
    /// For another node to take it, that or the way there being full.
    pub(crate) room: Duration,
    /// For another node's answer, which waits for the disk of a majority.
    pub(crate) answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let (leader, room, answer) = (Duration::from_secs(10), Duration::from_secs(45), Duration::from_secs(20));
        Self { credit: CREDIT_WAIT, leader, room, answer }
    }
}

/// Pauses between two looks for a leader: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

impl Proposer {
    /// A proposer. The log must take entries of `max_command_bytes`.
    pub(crate) fn new(
        router: Router,
        courier: Arc<dyn Courier>,
        log: Log,
        memory: MemoryLimit,
        max_inflight_bytes: usize,
        max_command_bytes: usize,
    ) -> Self {
        let (here, there) = (Credits::new(max_inflight_bytes), Credits::new(max_inflight_bytes));
        let (patience, stopping) = (Patience::default(), AtomicBool::new(false));
        Self { router, courier, log, here, there, max_command_bytes, memory, patience, stopping }
    }

    /// Where leaders are.
    pub(crate) fn router(&self) -> &Router {
        &self.router
    }

    /// Bytes in flight, as credits count them.
    pub(crate) fn inflight_bytes(&self) -> usize {
        self.here.inflight_bytes() + self.there.inflight_bytes()
    }

    /// How much memory records may take.
    pub(crate) fn memory(&self) -> &MemoryLimit {
        &self.memory
    }

    /// Refuses proposals from now on.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.here.close();
        self.there.close();
    }

    /// Proposes commands to a group, wherever it is led, and waits until all are applied there. While nobody leads it,
    /// or whoever did has refused all of them, another attempt is made, for a while.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub(crate) async fn propose(&self, group: GroupId, commands: Vec<Bytes>) -> Result<Answers, ProposeError> {
        let started = Instant::now();
        let mut pause = PAUSES.0;
        loop {
            let (result, is_far) = match self.router.leader(group) {
                Some(Leader::Here(_)) => (self.propose_here(group, commands.clone()).await, false),
                Some(Leader::There(node)) => (self.propose_there(node, group, &commands).await, true),
                None => (Err(ProposeError::Unavailable), false),
            };
            match result {
                Err(ProposeError::Unavailable) if self.stopping.load(Ordering::Relaxed) => {
                    return Err(ProposeError::Stopping);
                }
                Err(ProposeError::Unavailable) if started.elapsed() + pause < self.patience.leader => {}
                // The part of a large batch that is led elsewhere waits for the other parts to get through: given up, it
                // would be sent again, together with them.
                Err(ProposeError::Overloaded) if is_far && started.elapsed() + pause < self.patience.room => {}
                result => return result,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Proposes commands to a group that is led elsewhere: one message after the other, since a message is bounded.
    async fn propose_there(&self, node: NodeId, group: GroupId, commands: &[Bytes]) -> Result<Answers, ProposeError> {
        self.check_size(commands)?;
        let _credit = self.there.take(commands, self.patience.credit).await?;
        let mut answers = Vec::with_capacity(commands.len());
        for message in messages(commands) {
            match self.send(node, group, message).await {
                Ok(more) => answers.extend(more),
                Err(error) if answers.is_empty() => return Err(error),
                // Not that nothing was done.
                Err(_) => return Err(ProposeError::Unknown),
            }
        }
        Ok(answers)
    }

    async fn send(&self, node: NodeId, group: GroupId, commands: &[Bytes]) -> Result<Answers, ProposeError> {
        let mut parts = Vec::with_capacity(1 + 2 * commands.len());
        parts.push(Bytes::copy_from_slice(&group.0.to_le_bytes()));
        for command in commands {
            let length = u32::try_from(command.len()).unwrap_or(u32::MAX);
            parts.push(Bytes::copy_from_slice(&length.to_le_bytes()));
            parts.push(command.clone());
        }
        let call = self.courier.call(node, Lane::Data, Kind::Propose as u8, Body::from(parts), self.patience.answer);
        match call.await {
            Ok(bytes) => match answers::decode(&bytes) {
                // It is the other node that stops, and another one will lead.
                Err(ProposeError::Stopping) => Err(ProposeError::Unavailable),
                Ok(answers) if !answers::fit(group, commands.len(), &answers) => {
                    tracing::warn!(%group, %node, "a node's answer to a proposal is none: upgrade both to one version");
                    Err(ProposeError::Unknown)
                }
                answers => answers,
            },
            // The way there is full.
            Err(PeerError::NotSent(NotSent::Overloaded)) => Err(ProposeError::Overloaded),
            Err(error) if error.was_not_delivered() || was_not_taken(&error) => Err(ProposeError::Unavailable),
            Err(error) => {
                tracing::debug!(%group, %node, %error, "a proposal was sent and not answered");
                Err(ProposeError::Unknown)
            }
        }
    }

    /// Answers another node's proposal to a group that this one leads.
    pub(crate) async fn serve(&self, body: Bytes) -> Result<Answers, ProposeError> {
        let (group, commands) = parts_of(&body).ok_or_else(|| {
            CatalogError::new(
                ErrorCode::Internal,
                "another node's proposal cannot be read: upgrade both to one version",
            )
        })?;
        self.propose_here(group, commands).await
    }

    /// Proposes commands to a group that this node leads.
    ///
    /// # Errors
    /// See [`ProposeError`]; `Unavailable` if it does not lead it.
    pub(crate) async fn propose_here(&self, group: GroupId, commands: Vec<Bytes>) -> Result<Answers, ProposeError> {
        let replica = self.router.replicas.get(group).ok_or(ProposeError::Unavailable)?;
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        self.check_size(&commands)?;
        if !self.log.has_room() {
            return Err(ProposeError::DiskFull);
        }
        if group != GroupId::CATALOG {
            self.memory.admit(&commands)?;
        }
        let wait = self.patience.credit;
        let credits = (replica.credits.take(&commands, wait).await?, self.here.take(&commands, wait).await?);
        let (answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            let answers = carry_out(&replica, commands).await;
            drop(credits);
            // The caller may have gone away.
            let _ = answer.send(answers);
        });
        match answered.await {
            Ok(answers) => answers,
            Err(_) => Err(ProposeError::Unknown),
        }
    }

    fn check_size(&self, commands: &[Bytes]) -> Result<(), ProposeError> {
        let Some(large) = commands.iter().map(Bytes::len).find(|&bytes| bytes > self.max_command_bytes) else {
            return Ok(());
        };
        let most = self.max_command_bytes;
        let message = format!("a change of {large} bytes is larger than {most}: make it smaller");
        Err(CatalogError::new(ErrorCode::PayloadTooLarge, message).into())
    }
}

/// Whether a node has refused a proposal before it looked into it.
fn was_not_taken(error: &PeerError) -> bool {
    let codes = [Code::Starting as u8, Refusal::NOT_MEMBER];
    matches!(error, PeerError::Remote(refusal) if codes.contains(&refusal.code))
}

/// Hands all commands over, in portions, then gathers the answers.
async fn carry_out(replica: &Replica, commands: Vec<Bytes>) -> Result<Answers, ProposeError> {
    let count = commands.len();
    let mut streams = Vec::new();
    for portion in portions(commands) {
        match replica.raft.client_write_many(portion).await {
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

/// The group and the commands of a request to propose; `None` if it is none.
fn parts_of(body: &Bytes) -> Option<(GroupId, Vec<Bytes>)> {
    let (group, mut rest) = body.split_first_chunk()?;
    let mut commands = Vec::new();
    while !rest.is_empty() {
        let (length, more) = rest.split_first_chunk()?;
        let (command, more) = more.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        // Kept for long: it would keep all that was received with it.
        commands.push(Bytes::copy_from_slice(command));
        rest = more;
    }
    Some((GroupId(u16::from_le_bytes(*group)), commands))
}

/// Splits commands, in order, into what fits a message between nodes.
fn messages(commands: &[Bytes]) -> Vec<&[Bytes]> {
    let mut messages = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, command) in commands.iter().enumerate() {
        let more = command.len() + size_of::<u32>();
        if at > start && bytes + more > MESSAGE_BYTES {
            messages.push(&commands[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += more;
    }
    if start < commands.len() {
        messages.push(&commands[start..]);
    }
    messages
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
    pub(crate) fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// The credits of groups that are led here.
    pub(crate) fn credits(&self) -> &Credits {
        &self.here
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
    fn what_is_sent_to_another_node_fits_a_message() {
        let sizes = |of: &[usize]| -> Vec<usize> {
            let commands: Vec<_> = of.iter().map(|&len| Bytes::from(vec![0; len])).collect();
            let messages = messages(&commands);
            assert_eq!(messages.concat(), commands);
            messages.iter().map(|message| message.len()).collect()
        };
        const M: usize = MESSAGE_BYTES;
        assert_eq!(sizes(&[]), Vec::<usize>::new());
        assert_eq!(sizes(&[1, M - 9, 1]), [2, 1]);
        assert_eq!(sizes(&[M, M, 1, 2]), [1, 1, 2]);
        assert_eq!(sizes(&[1, M, 1]), [1, 1, 1]);
        let most = MESSAGE_BYTES + 2 * size_of::<u32>();
        assert!(
            most <= crate::peers::MAX_BODY_BYTES,
            "a message holds {MAX_COMMAND_BYTES} bytes and what goes with them"
        );
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
