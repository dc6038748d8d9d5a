//! From a raw path to the resource it names.
//!
//! The raw path is split at `/` first and each segment is then percent-decoded once, so that `%2F` is part of a
//! segment. Nothing is normalised: `..`, `+` and empty segments stand for themselves.

use std::borrow::Cow;

use hyper::Method;
use larder_types::error::ErrorCode;

use crate::error::ApiError;

/// Most segments that any route has.
const MAX_SEGMENTS: usize = 9;

/// What a path names. Names are decoded, not checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resource<'p> {
    Record(RecordPath<'p>),
    Collections,
    Collection(Cow<'p, str>),
    Sync(SyncPath<'p>),
    Runs(SyncPath<'p>),
    Run(RunPath<'p>),
    Batch(RunPath<'p>, Cow<'p, str>),
    Commit(RunPath<'p>),
    Abort(RunPath<'p>),
    Requests(RunPath<'p>),
    Rejects(RunPath<'p>),
    Keys,
    Key(Cow<'p, str>),
    Cluster,
    Node(Cow<'p, str>, Order),
    Leader(Cow<'p, str>),
    Rebalance,
    Health,
    Ready,
    Version,
}

/// What an operator orders for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Drain,
    Resume,
    Remove,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RecordPath<'p> {
    pub(crate) collection: Cow<'p, str>,
    pub(crate) index: Cow<'p, str>,
    pub(crate) value: Cow<'p, str>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SyncPath<'p> {
    pub(crate) collection: Cow<'p, str>,
    pub(crate) sync: Cow<'p, str>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RunPath<'p> {
    pub(crate) sync: SyncPath<'p>,
    pub(crate) run: Cow<'p, str>,
}

/// The resource that a raw path names.
///
/// # Errors
/// `route_not_found` when there is none, `invalid_encoding` when a segment is badly escaped or no UTF-8.
pub(crate) fn route(path: &str) -> Result<Resource<'_>, ApiError> {
    let mut parts = [""; MAX_SEGMENTS];
    let mut count = 0;
    for segment in path.strip_prefix('/').ok_or_else(no_route)?.split('/') {
        *parts.get_mut(count).ok_or_else(no_route)? = segment;
        count += 1;
    }
    Ok(match parts[..count] {
        ["v1", "collections", collection, "records", index, value] => Resource::Record(RecordPath {
            collection: decode(collection)?,
            index: decode(index)?,
            value: decode(value)?,
        }),
        ["v1", "collections"] => Resource::Collections,
        ["v1", "collections", collection] => Resource::Collection(decode(collection)?),
        ["v1", "collections", c, "syncs", s, ref rest @ ..] => route_sync(SyncPath::new(c, s)?, rest)?,
        ["v1", "keys"] => Resource::Keys,
        ["v1", "keys", id] => Resource::Key(decode(id)?),
        ["v1", "cluster"] => Resource::Cluster,
        ["v1", "cluster", "rebalance"] => Resource::Rebalance,
        ["v1", "cluster", "nodes", node, "drain"] => Resource::Node(decode(node)?, Order::Drain),
        ["v1", "cluster", "nodes", node, "resume"] => Resource::Node(decode(node)?, Order::Resume),
        ["v1", "cluster", "nodes", node, "remove"] => Resource::Node(decode(node)?, Order::Remove),
        ["v1", "cluster", "shards", shard, "transfer-leader"] => Resource::Leader(decode(shard)?),
        ["healthz"] => Resource::Health,
        ["readyz"] => Resource::Ready,
        ["version"] => Resource::Version,
        _ => return Err(no_route()),
    })
}

fn route_sync<'p>(sync: SyncPath<'p>, rest: &[&'p str]) -> Result<Resource<'p>, ApiError> {
    let run_path = |sync, run| Ok::<_, ApiError>(RunPath { sync, run: decode(run)? });
    Ok(match *rest {
        [] => Resource::Sync(sync),
        ["runs"] => Resource::Runs(sync),
        ["runs", run] => Resource::Run(run_path(sync, run)?),
        ["runs", run, "batches", seq] => Resource::Batch(run_path(sync, run)?, decode(seq)?),
        ["runs", run, "commit"] => Resource::Commit(run_path(sync, run)?),
        ["runs", run, "abort"] => Resource::Abort(run_path(sync, run)?),
        ["runs", run, "requests"] => Resource::Requests(run_path(sync, run)?),
        ["runs", run, "rejects"] => Resource::Rejects(run_path(sync, run)?),
        _ => return Err(no_route()),
    })
}

impl<'p> SyncPath<'p> {
    fn new(collection: &'p str, sync: &'p str) -> Result<Self, ApiError> {
        Ok(Self { collection: decode(collection)?, sync: decode(sync)? })
    }
}

impl Resource<'_> {
    /// The methods it takes, as the `Allow` header lists them.
    pub(crate) fn allow(&self) -> &'static str {
        match self {
            Self::Record(_) | Self::Collections | Self::Run(_) | Self::Requests(_) | Self::Rejects(_) => "GET, HEAD",
            Self::Cluster | Self::Health | Self::Ready | Self::Version => "GET, HEAD",
            Self::Collection(_) => "GET, HEAD, PUT, DELETE",
            Self::Sync(_) => "PUT, DELETE",
            Self::Runs(_) => "GET, HEAD, POST",
            Self::Batch(..) | Self::Commit(_) | Self::Abort(_) => "POST",
            Self::Node(..) | Self::Leader(_) | Self::Rebalance => "POST",
            Self::Keys => "GET, HEAD, POST",
            Self::Key(_) => "DELETE",
        }
    }

    /// Tells whether it takes a method.
    pub(crate) fn takes(&self, method: &Method) -> bool {
        self.allow().split(", ").any(|allowed| allowed == method.as_str())
    }

    /// A word for logs: never the path, which may hold looked-up values.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Record(_) => "record",
            Self::Collections => "collections",
            Self::Collection(_) => "collection",
            Self::Sync(_) => "sync",
            Self::Runs(_) => "runs",
            Self::Run(_) => "run",
            Self::Batch(..) => "batch",
            Self::Commit(_) => "commit",
            Self::Abort(_) => "abort",
            Self::Requests(_) => "requests",
            Self::Rejects(_) => "rejects",
            Self::Keys => "keys",
            Self::Key(_) => "key",
            Self::Cluster => "cluster",
            Self::Node(..) => "node",
            Self::Leader(_) => "leader",
            Self::Rebalance => "rebalance",
            Self::Health => "healthz",
            Self::Ready => "readyz",
            Self::Version => "version",
        }
    }
}

/// Decodes one segment or query part. Only a segment with escapes is copied.
///
/// # Errors
/// `invalid_encoding` when a `%` is not followed by two hexadecimal digits, or the bytes are no UTF-8.
pub(crate) fn decode(segment: &str) -> Result<Cow<'_, str>, ApiError> {
    let bytes = segment.as_bytes();
    if !bytes.contains(&b'%') {
        return Ok(Cow::Borrowed(segment));
    }
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let whole = bytes.iter().enumerate().all(|(at, byte)| *byte != b'%' || (is_hex(at + 1) && is_hex(at + 2)));
    if !whole {
        return Err(bad_encoding("a `%` must be followed by two hexadecimal digits; a percent sign is written %25"));
    }
    percent_encoding::percent_decode_str(segment)
        .decode_utf8()
        .map_err(|_| bad_encoding("percent-encoded bytes must be UTF-8"))
}

fn bad_encoding(message: &'static str) -> ApiError {
    ApiError::new(ErrorCode::InvalidEncoding, message)
}

fn no_route() -> ApiError {
    ApiError::new(ErrorCode::RouteNotFound, "there is no such path; a `/` inside a value must be written %2F")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(path: &str) -> (String, String, String) {
        match route(path).unwrap() {
            Resource::Record(r) => (r.collection.into_owned(), r.index.into_owned(), r.value.into_owned()),
            other => panic!("{path} is {other:?}"),
        }
    }

    #[test]
    fn values_are_decoded_once_after_splitting() {
        for (raw, value) in [
            ("12345", "12345"),
            ("a%2Fb", "a/b"),
            ("a%2fb", "a/b"),
            ("%2E%2E", ".."),
            ("..", ".."),
            ("a+b", "a+b"),
            ("a%2Bb", "a+b"),
            ("a%20b", "a b"),
            ("ann@example.com", "ann@example.com"),
            ("%F0%9F%99%82", "🙂"),
            ("🙂", "🙂"),
            ("%2525", "%25"),
            ("a;b=c", "a;b=c"),
            ("", ""),
        ] {
            let (collection, index, found) = record(&format!("/v1/collections/people/records/id/{raw}"));
            assert_eq!((collection.as_str(), index.as_str(), found.as_str()), ("people", "id", value), "{raw}");
        }
        assert_eq!(record("/v1/collections/p%65ople/records/%69d/1").0, "people");
    }

    #[test]
    fn bad_escapes_and_bad_utf8_are_refused() {
        for bad in ["%", "%2", "%zz", "a%", "%C3%28", "%ff", "%ED%A0%80", "%C0%AF", "%%41"] {
            let error = route(&format!("/v1/collections/people/records/id/{bad}")).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidEncoding, "{bad}");
        }
    }

    #[test]
    fn unknown_paths_are_refused() {
        for bad in [
            "",
            "*",
            "/",
            "//",
            "/v2/collections",
            "/v1/collections/",
            "/v1/collections/a/records/id",
            "/v1/collections/a/records/id/b/c",
            "/v1/collections/a/syncs/b/runs/c/d",
            "/v1/collections/a/syncs/b/runs/c/batches/1/2/3/4/5/6",
            "/v1%2Fcollections",
        ] {
            match route(bad) {
                Err(error) => assert_eq!(error.code, ErrorCode::RouteNotFound, "{bad}"),
                Ok(Resource::Collection(name)) => assert_eq!((bad, name.as_ref()), ("/v1/collections/", "")),
                Ok(other) => panic!("{bad} is {other:?}"),
            }
        }
    }

    #[test]
    fn every_resource_has_a_path() {
        let names: Vec<_> = [
            "/v1/collections/c/records/i/v",
            "/v1/collections",
            "/v1/collections/c",
            "/v1/collections/c/syncs/s",
            "/v1/collections/c/syncs/s/runs",
            "/v1/collections/c/syncs/s/runs/r",
            "/v1/collections/c/syncs/s/runs/r/batches/1",
            "/v1/collections/c/syncs/s/runs/r/commit",
            "/v1/collections/c/syncs/s/runs/r/abort",
            "/v1/collections/c/syncs/s/runs/r/requests",
            "/v1/collections/c/syncs/s/runs/r/rejects",
            "/v1/keys",
            "/v1/keys/k",
            "/v1/cluster",
            "/v1/cluster/nodes/2/drain",
            "/v1/cluster/nodes/2/resume",
            "/v1/cluster/nodes/2/remove",
            "/v1/cluster/shards/3/transfer-leader",
            "/v1/cluster/rebalance",
            "/healthz",
            "/readyz",
            "/version",
        ]
        .into_iter()
        .map(|path| route(path).unwrap().name())
        .collect();
        let expected = "record collections collection sync runs run batch commit abort requests rejects keys key cluster \
                        node node node leader rebalance healthz readyz version";
        assert_eq!(names.join(" "), expected);
        assert!(route("/v1/keys/k").unwrap().takes(&Method::DELETE));
        assert!(!route("/v1/keys/k").unwrap().takes(&Method::GET));
    }

    proptest! {
        #[test]
        fn no_path_makes_the_router_panic(path in "(/v1/collections/)?[ -~/%é🙂]{0,60}") {
            let _ = route(&path);
        }

        #[test]
        fn any_encoded_value_comes_back(value in any::<String>()) {
            let raw = percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC);
            let (_, _, found) = record(&format!("/v1/collections/c/records/id/{raw}"));
            prop_assert_eq!(found, value);
        }
    }
}
