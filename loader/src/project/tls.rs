//! `ca` and `client_certificate` of a cluster: whom to trust, and what to show.

use std::path::{Path, PathBuf};

use super::keys::{Key, Section, Shape};
use super::sheet::{Fields, Sheet};

pub(super) const CA: Key =
    Key::optional("ca", Shape::Text, "A file of CA certificates (PEM): these and no others are trusted.");
pub(super) const CLIENT_CERTIFICATE: Key =
    Key::optional("client_certificate", Shape::Section(&CERTIFICATE), CERTIFICATE_ABOUT);

const CERTIFICATE_ABOUT: &str = "What this side shows, to servers that ask for it.";

static CERTIFICATE: Section = Section {
    what: "`client_certificate`",
    id: "client_certificate",
    about: CERTIFICATE_ABOUT,
    keys: &[
        Key::required("certificate", Shape::Text, "A file with the certificate and those that lead to its CA (PEM)."),
        Key::required("key", Shape::Text, "A file with its key (PEM)."),
    ],
    one_of: &[],
};

/// The files that TLS with a server is made of. Without any, the machine's own CA certificates decide.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// CA certificates as PEM: these and no others are trusted.
    pub ca: Option<PathBuf>,
    /// What this side shows.
    pub client: Option<ClientCertificate>,
}

/// A certificate that a client shows, for servers that ask for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate and those that lead to its CA, as PEM.
    pub certificate: PathBuf,
    /// Its key, as PEM.
    pub key: PathBuf,
}

/// Takes both keys out of a cluster's mapping. Paths are taken relative to `root`.
pub(super) fn read(fields: &mut Fields, root: &Path, sheet: &mut Sheet) -> Option<TlsFiles> {
    let ca = fields.take("ca");
    let client = fields.take("client_certificate");
    let ca = match ca {
        None => None,
        Some(node) => Some(root.join(sheet.text(node, "ca")?)),
    };
    let Some(node) = client else { return Some(TlsFiles { ca, client: None }) };
    let mut fields = sheet.fields(node, &CERTIFICATE)?;
    let text = |key: &'static str| move |node, sheet: &mut Sheet| sheet.text(node, key);
    let certificate = fields.read("certificate", sheet, text("client_certificate.certificate"));
    let key = fields.read("key", sheet, text("client_certificate.key"));
    let client = ClientCertificate { certificate: root.join(certificate?), key: root.join(key?) };
    Some(TlsFiles { ca, client: Some(client) })
}
