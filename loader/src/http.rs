//! HTTP clients: the one place that makes them, so that every request has time limits and verifies whom it talks to.
//!
//! TLS is rustls with ring. Whom to trust is what the machine trusts (its store of CA certificates), or one PEM file in
//! its place. No client follows redirects: what it sends is meant for one address.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, AlertDescription, ClientConfig, RootCertStore};

use crate::project::TlsFiles;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What kind of client is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HttpOptions<'a> {
    /// For `https` addresses; a client without can only talk in the clear.
    pub(crate) tls: Option<&'a TlsFiles>,
    /// From the first byte of a request to the last of its answer, unless the request says otherwise.
    pub(crate) timeout: Duration,
    /// Whether `HTTPS_PROXY` and the like count. They are meant for the web, not for one's own machines.
    pub(crate) proxy: bool,
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// A file cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, #[source] pem::Error),
    /// There is nothing in it.
    #[error("{0} holds no certificate: it must hold at least one, as PEM")]
    Empty(PathBuf),
    /// A CA certificate is none.
    #[error("the CA certificates {0} cannot be used: {1}")]
    Ca(PathBuf, #[source] rustls::Error),
    /// The machine trusts nobody.
    #[error(
        "this machine has no CA certificates to verify servers by ({0}); install them (package `ca-certificates`), or \
         name a file of them with `ca`"
    )]
    NoRoots(String),
    /// Certificate and key do not fit, or are of a kind that is not supported.
    #[error("the certificate {0} and its key cannot be used: {1}")]
    Certificate(PathBuf, #[source] rustls::Error),
    /// The provider and the versions do not fit, or the machine gave no sockets.
    #[error("the HTTP client failed: {0}")]
    Client(String),
}

/// Makes a client. Reads the files, so blocking.
///
/// # Errors
/// When a file cannot be read or used.
pub(crate) fn client(options: &HttpOptions<'_>) -> Result<reqwest::Client, HttpError> {
    let builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(options.timeout)
        .redirect(redirect::Policy::none())
        .tcp_nodelay(true)
        .tls_backend_preconfigured(tls(options.tls)?)
        .user_agent(concat!("larder-loader/", env!("CARGO_PKG_VERSION")));
    let builder = if options.proxy { builder } else { builder.no_proxy() };
    builder.build().map_err(|error| HttpError::Client(error.to_string()))
}

/// The innermost reason: `connection refused` and not the layers around it, which would name the whole address.
pub(crate) fn reason(error: &reqwest::Error) -> String {
    let mut source: &dyn StdError = error;
    while let Some(inner) = source.source() {
        source = inner;
    }
    if error.is_timeout() { format!("no answer in time ({source})") } else { source.to_string() }
}

/// Tells whether a request failed because one side does not accept the other, which no repetition changes.
pub(crate) fn is_distrust(error: &reqwest::Error) -> bool {
    let mut next: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(inner) = next {
        if let Some(error) = inner.downcast_ref::<rustls::Error>() {
            return match error {
                rustls::Error::InvalidCertificate(_)
                | rustls::Error::NoCertificatesPresented
                | rustls::Error::PeerIncompatible(_)
                | rustls::Error::InvalidMessage(_) => true,
                rustls::Error::AlertReceived(alert) => *alert != AlertDescription::InternalError,
                _ => false,
            };
        }
        // An error of a socket hides what it wraps: its own source is that of the wrapped one.
        let wrapped = inner.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map_or_else(|| inner.source(), |wrapped| Some(wrapped));
    }
    false
}

fn tls(files: Option<&TlsFiles>) -> Result<ClientConfig, HttpError> {
    let roots = match files {
        None => RootCertStore::empty(),
        Some(TlsFiles { ca: Some(ca), .. }) => roots_of_file(ca)?,
        Some(_) => roots_of_machine()?,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| HttpError::Client(error.to_string()))?
        .with_root_certificates(roots);
    let Some(own) = files.and_then(|files| files.client.as_ref()) else {
        return Ok(config.with_no_client_auth());
    };
    let key = PrivateKeyDer::from_pem_file(&own.key).map_err(|error| HttpError::Read(own.key.clone(), error))?;
    let config = config.with_client_auth_cert(certificates(&own.certificate)?, key);
    config.map_err(|error| HttpError::Certificate(own.certificate.clone(), error))
}

fn roots_of_file(ca: &Path) -> Result<RootCertStore, HttpError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| HttpError::Ca(ca.to_path_buf(), error))?;
    }
    Ok(roots)
}

/// What the machine trusts. Certificates in its store that nothing can be verified by are left out, as all do.
fn roots_of_machine() -> Result<RootCertStore, HttpError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reason = found.errors.first().map_or_else(|| "its store is empty".to_owned(), ToString::to_string);
        return Err(HttpError::NoRoots(reason));
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, HttpError> {
    let read = |error| HttpError::Read(file.to_path_buf(), error);
    let all: Vec<_> = CertificateDer::pem_file_iter(file).map_err(read)?.collect::<Result<_, _>>().map_err(read)?;
    if all.is_empty() { Err(HttpError::Empty(file.to_path_buf())) } else { Ok(all) }
}

#[cfg(test)]
mod tests;
