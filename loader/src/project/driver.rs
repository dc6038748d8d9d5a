//! Sources behind ADBC drivers: `driver: postgresql` and the like in `sources/*.yml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keys::{Key, Section, Shape, words};
use super::node::{Content, Node};
use super::serve::MAX_OF_SOURCE;
use super::sheet::{Fields, Sheet};
use super::suggest::nearest;
use super::{Secret, is_plain_name};
use crate::source::adbc::known::{self, KNOWN};
use crate::source::adbc::uri_password;
use crate::source::dialect::Dialect;

/// How long a login may take unless the source says otherwise.
const LOGIN: Duration = Duration::from_secs(30);
/// How long the database may be silent in the middle of a query unless the source says otherwise.
const QUERY: Duration = Duration::from_secs(60 * 60);

/// A database behind an ADBC driver.
#[derive(Debug, Clone)]
pub struct DriverSource {
    /// The driver as the file names it.
    pub(crate) driver: DriverName,
    /// The function by which the library is entered, if it is not the usual one.
    pub(crate) entrypoint: Option<String>,
    pub(crate) dialect: Dialect,
    pub(crate) uri: Option<Secret>,
    /// Options of driver, connection and statements by name.
    pub(crate) options: BTreeMap<String, Secret>,
    /// The options whose values must not be shown: those that hold variables, and those named like secrets.
    pub(crate) secret_options: Vec<String>,
    /// A secret that is written out in the file: its line, and a remark on it.
    pub(crate) written_out: Option<(u32, String)>,
    /// How long loading the driver and logging in may take.
    pub(crate) login_timeout: Duration,
    /// How long a query may take to its first rows, and then from rows to rows.
    pub(crate) query_timeout: Duration,
    /// The project's folder, against which the driver takes relative paths.
    pub(crate) root: PathBuf,
}

/// Which driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DriverName {
    /// By the name of its manifest.
    Name(String),
    /// By its library.
    Library(PathBuf),
}

impl std::fmt::Display for DriverName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Library(path) => write!(f, "{}", path.display()),
        }
    }
}

pub(super) static DRIVER: Section = Section {
    what: "the source",
    id: "source_driver",
    about: "A database behind an ADBC driver.",
    keys: &[
        Key::required("driver", Shape::Text, "The driver: `postgresql`, `duckdb`, `snowflake`, …, or a path to one."),
        Key::optional("uri", Shape::Text, "Where the database is and how to log in, as the driver takes it."),
        Key::optional("options", Shape::Map(&Shape::Scalar), "Options of the driver, by their names."),
        Key::optional("entrypoint", Shape::Text, "The function of the driver's library, if it is not the usual one."),
        Key::optional(
            "dialect",
            Shape::Word(&words(&Dialect::ALL)),
            "The database's SQL, if the driver does not tell.",
        ),
        Key::optional("timeouts", Shape::Section(&TIMEOUTS), TIMEOUTS.about),
        MAX_OF_SOURCE,
    ],
    one_of: &[],
};

static TIMEOUTS: Section = Section {
    what: "`timeouts`",
    id: "timeouts",
    about: "How long the database is waited for.",
    keys: &[
        Key::optional("login", Shape::Span, "How long loading the driver and logging in may take. Default 30s."),
        Key::optional("query", Shape::Span, "How long to wait for the first rows, and between rows. Default 1h."),
    ],
    one_of: &[],
};

impl DriverSource {
    /// A source of a driver by its name with nothing else set; none if there can be no such name.
    pub(crate) fn bare(name: &str) -> Option<Self> {
        let driver = DriverName::Name(is_plain_name(name).then(|| name.to_owned())?);
        Some(Self {
            entrypoint: None,
            dialect: dialect_of(&driver),
            driver,
            uri: None,
            options: BTreeMap::new(),
            secret_options: Vec::new(),
            written_out: None,
            login_timeout: LOGIN,
            query_timeout: QUERY,
            root: PathBuf::from("."),
        })
    }
}

