//! The one error type of the handlers, and how it becomes an answer.
//!
//! Messages say what is wrong with this request and what to do; they never hold looked-up values or credentials.

use std::borrow::Cow;

use hyper::header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use larder_replication::node::ProposeError;
use larder_types::error::{ErrorBody, ErrorCode};

use crate::reply::{self, Response};

/// The header that names a request.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Seconds after which a request that found no leader or no room in flight is worth repeating.
const SOON: u16 = 1;
/// Seconds after which it is worth asking again whether an operator has made room.
const LATER: u16 = 30;

/// Why a request is not carried out.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) code: ErrorCode,
    message: Cow<'static, str>,
    details: Option<Box<serde_json::Value>>,
    allow: Option<&'static str>,
}

impl ApiError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), details: None, allow: None }
    }

    pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message)
    }

    pub(crate) fn method(allow: &'static str) -> Self {
        let message = format!("this path takes {allow}");
        Self { allow: Some(allow), ..Self::new(ErrorCode::MethodNotAllowed, message) }
    }

    pub(crate) fn with_details(mut self, details: serde_json::Value) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// What a program may read of it, if there is something.
    pub(crate) fn details(&self) -> Option<&serde_json::Value> {
        self.details.as_deref()
    }

    /// The answer. The request's id goes into the body too, because people copy bodies into tickets.
    pub(crate) fn into_response(self, request_id: &HeaderValue) -> Response {
        let status = self.code.status();
        let body = ErrorBody {
            kind: format!("/docs/errors#{}", self.code.as_str()),
            title: self.code.title().to_owned(),
            status,
            code: self.code.as_str().to_owned(),
            message: self.message.into_owned(),
            details: self.details.map_or_else(|| serde_json::json!({}), |details| *details),
            request_id: request_id.to_str().unwrap_or_default().to_owned(),
        };
        let mut response = reply::json(status, &body);
        let headers = response.headers_mut();
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(seconds) = retry_after(self.code) {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == ErrorCode::Unauthenticated {
            headers
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"larder\", Basic realm=\"larder\""));
        }
        response
    }
}

fn retry_after(code: ErrorCode) -> Option<u16> {
    match code.status() {
        503 => Some(SOON),
        507 => Some(LATER),
        _ => None,
    }
}

impl From<ProposeError> for ApiError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Unavailable => Self::new(ErrorCode::ShardUnavailable, "nothing was done; repeat the request"),
            ProposeError::Overloaded => {
                Self::new(ErrorCode::Overloaded, "too many bytes of writes are in flight; nothing was done, repeat it")
            }
            ProposeError::DiskFull => Self::new(
                ErrorCode::DiskFull,
                "the node's disk is full; nothing was done, repeat it when there is room",
            ),
            ProposeError::MemoryLimit { used, usable, max } => Self::new(
                ErrorCode::MemoryLimit,
                format!("{error}; nothing was done, and deletes and clears are still taken"),
            )
            .with_details(serde_json::json!({ "used": used, "usable": usable, "max_memory": max })),
            ProposeError::Unknown => {
                Self::new(ErrorCode::OutcomeUnknown, "the write may or may not have happened; repeat it, that is safe")
            }
            ProposeError::Stopping => Self::new(ErrorCode::Draining, "the node is stopping; repeat the request later"),
            ProposeError::Refused(refusal) => {
                let plain = Self::new(refusal.code, refusal.message);
                if refusal.details.is_null() { plain } else { plain.with_details(refusal.details) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn answers_carry_code_status_and_request_id() {
        let error = ApiError::new(ErrorCode::Overloaded, "busy").with_details(serde_json::json!({"a": 1}));
        let response = error.into_response(&HeaderValue::from_static("r-1"));
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: ErrorBody = serde_json::from_slice(&body).unwrap();
        assert_eq!((body.code.as_str(), body.request_id.as_str()), ("overloaded", "r-1"));
        assert_eq!(body.kind, "/docs/errors#overloaded");
    }

    #[test]
    fn codes_bring_the_headers_that_clients_need() {
        let id = HeaderValue::from_static("r");
        assert!(
            ApiError::new(ErrorCode::Unauthenticated, "").into_response(&id).headers().contains_key(WWW_AUTHENTICATE)
        );
        assert_eq!(ApiError::method("GET, HEAD").into_response(&id).headers()[ALLOW], "GET, HEAD");
        assert!(!ApiError::invalid("").into_response(&id).headers().contains_key(RETRY_AFTER));
    }
}
