//! The admin listener: what is for the operator's network alone, asked for without an API key. Today `/metrics`.
//!
//! It has an address of its own, so that a firewall or a bind to loopback decides who may ask, and runs on the node's
//! runtime, so that nothing asked here takes time from lookups.
//!
//! Invariants: few connections at a time, each for one request and a bounded time; further ones wait in the kernel.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use larder_types::error::ErrorCode;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::error::ApiError;
use crate::listener::{PAUSE, is_of_one_connection};
use crate::metrics::{Metrics, TEXT};
use crate::reply::{self, Response};

/// Connections that are served at once: a few scrapers, and a person who looks.
const CONNECTIONS: usize = 16;
/// How long a connection may take, request and answer together.
const DEADLINE: Duration = Duration::from_secs(30);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;
/// Requests here are not told apart: nothing that they do is logged.
const NO_ID: HeaderValue = HeaderValue::from_static("not-assigned");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// A socket that is bound and not served yet.
pub struct AdminListener {
    address: SocketAddr,
    socket: std::net::TcpListener,
}

/// The running listener. Dropping it ends it.
pub struct Admin {
    task: JoinHandle<()>,
}

impl AdminListener {
    /// Binds an address.
    ///
    /// # Errors
    /// When the address is in use or not ours.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = std::net::TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(Self { address: socket.local_addr()?, socket })
    }

    /// The address, with the port that was given for port 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves on the node's runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch the socket.
    pub fn serve(self, metrics: Metrics, runtime: &Handle) -> io::Result<Admin> {
        let _context = runtime.enter();
        let listener = TcpListener::from_std(self.socket)?;
        Ok(Admin { task: runtime.spawn(run(listener, metrics)) })
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(listener: TcpListener, metrics: Metrics) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut pause = PAUSE.0;
    // Nobody closes the semaphore.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                pause = PAUSE.0;
                let serving = serve(stream, metrics.clone());
                tokio::spawn(async move {
                    // A connection that takes too long is cut off; there is nobody to tell.
                    let _ = tokio::time::timeout(DEADLINE, serving).await;
                    drop(place);
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "the admin listener cannot accept connections; pausing for {pause:?}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

async fn serve(stream: TcpStream, metrics: Metrics) {
    let service = service_fn(|request: Request<Incoming>| {
        let metrics = metrics.clone();
        async move {
            Ok::<_, Infallible>(answer(&request, metrics).await.unwrap_or_else(|error| error.into_response(&NO_ID)))
        }
    });
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).keep_alive(false).max_header_size(HEAD_BYTES).max_buf_size(HEAD_BYTES);
    // Errors of the connection are the client's doing.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: &Request<Incoming>, metrics: Metrics) -> Result<Response, ApiError> {
    if request.uri().path() != "/metrics" {
        return Err(ApiError::new(ErrorCode::RouteNotFound, "the admin listener serves /metrics"));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::method("GET, HEAD"));
    }
    let rendered = tokio::task::spawn_blocking(move || metrics.render()).await;
    let text = rendered.map_err(|_| ApiError::new(ErrorCode::Draining, "the node is stopping"))?;
    let mut response = reply::with_status(200, Bytes::from(text));
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    Ok(response)
}
