//! Connections: accepting, limits, and the way from a request to its answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::answer::{Answer, Fault, Kind};
use super::api;
use super::daemon::Daemon;

/// A few callers and a few scrapers; whoever comes beyond waits in the kernel's queue.
const MAX_CONNECTIONS: usize = 256;
const MAX_HEADER: usize = 16 * 1024;
/// Bodies are two words of JSON.
const MAX_BODY: usize = 16 * 1024;
/// For the head of a request, which also bounds how long a connection may be idle.
const HEADER_WITHIN: Duration = Duration::from_secs(30);
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// For a connection as a whole, so that one that does not read its answers goes away too.
const CONNECTION_WITHIN: Duration = Duration::from_secs(600);
/// After an error of the listener, for example when the process has no descriptors left.
const PAUSE: Duration = Duration::from_millis(200);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID: usize = 128;

/// Accepts and serves connections until it is dropped.
pub(super) async fn serve(listener: TcpListener, daemon: Arc<Daemon>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let daemon = Arc::clone(&daemon);
                tokio::spawn(async move {
                    // Deadlines and broken connections are the caller's doing.
                    drop(tokio::time::timeout(CONNECTION_WITHIN, connection(stream, daemon)).await);
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections; pausing");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, daemon: Arc<Daemon>) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| {
        let daemon = Arc::clone(&daemon);
        async move { Ok::<_, Infallible>(handle(daemon, request).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WITHIN)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn handle(daemon: Arc<Daemon>, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let id = request_id(&head.headers);
    let answer = async {
        let bytes = collect(body).await?;
        if !bytes.is_empty() && !is_json(&head.headers) {
            return Err(Fault::new(Kind::UnsupportedMediaType, "send the body as application/json"));
        }
        // Whatever is asked needs the database, which blocks.
        let asked = tokio::task::spawn_blocking(move || api::answer(&daemon, &head, &bytes));
        asked.await.unwrap_or_else(|_| Err(Fault::new(Kind::Internal, "the request could not be carried out")))
    };
    let mut answer = answer.await.unwrap_or_else(|fault| {
        if fault.kind == Kind::Internal {
            tracing::error!(request_id = id, "{}", fault.message());
        }
        fault.into_answer(&id)
    });
    if let Ok(id) = HeaderValue::from_str(&id) {
        answer.headers_mut().insert(REQUEST_ID, id);
    }
    answer
}

async fn collect(mut body: Incoming) -> Result<Bytes, Fault> {
    let too_large = || Fault::new(Kind::PayloadTooLarge, format!("the body may have {MAX_BODY} bytes at most"));
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    let read = async {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Fault::new(Kind::InvalidRequest, "the body breaks off before its end"))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > MAX_BODY {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.into())
    };
    let late = |_| Fault::new(Kind::RequestTimeout, "the body did not arrive in time");
    tokio::time::timeout(BODY_WITHIN, read).await.map_err(late)?
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return true };
    let media_type = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

/// The caller's own id if it sends a fit one, else one made here.
fn request_id(headers: &HeaderMap) -> String {
    let fit = |id: &&str| {
        let is_safe = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(&b);
        (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(is_safe)
    };
    let sent = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(fit);
    sent.map_or_else(|| format!("{:016x}", crate::push::retry::random()), str::to_owned)
}
