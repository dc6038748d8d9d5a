//! Who asks, and what they may do.
//!
//! Invariants: a key is only ever compared by its SHA-256 and in constant time; one hash and one comparison are made
//! whether or not a key with that id exists; every handler that touches a collection goes through [`Principal::require`]
//! with the collection that the request resolves to.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderValue};
use larder_replication::catalog::{ApiKey, Catalog, ROOT_KEY_ID};
use larder_types::api::Scope;
use larder_types::error::ErrorCode;
use subtle::ConstantTimeEq as _;

use crate::api_key::{Shape, sha256, shape_of};
use crate::error::ApiError;

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need<'a> {
    /// To look records of a collection up.
    Read(&'a str),
    /// To change a collection, its syncs and their runs.
    Write(&'a str),
    /// To see how a collection is made: what readers and writers may both do.
    Describe(&'a str),
    /// To administer the cluster.
    Admin,
}

/// Whoever presented a valid key.
#[derive(Debug)]
pub(crate) struct Principal {
    key: Arc<ApiKey>,
}

impl Principal {
    /// The id of the key, which is no secret.
    pub(crate) fn id(&self) -> &str {
        &self.key.id
    }

    /// Tells whether the key allows something.
    pub(crate) fn may(&self, need: Need<'_>) -> bool {
        let covers = |of: &Option<_>, name: &str| {
            of.as_ref().is_none_or(|only: &larder_types::names::CollectionName| only.as_str() == name)
        };
        self.key.scopes.iter().any(|scope| match (scope, need) {
            (Scope::Admin, _) => true,
            (Scope::Read(of), Need::Read(name) | Need::Describe(name)) => covers(of, name),
            (Scope::Write(of), Need::Write(name) | Need::Describe(name)) => covers(of, name),
            _ => false,
        })
    }

    /// Refuses unless the key allows something.
    pub(crate) fn require(&self, need: Need<'_>) -> Result<(), ApiError> {
        if self.may(need) {
            return Ok(());
        }
        let scope = match need {
            Need::Read(_) => "read",
            Need::Write(_) => "write",
            Need::Describe(_) => "read or write",
            Need::Admin => "admin",
        };
        let message = format!("the key `{}` does not have the scope {scope} that this needs", self.key.id);
        Err(ApiError::new(ErrorCode::Forbidden, message))
    }
}

/// The principal that a connection last authenticated, so that only its first request pays for a hash.
#[derive(Default)]
pub(crate) struct AuthCache(RefCell<Option<Cached>>);

struct Cached {
    header: HeaderValue,
    catalog_version: u64,
    principal: Rc<Principal>,
}

impl AuthCache {
    /// The principal of a request with these headers.
    ///
    /// # Errors
    /// `unauthenticated` when there is no key or not a valid one; `invalid_request` when there are several.
    pub(crate) fn authenticate(&self, headers: &HeaderMap, catalog: &Catalog) -> Result<Rc<Principal>, ApiError> {
        let mut sent = headers.get_all(AUTHORIZATION).iter();
        let header = sent.next().ok_or_else(no_key)?;
        if sent.next().is_some() {
            return Err(ApiError::invalid("the header Authorization is given twice"));
        }
        if let Some(principal) = self.recall(header, catalog) {
            return Ok(principal);
        }
        let key = find(presented(header)?.as_str(), catalog)?;
        let principal = Rc::new(Principal { key: Arc::clone(key) });
        let cached =
            Cached { header: header.clone(), catalog_version: catalog.version, principal: Rc::clone(&principal) };
        *self.0.borrow_mut() = Some(cached);
        Ok(principal)
    }

    fn recall(&self, header: &HeaderValue, catalog: &Catalog) -> Option<Rc<Principal>> {
        let mut slot = self.0.borrow_mut();
        let cached = slot.as_mut()?;
        // In constant time, because a proxy may put several clients on one connection.
        if !bool::from(cached.header.as_bytes().ct_eq(header.as_bytes())) {
            return None;
        }
        if cached.catalog_version != catalog.version {
            // Most changes of the catalog leave this key as it was; a revoked key is gone from it.
            let key = catalog.keys.get(&cached.principal.key.id)?;
            if key.sha256 != cached.principal.key.sha256 {
                return None;
            }
            if !Arc::ptr_eq(key, &cached.principal.key) {
                cached.principal = Rc::new(Principal { key: Arc::clone(key) });
            }
            cached.catalog_version = catalog.version;
        }
        Some(Rc::clone(&cached.principal))
    }
}

/// The key in an `Authorization` header: behind `Bearer`, or as the user name of `Basic` with an empty password.
fn presented(header: &HeaderValue) -> Result<String, ApiError> {
    let text = header.to_str().map_err(|_| malformed())?;
    let (scheme, rest) = text.split_once(' ').ok_or_else(malformed)?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(malformed());
    }
    let decoded = BASE64.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(malformed)?;
    decoded.strip_suffix(':').map(str::to_owned).ok_or_else(malformed)
}

fn find<'c>(text: &str, catalog: &'c Catalog) -> Result<&'c Arc<ApiKey>, ApiError> {
    if catalog.keys.is_empty() {
        let message = "this node has not heard of the cluster's keys yet; repeat the request";
        return Err(ApiError::new(ErrorCode::ShardUnavailable, message));
    }
    let shape = shape_of(text);
    let root = catalog.keys.get(ROOT_KEY_ID);
    // The root key may have any shape, so whatever names no other key is compared with it.
    let candidate = match shape {
        Shape::Made(id) => catalog.keys.get(id).or(root),
        Shape::Broken | Shape::Other => root,
    };
    let hash = sha256(text);
    match candidate {
        Some(key) if bool::from(key.sha256.as_bytes().ct_eq(&hash)) => Ok(key),
        _ if shape == Shape::Broken => Err(unauthenticated("the API key is mistyped or cut: its check does not fit")),
        _ => Err(unauthenticated("the API key is not known, or was revoked")),
    }
}

