//! Clients against a small TLS server, with certificates made for the test.

use std::net::SocketAddr;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::WebPkiClientVerifier;

use super::*;
use crate::project::{ClientCertificate, Cluster, Secret};
use crate::push::client::{Client, Known, PushError};
use crate::push::retry::RetryPolicy;
use crate::run::tests::spec;

/// A CA and the files that it wrote.
struct Ca {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    fn sign(&self, name: &str) -> ClientCertificate {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.dir.path().join(format!("{name}.{kind}"));
        std::fs::write(path("crt"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        ClientCertificate { certificate: path("crt"), key: path("key") }
    }

    /// Serves TLS on a free port, for `name`; asks for certificates of `clients` if given. Every request is answered
    /// as by a cluster that has no collection yet. Ends with the runtime.
    async fn serve(&self, name: &str, clients: Option<&Ca>) -> SocketAddr {
        let own = self.sign(name);
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(ca) => {
                let roots = Arc::new(roots_of_file(&ca.file()).unwrap());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap();
                config.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
        let config = config.with_single_cert(certificates(&own.certificate).unwrap(), key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = [0; 4096];
                drop(stream.read(&mut request).await);
                let body = r#"{"type":"","title":"","status":404,"code":"collection_not_found","message":""}"#;
                let head = format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n", body.len());
                drop(stream.write_all(format!("{head}{body}").as_bytes()).await);
                drop(stream.shutdown().await);
            }
        });
        address
    }
}

/// What a sync learns from a cluster at `address`, without patience.
async fn look(address: SocketAddr, host: &str, tls: TlsFiles) -> Result<Known, PushError> {
    let url = format!("https://{host}:{}", address.port());
    let cluster = Cluster { url, key: Secret("secret".into()), tls };
    let policy = RetryPolicy { budget: Duration::ZERO, ..RetryPolicy::default() };
    Client::new(&cluster, &spec(), policy).unwrap().look(&spec()).await
}

fn trusting(ca: &Ca) -> TlsFiles {
    TlsFiles { ca: Some(ca.file()), client: None }
}

#[tokio::test]
async fn a_cluster_is_reached_whose_certificate_the_named_ca_signed() {
    let ca = Ca::new();
    let address = ca.serve("localhost", None).await;
    assert_eq!(look(address, "localhost", trusting(&ca)).await.unwrap(), Known::default());
}

#[tokio::test]
async fn a_certificate_of_another_ca_or_for_another_name_is_refused_at_once() {
    let (ca, other) = (Ca::new(), Ca::new());
    let address = ca.serve("localhost", None).await;
    for (host, trusted) in [("localhost", &other), ("127.0.0.1", &ca)] {
        let error = look(address, host, trusting(trusted)).await.unwrap_err();
        assert!(matches!(&error, PushError::Tls(_)), "{error}");
        assert!(error.to_string().contains("invalid peer certificate"), "{error}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_who_asks_for_it() {
    let (ca, clients) = (Ca::new(), Ca::new());
    let address = ca.serve("localhost", Some(&clients)).await;
    let error = look(address, "localhost", trusting(&ca)).await.unwrap_err();
    assert!(matches!(&error, PushError::Tls(_)), "{error}");
    let tls = TlsFiles { client: Some(clients.sign("loader")), ..trusting(&ca) };
    look(address, "localhost", tls).await.unwrap();
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_told_apart_from_one_that_is_away() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
        }
    });
    let ca = Ca::new();
    let error = look(address, "localhost", trusting(&ca)).await.unwrap_err();
    assert!(matches!(&error, PushError::Tls(_)), "{error}");

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = look(nobody, "localhost", trusting(&ca)).await.unwrap_err();
    assert!(matches!(&error, PushError::GaveUp { .. }), "{error}");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let ca = Ca::new();
    let empty = ca.dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let missing = ca.dir.path().join("missing.pem");
    let ours = ca.sign("loader");
    let mixed = ClientCertificate { key: ca.sign("other").key, ..ours.clone() };
    let swapped = ClientCertificate { certificate: ours.key.clone(), key: ours.key };
    for (files, named) in [
        (TlsFiles { ca: Some(empty.clone()), client: None }, "empty.pem holds no certificate"),
        (TlsFiles { ca: Some(missing), client: None }, "missing.pem"),
        (TlsFiles { client: Some(mixed), ..trusting(&ca) }, "loader.crt and its key"),
        (TlsFiles { client: Some(swapped), ..trusting(&ca) }, "loader.key holds no certificate"),
    ] {
        let options = HttpOptions { tls: Some(&files), timeout: Duration::from_secs(1), proxy: false };
        let error = client(&options).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}
