//! The form in which questions of clients and their answers go between nodes.
//!
//! A question is a byte for the version of this form, a byte for its kind, and the milliseconds within which it is to be
//! answered; then, for a lookup, the version of definitions, the target, and the headers that matter, each by its place in
//! [`Question::HEADERS`]; for numbers, JSON. An answer is a byte for its kind, then an HTTP answer's status, headers and
//! body, or JSON. Numbers are little-endian; texts come with their length before them.

use std::time::Duration;

use bytes::{Buf, BufMut as _, Bytes};
use http_body_util::BodyExt as _;
use hyper::Uri;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use larder_types::error::ErrorCode;
use serde::{Deserialize, Serialize};

use crate::error::ApiError;
use crate::fetch::Question;
use crate::numbers;
use crate::reply::{self, Response};

const VERSION: u8 = 1;
const LOOKUP: u8 = 1;
const MEASURE: u8 = 2;
const RESPONSE: u8 = 1;
const NUMBERS: u8 = 2;
const REFUSAL: u8 = 3;

/// What a node asks of another in the place of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// A lookup.
    Lookup(Question),
    /// Numbers of collections.
    Measure(numbers::Question),
}

/// What it is answered.
pub(crate) enum Answer {
    /// To a lookup.
    Response(Response),
    /// To a question for numbers.
    Numbers(numbers::Answer),
}

impl Answer {
    /// The answer to a lookup.
    pub(crate) fn into_response(self) -> Result<Response, ApiError> {
        match self {
            Self::Response(response) => Ok(response),
            Self::Numbers(_) => Err(unreadable()),
        }
    }

    /// The answer to a question for numbers.
    pub(crate) fn into_numbers(self) -> Result<numbers::Answer, ApiError> {
        match self {
            Self::Numbers(numbers) => Ok(numbers),
            Self::Response(_) => Err(unreadable()),
        }
    }
}

/// An error on its way between nodes.
#[derive(Serialize, Deserialize)]
struct Refusal {
    code: ErrorCode,
    message: String,
    details: Option<serde_json::Value>,
}

/// A question that is to be answered within a time.
pub(crate) fn encode(message: &Message, within: Duration) -> Bytes {
    let mut out = vec![VERSION];
    out.push(match message {
        Message::Lookup(_) => LOOKUP,
        Message::Measure(_) => MEASURE,
    });
    out.put_u32_le(u32::try_from(within.as_millis()).unwrap_or(u32::MAX));
    match message {
        Message::Lookup(question) => {
            out.put_u64_le(question.definitions);
            put(question.target.path_and_query().map_or("/", |target| target.as_str()).as_bytes(), &mut out);
            for (place, name) in (0u8..).zip(&Question::HEADERS) {
                for value in question.headers.get_all(name) {
                    out.push(place);
                    put(value.as_bytes(), &mut out);
                }
            }
        }
        Message::Measure(question) => json(question, &mut out),
    }
    out.into()
}

/// Reads a question and the time within which it is to be answered.
///
/// # Errors
/// `internal` when it was written by another version.
pub(crate) fn decode(bytes: Bytes) -> Result<(Message, Duration), ApiError> {
    read(bytes).ok_or_else(unreadable)
}

fn read(mut bytes: Bytes) -> Option<(Message, Duration)> {
    if bytes.try_get_u8().ok()? != VERSION {
        return None;
    }
    let kind = bytes.try_get_u8().ok()?;
    let within = Duration::from_millis(bytes.try_get_u32_le().ok()?.into());
    let message = match kind {
        LOOKUP => {
            let definitions = bytes.try_get_u64_le().ok()?;
            let target = Uri::from_maybe_shared(take(&mut bytes)?).ok()?;
            let (names, mut headers) = (Question::HEADERS, HeaderMap::new());
            while bytes.has_remaining() {
                let name = names.get(usize::from(bytes.get_u8()))?;
                headers.append(name.clone(), HeaderValue::from_maybe_shared(take(&mut bytes)?).ok()?);
            }
            Message::Lookup(Question { target, headers, definitions })
        }
        MEASURE => Message::Measure(serde_json::from_slice(&bytes).ok()?),
        _ => return None,
    };
    Some((message, within))
}

/// The bytes of an answer.
pub(crate) async fn encode_answer(answer: Result<Answer, ApiError>) -> Bytes {
    let mut out = Vec::new();
    match answer {
        Ok(Answer::Response(response)) => {
            let (head, body) = response.into_parts();
            out.push(RESPONSE);
            out.put_u16_le(head.status.as_u16());
            out.put_u16_le(u16::try_from(head.headers.len()).unwrap_or(u16::MAX));
            for (name, value) in &head.headers {
                put(name.as_str().as_bytes(), &mut out);
                put(value.as_bytes(), &mut out);
            }
            let Ok(body) = body.collect().await;
            out.put(body.to_bytes());
        }
        Ok(Answer::Numbers(numbers)) => {
            out.push(NUMBERS);
            json(&numbers, &mut out);
        }
        Err(error) => {
            out.push(REFUSAL);
            let refusal =
                Refusal { code: error.code, message: error.message().to_owned(), details: error.details().cloned() };
            json(&refusal, &mut out);
        }
    }
    out.into()
}

