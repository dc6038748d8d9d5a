//! The errors that callers of the HTTP interface see: each code with its status, for servers that answer and loaders
//! that react.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $status:literal, $code:literal, $title:literal;)*) => {
        /// What went wrong, in one word. The status follows from it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The HTTP status.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// The word in the `code` member.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// The sentence in the `title` member; the same for every error of this code.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            /// The code with this word.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

codes! {
    /// The request makes no sense as it stands.
    InvalidRequest = 400, "invalid_request", "The request is not valid";
    /// A path segment or body is not valid UTF-8 or badly escaped.
    InvalidEncoding = 400, "invalid_encoding", "The request is badly encoded";
    /// A named field does not exist.
    UnknownField = 400, "unknown_field", "The collection has no such field";
    /// No key, or one that is not known.
    Unauthenticated = 401, "unauthenticated", "A valid API key is needed";
    /// The key's scopes do not allow this.
    Forbidden = 403, "forbidden", "The API key does not allow this";
    /// The record is known to be absent.
    RecordNotFound = 404, "record_not_found", "There is no such record";
    /// There is no such collection.
    CollectionNotFound = 404, "collection_not_found", "There is no such collection";
    /// The collection has no such index.
    IndexNotFound = 404, "index_not_found", "The collection has no such index";
    /// The collection has no such sync.
    SyncNotFound = 404, "sync_not_found", "The collection has no such sync";
    /// The sync has no such run.
    RunNotFound = 404, "run_not_found", "The sync has no such run";
    /// There is no such API key.
    KeyNotFound = 404, "key_not_found", "There is no such API key";
    /// The cluster has no such node.
    NodeNotFound = 404, "node_not_found", "The cluster has no such node";
    /// The cluster has no such shard.
    ShardNotFound = 404, "shard_not_found", "The cluster has no such shard";
    /// There is no such path.
    RouteNotFound = 404, "route_not_found", "There is no such path";
    /// The path does not take this method.
    MethodNotAllowed = 405, "method_not_allowed", "The path does not take this method";
    /// None of the accepted types can be produced.
    NotAcceptable = 406, "not_acceptable", "None of the accepted media types can be produced";
    /// The client was too slow to send its request.
    RequestTimeout = 408, "request_timeout", "The request did not arrive in time";
    /// Another sync owns the field.
    FieldOwnedByOtherSync = 409, "field_owned_by_other_sync", "Another sync owns the field";
    /// A newer run of the sync has been opened.
    StaleGeneration = 409, "stale_generation", "A newer run of this sync has been opened";
    /// The run has ended.
    RunClosed = 409, "run_closed", "The run has ended";
    /// The sequence number was used for another body.
    SeqReused = 409, "seq_reused", "The batch number was used for another body";
    /// What was asked would change something that cannot change.
    Conflict = 409, "conflict", "The request conflicts with what exists";
    /// The revision was not reached in time.
    RevisionNotReached = 412, "revision_not_reached", "The revision was not reached in time";
    /// The body is larger than allowed.
    PayloadTooLarge = 413, "payload_too_large", "The body is too large";
    /// The value in the path is longer than a key may be.
    ValueTooLong = 414, "value_too_long", "The value is longer than a key may be";
    /// The body's type or encoding is not one of the known ones.
    UnsupportedMediaType = 415, "unsupported_media_type", "The body's media type or encoding is not supported";
    /// Configuration that does not hold together; all problems are listed.
    ValidationFailed = 422, "validation_failed", "The configuration is not valid";
    /// A fault of the server.
    Internal = 500, "internal", "The server has a fault";
    /// The shard cannot be reached now.
    ShardUnavailable = 503, "shard_unavailable", "The shard is not available now";
    /// The data is still being loaded.
    CollectionLoading = 503, "collection_loading", "The collection is still being loaded";
    /// More is asked than can be done now.
    Overloaded = 503, "overloaded", "The server has too much to do";
    /// The node is shutting down.
    Draining = 503, "draining", "The node is shutting down";
    /// The write may or may not have happened: repeat it.
    OutcomeUnknown = 503, "outcome_unknown", "The write may have happened: repeat it";
    /// Not done in time.
    DeadlineExceeded = 504, "deadline_exceeded", "The request was not done in time";
    /// The memory limit is reached.
    MemoryLimit = 507, "memory_limit", "The memory limit is reached";
    /// The disk is full.
    DiskFull = 507, "disk_full", "The disk is full";
}

impl ErrorCode {
    /// Tells whether the same request may succeed later without being changed.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self.status(), 408 | 429 | 500 | 503 | 504 | 507)
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        Self::parse(&word).ok_or_else(|| serde::de::Error::custom(format!("unknown error code `{word}`")))
    }
}

/// The body of every error answer, readable as problem details (RFC 9457).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    /// A URI reference that names the kind of error: `/docs/errors#<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// [`ErrorCode::title`].
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// [`ErrorCode::as_str`]. Text, so that an older loader can read a newer server's code.
    pub code: String,
    /// What is wrong with this very request and what to do about it. Never holds looked-up values or credentials.
    pub message: String,
    /// Members that depend on the code, an empty object for most.
    #[serde(default)]
    pub details: serde_json::Value,
    /// The id by which the server's log knows the request.
    #[serde(default)]
    pub request_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_read_back() {
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(code));
            assert!((400..600).contains(&code.status()));
        }
        assert_eq!(ErrorCode::parse("teapot"), None);
    }

    #[test]
    fn only_faults_that_pass_are_transient() {
        assert!(ErrorCode::OutcomeUnknown.is_transient());
        assert!(ErrorCode::DiskFull.is_transient());
        assert!(!ErrorCode::StaleGeneration.is_transient());
        assert!(!ErrorCode::PayloadTooLarge.is_transient());
    }
}
