//! What became of a proposal, as bytes between nodes: JSON, since an answer is small beside what it answers.

use bytes::Bytes;
use larder_storage::command::{Outcome, Patched};
use larder_types::ids::{Generation, GroupId};
use serde::{Deserialize, Serialize};

use super::error::ProposeError;
use super::proposer::Answers;
use crate::catalog::{CatalogError, CatalogReply};
use crate::raft::types::Response;

/// A proposal's answers.
#[derive(Serialize, Deserialize)]
enum Sent {
    Applied(Vec<(u64, Answer)>),
    Refused(ProposeError),
}

/// One command's.
#[derive(Serialize, Deserialize)]
enum Answer {
    Nothing,
    Done,
    Stale(Generation),
    OtherBody,
    OutOfOrder,
    Swept(u64),
    Patched { added: u64, changed: u64, unchanged: u64, removed: u64, too_large: Vec<u32> },
    Catalog(Result<CatalogReply, CatalogError>),
}

/// The bytes that say what came of a proposal.
pub(crate) fn encode(result: Result<Answers, ProposeError>) -> Result<Bytes, serde_json::Error> {
    let sent = match result {
        Ok(answers) => Sent::Applied(answers.into_iter().map(|(index, response)| (index, response.into())).collect()),
        Err(error) => Sent::Refused(error),
    };
    serde_json::to_vec(&sent).map(Bytes::from)
}

/// What came of a proposal; bytes that say nothing leave it unknown.
pub(crate) fn decode(bytes: &[u8]) -> Result<Answers, ProposeError> {
    match serde_json::from_slice(bytes) {
        Ok(Sent::Applied(answers)) => Ok(answers.into_iter().map(|(index, answer)| (index, answer.into())).collect()),
        Ok(Sent::Refused(error)) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "a node's answer to a proposal cannot be read");
            Err(ProposeError::Unknown)
        }
    }
}

/// Whether these can be the answers to so many commands of a group.
pub(crate) fn fit(group: GroupId, commands: usize, answers: &Answers) -> bool {
    let fits = |response: &Response| match response {
        Response::Catalog(_) => group == GroupId::CATALOG,
        Response::Shard(_) => group != GroupId::CATALOG,
        Response::Nothing => false,
    };
    answers.len() == commands && answers.iter().all(|(_, response)| fits(response))
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        match response {
            Response::Nothing => Self::Nothing,
            Response::Catalog(result) => Self::Catalog(result),
            Response::Shard(Outcome::Done) => Self::Done,
            Response::Shard(Outcome::Stale { newest }) => Self::Stale(newest),
            Response::Shard(Outcome::OtherBody) => Self::OtherBody,
            Response::Shard(Outcome::OutOfOrder) => Self::OutOfOrder,
            Response::Shard(Outcome::Swept { records }) => Self::Swept(records),
            Response::Shard(Outcome::Patched(Patched { added, changed, unchanged, removed, too_large })) => {
                Self::Patched { added, changed, unchanged, removed, too_large }
            }
        }
    }
}

impl From<Answer> for Response {
    fn from(answer: Answer) -> Self {
        let outcome = match answer {
            Answer::Nothing => return Self::Nothing,
            Answer::Catalog(result) => return Self::Catalog(result),
            Answer::Done => Outcome::Done,
            Answer::Stale(newest) => Outcome::Stale { newest },
            Answer::OtherBody => Outcome::OtherBody,
            Answer::OutOfOrder => Outcome::OutOfOrder,
            Answer::Swept(records) => Outcome::Swept { records },
            Answer::Patched { added, changed, unchanged, removed, too_large } => {
                Outcome::Patched(Patched { added, changed, unchanged, removed, too_large })
            }
        };
        Self::Shard(outcome)
    }
}

#[cfg(test)]
mod tests {
    use larder_types::error::ErrorCode;

    use super::*;

    #[test]
    fn answers_survive() {
        let patched = Patched { added: 1, changed: 2, unchanged: 3, removed: 4, too_large: vec![5, u32::MAX] };
        let answers = vec![
            (1, Response::Nothing),
            (2, Response::Shard(Outcome::Done)),
            (3, Response::Shard(Outcome::Stale { newest: Generation(9) })),
            (4, Response::Shard(Outcome::OtherBody)),
            (5, Response::Shard(Outcome::OutOfOrder)),
            (6, Response::Shard(Outcome::Swept { records: 7 })),
            (u64::MAX, Response::Shard(Outcome::Patched(patched))),
            (8, Response::Catalog(Ok(CatalogReply::Opened { generation: Generation(1), intent: 2 }))),
            (
                9,
                Response::Catalog(Err(CatalogError::new(ErrorCode::Conflict, "why").with(serde_json::json!({"a": 1})))),
            ),
        ];
        let before = format!("{answers:?}");
        let bytes = encode(Ok(answers)).unwrap();
        assert_eq!(format!("{:?}", decode(&bytes).unwrap()), before);
    }

    #[test]
    fn answers_must_be_those_of_the_commands() {
        let shard = || (1, Response::Shard(Outcome::Done));
        let catalog = || (1, Response::Catalog(Ok(CatalogReply::Done)));
        assert!(fit(GroupId(1), 2, &vec![shard(), shard()]));
        assert!(fit(GroupId::CATALOG, 1, &vec![catalog()]));
        for (group, commands, answers) in [
            (GroupId(1), 2, vec![shard()]),
            (GroupId(1), 1, vec![catalog()]),
            (GroupId::CATALOG, 1, vec![shard()]),
            (GroupId(1), 1, vec![(1, Response::Nothing)]),
        ] {
            assert!(!fit(group, commands, &answers), "{group} {answers:?}");
        }
    }

    #[test]
    fn refusals_survive_and_garbage_is_unknown() {
        for error in [
            ProposeError::Unavailable,
            ProposeError::Overloaded,
            ProposeError::MemoryLimit { used: 1, usable: 2, max: 3 },
            ProposeError::Refused(CatalogError::new(ErrorCode::PayloadTooLarge, "too large")),
        ] {
            let bytes = encode(Err(error.clone())).unwrap();
            assert_eq!(decode(&bytes).unwrap_err(), error);
        }
        assert_eq!(decode(b"?").unwrap_err(), ProposeError::Unknown);
    }
}
