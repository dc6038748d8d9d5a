//! `larder.yml`: where the cluster is and where state is kept.

use std::path::{Path, PathBuf};

use super::keys::{Key, Section, Shape};
use super::log::{self, Redaction, Retention};
use super::node::{Content, Node};
use super::push::{self, PushSpec};
use super::schedule::{self, Defaults};
use super::serve::{self, Serve};
use super::sheet::Sheet;
use super::{Cluster, Secret, TlsFiles, tls};

/// Where state is kept unless `state` says otherwise.
const DEFAULT_STATE: &str = ".larder";
/// How the address of a cluster begins that does not speak TLS.
const PLAIN: &str = "http://";

pub(super) static SETTINGS: Section = Section {
    what: "larder.yml",
    id: "settings",
    about: "Where the cluster is and where state is kept.",
    keys: &[
        Key::required("cluster", Shape::Section(&CLUSTER), CLUSTER.about),
        Key::optional("state", Shape::Text, "The folder for what the loader remembers. Default `.larder`."),
        Key::optional("schedule", Shape::Section(&schedule::DEFAULTS), schedule::DEFAULTS.about),
        Key::optional("serve", Shape::Section(&serve::SERVE), serve::SERVE.about),
        Key::optional("push", Shape::Section(&push::PUSH), push::PUSH.about),
        Key::optional("retention", Shape::Section(&log::RETENTION), log::RETENTION.about),
        Key::optional("redact", log::REDACT, log::REDACTION.about),
    ],
    one_of: &[],
};

static CLUSTER: Section = Section {
    what: "`cluster`",
    id: "cluster",
    about: "The cluster that records are sent to.",
    keys: &[
        Key::required("url", Shape::Text, "`https://host:port` or `http://host:port`, without a path."),
        Key::required("key", Shape::Text, "An API key with the scope `write`. Keep it out of files: `${LARDER_KEY}`."),
        tls::CA,
        tls::CLIENT_CERTIFICATE,
    ],
    one_of: &[],
};

/// What `larder.yml` says.
pub(super) struct Settings {
    pub(super) cluster: Cluster,
    /// As written; relative to the project's folder.
    pub(super) state: PathBuf,
    pub(super) schedule: Defaults,
    pub(super) serve: Serve,
    pub(super) push: PushSpec,
    pub(super) retention: Retention,
    pub(super) redaction: Redaction,
    /// What is allowed but unwise: line and message.
    pub(super) warnings: Vec<(u32, String)>,
}

/// Reads `larder.yml` of the project in `root`.
pub(super) fn read(node: Node, root: &Path, sheet: &mut Sheet) -> Option<Settings> {
    let mut fields = sheet.fields(node, &SETTINGS)?;
    let mut warnings = Vec::new();
    let cluster = fields.read("cluster", sheet, |node, sheet| read_cluster(node, root, sheet, &mut warnings));
    let state = match fields.take("state") {
        Some(node) => sheet.text(node, "state")?,
        None => DEFAULT_STATE.to_owned(),
    };
    let schedule = fields.read("schedule", sheet, schedule::read_defaults).unwrap_or_default();
    let serve = fields.read("serve", sheet, |node, sheet| serve::read(node, sheet, &mut warnings)).unwrap_or_default();
    let push = fields.read("push", sheet, push::read).unwrap_or_default();
    let retention = fields.read("retention", sheet, log::read_retention).unwrap_or_default();
    let redaction = fields.read("redact", sheet, log::read_redaction).unwrap_or_default();
    Some(Settings { cluster: cluster?, state: state.into(), schedule, serve, push, retention, redaction, warnings })
}

fn read_cluster(node: Node, root: &Path, sheet: &mut Sheet, warnings: &mut Vec<(u32, String)>) -> Option<Cluster> {
    let mut fields = sheet.fields(node, &CLUSTER)?;
    let url = fields.read("url", sheet, |node, sheet| sheet.parsed(node, "cluster.url", check_url));
    let key = fields.take("key");
    let line = fields.line();
    let tls = tls::read(&mut fields, root, sheet);
    if let (Some(url), Some(tls)) = (&url, &tls)
        && url.starts_with(PLAIN)
        && *tls != TlsFiles::default()
    {
        sheet
            .report(line, "`ca` and `client_certificate` of a cluster are for TLS: its `url` must begin with https://");
    }
    let key = key.and_then(|node| match node.content {
        Content::Text { text, from_variable } => {
            // A key read from a file brings the line's end along.
            let text = text.trim_end().to_owned();
            if !text.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
                let message = "`cluster.key` holds a character that is not printable ASCII, which no request can carry";
                sheet.report(node.line, message);
                return None;
            }
            if text.is_empty() {
                let message = "`cluster.key` is empty: syncs can be validated and planned, but not run";
                warnings.push((node.line, message.to_owned()));
            } else if !from_variable {
                let message = "`cluster.key` is written out here; keep secrets out of files: `key: \"${LARDER_KEY}\"`";
                warnings.push((node.line, message.to_owned()));
            }
            Some(text)
        }
        _ => sheet.expected(&node, "cluster.key", "a text"),
    });
    Some(Cluster { url: url?, key: Secret(key?), tls: tls? })
}

/// Accepts `http://host:port` and `https://host:port`, with or without a slash at their end.
fn check_url(text: &str) -> Result<String, &'static str> {
    const EXPECTED: &str = "must be `http://host:port` or `https://host:port`, without a path";
    let url = text.strip_suffix('/').unwrap_or(text);
    let authority = url.strip_prefix(PLAIN).or_else(|| url.strip_prefix("https://")).ok_or(EXPECTED)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if authority.is_empty() || !authority.chars().all(allowed) {
        return Err(EXPECTED);
    }
    Ok(url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_addresses_are_accepted() {
        for good in
            ["http://127.0.0.1:8080", "http://localhost:8080/", "http://[::1]:8080", "http://larder", "https://larder"]
        {
            assert_eq!(check_url(good), Ok(good.trim_end_matches('/').to_owned()));
        }
        for bad in
            ["", "127.0.0.1:8080", "ftp://larder", "http://", "https://", "http://larder/v1", "http://me:pw@larder"]
        {
            assert!(check_url(bad).is_err(), "{bad} was accepted");
        }
    }
}
