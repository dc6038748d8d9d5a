//! `serve:` of `larder.yml`: what the daemon needs to know beside the syncs.
//!
//! ```yaml
//! serve:
//!   listen: 127.0.0.1:8090
//!   max_concurrent_runs: 4      # default: the number of cores
//!   stop_within: 30s            # how long runs may go on when the daemon is told to stop
//!   tokens:
//!     - {name: airflow, token: "${LOADER_TOKEN}", scope: trigger}
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::keys::{Key, Section, Shape, words};
use super::node::{Content, Node};
use super::sheet::Sheet;
use super::{Secret, is_plain_name};

/// Where the daemon listens unless told otherwise: reachable from this machine alone.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8090);
const DEFAULT_STOP: Duration = Duration::from_secs(30);
/// Runs beyond this only wait for each other.
const MAX_RUNS: u64 = 1000;
/// A shorter token can be guessed.
const MIN_TOKEN: usize = 16;
const MAX_TOKEN: usize = 512;
const MAX_TOKENS: usize = 64;

const SCOPES: [(&str, TokenScope); 2] = [("read", TokenScope::Read), ("trigger", TokenScope::Trigger)];

pub(super) static SERVE: Section = Section {
    what: "`serve`",
    id: "serve",
    about: "What the daemon needs to know beside the syncs.",
    keys: &[
        Key::optional("listen", Shape::Text, "Address and port of its API. Default 127.0.0.1:8090."),
        Key::optional("max_concurrent_runs", Shape::Count, "Most runs at a time. Default: the number of cores."),
        Key::optional("stop_within", Shape::Span, "How long runs may go on when it is told to stop. Default 30s."),
        Key::optional("tokens", Shape::List(&Shape::Section(&TOKEN)), "Who may use its API."),
    ],
    one_of: &[],
};

static TOKEN: Section = Section {
    what: "the token",
    id: "token",
    about: "Who may use the daemon's API.",
    keys: &[
        Key::required("name", Shape::Text, "Its name in logs."),
        Key::required("token", Shape::Text, "16 to 512 characters. Keep it out of files: `${LOADER_TOKEN}`."),
        Key::optional("scope", Shape::Word(&words(&SCOPES)), "What it allows. Default `read`."),
    ],
    one_of: &[],
};

/// The key of a source that limits it, read by [`read_limit`].
pub(super) const MAX_OF_SOURCE: Key =
    Key::optional("max_concurrent_runs", Shape::Count, "Most runs at a time that read from it. Default: no limit.");

/// What the daemon needs to know.
#[derive(Debug, Clone)]
pub struct Serve {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Most runs at a time, of all loaders that share the state folder.
    pub max_concurrent_runs: usize,
    /// Most runs at a time of the sources that have a limit, by their names.
    pub max_of_source: BTreeMap<String, usize>,
    /// How long runs may go on when it is told to stop; then they are cancelled.
    pub stop_within: Duration,
    /// Who may use its API.
    pub tokens: Vec<Token>,
}

/// Who may use the daemon's API.
#[derive(Debug, Clone)]
pub struct Token {
    /// Its name in logs.
    pub name: String,
    /// The text that a caller sends.
    pub token: Secret,
    /// What it allows.
    pub scope: TokenScope,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenScope {
    /// Looking at syncs and runs.
    Read,
    /// Looking, and starting, cancelling, approving, pausing and resuming.
    Trigger,
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            listen: DEFAULT_LISTEN,
            max_concurrent_runs: std::thread::available_parallelism().map_or(1, usize::from),
            max_of_source: BTreeMap::new(),
            stop_within: DEFAULT_STOP,
            tokens: Vec::new(),
        }
    }
}

/// Reads the section. Mistakes are reported to `sheet`.
pub(super) fn read(node: Node, sheet: &mut Sheet, warnings: &mut Vec<(u32, String)>) -> Option<Serve> {
    let mut serve = Serve::default();
    let mut fields = sheet.fields(node, &SERVE)?;
    if let Some(listen) = fields.read("listen", sheet, |node, sheet| sheet.parsed(node, "listen", str::parse)) {
        serve.listen = listen;
    }
    if let Some(runs) = fields.read("max_concurrent_runs", sheet, read_limit) {
        serve.max_concurrent_runs = runs;
    }
    if let Some(stop) = fields.read("stop_within", sheet, |node, sheet| sheet.span(node, "stop_within")) {
        serve.stop_within = stop;
    }
    let Some(tokens) = fields.take("tokens") else { return Some(serve) };
    let line = tokens.line;
    for node in sheet.list(tokens, "tokens").into_iter().flatten() {
        let line = node.line;
        let Some(token) = read_token(node, sheet, warnings) else { continue };
        if serve.tokens.iter().any(|other| other.name == token.name) {
            sheet.report(line, format!("the token `{}` is there twice", token.name));
        }
        serve.tokens.push(token);
    }
    if serve.tokens.len() > MAX_TOKENS {
        sheet.report(line, format!("`tokens` may have {MAX_TOKENS} at most"));
    }
    Some(serve)
}

/// Reads a `max_concurrent_runs`, of the daemon or of a source.
pub(super) fn read_limit(node: Node, sheet: &mut Sheet) -> Option<usize> {
    let line = node.line;
    let runs = sheet.count(node, "max_concurrent_runs")?;
    if !(1..=MAX_RUNS).contains(&runs) {
        sheet.report(line, format!("`max_concurrent_runs` must be 1 to {MAX_RUNS}"));
    }
    usize::try_from(runs).ok()
}

fn read_token(node: Node, sheet: &mut Sheet, warnings: &mut Vec<(u32, String)>) -> Option<Token> {
    let mut fields = sheet.fields(node, &TOKEN)?;
    let (name, token, scope) = (fields.take("name"), fields.take("token"), fields.take("scope"));
    let name = name.and_then(|node| {
        let check =
            |text: &str| if is_plain_name(text) { Ok(text.to_owned()) } else { Err("1 to 64 of A-Z a-z 0-9 _ -") };
        sheet.parsed(node, "name", check)
    });
    let token = token.and_then(|node| {
        if matches!(node.content, Content::Text { from_variable: false, .. }) {
            let message = "`token` is written out here; keep secrets out of files: `token: \"${LOADER_TOKEN}\"`";
            warnings.push((node.line, message.to_owned()));
        }
        sheet.parsed(node, "token", check_token)
    });
    let scope = scope.map_or(Some(TokenScope::Read), |node| sheet.choice(node, "scope", &SCOPES));
    Some(Token { name: name?, token: Secret(token?), scope: scope? })
}

fn check_token(text: &str) -> Result<String, String> {
    // A token read from a file brings the line's end along.
    let text = text.trim_end();
    if !(MIN_TOKEN..=MAX_TOKEN).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("must be {MIN_TOKEN} to {MAX_TOKEN} characters of visible ASCII, best random ones"));
    }
    Ok(text.to_owned())
}
