//! The lookup route: `GET /v1/collections/{collection}/records/{index}/{value}`.
//!
//! Invariants: runs without waiting, locking or writing anything that another core reads, and leaves what cannot be
//! answered so to `fetch`; 404 is answered only by a shard that serves and is not behind the revision asked for; an answer
//! allocates its body and its own headers.

use std::io::Write as _;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use hyper::http::request::Parts;
use larder_replication::catalog::{Catalog, Collection};
use larder_replication::node::Consistency;
use larder_storage::record::FieldSet;
use larder_storage::shard::ShardReader;
use larder_types::error::ErrorCode;
use larder_types::hash::{KeyHash, ShardCount};
use larder_types::ids::{FieldId, ShardId};
use larder_types::key::{Key, KeyError};

use crate::auth::{AuthCache, Need};
use crate::core::Core;
use crate::error::ApiError;
use crate::query;
use crate::reply::{self, Response};
use crate::revision::{self, COLLECTION_REVISION};
use crate::router::RecordPath;

const PRIVATE: HeaderValue = HeaderValue::from_static("private, max-age=0");

/// What a lookup comes to at once.
pub(crate) enum Found {
    /// Its answer.
    Answer(Response),
    /// Something must be waited for, or another node be asked: see `fetch`.
    Later,
}

/// What the query string asks for.
#[derive(Default)]
struct Options {
    /// Only these fields.
    only: Option<FieldSet>,
    /// An absent record is `{}`.
    empty_if_missing: bool,
    /// How fresh the answer must be.
    level: Consistency,
}

/// A lookup that makes sense, by the definitions that it holds.
pub(crate) struct Lookup<'r> {
    catalog: &'r Catalog,
    collection: &'r Collection,
    headers: &'r HeaderMap,
    options: Options,
    value: &'r [u8],
    hash: KeyHash,
    /// Where the record is, if there is one.
    pub(crate) shard: ShardId,
    /// How fresh the answer must be.
    pub(crate) level: Consistency,
    /// What the shard must have applied.
    pub(crate) index: u64,
}

/// Looks one record up, if that takes no waiting.
///
/// # Errors
/// Those of the documented route; 404 means that the record is known to be absent.
pub(crate) fn look_up(core: &Core, auth: &AuthCache, head: &Parts, path: &RecordPath<'_>) -> Result<Found, ApiError> {
    let mut cache = core.catalog();
    let catalog = cache.load();
    let principal = auth.authenticate(&head.headers, catalog)?;
    principal.require(Need::Read(&path.collection))?;
    let lookup = match Lookup::read(catalog, &head.headers, head.uri.query(), path) {
        Ok(Read::Lookup(lookup)) => lookup,
        Ok(Read::Answer(response)) => return Ok(Found::Answer(response)),
        Ok(Read::Ahead) => return Ok(Found::Later),
        Err(error) if may_be_news(&error, catalog) => return Ok(Found::Later),
        Err(error) => return Err(error),
    };
    let mut readers = core.readers();
    let here = readers.load().get(lookup.shard).filter(|served| served.serves());
    let Some(served) = here.filter(|_| lookup.level == Consistency::Any) else { return Ok(Found::Later) };
    // Read before the record, so that the position in the answer never claims more than was seen.
    let applied = served.reader().applied();
    if applied < lookup.index {
        return Ok(Found::Later);
    }
    let revision = |shard, version| core.revisions.borrow_mut().of(shard, applied, version);
    lookup.answer(served.reader(), &mut core.scratch.borrow_mut(), revision).map(Found::Answer)
}

/// Whether the definitions may only be old: another node may have made what a request names just now.
pub(crate) fn may_be_news(error: &ApiError, catalog: &Catalog) -> bool {
    catalog.map.nodes.len() > 1 && matches!(error.code, ErrorCode::CollectionNotFound | ErrorCode::UnknownField)
}

/// What reading a lookup comes to.
pub(crate) enum Read<'r> {
    /// Something to look up.
    Lookup(Lookup<'r>),
    /// No record can have this value.
    Answer(Response),
    /// It wants to be answered by definitions that are newer than these.
    Ahead,
}

