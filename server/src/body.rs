//! Reading request bodies under a cap and a deadline.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::HeaderMap;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use larder_types::error::ErrorCode;
use serde::de::DeserializeOwned;

use crate::config::Limits;
use crate::error::ApiError;

/// Memory that a body gets before any of it has arrived, whatever length it claims.
const FIRST_CAPACITY: usize = 1 << 20;

/// Reads a whole body.
///
/// # Errors
/// `payload_too_large` beyond `most` bytes, without reading further; `request_timeout` when it does not arrive in time;
/// `invalid_request` when it breaks off.
pub(crate) async fn collect(mut body: Incoming, most: usize, within: Duration) -> Result<Vec<u8>, ApiError> {
    let claimed = body.size_hint().lower();
    if claimed > most as u64 {
        return Err(too_large(most));
    }
    let read = async {
        let mut bytes = Vec::with_capacity(usize::try_from(claimed).unwrap_or(most).min(FIRST_CAPACITY));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| ApiError::invalid("the body breaks off before its end"))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > most {
                return Err(too_large(most));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    };
    let late = |_| ApiError::new(ErrorCode::RequestTimeout, "the body did not arrive in time");
    tokio::time::timeout(within, read).await.map_err(late)?
}

/// Reads a body that describes something in JSON. An empty body counts as `{}`.
///
/// # Errors
/// Those of [`collect`], `unsupported_media_type` for anything but JSON, `invalid_request` for what is not JSON or has
/// unknown members.
pub(crate) async fn json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Incoming,
    limits: &Limits,
) -> Result<T, ApiError> {
    let bytes = json_bytes(headers, body, limits).await?;
    serde_json::from_slice(&bytes).map_err(|e| ApiError::invalid(format!("the body is not as it should be: {e}")))
}

/// The bytes of a body that should be JSON. An empty body is returned as `{}`.
///
/// # Errors
/// Those of [`collect`], `unsupported_media_type`, and `invalid_request` for anything but an object.
pub(crate) async fn json_bytes(headers: &HeaderMap, body: Incoming, limits: &Limits) -> Result<Vec<u8>, ApiError> {
    if !matches!(media_type(headers).as_deref(), None | Some("application/json")) {
        return Err(ApiError::new(ErrorCode::UnsupportedMediaType, "send the body as application/json"));
    }
    if !matches!(token(headers, &CONTENT_ENCODING).as_deref(), None | Some("identity")) {
        return Err(ApiError::new(ErrorCode::UnsupportedMediaType, "send the body without Content-Encoding"));
    }
    let bytes = collect(body, limits.json_body_bytes, limits.body_timeout).await?;
    if bytes.is_empty() {
        return Ok(b"{}".to_vec());
    }
    // Said here, because serde would take a list for an object, its items for members in the order of declaration.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::invalid("the body must be a JSON object"));
    }
    Ok(bytes)
}

/// The media type of the body in lower case, without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = token(headers, &CONTENT_TYPE)?;
    Some(value.split(';').next().unwrap_or_default().trim().to_owned())
}

/// A header's value in lower case. One that is no text, or sent twice, becomes a value that nothing matches.
pub(crate) fn token(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    match (value.to_str(), values.next()) {
        (Ok(text), None) => Some(text.trim().to_ascii_lowercase()),
        _ => Some("?".to_owned()),
    }
}

fn too_large(most: usize) -> ApiError {
    ApiError::new(ErrorCode::PayloadTooLarge, format!("the body may have {most} bytes at most"))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn media_types_lose_case_and_parameters() {
        let mut headers = HeaderMap::new();
        assert_eq!(media_type(&headers), None);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("Application/JSON; charset=utf-8"));
        assert_eq!(media_type(&headers).as_deref(), Some("application/json"));
        headers.append(CONTENT_TYPE, HeaderValue::from_static("text/csv"));
        assert_eq!(media_type(&headers).as_deref(), Some("?"));
    }
}