/// Reads an answer.
///
/// # Errors
/// What the other node refused with; `internal` when the answer was written by another version.
pub(crate) fn decode_answer(mut bytes: Bytes) -> Result<Answer, ApiError> {
    match bytes.try_get_u8() {
        Ok(RESPONSE) => read_response(bytes).map(Answer::Response).ok_or_else(unreadable),
        Ok(NUMBERS) => serde_json::from_slice(&bytes).map(Answer::Numbers).map_err(|_| unreadable()),
        Ok(REFUSAL) => {
            let Refusal { code, message, details } = serde_json::from_slice(&bytes).map_err(|_| unreadable())?;
            let error = ApiError::new(code, message);
            Err(match details {
                Some(details) => error.with_details(details),
                None => error,
            })
        }
        _ => Err(unreadable()),
    }
}

fn read_response(mut bytes: Bytes) -> Option<Response> {
    let status = bytes.try_get_u16_le().ok()?;
    let count = bytes.try_get_u16_le().ok()?;
    let mut headers = HeaderMap::with_capacity(usize::from(count.min(16)));
    for _ in 0..count {
        let name = HeaderName::from_bytes(&take(&mut bytes)?).ok()?;
        headers.append(name, HeaderValue::from_maybe_shared(take(&mut bytes)?).ok()?);
    }
    let mut response = reply::with_status(status, bytes);
    *response.headers_mut() = headers;
    Some(response)
}

fn put(text: &[u8], out: &mut Vec<u8>) {
    // Heads of requests and headers of ours are far shorter.
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    out.put_u32_le(length);
    out.put(&text[..length as usize]);
}

fn take(bytes: &mut Bytes) -> Option<Bytes> {
    let length = bytes.try_get_u32_le().ok()? as usize;
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

fn json(value: &impl Serialize, out: &mut Vec<u8>) {
    // Our own structures have no odd keys; if one could not be written, its reader would say so.
    let _ = serde_json::to_writer(out, value);
}

fn unreadable() -> ApiError {
    ApiError::new(ErrorCode::Internal, "two nodes do not understand each other: run one version on both")
}

#[cfg(test)]
mod tests {
    use larder_types::ids::{CollectionId, ShardId};
    use proptest::prelude::*;

    use super::*;
    use crate::revision::MIN_REVISION;

    fn question() -> Question {
        let mut headers = HeaderMap::new();
        headers.append(MIN_REVISION, HeaderValue::from_static("r1.AA"));
        headers.append(hyper::header::ACCEPT, HeaderValue::from_static("text/html"));
        headers.append(hyper::header::ACCEPT, HeaderValue::from_static("*/*"));
        let target = "/v1/collections/c/records/id/a%2Fb?fields=a".parse().unwrap();
        Question { target, headers, definitions: 7 }
    }

    #[test]
    fn questions_survive() {
        let measure = numbers::Question { collections: vec![CollectionId(3)], shards: vec![ShardId(1), ShardId(9)] };
        for message in [Message::Lookup(question()), Message::Measure(measure)] {
            let bytes = encode(&message, Duration::from_millis(1500));
            assert_eq!(decode(bytes.clone()).unwrap(), (message, Duration::from_millis(1500)));
            let mut newer = bytes.to_vec();
            newer[0] += 1;
            assert!(decode(newer.into()).is_err());
        }
    }

    #[tokio::test]
    async fn answers_survive() {
        let mut response = reply::json(200, &serde_json::json!({"a": 1}));
        response.headers_mut().insert("x-collection-revision", HeaderValue::from_static("r1.AA"));
        let headers = response.headers().clone();
        let bytes = encode_answer(Ok(Answer::Response(response))).await;
        let back = decode_answer(bytes).unwrap().into_response().unwrap();
        assert_eq!((back.status().as_u16(), back.headers()), (200, &headers));
        assert_eq!(back.into_body().collect().await.unwrap().to_bytes(), r#"{"a":1}"#);
        let details = serde_json::json!({"field": "x"});
        let error = ApiError::new(ErrorCode::UnknownField, "no").with_details(details.clone());
        let back = decode_answer(encode_answer(Err(error)).await).err().unwrap();
        assert_eq!((back.code, back.message(), back.details()), (ErrorCode::UnknownField, "no", Some(&details)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), kind in 0u8..4) {
            let _ = decode_answer(Bytes::from(bytes.clone()));
            let mut framed = vec![VERSION, kind];
            framed.extend(bytes);
            let _ = decode(framed.into());
        }
    }
}