/// Reads a source whose `driver` is neither of the embedded ones.
pub(super) fn read(mut fields: Fields, root: &Path, sheet: &mut Sheet) -> Option<DriverSource> {
    let driver = fields.read("driver", sheet, |node, sheet| read_name(node, root, sheet));
    let uri = fields.take("uri");
    let options = fields.take("options");
    let written_out = written_out(uri.as_ref(), options.as_ref());
    let uri = uri.map(|node| sheet.text(node, "uri"));
    let options = options.map(|node| read_options(node, sheet));
    let entrypoint = fields.take("entrypoint").map(|node| sheet.text(node, "entrypoint"));
    let dialect = fields.take("dialect").map(|node| sheet.choice(node, "dialect", &Dialect::ALL));
    let timeouts = fields.take("timeouts").map(|node| read_timeouts(node, sheet));

    let driver = driver?;
    let (options, secret_options) = options.unwrap_or_else(|| Some(Default::default()))?;
    let (login_timeout, query_timeout) = timeouts.unwrap_or(Some((LOGIN, QUERY)))?;
    Some(DriverSource {
        dialect: dialect.unwrap_or_else(|| Some(dialect_of(&driver)))?,
        driver,
        // What is there and wrong was reported, and then there is no source.
        uri: uri.flatten().map(Secret),
        entrypoint: entrypoint.flatten(),
        options,
        secret_options,
        written_out,
        login_timeout,
        query_timeout,
        root: root.to_path_buf(),
    })
}

/// A password or the like that stands in the file itself.
fn written_out(uri: Option<&Node>, options: Option<&Node>) -> Option<(u32, String)> {
    let is_text = |node: &Node| match &node.content {
        Content::Text { text, from_variable: false } => Some(text.clone()),
        _ => None,
    };
    let remark = |node: &Node, what: &str| {
        (node.line, format!("{what} holds a secret that is written out here; keep secrets out of files: `${{NAME}}`"))
    };
    if let Some(uri) = uri.filter(|uri| is_text(uri).is_some_and(|text| uri_password(&text).is_some())) {
        return Some(remark(uri, "`uri`"));
    }
    let Some(Node { content: Content::Map(entries), .. }) = options else { return None };
    let entry = entries.iter().find(|entry| is_secret_name(&entry.key) && is_text(&entry.node).is_some())?;
    Some(remark(&entry.node, &format!("option `{}`", entry.key)))
}

fn dialect_of(driver: &DriverName) -> Dialect {
    match driver {
        DriverName::Name(name) => known::find(name).map_or(Dialect::Standard, |known| known.dialect),
        DriverName::Library(path) => known::dialect_of_library(&path.file_name().unwrap_or_default().to_string_lossy()),
    }
}

/// A name, or a path if it looks like one.
fn read_name(node: Node, root: &Path, sheet: &mut Sheet) -> Option<DriverName> {
    let line = node.line;
    let text = sheet.text(node, "driver")?;
    if text.contains('/') || [".so", ".dylib", ".dll"].iter().any(|end| text.ends_with(end)) {
        return Some(DriverName::Library(root.join(text)));
    }
    if !is_plain_name(&text) {
        sheet.report(line, "`driver` is `files`, `sqlite`, the name of an ADBC driver, or a path to one");
        return None;
    }
    // Any name may be that of a manifest, but not one that is a slip of the finger away from a known one.
    let words = KNOWN.iter().map(|known| known.name).chain(["files", "sqlite"]);
    match nearest(&text, words) {
        Some(near) if near != text => {
            sheet.report(line, format!("there is no driver `{text}`; did you mean `{near}`?"));
            None
        }
        _ => Some(DriverName::Name(text)),
    }
}

fn read_options(node: Node, sheet: &mut Sheet) -> Option<(BTreeMap<String, Secret>, Vec<String>)> {
    let mut options = BTreeMap::new();
    let mut secret = Vec::new();
    for entry in sheet.entries(node, "options")? {
        let (value, from_variable) = match entry.node.content {
            Content::Text { text, from_variable } => (text, from_variable),
            Content::Bool(yes) => (yes.to_string(), false),
            Content::Int(number) => (number.to_string(), false),
            Content::UInt(number) => (number.to_string(), false),
            Content::Float(number) => (number.to_string(), false),
            _ => return sheet.expected(&entry.node, &entry.key, "a text, a number or a truth value"),
        };
        if from_variable || is_secret_name(&entry.key) {
            secret.push(entry.key.clone());
        }
        options.insert(entry.key, Secret(value));
    }
    Some((options, secret))
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "passphrase", "secret", "token", "key", "credential", "authorization"]
        .iter()
        .any(|word| name.contains(word))
}

