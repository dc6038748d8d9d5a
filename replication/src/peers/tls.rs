//! Mutual TLS between nodes.
//!
//! What is verified, by both sides alike: the other's certificate chains to one of the CAs in the file, is valid today,
//! and is for the name `larder-node`. The CA signs for this cluster alone, so this means "a node of this cluster"; *which*
//! node it is, is the handshake's matter, and a node that lies about it is outside of what Larder protects against. Host
//! names are not verified: addresses of nodes change, and the name keeps a certificate that the CA made for something
//! else from passing as a node.
//!
//! Only TLS 1.3, without resumption: connections live long, and each is to be verified by the files as they were when
//! the node started.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::rustls::client::{Resumption, verify_server_name};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::error::{Mismatch, Refused};
use super::options::PeerTls;

/// The name that every node's certificate carries.
const NODE_NAME: &str = "larder-node";

/// The first byte of a connection that speaks TLS: a record of its handshake.
pub(super) const HANDSHAKE_RECORD: u8 = 0x16;
/// The first byte of what TLS answers to a caller that does not speak it.
pub(super) const ALERT_RECORD: u8 = 0x15;

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, #[source] pem::Error),
    /// There is nothing in it.
    #[error("{0} holds no certificate: it must hold at least one, as PEM")]
    Empty(PathBuf),
    /// The certificate does not name a node.
    #[error("the certificate {0} is not for the name {NODE_NAME}: sign one whose subject alternative names hold it")]
    Name(PathBuf),
    /// The certificate of the CA is none.
    #[error("the CA certificates {0} cannot be used: {1}")]
    Ca(PathBuf, #[source] rustls::Error),
    /// The CA certificates cannot verify others.
    #[error("the CA certificates {0} cannot be used: {1}")]
    Verifier(PathBuf, #[source] VerifierBuilderError),
    /// Certificate and key do not fit, or are of a kind that is not supported.
    #[error("the certificate {0} and its key cannot be used: {1}")]
    Certificate(PathBuf, #[source] rustls::Error),
}

/// Both sides of TLS.
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// Reads the files.
    pub(super) fn load(files: &PeerTls) -> Result<Self, TlsError> {
        let chain = certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| TlsError::Read(files.key.clone(), error))?;
        let bad_certificate = |error| TlsError::Certificate(files.certificate.clone(), error);
        let name = node_name().map_err(bad_certificate)?;
        if !chain.first().is_some_and(|own| is_for(own, &name)) {
            return Err(TlsError::Name(files.certificate.clone()));
        }
        let mut roots = RootCertStore::empty();
        for ca in certificates(&files.ca)? {
            roots.add(ca).map_err(|error| TlsError::Ca(files.ca.clone(), error))?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build();
        let verifier = verifier.map_err(|error| TlsError::Verifier(files.ca.clone(), error))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(bad_certificate)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(bad_certificate)?;
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(bad_certificate)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(bad_certificate)?;
        client.resumption = Resumption::disabled();
        Ok(Self { acceptor: Arc::new(server).into(), connector: Arc::new(client).into(), name })
    }

    /// The side that is called. Gives the stream back if that fails.
    pub(super) async fn accept(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, (io::Error, TcpStream)> {
        Ok(self.acceptor.accept(stream).into_fallible().await?.into())
    }

    /// The side that calls.
    pub(super) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        Ok(self.connector.connect(self.name.clone(), stream).await?.into())
    }

    /// Verifies the name of a caller; that of a called node was verified by [`Self::connect`].
    pub(super) fn verify_caller(&self, stream: &TlsStream<TcpStream>) -> Result<(), Refused> {
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        if certificates.first().is_some_and(|caller| is_for(caller, &self.name)) {
            return Ok(());
        }
        let message = format!("the certificate of the caller is not for the name {NODE_NAME}: sign one that is");
        Err(Refused::new(Mismatch::Tls, message))
    }
}

/// What a failed handshake means: mostly that the files of two nodes do not fit.
pub(super) fn refused(error: &io::Error) -> Refused {
    let message = format!(
        "TLS with this peer failed ({error}): both nodes need TLS configured, with certificates of the same CA for the \
         name {NODE_NAME}"
    );
    Refused::new(Mismatch::Tls, message)
}

/// Tells whether an error of a socket is one of TLS and not of the way.
pub(super) fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

fn node_name() -> Result<ServerName<'static>, rustls::Error> {
    ServerName::try_from(NODE_NAME).map_err(|error| rustls::Error::General(error.to_string()))
}

fn is_for(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |error| TlsError::Read(file.to_owned(), error);
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).map_err(unreadable)?.collect();
    let all = all.map_err(unreadable)?;
    if all.is_empty() {
        return Err(TlsError::Empty(file.to_owned()));
    }
    Ok(all)
}
