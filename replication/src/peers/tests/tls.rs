//! Mutual TLS: who gets in, and what those are told who do not.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::*;
use crate::peers::tls::Tls;
use crate::peers::{Mismatch, Refused, TlsError};

/// A CA and the files it wrote.
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

    /// Signs a certificate for a name.
    fn sign(&self, name: &str) -> PeerTls {
        self.sign_params(name, CertificateParams::new(vec![name.to_owned()]).unwrap())
    }

    fn sign_params(&self, file: &str, params: CertificateParams) -> PeerTls {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.dir.path().join(format!("{file}.{kind}"));
        std::fs::write(path("crt"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        PeerTls { ca: self.dir.path().join("ca.pem"), certificate: path("crt"), key: path("key") }
    }

    fn setup(&self) -> Setup {
        Setup { tls: Some(self.sign("larder-node")), ..Setup::default() }
    }
}

fn refused(error: PeerError) -> String {
    match error {
        PeerError::Refused(Refused { mismatch: Mismatch::Tls, message }) => message,
        error => panic!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_one_ca_talk() {
    let (ca, book) = (Ca::new(), Arc::new(Book::default()));
    let one = Arc::new(start(&book, 1, ca.setup()).await);
    let _two = start(&book, 2, ca.setup()).await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..200usize {
        let one = Arc::clone(&one);
        calls.spawn(async move {
            let body = vec![7; number * 1000];
            assert!(one.ask(2, ECHO, body.clone()).await.unwrap() == body);
        });
    }
    calls.join_all().await;
    let large = vec![9; 4 << 20];
    assert!(one.ask(2, ECHO, large.clone()).await.unwrap() == large);
}

#[tokio::test]
async fn a_node_of_another_ca_is_refused_on_either_side() {
    let (ours, theirs, book) = (Ca::new(), Ca::new(), Arc::new(Book::default()));
    let one = start(&book, 1, ours.setup()).await;
    let two = start(&book, 2, theirs.setup()).await;
    for (caller, called) in [(&one, 2), (&two, 1)] {
        let message = refused(caller.ask(called, ECHO, "").await.unwrap_err());
        assert!(message.contains("certificates of the same CA"), "{message}");
    }
}

#[tokio::test]
async fn a_caller_of_another_ca_is_refused_by_the_called_node() {
    // The caller trusts both CAs, so that only the called node can object.
    let (ours, theirs, book) = (Ca::new(), Ca::new(), Arc::new(Book::default()));
    let _one = start(&book, 1, ours.setup()).await;
    let tls = theirs.sign("larder-node");
    let both = ["ca.pem"].map(|file| {
        let read = |ca: &Ca| std::fs::read_to_string(ca.dir.path().join(file)).unwrap();
        read(&ours) + &read(&theirs)
    });
    std::fs::write(&tls.ca, both.concat()).unwrap();
    let two = start(&book, 2, Setup { tls: Some(tls), ..Setup::default() }).await;
    let message = refused(two.ask(1, ECHO, "").await.unwrap_err());
    assert!(message.contains("certificates of the same CA"), "{message}");
}

#[tokio::test]
async fn plain_and_tls_nodes_say_what_is_missing() {
    let (ca, book) = (Ca::new(), Arc::new(Book::default()));
    let safe = start(&book, 1, ca.setup()).await;
    let plain = start(&book, 2, Setup::default()).await;
    let message = refused(plain.ask(1, ECHO, "").await.unwrap_err());
    assert!(message.starts_with("this node takes only connections with TLS and the caller has none"), "{message}");
    let message = refused(safe.ask(2, ECHO, "").await.unwrap_err());
    assert!(message.contains("both nodes need TLS configured"), "{message}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_no_node() {
    let (ca, book) = (Ca::new(), Arc::new(Book::default()));
    let wrong = ca.sign("larder-client");
    assert!(matches!(Tls::load(&wrong), Err(TlsError::Name(path)) if path == wrong.certificate));
    // Somebody who holds such a certificate and does not use this code.
    let one = start(&book, 1, ca.setup()).await;
    let message = stranger_with(&wrong, &one.address()).await;
    assert!(message.contains("the certificate of the caller is not for the name larder-node"), "{message}");
}

/// Calls with a certificate, and reads the farewell.
async fn stranger_with(files: &PeerTls, address: &str) -> String {
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

    let certificate = CertificateDer::from_pem_file(&files.certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.ca).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = connector.connect("larder-node".try_into().unwrap(), stream).await.unwrap();
    greet(&mut stream, Head::new(Sort::Hello, 0), hello(1).encode()).await.unwrap();
    let mut answer = vec![0; 8 + 18];
    stream.read_exact(&mut answer).await.unwrap();
    let mut message = vec![0; u32::from_le_bytes(answer[8..12].try_into().unwrap()) as usize - 14];
    stream.read_exact(&mut message).await.unwrap();
    String::from_utf8(message).unwrap()
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let (ca, book) = (Ca::new(), Arc::new(Book::default()));
    let mut params = CertificateParams::new(vec!["larder-node".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let expired = Setup { tls: Some(ca.sign_params("old", params)), ..Setup::default() };
    let one = start(&book, 1, ca.setup()).await;
    let two = start(&book, 2, expired).await;
    for (caller, called) in [(&one, 2), (&two, 1)] {
        let message = refused(caller.ask(called, ECHO, "").await.unwrap_err());
        assert!(message.to_lowercase().contains("expired"), "{message}");
    }
}

#[tokio::test]
async fn a_certificate_for_servers_alone_cannot_call() {
    let (ca, book) = (Ca::new(), Arc::new(Book::default()));
    let mut params = CertificateParams::new(vec!["larder-node".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let half = Setup { tls: Some(ca.sign_params("half", params)), ..Setup::default() };
    let one = start(&book, 1, ca.setup()).await;
    let two = start(&book, 2, half).await;
    one.ask(2, ECHO, "").await.unwrap();
    refused(two.ask(1, ECHO, "").await.unwrap_err());
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let ca = Ca::new();
    let good = ca.sign("larder-node");
    let missing = ca.dir.path().join("missing");
    let bad = PeerTls { certificate: missing.clone(), ..good.clone() };
    assert!(matches!(Tls::load(&bad), Err(TlsError::Read(path, _)) if path == missing));
    let bad = PeerTls { ca: good.key.clone(), ..good.clone() };
    assert!(matches!(Tls::load(&bad), Err(TlsError::Empty(path)) if path == good.key));
    let bad = PeerTls { key: ca.sign("larder-client").key, ..good.clone() };
    assert!(matches!(Tls::load(&bad), Err(TlsError::Certificate(..))));
    assert!(Tls::load(&good).is_ok());
}