impl<'r> Lookup<'r> {
    /// Reads a lookup by the definitions.
    ///
    /// # Errors
    /// Those of the documented route that do not depend on records.
    pub(crate) fn read(
        catalog: &'r Catalog,
        headers: &'r HeaderMap,
        query: Option<&str>,
        path: &'r RecordPath<'_>,
    ) -> Result<Read<'r>, ApiError> {
        let (hash, shard, shards) = place(catalog, path.value.as_bytes())?;
        let wanted = revision::wanted(headers, shards)?;
        if wanted.as_ref().is_some_and(|wanted| wanted.definitions() > catalog.version) {
            return Ok(Read::Ahead);
        }
        let collection = find_collection(catalog, &path.collection)?;
        if collection.primary_index.as_str() != path.index {
            let message = format!("the collection has one index, `{}`", collection.primary_index);
            return Err(ApiError::new(ErrorCode::IndexNotFound, message));
        }
        let options = Options::parse(query, collection)?;
        check_accept(headers)?;
        match Key::check(&path.value) {
            Ok(()) => {}
            Err(KeyError::Empty) => return missing(&options).map(Read::Answer),
            Err(error) => return Err(ApiError::new(ErrorCode::ValueTooLong, error.to_string())),
        }
        let index = wanted.map_or(0, |wanted| wanted.index_of(shard));
        let (level, value) = (options.level, path.value.as_bytes());
        Ok(Read::Lookup(Self { catalog, collection, headers, options, value, hash, shard, level, index }))
    }

    /// Looks the record up in its shard. `revision` makes the header for a position and a version of definitions.
    ///
    /// # Errors
    /// `record_not_found`.
    pub(crate) fn answer(
        &self,
        reader: &ShardReader,
        body: &mut Vec<u8>,
        revision: impl FnOnce(ShardId, u64) -> HeaderValue,
    ) -> Result<Response, ApiError> {
        let Self { catalog, collection, headers, options, .. } = self;
        let cluster = catalog.cluster.as_ref().map_or("", |cluster| &cluster.id);
        body.clear();
        let etag = reader.get(collection.id, self.hash, self.value, |record| {
            let etag = Etag::new(cluster, record.version(), collection, options.only.as_ref());
            let known = headers.get(IF_NONE_MATCH).is_some_and(|header| etag.is_in(header.as_bytes()));
            if !known {
                record.write_json(&collection.dictionary, options.only.as_ref(), body);
            }
            (etag, known)
        });
        let Some((etag, known)) = etag else { return missing(options) };
        let (status, body) = if known { (304, Bytes::new()) } else { (200, Bytes::copy_from_slice(body)) };
        let mut response = reply::with_status(status, body);
        let headers = response.headers_mut();
        headers.reserve(6);
        if !known {
            headers.insert(CONTENT_TYPE, reply::JSON);
        }
        headers.insert(ETAG, etag.header());
        headers.insert(CACHE_CONTROL, PRIVATE);
        headers.insert(COLLECTION_REVISION, revision(self.shard, catalog.version));
        Ok(response)
    }
}

/// The collection with this name.
///
/// # Errors
/// `collection_not_found`.
pub(crate) fn find_collection<'c>(
    catalog: &'c Catalog,
    name: &str,
) -> Result<&'c std::sync::Arc<Collection>, ApiError> {
    catalog.collections.get(name).ok_or_else(|| {
        ApiError::new(ErrorCode::CollectionNotFound, "no collection has this name; GET /v1/collections lists them")
    })
}

fn place(catalog: &Catalog, key: &[u8]) -> Result<(KeyHash, ShardId, ShardCount), ApiError> {
    let (Some(cluster), Some(shards)) = (&catalog.cluster, catalog.shard_count()) else {
        return Err(revision::unavailable());
    };
    let hash = KeyHash::of(cluster.hash_seed, key);
    Ok((hash, shards.shard_of(hash), shards))
}

fn missing(options: &Options) -> Result<Response, ApiError> {
    if !options.empty_if_missing {
        return Err(ApiError::new(ErrorCode::RecordNotFound, "the collection holds no record with this value"));
    }
    let mut response = reply::with_status(200, Bytes::from_static(b"{}"));
    response.headers_mut().insert(CONTENT_TYPE, reply::JSON);
    response.headers_mut().insert(CACHE_CONTROL, PRIVATE);
    Ok(response)
}

