//! `larder.yml`: where the clusters are and where state is kept.
//!
//! `cluster: {…}` is short for `clusters: {main: {…}}`. The name of a cluster is that of its destination: state is kept
//! under it, so a cluster that is renamed is a new one.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use larder_types::names::CollectionName;
use serde::Serialize;

use super::alerts::{self, Alerting};
use super::environment;
use super::keys::{Key, Section, Shape};
use super::lineage::{self, Lineage};
use super::log::{self, Redaction, Retention};
use super::node::{Content, Node};
use super::push::{self, PushSpec};
use super::schedule::{self, Defaults};
use super::serve::{self, Serve};
use super::sheet::Sheet;
use super::{Cluster, Secret, TlsFiles, tls};

/// The destination of a project that has one cluster and gives it no name.
const MAIN: &str = "main";

/// Where state is kept unless `state` says otherwise.
const DEFAULT_STATE: &str = ".larder";
/// How the address of a cluster begins that does not speak TLS.
const PLAIN: &str = "http://";

pub(super) static SETTINGS: Section = Section {
    what: "larder.yml",
    id: "settings",
    about: "Where the clusters are and where state is kept.",
    keys: &[
        Key::optional("cluster", Shape::Section(&CLUSTER), CLUSTER.about),
        Key::optional("clusters", Shape::Map(&Shape::Section(&CLUSTER)), "Several clusters, each by a name."),
        Key::optional("state", Shape::Text, "The folder for what the loader remembers. Default `.larder`."),
        environment::ENV,
        environment::environments(&ENVIRONMENT),
        Key::optional("schedule", Shape::Section(&schedule::DEFAULTS), schedule::DEFAULTS.about),
        Key::optional("serve", Shape::Section(&serve::SERVE), serve::SERVE.about),
        Key::optional("push", Shape::Section(&push::PUSH), push::PUSH.about),
        Key::optional("retention", Shape::Section(&log::RETENTION), log::RETENTION.about),
        Key::optional("redact", log::REDACT, log::REDACTION.about),
        Key::optional("alerts", Shape::Section(&alerts::ALERTS), alerts::ALERTS.about),
        Key::optional("lineage", Shape::Section(&lineage::LINEAGE), lineage::LINEAGE.about),
    ],
    one_of: &["cluster", "clusters"],
};

/// What an environment may say: some of the same.
static ENVIRONMENT: Shape = Shape::Part(&SETTINGS);

static CLUSTER: Section = Section {
    what: "the cluster",
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

/// The name of a cluster that syncs feed: 1 to 64 of `A-Z a-z 0-9 _ -`. State folders are named so.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct DestinationName(Box<str>);

impl DestinationName {
    /// # Errors
    /// What is wrong with the name.
    pub fn new(text: &str) -> Result<Self, String> {
        CollectionName::new(text).map_err(|_| "a destination's name must be 1 to 64 of A-Z a-z 0-9 _ -".to_owned())?;
        // Files beside the folders of the destinations, now or in an earlier format.
        if text == "lock" || text == "journal" || text.starts_with("snapshot-") {
            return Err(format!("`{text}` is the name of a state file; give the destination another name"));
        }
        Ok(Self(text.into()))
    }

    /// That of the only cluster of a project which gives it no name.
    pub(crate) fn main() -> Self {
        Self(MAIN.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DestinationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What `larder.yml` says.
pub(super) struct Settings {
    pub(super) clusters: BTreeMap<DestinationName, Cluster>,
    /// As written; relative to the project's folder.
    pub(super) state: PathBuf,
    pub(super) schedule: Defaults,
    pub(super) serve: Serve,
    pub(super) push: PushSpec,
    pub(super) retention: Retention,
    pub(super) redaction: Redaction,
    /// Without channels and rules if the file has none.
    pub(super) alerting: Alerting,
    pub(super) lineage: Option<Lineage>,
    /// What is allowed but unwise: line and message.
    pub(super) warnings: Vec<(u32, String)>,
}

/// Reads `larder.yml` of the project in `root`.
pub(super) fn read(node: Node, root: &Path, sheet: &mut Sheet) -> Option<Settings> {
    let mut fields = sheet.fields(node, &SETTINGS)?;
    let mut warnings = Vec::new();
    let clusters = match fields.take_one() {
        Some(("clusters", node)) => read_clusters(node, root, sheet, &mut warnings),
        Some((_, node)) => read_cluster(node, "cluster", root, sheet, &mut warnings)
            .map(|cluster| BTreeMap::from([(DestinationName::main(), cluster)])),
        None => None,
    };
    let state = match fields.take("state") {
        Some(node) => sheet.text(node, "state")?,
        None => DEFAULT_STATE.to_owned(),
    };
    let schedule = fields.read("schedule", sheet, schedule::read_defaults).unwrap_or_default();
    let serve = fields.read("serve", sheet, |node, sheet| serve::read(node, sheet, &mut warnings)).unwrap_or_default();
    let push = fields.read("push", sheet, push::read).unwrap_or_default();
    let retention = fields.read("retention", sheet, log::read_retention).unwrap_or_default();
    let redaction = fields.read("redact", sheet, log::read_redaction).unwrap_or_default();
    let alerting = fields.read("alerts", sheet, |node, sheet| alerts::read(node, sheet, &mut warnings));
    let alerting = alerting.unwrap_or_default();
    let lineage = fields.read("lineage", sheet, |node, sheet| lineage::read(node, sheet, &mut warnings));
    let state = state.into();
    Some(Settings {
        clusters: clusters?,
        state,
        schedule,
        serve,
        push,
        retention,
        redaction,
        alerting,
        lineage,
        warnings,
    })
}

fn read_clusters(
    node: Node,
    root: &Path,
    sheet: &mut Sheet,
    warnings: &mut Vec<(u32, String)>,
) -> Option<BTreeMap<DestinationName, Cluster>> {
    let line = node.line;
    let mut clusters = BTreeMap::new();
    for entry in sheet.entries(node, "clusters")? {
        let name = match DestinationName::new(&entry.key) {
            Ok(name) => name,
            Err(error) => {
                sheet.report(entry.line, error);
                continue;
            }
        };
        if let Some(cluster) = read_cluster(entry.node, &format!("clusters.{name}"), root, sheet, warnings) {
            clusters.insert(name, cluster);
        }
    }
    if clusters.is_empty() && sheet.is_clean() {
        sheet.report(line, "`clusters` is empty: name one cluster at least");
    }
    Some(clusters)
}

/// Reads the cluster that stands at `place`.
fn read_cluster(
    node: Node,
    place: &str,
    root: &Path,
    sheet: &mut Sheet,
    warnings: &mut Vec<(u32, String)>,
) -> Option<Cluster> {
    let mut fields = sheet.fields(node, &CLUSTER)?;
    let url = fields.read("url", sheet, |node, sheet| sheet.parsed(node, &format!("{place}.url"), check_url));
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
                let message =
                    format!("`{place}.key` holds a character that is not printable ASCII, which no request can carry");
                sheet.report(node.line, message);
                return None;
            }
            if text.is_empty() {
                let message = format!("`{place}.key` is empty: syncs can be validated and planned, but not run");
                warnings.push((node.line, message));
            } else if !from_variable {
                let message =
                    format!("`{place}.key` is written out here; keep secrets out of files: `key: \"${{LARDER_KEY}}\"`");
                warnings.push((node.line, message));
            }
            Some(text)
        }
        _ => sheet.expected(&node, &format!("{place}.key"), "a text"),
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
