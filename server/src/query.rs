//! Query strings: every parameter is known or the request is refused.

use std::borrow::Cow;

use crate::error::ApiError;
use crate::router::decode;

/// Names under which clients of other systems send keys. A URL ends up in logs and histories, so keys in it are refused.
const KEY_NAMES: [&str; 7] = ["key", "api_key", "apikey", "api-key", "token", "access_token", "authorization"];

/// The parameters of a query string, in order: `+` is a blank, escapes are decoded.
///
/// # Errors
/// `invalid_request` for a parameter that is not among the `allowed` or is given twice, `invalid_encoding` for a bad
/// escape.
pub(crate) fn parse<'q>(query: Option<&'q str>, allowed: &[&str]) -> Result<Vec<(&'q str, Cow<'q, str>)>, ApiError> {
    let mut found: Vec<(&str, Cow<'_, str>)> = Vec::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, raw) = pair.split_once('=').unwrap_or((pair, ""));
        if !allowed.contains(&name) {
            return Err(unknown(name, allowed));
        }
        if found.iter().any(|(other, _)| *other == name) {
            return Err(ApiError::invalid(format!("the query parameter `{name}` is given twice")));
        }
        let value =
            if raw.contains('+') { Cow::Owned(decode(&raw.replace('+', " "))?.into_owned()) } else { decode(raw)? };
        found.push((name, value));
    }
    Ok(found)
}

/// Refuses any query string on a route that takes none.
pub(crate) fn none(query: Option<&str>) -> Result<(), ApiError> {
    parse(query, &[]).map(drop)
}

fn unknown(name: &str, allowed: &[&str]) -> ApiError {
    if KEY_NAMES.iter().any(|key| name.eq_ignore_ascii_case(key)) {
        return ApiError::invalid("API keys are refused in the query string: send `Authorization: Bearer <key>`");
    }
    // Something long is no misspelt name, and may be a value that was not escaped.
    let shown = if name.len() <= 64 { name } else { "…" };
    let known = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
    ApiError::invalid(format!("unknown query parameter `{shown}`; known here: {known}"))
}

/// `offset` and `limit` of a list: from 0, and 100 if not given, 1000 at most.
pub(crate) fn page(query: Option<&str>) -> Result<(usize, usize), ApiError> {
    const MAX_LIMIT: usize = 1000;
    let (mut offset, mut limit) = (0, 100);
    for (name, value) in parse(query, &["offset", "limit"])? {
        let number: usize = value.parse().map_err(|_| ApiError::invalid(format!("`{name}` must be a whole number")))?;
        match name {
            "offset" => offset = number,
            _ if (1..=MAX_LIMIT).contains(&number) => limit = number,
            _ => return Err(ApiError::invalid(format!("`limit` must be from 1 to {MAX_LIMIT}"))),
        }
    }
    Ok((offset, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_parameters_are_decoded() {
        let found = parse(Some("fields=a%2Cb+c&&x"), &["fields", "x"]).unwrap();
        assert_eq!(found, [("fields", Cow::from("a,b c")), ("x", Cow::from(""))]);
        assert!(parse(None, &[]).unwrap().is_empty());
    }

    #[test]
    fn unknown_and_repeated_parameters_are_named() {
        let unknown = parse(Some("fields=a&max=1"), &["fields"]).unwrap_err();
        assert!(unknown.message().contains("`max`"), "{}", unknown.message());
        let twice = parse(Some("fields=a&fields=b"), &["fields"]).unwrap_err();
        assert!(twice.message().contains("twice"), "{}", twice.message());
        assert!(parse(Some("fields=%zz"), &["fields"]).is_err());
    }

    #[test]
    fn keys_in_the_query_are_refused_and_not_repeated() {
        for query in ["key=lk_secret", "API_KEY=lk_secret", "token=lk_secret"] {
            let error = none(Some(query)).unwrap_err();
            assert!(error.message().contains("Authorization"), "{}", error.message());
            assert!(!error.message().contains("lk_secret"));
        }
    }

    #[test]
    fn pages_have_bounds() {
        assert_eq!(page(None).unwrap(), (0, 100));
        assert_eq!(page(Some("limit=1000&offset=5")).unwrap(), (5, 1000));
        for bad in ["limit=0", "limit=1001", "offset=-1", "limit=x", "page=2"] {
            assert!(page(Some(bad)).is_err(), "{bad}");
        }
    }
}
