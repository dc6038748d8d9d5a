//! Answers, and the faults that become some. Their bodies are like those of the server.

use std::borrow::Cow;

use bytes::Bytes;
use http_body_util::Full;
use hyper::StatusCode;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use larder_types::error::ErrorBody;
use serde::Serialize;

/// What every request gets.
pub(super) type Answer = hyper::Response<Full<Bytes>>;

/// What is wrong, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    InvalidRequest,
    Unauthenticated,
    Forbidden,
    RouteNotFound,
    SyncNotFound,
    RunNotFound,
    MethodNotAllowed,
    RequestTimeout,
    Conflict,
    PayloadTooLarge,
    UnsupportedMediaType,
    Internal,
    Draining,
    NotReady,
}

impl Kind {
    /// Status, code, and a title that is the same for every fault of the kind.
    fn parts(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::InvalidRequest => (400, "invalid_request", "The request is not valid"),
            Self::Unauthenticated => (401, "unauthenticated", "A valid token is needed"),
            Self::Forbidden => (403, "forbidden", "The token does not allow this"),
            Self::RouteNotFound => (404, "route_not_found", "There is no such path"),
            Self::SyncNotFound => (404, "sync_not_found", "The project has no such sync"),
            Self::RunNotFound => (404, "run_not_found", "There is no such run"),
            Self::MethodNotAllowed => (405, "method_not_allowed", "The path does not take this method"),
            Self::RequestTimeout => (408, "request_timeout", "The request did not arrive in time"),
            Self::Conflict => (409, "conflict", "The request conflicts with what exists"),
            Self::PayloadTooLarge => (413, "payload_too_large", "The body is too large"),
            Self::UnsupportedMediaType => (415, "unsupported_media_type", "The body's media type is not supported"),
            Self::Internal => (500, "internal", "The loader has a fault"),
            Self::Draining => (503, "draining", "The loader is shutting down"),
            Self::NotReady => (503, "not_ready", "The loader is not ready"),
        }
    }
}

/// Why a request is not carried out.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    message: Cow<'static, str>,
    allow: Option<&'static str>,
}

impl Fault {
    pub(super) fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), allow: None }
    }

    pub(super) fn method(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::new(Kind::MethodNotAllowed, format!("this path takes {allow}")) }
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn into_answer(self, request_id: &str) -> Answer {
        let (status, code, title) = self.kind.parts();
        let body = ErrorBody {
            kind: format!("/docs/errors#{code}"),
            title: title.to_owned(),
            status,
            code: code.to_owned(),
            message: self.message.into_owned(),
            details: serde_json::json!({}),
            request_id: request_id.to_owned(),
        };
        let mut answer = json(status, &body);
        let headers = answer.headers_mut();
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if status == 503 {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        if self.kind == Kind::Unauthenticated {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"larder-loader\""));
        }
        answer
    }
}

/// An answer with metrics, not to be kept by caches.
pub(super) fn metrics(text: String) -> Answer {
    let mut answer = Answer::new(Full::new(text.into()));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// An answer with this JSON body, not to be kept by caches.
pub(super) fn json(status: u16, body: &impl Serialize) -> Answer {
    // Our own answers have no maps with odd keys and no failing serialisers, so an empty body cannot come of this.
    let bytes = serde_json::to_vec(body).unwrap_or_default();
    let mut answer = Answer::new(Full::new(bytes.into()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