impl Options {
    fn parse(text: Option<&str>, collection: &Collection) -> Result<Self, ApiError> {
        let mut options = Self::default();
        if text.is_none() {
            return Ok(options);
        }
        for (name, value) in query::parse(text, &["fields", "on_missing", "consistency"])? {
            match (name, value.as_ref()) {
                ("fields", names) => options.only = Some(projection(names, collection)?),
                ("consistency", "any") => options.level = Consistency::Any,
                ("consistency", "leader") => options.level = Consistency::Leader,
                ("consistency", "linearizable") => options.level = Consistency::Linearizable,
                ("consistency", _) => {
                    return Err(ApiError::invalid("`consistency` takes one of any, leader, linearizable"));
                }
                (_, "empty") => options.empty_if_missing = true,
                _ => return Err(ApiError::invalid("`on_missing` takes one value: empty")),
            }
        }
        Ok(options)
    }
}

fn projection(names: &str, collection: &Collection) -> Result<FieldSet, ApiError> {
    let unknown = |name: &str| {
        let details = serde_json::json!({ "field": name });
        ApiError::new(ErrorCode::UnknownField, format!("the collection has no field `{name}`")).with_details(details)
    };
    names.split(',').map(|name| collection.field(name).map(|field| field.id).ok_or_else(|| unknown(name))).collect()
}

/// Refuses a request that wants something other than JSON.
fn check_accept(headers: &HeaderMap) -> Result<(), ApiError> {
    if !headers.contains_key(ACCEPT) {
        return Ok(());
    }
    let takes = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let json =
            ["*/*", "application/json", "application/*", ""].iter().any(|known| name.eq_ignore_ascii_case(known));
        let refused = |part: &str| match part.split_once('=') {
            Some(("q" | "Q", weight)) => weight.trim_matches(['0', '.']).is_empty(),
            _ => false,
        };
        json && !parts.any(refused)
    };
    // The list may come on several lines.
    let mut lines = headers.get_all(ACCEPT).iter();
    if lines.any(|line| line.to_str().is_ok_and(|ranges| ranges.split(',').any(takes))) {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::NotAcceptable, "records are served as application/json"))
}

/// A strong entity tag: `"<cluster>-<version>-<last field>-<fields>[-<projection>]"`.
///
/// Versions begin anew with each cluster, which may serve the same records under the same address: so the tag starts
/// with the first digits of the cluster's id.
/// A record's version alone does not settle its bytes: fields that are retired vanish from answers without a new
/// version. Field ids only grow and never come back, so the highest living id and the number of living fields name the
/// set of fields. A projection is named by the hash of its fields' ids.
struct Etag {
    text: [u8; 64],
    len: usize,
}

impl Etag {
    fn new(cluster: &str, version: u64, collection: &Collection, only: Option<&FieldSet>) -> Self {
        let mut text = [0; 64];
        let mut rest = &mut text[..];
        let last = collection.fields.last().map_or(0, |field| field.id.0);
        // Numbers of 8, 16, 4, 4 and 16 hexadecimal digits at most and their marks fit, so writing cannot fail.
        let mut done = write!(rest, "\"{cluster:.8}-{version:x}-{last:x}-{:x}", collection.fields.len());
        if let Some(only) = only {
            let seed = |hash: u64, id: FieldId| KeyHash::of(hash, &id.0.to_le_bytes()).0;
            done = done.and_then(|()| write!(rest, "-{:x}", only.iter().fold(0, seed)));
        }
        done = done.and_then(|()| write!(rest, "\""));
        debug_assert!(done.is_ok(), "an entity tag does not fit its buffer");
        let len = 64 - rest.len();
        Self { text, len }
    }

    fn bytes(&self) -> &[u8] {
        &self.text[..self.len]
    }

    fn header(&self) -> HeaderValue {
        HeaderValue::from_bytes(self.bytes()).unwrap_or(HeaderValue::from_static("\"\""))
    }