fn read_timeouts(node: Node, sheet: &mut Sheet) -> Option<(Duration, Duration)> {
    let mut fields = sheet.fields(node, &TIMEOUTS)?;
    let login = fields.take("login");
    let query = fields.take("query");
    let mut span = |node: Option<Node>, what: &str, default: Duration| {
        let Some(node) = node else { return Some(default) };
        let line = node.line;
        let span = sheet.span(node, what)?;
        if span.is_zero() {
            sheet.report(line, format!("`{what}` must be longer than nothing"));
            return None;
        }
        Some(span)
    };
    let (login, query) = (span(login, "login", LOGIN), span(query, "query", QUERY));
    Some((login?, query?))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{problems, try_load};
    use super::*;
    use crate::project::SourceSpec;

    fn load(text: &str) -> (DriverSource, Vec<String>) {
        let project = try_load(&[("sources/s.yml", text)]).unwrap();
        let SourceSpec::Driver(source) = &project.sources["s"] else { panic!("not a driver: {text}") };
        (source.as_ref().clone(), project.warnings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn whole_source_is_read() {
        let (source, warnings) = load(
            "driver: postgresql\nuri: \"postgresql://me:${KEY}@host/db\"\nentrypoint: Init\n\
             options: {a: x, b: 1, c: true, token: \"${KEY}\"}\ntimeouts: {login: 5s, query: 10m}\n",
        );
        assert_eq!(source.driver, DriverName::Name("postgresql".to_owned()));
        assert_eq!((source.dialect, source.entrypoint.as_deref()), (Dialect::Postgres, Some("Init")));
        assert_eq!(source.uri.as_ref().unwrap().0, "postgresql://me:the secret@host/db");
        let options: Vec<_> = source.options.iter().map(|(name, value)| (name.as_str(), value.0.as_str())).collect();
        assert_eq!(options, [("a", "x"), ("b", "1"), ("c", "true"), ("token", "the secret")]);
        assert_eq!(source.secret_options, ["token"]);
        assert_eq!((source.login_timeout, source.query_timeout), (Duration::from_secs(5), Duration::from_secs(600)));
        assert!(warnings.is_empty(), "{warnings:?}");
        assert!(!format!("{source:?}").contains("the secret"));
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let (source, _) = load("driver: drivers/libduckdb.so\n");
        let DriverName::Library(library) = &source.driver else { panic!("not a path") };
        assert!(library.ends_with("drivers/libduckdb.so") && library.is_absolute());
        assert_eq!((source.dialect, source.uri.is_none()), (Dialect::DuckDb, true));
        assert_eq!((source.login_timeout, source.query_timeout), (LOGIN, QUERY));
        assert_eq!(load("driver: my-own\n").0.dialect, Dialect::Standard);
        assert_eq!(load("driver: my-own\ndialect: mysql\n").0.dialect, Dialect::MySql);
    }

    #[test]
    fn mistakes_are_reported_and_secrets_in_files_remarked_on() {
        for (text, expected) in [
            ("driver: postgresq\n", "did you mean `postgresql`"),
            ("driver: \"a b\"\n", "the name of an ADBC driver"),
            ("driver: duckdb\npath: x\n", "unknown key `path`"),
            ("driver: duckdb\noptions: {a: [1]}\n", "`a` must be a text"),
            ("driver: duckdb\ntimeouts: {login: 0s}\n", "longer than nothing"),
            ("driver: duckdb\ntimeouts: {login: soon}\n", "span of time"),
            ("driver: duckdb\ndialect: latin\n", "`latin` is unknown"),
        ] {
            let found = problems(&[("sources/s.yml", text)]);
            assert!(found.contains(expected), "{text}: {found}");
        }
        for text in [
            "driver: postgresql\nuri: postgresql://me:hunter2@host/db\n",
            "driver: snowflake\noptions: {username: me, password: hunter2}\n",
        ] {
            let (_, warnings) = load(text);
            assert!(warnings[0].starts_with("sources/s.yml:2: ") && !warnings[0].contains("hunter2"), "{warnings:?}");
        }
    }
}
