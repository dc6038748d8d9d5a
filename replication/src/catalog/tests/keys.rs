//! API keys: what makes one acceptable, and which cannot be revoked.

use larder_types::api::Scope;
use larder_types::error::ErrorCode;

use super::super::{CatalogCommand, MAX_KEYS, MAX_LABEL_BYTES, MAX_SCOPES};
use super::*;

#[test]
fn keys_are_made_and_revoked() {
    let mut fixture = Fixture::new();
    fixture.ok(CatalogCommand::CreateKey(key("k1")));
    assert_eq!(*fixture.state.catalog().keys["k1"], key("k1"));
    fixture.ok(CatalogCommand::RevokeKey { id: "k1".into() });
    assert!(!fixture.state.catalog().keys.contains_key("k1"));
    fixture.refused(ErrorCode::KeyNotFound, CatalogCommand::RevokeKey { id: "k1".into() });
}

#[test]
fn ids_of_keys_are_unique() {
    let mut fixture = Fixture::new();
    fixture.ok(CatalogCommand::CreateKey(key("k1")));
    fixture.refused(ErrorCode::Conflict, CatalogCommand::CreateKey(key("k1")));
    fixture.refused(ErrorCode::Conflict, CatalogCommand::CreateKey(key("root")));
}

#[test]
fn the_root_key_cannot_be_revoked() {
    let error = Fixture::new().refused(ErrorCode::Conflict, CatalogCommand::RevokeKey { id: "root".into() });
    assert_eq!(error.message, "the root key cannot be revoked");
}

#[test]
fn keys_are_accepted_up_to_their_limits() {
    let mut fixture = Fixture::new();
    let scopes = |count| vec![Scope::Read(None); count];
    let longest = ApiKey { label: "x".repeat(MAX_LABEL_BYTES), scopes: scopes(MAX_SCOPES), ..key("longest") };
    fixture.ok(CatalogCommand::CreateKey(longest));
    for (bad, problems) in [
        (ApiKey { label: "x".repeat(MAX_LABEL_BYTES + 1), ..key("k") }, 1),
        (ApiKey { scopes: scopes(MAX_SCOPES + 1), ..key("k") }, 1),
        (ApiKey { scopes: Vec::new(), ..key("k") }, 1),
        (key(""), 1),
        (ApiKey { label: "x".repeat(MAX_LABEL_BYTES + 1), scopes: Vec::new(), ..key(&"x".repeat(129)) }, 3),
    ] {
        let error = fixture.refused(ErrorCode::ValidationFailed, CatalogCommand::CreateKey(bad));
        assert_eq!(error.details["problems"].as_array().map(Vec::len), Some(problems), "{error}");
    }
}

#[test]
fn a_cluster_takes_up_to_its_limit_of_keys() {
    let mut fixture = Fixture::new();
    for number in 1..MAX_KEYS {
        fixture.ok(CatalogCommand::CreateKey(key(&format!("k{number}"))));
    }
    fixture.refused(ErrorCode::ValidationFailed, CatalogCommand::CreateKey(key("more")));
    fixture.ok(CatalogCommand::RevokeKey { id: "k1".into() });
    fixture.ok(CatalogCommand::CreateKey(key("more")));
}
