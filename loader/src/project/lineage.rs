//! `lineage` of `larder.yml`: where OpenLineage events go.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Secret;
use super::keys::{Key, Section, Shape};
use super::node::{Content, Node};
use super::sheet::Sheet;

/// The namespace of jobs unless `namespace` says otherwise.
const DEFAULT_NAMESPACE: &str = "larder";

pub(super) static LINEAGE: Section = Section {
    what: "`lineage`",
    id: "lineage",
    about: "Where OpenLineage events of runs go.",
    keys: &[
        Key::optional("url", Shape::Text, "The service that takes them."),
        Key::optional("file", Shape::Text, "A file to append them to."),
        Key::optional("api_key", Shape::Text, "A bearer token. Keep it out of files: `${LINEAGE_KEY}`."),
        Key::optional("namespace", Shape::Text, "The namespace of the jobs. Default `larder`."),
        Key::optional("sources", Shape::Map(&Shape::Text), "Namespaces of what sources read, by the source's name."),
    ],
    one_of: &["url", "file"],
};

/// What `lineage` says.
#[derive(Debug, Clone)]
pub struct Lineage {
    /// Where events go.
    pub target: LineageTarget,
    /// The namespace of the jobs.
    pub namespace: String,
    /// The namespaces of what sources read, by the source's name. One that is not named is called by its own name.
    pub sources: BTreeMap<String, String>,
}

/// Where events go.
#[derive(Debug, Clone)]
pub enum LineageTarget {
    /// A service that takes them.
    Http {
        /// Its address, to which the path of events is added.
        url: String,
        /// Sent as a bearer token, if there is one.
        api_key: Option<Secret>,
    },
    /// A file to which they are appended, one a line. As written; relative to the project's folder.
    File(PathBuf),
}

/// Reads the section. What is allowed but unwise goes to `warnings`: line and message.
pub(super) fn read(node: Node, sheet: &mut Sheet, warnings: &mut Vec<(u32, String)>) -> Option<Lineage> {
    let mut fields = sheet.fields(node, &LINEAGE)?;
    let namespace = fields.read("namespace", sheet, |node, sheet| sheet.text(node, "lineage.namespace"));
    let api_key = fields.read("api_key", sheet, |node, sheet| read_key(node, sheet, warnings));
    let sources = fields.read("sources", sheet, |node, sheet| sheet.entries(node, "lineage.sources"));
    let sources = sources.into_iter().flatten();
    let sources = sources.filter_map(|entry| Some((entry.key, sheet.text(entry.node, "lineage.sources")?))).collect();
    let target = match fields.take_one()? {
        ("file", node) => LineageTarget::File(sheet.text(node, "lineage.file")?.into()),
        (_, node) => LineageTarget::Http { url: sheet.parsed(node, "lineage.url", check_url)?, api_key },
    };
    Some(Lineage { target, namespace: namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()), sources })
}

fn read_key(node: Node, sheet: &mut Sheet, warnings: &mut Vec<(u32, String)>) -> Option<Secret> {
    let line = node.line;
    if matches!(node.content, Content::Text { from_variable: false, .. }) {
        let message = "`lineage.api_key` is written out here; keep secrets out of files: `api_key: \"${LINEAGE_KEY}\"`";
        warnings.push((line, message.to_owned()));
    }
    let key = sheet.text(node, "lineage.api_key")?.trim().to_owned();
    if !key.chars().all(|c| c.is_ascii_graphic()) {
        sheet.report(line, "`lineage.api_key` holds a character that no request can carry");
        return None;
    }
    Some(Secret(key))
}

fn check_url(text: &str) -> Result<String, &'static str> {
    match reqwest::Url::parse(text) {
        Ok(url)
            if matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.password().is_none()
                && url.query().is_none() =>
        {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err("must be an address that begins with https:// or http://, without a login or a query"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn lineage(text: &str) -> (Option<Lineage>, String) {
        let mut sheet = Sheet::new(Path::new("larder.yml"));
        let node = sheet.parse_with(text, &|name| (name == "KEY").then(|| "the-secret\n".to_owned()));
        let lineage = node.and_then(|node| read(node, &mut sheet, &mut Vec::new()));
        let problems: Vec<String> = sheet.into_problems().iter().map(ToString::to_string).collect();
        (lineage, problems.join("\n"))
    }

    #[test]
    fn section_is_read() {
        let text =
            "url: https://m.example/\napi_key: \"${KEY}\"\nnamespace: prod\nsources: {shop: \"postgres://db:5432\"}";
        let (lineage, problems) = lineage(text);
        assert_eq!(problems, "");
        let lineage = lineage.unwrap();
        assert!(!format!("{lineage:?}").contains("the-secret"));
        let LineageTarget::Http { url, api_key: Some(key) } = &lineage.target else { panic!("no address or key") };
        assert_eq!((url.as_str(), key.0.as_str()), ("https://m.example", "the-secret"));
        assert_eq!((lineage.namespace.as_str(), lineage.sources["shop"].as_str()), ("prod", "postgres://db:5432"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("namespace: x", "needs one of `url`, `file`"),
            ("url: https://m.example\nfile: f", "keep one"),
            ("url: m.example", "begins with https:// or http://"),
            ("url: https://me:pw@m.example", "without a login"),
            ("url: https://m.example\napi_key: \"a b\"", "no request can carry"),
            ("url: https://m.example\nkey: x", "unknown key `key`"),
        ] {
            let (_, problems) = lineage(text);
            assert!(problems.contains(expected), "{text}: {problems}");
        }
    }
}
