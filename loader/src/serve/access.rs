//! Who may use the API: tokens, kept as hashes only.

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::answer::{Fault, Kind};
use crate::project::Project;
use crate::project::serve::TokenScope;

/// The tokens of a project.
pub(super) struct Access(Vec<Known>);

struct Known {
    sha256: [u8; 32],
    scope: TokenScope,
}

impl Access {
    /// The tokens of a project.
    pub(super) fn of(project: &Project) -> Self {
        let known = |token: &crate::project::serve::Token| Known { sha256: hash(&token.token.0), scope: token.scope };
        Self(project.serve.tokens.iter().map(known).collect())
    }

    /// Checks the token of a request.
    ///
    /// # Errors
    /// `unauthenticated` without one that is known, `forbidden` if it does not allow this.
    pub(super) fn check(&self, headers: &HeaderMap, needed: TokenScope) -> Result<(), Fault> {
        if self.0.is_empty() {
            let message =
                "this daemon has no tokens, so its API is closed: give it some under `serve.tokens` in larder.yml";
            return Err(Fault::new(Kind::Unauthenticated, message));
        }
        let mut headers = headers.get_all(AUTHORIZATION).iter();
        let (Some(header), None) = (headers.next(), headers.next()) else {
            return Err(Fault::new(Kind::Unauthenticated, "send a token: `Authorization: Bearer <token>`"));
        };
        let token = header.to_str().ok().and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let token = token
            .ok_or_else(|| Fault::new(Kind::Unauthenticated, "the header Authorization must be `Bearer <token>`"))?;
        let hash = hash(token);
        // Every token is compared, so that time tells neither which one fits nor how far.
        let mut scope = None;
        for known in &self.0 {
            if bool::from(known.sha256.ct_eq(&hash)) {
                scope = Some(known.scope);
            }
        }
        match scope {
            None => Err(Fault::new(Kind::Unauthenticated, "the token is not known")),
            Some(scope) if scope < needed => {
                Err(Fault::new(Kind::Forbidden, "the token may only read; this needs one with `scope: trigger`"))
            }
            Some(_) => Ok(()),
        }
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn access() -> Access {
        let known = |token, scope| Known { sha256: hash(token), scope };
        Access(vec![known("reader-0123456789", TokenScope::Read), known("caller-0123456789", TokenScope::Trigger)])
    }

    fn check(access: &Access, header: &str, needed: TokenScope) -> Result<(), Kind> {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(header).unwrap())]);
        access.check(&headers, needed).map_err(|fault| fault.kind)
    }

    #[test]
    fn tokens_allow_what_their_scope_says() {
        let access = access();
        for (token, read, trigger) in [
            ("Bearer reader-0123456789", Ok(()), Err(Kind::Forbidden)),
            ("bearer caller-0123456789", Ok(()), Ok(())),
            ("Bearer caller-012345678", Err(Kind::Unauthenticated), Err(Kind::Unauthenticated)),
            ("Bearer ", Err(Kind::Unauthenticated), Err(Kind::Unauthenticated)),
            ("Basic caller-0123456789", Err(Kind::Unauthenticated), Err(Kind::Unauthenticated)),
            ("caller-0123456789", Err(Kind::Unauthenticated), Err(Kind::Unauthenticated)),
        ] {
            assert_eq!(check(&access, token, TokenScope::Read), read, "{token}");
            assert_eq!(check(&access, token, TokenScope::Trigger), trigger, "{token}");
        }
        assert!(access.check(&HeaderMap::new(), TokenScope::Read).is_err());
        let mut twice = HeaderMap::new();
        for token in ["Bearer caller-0123456789", "Bearer reader-0123456789"] {
            twice.append(AUTHORIZATION, HeaderValue::from_static(token));
        }
        assert!(access.check(&twice, TokenScope::Read).is_err());
    }

    #[test]
    fn without_tokens_nobody_gets_in() {
        assert_eq!(check(&Access(Vec::new()), "Bearer ", TokenScope::Read), Err(Kind::Unauthenticated));
    }
}
