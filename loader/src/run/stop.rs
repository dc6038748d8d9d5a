//! Why a run, or its part for one destination, stops before its end.

use super::RunError;
use crate::cancel::Why;
use crate::diff::join::DiffError;
use crate::push::sender::SendError;

/// Why it stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// The project is wrong, as only the source can tell.
    Config(Vec<String>),
    /// A guard stopped it; the sentence says which and how to go on.
    Blocked(String),
    /// It was cancelled.
    Cancelled(Why),
    /// Anything else, as a sentence for the user.
    Failed(String),
}

impl Stop {
    pub(super) fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// Why a source could not be opened.
    pub(super) fn of_opening(error: RunError) -> Self {
        match error {
            RunError::Config(problems) => Self::Config(problems),
            other => Self::failed(other),
        }
    }

    /// What sending stopped for, which may be that `why` was decided meanwhile.
    pub(super) fn of_sending(error: SendError, why: Option<Why>) -> Self {
        match (error, why) {
            (SendError::Cancelled, Some(why)) => Self::Cancelled(why),
            (error, _) => Self::failed(error),
        }
    }

    /// What comparing stopped for.
    pub(super) fn of_diff(error: DiffError, why: Option<Why>) -> Self {
        match (error, why) {
            (DiffError::Cancelled, Some(why)) => Self::Cancelled(why),
            (error, _) => Self::failed(error),
        }
    }
}

/// What a cancelled run says for itself.
pub(super) fn describe(why: Why) -> &'static str {
    match why {
        Why::Asked => "cancelled; what was acknowledged is kept, and the next run sends the rest",
        Why::TimeLimit => {
            "stopped at its time limit; what was acknowledged is kept, and the next run sends the rest; if it needs \
             longer, raise `timeout`"
        }
        Why::Ending => {
            "stopped because this process was told to end; what was acknowledged is kept, and the next run sends the \
             rest"
        }
    }
}
