//! Revisions in headers: the position at which a lookup was answered, and the position that a reader asks for.

use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use larder_storage::shard::ShardReader;
use larder_types::error::ErrorCode;
use larder_types::hash::ShardCount;
use larder_types::ids::ShardId;
use larder_types::revision::Revision;
use tokio::time::{Instant, sleep};

use crate::error::ApiError;

/// The position at which an answer was read.
pub(crate) const COLLECTION_REVISION: HeaderName = HeaderName::from_static("x-collection-revision");
/// The position that a lookup wants to see at least.
pub(crate) const MIN_REVISION: HeaderName = HeaderName::from_static("x-min-revision");

/// Between two looks at how far a shard is: the finest that the runtime's timer resolves.
pub(crate) const POLL: Duration = Duration::from_millis(1);

/// The revision that a request wants to see at least, if it says so.
///
/// # Errors
/// `invalid_request` when it is no revision of this cluster.
pub(crate) fn wanted(headers: &HeaderMap, shards: ShardCount) -> Result<Option<Revision>, ApiError> {
    let Some(header) = headers.get(MIN_REVISION) else { return Ok(None) };
    let revision: Revision = header
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| ApiError::invalid("X-Min-Revision must be a revision exactly as an answer gave it"))?;
    if revision.positions().iter().any(|(shard, _)| shard.0 >= shards.get()) {
        return Err(ApiError::invalid("X-Min-Revision names a shard that this cluster does not have"));
    }
    Ok(Some(revision))
}

/// Waits until a replica has applied an index, and returns how far it is then; `None` if it does not come so far in time.
pub(crate) async fn wait(reader: &ShardReader, index: u64, until: Instant) -> Option<u64> {
    loop {
        let applied = reader.applied();
        if applied >= index {
            return Some(applied);
        }
        if Instant::now() >= until {
            return None;
        }
        sleep(POLL).await;
    }
}

/// The answer when a revision was not reached in time.
pub(crate) fn not_reached() -> ApiError {
    let message = "this node has not reached the revision asked for; repeat the request, or ask without it";
    ApiError::new(ErrorCode::RevisionNotReached, message)
}

/// The answer when no replica of a shard can be asked.
pub(crate) fn unavailable() -> ApiError {
    ApiError::new(ErrorCode::ShardUnavailable, "the shard that this needs is not served now; repeat the request")
}

/// The header that says that a shard was read at an index, by definitions of a version.
pub(crate) fn header(shard: ShardId, index: u64, definitions: u64) -> HeaderValue {
    let text = Revision::new(vec![(shard, index)]).with_definitions(definitions).to_string();
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("r1."))
}

/// For each shard the header of the position that was last answered from it: while nothing is written, lookups share
/// one.
pub(crate) struct RevisionHeaders(Vec<(u64, u64, HeaderValue)>);

impl RevisionHeaders {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// See [`header`].
    pub(crate) fn of(&mut self, shard: ShardId, index: u64, definitions: u64) -> HeaderValue {
        let place = usize::from(shard.0);
        if self.0.len() <= place {
            self.0.resize(place + 1, (u64::MAX, 0, HeaderValue::from_static("")));
        }
        let known = &mut self.0[place];
        if (known.0, known.1) != (index, definitions) {
            *known = (index, definitions, header(shard, index, definitions));
        }
        known.2.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_shard_and_index() {
        let mut headers = RevisionHeaders::new();
        for (shard, index, definitions) in [(3, 7, 1), (0, 1, 1), (3, 8, 1), (3, 8, 1), (3, 8, 2)] {
            let text = headers.of(ShardId(shard), index, definitions);
            let revision: Revision = text.to_str().unwrap().parse().unwrap();
            assert_eq!(revision.positions(), &[(ShardId(shard), index)]);
            assert_eq!(revision.definitions(), definitions);
        }
    }

    #[test]
    fn foreign_revisions_are_refused() {
        let two = ShardCount::new(2).unwrap();
        let with = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(MIN_REVISION, HeaderValue::from_str(text).unwrap());
            wanted(&headers, two)
        };
        let fits = Revision::new(vec![(ShardId(1), 9)]);
        assert_eq!(with(&fits.to_string()).unwrap(), Some(fits));
        assert!(with("tomorrow").is_err());
        assert!(with(&Revision::new(vec![(ShardId(2), 9)]).to_string()).is_err());
        assert_eq!(wanted(&HeaderMap::new(), two).unwrap(), None);
    }
}
