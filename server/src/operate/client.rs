//! A client for orders: one request at a time, each on a connection of its own.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use larder_types::cluster::ClusterStatus;
use larder_types::error::ErrorBody;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;

/// How long a node may take to answer; orders wait for a majority.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL cannot be asked.
    #[error("`{0}` cannot be asked: give a node's own address as `http://host:port`, without TLS and without a path")]
    Url(String),
    /// There is no connection.
    #[error("cannot connect to {0}: {1}")]
    Connect(String, std::io::Error),
    /// The connection failed.
    #[error("{0} did not answer: {1}")]
    Broken(String, String),
    /// The node refused.
    #[error("{message} ({code}, status {status})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The word for programs.
        code: String,
        /// The sentence for people.
        message: String,
    },
    /// The answer is not from a node of this kind.
    #[error("{0} answered something else than a node does: {1}")]
    Answer(String, String),
}

/// Asks one node.
pub(crate) struct Client {
    authority: String,
    key: String,
}

impl Client {
    /// Asks the node at this URL with this key.
    ///
    /// # Errors
    /// `Url`.
    pub(crate) fn new(url: &str, key: String) -> Result<Self, ClientError> {
        let bad = || ClientError::Url(url.to_owned());
        let authority = url.strip_prefix("http://").ok_or_else(bad)?.trim_end_matches('/');
        if authority.is_empty() || authority.contains(['/', '?', '#', '@', ' ']) {
            return Err(bad());
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Self { authority, key })
    }

    /// How the cluster is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub(crate) async fn status(&self) -> Result<ClusterStatus, ClientError> {
        self.read(&self.ask(Method::GET, "/v1/cluster", None).await?)
    }

    /// Whether the node answers for what is placed on it.
    pub(crate) async fn is_ready(&self) -> bool {
        self.ask(Method::GET, "/readyz", None).await.is_ok()
    }

    /// Sends a request and returns the answer's body.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Bytes, ClientError> {
        let late = |_| ClientError::Broken(self.authority.clone(), "it takes too long".to_owned());
        tokio::time::timeout(PATIENCE, self.send(method, path, body)).await.map_err(late)?
    }

    /// Sends an order, again while the answer is 503: the cluster may be electing a leader, and orders may be repeated.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub(crate) async fn order(&self, path: &str, body: Option<&Value>) -> Result<Bytes, ClientError> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.ask(Method::POST, path, body).await {
                Err(ClientError::Refused { status: 503, .. }) if Instant::now() < until => {
                    tokio::time::sleep(PAUSE).await;
                }
                result => return result,
            }
        }
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// `Answer`.
    pub(crate) fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| ClientError::Answer(self.authority.clone(), error.to_string()))
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Bytes, ClientError> {
        let broken = |error: hyper::Error| ClientError::Broken(self.authority.clone(), error.to_string());
        let stream = TcpStream::connect(&self.authority).await;
        let stream = stream.map_err(|error| ClientError::Connect(self.authority.clone(), error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.authority)
            .header(AUTHORIZATION, format!("Bearer {}", self.key))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()))))
            .map_err(|_| {
                ClientError::Broken("the API key".to_owned(), "it holds characters that no key has".to_owned())
            })?;
        // The connection does the work of the request; it ends with the answer.
        let answer = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let (head, body) = response.into_parts();
            Ok((head.status.as_u16(), body.collect().await.map_err(broken)?.to_bytes()))
        };
        let connection = async {
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        let (status, body) = tokio::select! {
            answer = answer => answer?,
            () = connection => return Err(ClientError::Broken(self.authority.clone(), "it closed the connection".to_owned())),
        };
        if (200..300).contains(&status) {
            return Ok(body);
        }
        let refusal: ErrorBody = self.read(&body)?;
        Err(ClientError::Refused { status, code: refusal.code, message: refusal.message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_addresses_are_asked() {
        for (url, authority) in [("http://a:1", "a:1"), ("http://a:1/", "a:1"), ("http://10.0.0.1", "10.0.0.1:80")] {
            assert_eq!(Client::new(url, String::new()).unwrap().authority, authority);
        }
        for bad in ["https://a:1", "a:1", "http://", "http://a/b", "http://u@a"] {
            assert!(Client::new(bad, String::new()).is_err(), "{bad}");
        }
    }
}
