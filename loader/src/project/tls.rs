//! `ca` and `client_certificate` of a cluster: whom to trust, and what to show.

use std::path::{Path, PathBuf};

use super::sheet::{Fields, Sheet};

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
    let mut fields = sheet.fields(node, "`client_certificate`")?;
    let certificate = fields.require("certificate", sheet);
    let key = fields.require("key", sheet);
    fields.finish(sheet);
    let certificate = certificate.and_then(|node| sheet.text(node, "client_certificate.certificate"));
    let key = key.and_then(|node| sheet.text(node, "client_certificate.key"));
    let client = ClientCertificate { certificate: root.join(certificate?), key: root.join(key?) };
    Some(TlsFiles { ca, client: Some(client) })
}