fn no_key() -> ApiError {
    unauthenticated("send an API key: `Authorization: Bearer <key>`")
}

fn malformed() -> ApiError {
    unauthenticated("the header Authorization must be `Bearer <key>`, or `Basic` with base64 of `<key>:`")
}

fn unauthenticated(message: &'static str) -> ApiError {
    ApiError::new(ErrorCode::Unauthenticated, message)
}

#[cfg(test)]
mod tests {
    use larder_types::names::CollectionName;

    use super::*;
    use crate::api_key::{NewKey, sha256_text};

    const ROOT_TEXT: &str = "a-root-key-that-is-long-enough-0123456789";

    fn key(id: &str, text: &str, scopes: Vec<Scope>) -> Arc<ApiKey> {
        Arc::new(ApiKey { id: id.into(), sha256: sha256_text(text), label: String::new(), scopes, created_at: 0 })
    }

    fn catalog(version: u64, keys: &[Arc<ApiKey>]) -> Catalog {
        let keys = keys.iter().map(|key| (key.id.clone(), Arc::clone(key))).collect();
        Catalog { version, keys, ..Catalog::default() }
    }

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        headers
    }

    fn code(value: &str, catalog: &Catalog) -> Result<String, ErrorCode> {
        let found = AuthCache::default().authenticate(&headers(value), catalog);
        found.map(|principal| principal.key.id.clone()).map_err(|e| e.code)
    }

    #[test]
    fn no_key_is_called_wrong_before_keys_are_known() {
        let header = HeaderValue::from_static("Bearer lk_any");
        let headers = HeaderMap::from_iter([(AUTHORIZATION, header)]);
        let error = AuthCache::default().authenticate(&headers, &Catalog::default()).unwrap_err();
        assert_eq!(error.code, ErrorCode::ShardUnavailable);
    }

    #[test]
    fn bearer_and_basic_are_accepted() {
        let made = NewKey::make().unwrap();
        let catalog = catalog(1, &[key(ROOT_KEY_ID, ROOT_TEXT, vec![Scope::Admin]), key(&made.id, &made.text, vec![])]);
        assert_eq!(code(&format!("Bearer {ROOT_TEXT}"), &catalog), Ok(ROOT_KEY_ID.into()));
        assert_eq!(code(&format!("bearer {}", made.text), &catalog), Ok(made.id.clone()));
        let basic = BASE64.encode(format!("{}:", made.text));
        assert_eq!(code(&format!("Basic {basic}"), &catalog), Ok(made.id));
    }

    #[test]
    fn whatever_is_no_valid_key_is_unauthenticated() {
        let made = NewKey::make().unwrap();
        let other = NewKey::make().unwrap();
        let catalog = catalog(1, &[key(ROOT_KEY_ID, ROOT_TEXT, vec![Scope::Admin]), key(&made.id, &made.text, vec![])]);
        let with_password = BASE64.encode(format!("{ROOT_TEXT}:secret"));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer lk_nonsense",
            "Digest abc",
            "Basic !!!",
            ROOT_TEXT,
            &format!("Bearer {ROOT_TEXT}x"),
            &format!("Bearer {}x", made.text),
            &format!("Bearer {}", other.text),
            &format!("Basic {with_password}"),
        ] {
            assert_eq!(code(wrong, &catalog), Err(ErrorCode::Unauthenticated), "{wrong}");
        }
        let mut twice = headers(&format!("Bearer {ROOT_TEXT}"));
        twice.append(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        assert!(AuthCache::default().authenticate(&twice, &catalog).is_err());
        assert!(AuthCache::default().authenticate(&HeaderMap::new(), &catalog).is_err());
    }

    #[test]
    fn a_root_key_may_look_like_one_of_ours() {
        let made = NewKey::make().unwrap();
        let catalog = catalog(1, &[key(ROOT_KEY_ID, &made.text, vec![Scope::Admin])]);
        assert_eq!(code(&format!("Bearer {}", made.text), &catalog), Ok(ROOT_KEY_ID.into()));
        let broken = "lk_looks_like_one_of_ours_but_was_chosen";
        let catalog = self::catalog(1, &[key(ROOT_KEY_ID, broken, vec![Scope::Admin])]);
        assert_eq!(code(&format!("Bearer {broken}"), &catalog), Ok(ROOT_KEY_ID.into()));
    }

    #[test]
    fn a_revoked_key_is_forgotten_with_the_next_catalog() {
        let made = NewKey::make().unwrap();
        let made_key = key(&made.id, &made.text, vec![Scope::Read(None)]);
        let cache = AuthCache::default();
        let headers = headers(&format!("Bearer {}", made.text));
        let before = cache.authenticate(&headers, &catalog(1, &[Arc::clone(&made_key)])).unwrap();
        let kept = cache.authenticate(&headers, &catalog(2, &[made_key])).unwrap();
        assert!(Rc::ptr_eq(&before, &kept));
        assert!(cache.authenticate(&headers, &catalog(3, &[])).is_err());
    }

    #[test]
    fn another_key_on_the_same_connection_is_checked_afresh() {
        let (one, two) = (NewKey::make().unwrap(), NewKey::make().unwrap());
        let catalog = catalog(1, &[key(&one.id, &one.text, vec![]), key(&two.id, &two.text, vec![])]);
        let cache = AuthCache::default();
        let id = |text: &str| cache.authenticate(&headers(&format!("Bearer {text}")), &catalog).unwrap().key.id.clone();
        assert_eq!([id(&one.text), id(&two.text), id(&one.text)], [one.id.clone(), two.id, one.id]);
    }

    #[test]
    fn scopes_allow_what_they_name_and_nothing_else() {
        let people = || Some(CollectionName::new("people").unwrap());
        let needs = [
            Need::Read("people"),
            Need::Read("other"),
            Need::Write("people"),
            Need::Write("other"),
            Need::Describe("people"),
            Need::Describe("other"),
            Need::Admin,
        ];
        for (scope, expected) in [
            (Scope::Admin, "1111111"),
            (Scope::Read(None), "1100110"),
            (Scope::Read(people()), "1000100"),
            (Scope::Write(None), "0011110"),
            (Scope::Write(people()), "0010100"),
        ] {
            let principal = Principal { key: key("k", "t", vec![scope.clone()]) };
            let found: String = needs.iter().map(|need| if principal.may(*need) { '1' } else { '0' }).collect();
            assert_eq!(found, expected, "{scope:?}");
            assert_eq!(principal.require(Need::Admin).is_ok(), scope == Scope::Admin);
        }
    }
}
