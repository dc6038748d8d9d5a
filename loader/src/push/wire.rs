//! The wire: one attempt to send a batch, and what its end means for the batch, for the window and for the cluster.
//!
//! The sender knows the cluster only through this trait, so that its decisions are tested without sockets and clocks.

use std::time::Duration;

use bytes::Bytes;
use larder_types::api::BatchAnswer;
use larder_types::error::ErrorCode;

use super::client::PushError;

/// Carries requests to a cluster. Cheap to clone.
pub(crate) trait Wire: Clone + Send + 'static {
    /// Sends a batch of a run once. `again` is true if an attempt before this one failed.
    fn post(&self, run: &str, seq: u32, body: Bytes, again: bool) -> impl Future<Output = Posted> + Send;

    /// Asks, once, whether the cluster is well.
    fn probe(&self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) struct Posted {
    /// The HTTP status, if there was an answer.
    pub(crate) status: Option<u16>,
    pub(crate) result: Result<BatchAnswer, Failure>,
}

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It may be otherwise another time, or with other rows.
    Fault(Fault),
    /// It never will.
    Never(PushError),
}

/// A failure that need not be final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    /// The HTTP status, if there was an answer.
    pub(crate) status: Option<u16>,
    /// The cluster's word for it; empty if it has none.
    pub(crate) code: String,
    /// What happened, in words without values.
    pub(crate) message: String,
    /// How long the cluster wants to be left alone.
    pub(crate) asked: Option<Duration>,
    /// True if the batch may have been applied all the same.
    pub(crate) in_doubt: bool,
}

/// Whom a failure blames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// The cluster has too much to do.
    Busy,
    /// The cluster, or the way to it, whatever the batch is.
    Away,
    /// The cluster or the batch: it fails, or does not answer.
    Dubious,
    /// The batch: it is refused as a whole. Nothing of it was applied.
    Refused,
    /// The batch's size. Nothing of it was applied.
    TooLarge,
}

impl Fault {
    /// What an answer that is no good one means.
    pub(crate) fn of_answer(status: u16, code: &str, message: &str, asked: Option<Duration>) -> Option<Self> {
        let known = ErrorCode::parse(code);
        let kind = match (status, known) {
            (429, _) | (503, Some(ErrorCode::Overloaded)) => FaultKind::Busy,
            // A node that leads no shard or is full, a proxy without a node behind it: no batch would fare better. What
            // is said to be unknown is a shard's trouble, and a few rows of that shard would have it too.
            (503 | 507, _) => FaultKind::Away,
            (408 | 500.., _) => FaultKind::Dubious,
            (413, _) => FaultKind::TooLarge,
            (400, Some(ErrorCode::InvalidRequest | ErrorCode::InvalidEncoding)) => FaultKind::Refused,
            _ => return None,
        };
        let says_nothing_was_done = matches!(
            known,
            Some(
                ErrorCode::Overloaded
                    | ErrorCode::ShardUnavailable
                    | ErrorCode::Draining
                    | ErrorCode::MemoryLimit
                    | ErrorCode::DiskFull
            )
        );
        let in_doubt = status >= 500 && !says_nothing_was_done;
        let (code, message) = (code.to_owned(), message.to_owned());
        Some(Self { kind, status: Some(status), code, message, asked, in_doubt })
    }

    /// There was no answer. `left` says whether the request may have reached the cluster.
    pub(crate) fn of_silence(message: String, left: bool) -> Self {
        let kind = if left { FaultKind::Dubious } else { FaultKind::Away };
        Self { kind, status: None, code: String::new(), message, asked: None, in_doubt: left }
    }

    /// True if the fault may go away without the request being changed.
    pub(crate) fn may_pass(&self) -> bool {
        !matches!(self.kind, FaultKind::Refused | FaultKind::TooLarge)
    }

    /// What happened, with the answer's status and code.
    pub(crate) fn why(&self) -> String {
        match self.status {
            Some(status) if self.code.is_empty() => format!("{} ({status})", self.message),
            Some(status) => format!("{} ({status} {})", self.message, self.code),
            None => self.message.clone(),
        }
    }

    /// The fault as the last word.
    pub(crate) fn refusal(self, what: &'static str) -> PushError {
        let Self { status, code, message, .. } = self;
        PushError::Refused { what, status: status.unwrap_or_default(), code, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_blame_whom_they_should() {
        use FaultKind::{Away, Busy, Dubious, Refused, TooLarge};
        for (status, code, kind, in_doubt) in [
            (429, "rate_limited", Busy, false),
            (503, "overloaded", Busy, false),
            (503, "shard_unavailable", Away, false),
            (503, "draining", Away, false),
            (503, "outcome_unknown", Away, true),
            (503, "", Away, true),
            (507, "memory_limit", Away, false),
            (500, "internal", Dubious, true),
            (502, "", Dubious, true),
            (504, "deadline_exceeded", Dubious, true),
            (408, "request_timeout", Dubious, false),
            (413, "payload_too_large", TooLarge, false),
            (400, "invalid_request", Refused, false),
        ] {
            let fault = Fault::of_answer(status, code, "no", None).unwrap();
            assert_eq!((fault.kind, fault.in_doubt), (kind, in_doubt), "{status} {code}");
        }
        for (status, code) in [(400, "unknown_field"), (400, ""), (401, "unauthenticated"), (404, "run_not_found")] {
            assert_eq!(Fault::of_answer(status, code, "no", None), None, "{status} {code}");
        }
    }
}
