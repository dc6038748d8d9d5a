//! Answers.

use bytes::Bytes;
use http_body_util::Full;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use serde::Serialize;

/// What every handler makes.
pub(crate) type Response = hyper::Response<Full<Bytes>>;

/// The media type of all bodies.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// An answer with this JSON body, not to be kept by caches.
pub(crate) fn json(status: u16, body: &impl Serialize) -> Response {
    // Our own answers have no maps with odd keys and no failing serialisers, so an empty body cannot come of this.
    let bytes = serde_json::to_vec(body).unwrap_or_default();
    let mut response = with_status(status, Bytes::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    response
}

/// An answer without a body.
pub(crate) fn empty(status: u16) -> Response {
    with_status(status, Bytes::new())
}

/// An answer with this body and no headers yet.
pub(crate) fn with_status(status: u16, body: Bytes) -> Response {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}