    /// Tells whether an `If-None-Match` header names this tag. Its comparison is weak by definition.
    fn is_in(&self, header: &[u8]) -> bool {
        header.trim_ascii() == b"*"
            || header.split(|byte| *byte == b',').any(|tag| {
                let tag = tag.trim_ascii();
                tag.strip_prefix(b"W/").unwrap_or(tag) == self.bytes()
            })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use larder_replication::catalog::Field;
    use larder_types::ids::{CollectionId, SyncSlot};
    use larder_types::names::{CollectionName, FieldName, IndexName};
    use larder_types::value::ValueType;

    use super::*;

    fn collection(fields: &[(u16, &str)]) -> Collection {
        let field = |(id, name): &(u16, &str)| Field {
            id: FieldId(*id),
            name: FieldName::new(name).unwrap(),
            kind: ValueType::Any,
            owner: SyncSlot(0),
        };
        Collection {
            id: CollectionId(1),
            name: CollectionName::new("c").unwrap(),
            primary_index: IndexName::new("id").unwrap(),
            fields: fields.iter().map(field).collect(),
            syncs: BTreeMap::new(),
            dictionary: Arc::default(),
        }
    }

    fn tag(version: u64, fields: &[(u16, &str)], only: Option<&[u16]>) -> String {
        tag_in("0123456789abcdef0123456789abcdef", version, fields, only)
    }

    fn tag_in(cluster: &str, version: u64, fields: &[(u16, &str)], only: Option<&[u16]>) -> String {
        let only: Option<FieldSet> = only.map(|ids| ids.iter().copied().map(FieldId).collect());
        let etag = Etag::new(cluster, version, &collection(fields), only.as_ref());
        String::from_utf8(etag.bytes().to_vec()).unwrap()
    }

    #[test]
    fn whatever_changes_the_bytes_changes_the_tag() {
        let base = [(1, "a"), (2, "b")];
        let tags = [
            tag(7, &base, None),
            tag(8, &base, None),
            tag(7, &[(1, "a")], None),
            tag(7, &[(1, "a"), (3, "b")], None),
            tag(7, &base, Some(&[1])),
            tag(7, &base, Some(&[2])),
            tag(7, &base, Some(&[1, 2])),
            tag_in("1123456789abcdef0123456789abcdef", 7, &base, None),
        ];
        for (at, tag) in tags.iter().enumerate() {
            assert!(tag.starts_with('"') && tag.ends_with('"'));
            assert!(!tags[..at].contains(tag), "{tags:?}");
        }
    }

    #[test]
    fn the_longest_tag_fits() {
        let fields: Vec<_> = (0..4096).map(|id| (61_440 + id, "f")).collect();
        let tag = tag(u64::MAX, &fields, Some(&[1]));
        assert!(tag.ends_with('"') && tag.len() <= 64, "{tag}");
    }

    #[test]
    fn tags_are_matched_in_lists() {
        let etag = Etag::new("c", 7, &collection(&[]), None);
        for yes in ["\"c-7-0-0\"", "W/\"c-7-0-0\"", "\"x\" , \"c-7-0-0\"", "*"] {
            assert!(etag.is_in(yes.as_bytes()), "{yes}");
        }
        for no in ["c-7-0-0", "\"c-7-0-1\"", "\"7-0-0\"", "", "\"*\""] {
            assert!(!etag.is_in(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn only_json_can_be_had() {
        let accept = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(text));
            check_accept(&headers).is_ok()
        };
        for yes in [
            "*/*",
            "application/json",
            "text/html, application/json;q=0.5",
            "application/*; q=1",
            "Application/JSON;Q=0.3",
        ] {
            assert!(accept(yes), "{yes}");
        }
        for no in ["text/html", "application/msgpack", "application/json;q=0", "*/*;Q=0.0"] {
            assert!(!accept(no), "{no}");
        }
        let mut headers = HeaderMap::new();
        headers.append(ACCEPT, HeaderValue::from_static("text/html"));
        headers.append(ACCEPT, HeaderValue::from_static("application/json"));
        assert!(check_accept(&headers).is_ok(), "one list on two lines");
        assert!(check_accept(&HeaderMap::new()).is_ok());
    }
}
