//! `alerts` of `larder.yml` and of a sync: when to tell whom.
//!
//! ```yaml
//! alerts:
//!   channels:                                  # larder.yml only
//!     team: {type: slack, url: "${SLACK_URL}"}
//!   notify: {warning: [team], critical: [team]}
//!   rules:
//!     failed: critical                         # a level, `off`, or what each level begins with:
//!     rejected: {warning: {rows: 1}, critical: {percent: 5}}
//! ```
//!
//! A sync has the rules and channels of `larder.yml`, and its own `alerts` replaces them key by key.

use std::collections::BTreeMap;
use std::time::Duration;

use lettre::message::Mailbox;
use serde::{Deserialize, Serialize};

use super::keys::{Key, Section, Shape, Variant, words};
use super::node::{Content, Node};
use super::sheet::{Fields, Sheet};
use super::suggest::hint;
use super::{Secret, is_plain_name};

const LEVELS: [(&str, Level); 2] = [("warning", Level::Warning), ("critical", Level::Critical)];
const OFF: &str = "off";
const SMTP_TLS: [(&str, SmtpTls); 3] =
    [("tls", SmtpTls::Tls), ("starttls", SmtpTls::StartTls), ("none", SmtpTls::None)];

const NAMES: Shape = Shape::Either(&[Shape::Text, Shape::List(&Shape::Text)]);
const NOTIFY_SHAPE: Shape = Shape::Either(&[Shape::Text, Shape::List(&Shape::Text), Shape::Section(&NOTIFY)]);
const NOTIFY_KEY: Key = Key::optional("notify", NOTIFY_SHAPE, "The channels that are told, or those of each level.");
const RECOVER_AFTER: Key =
    Key::optional("recover_after", Shape::Count, "So many runs in a row must be well before an alert ends. Default 1.");
const RULES_KEY: Key = Key::optional("rules", Shape::Section(&RULES), RULES.about);

pub(super) static ALERTS: Section = Section {
    what: "`alerts`",
    id: "alerting",
    about: "When to tell whom that a sync goes wrong.",
    keys: &[
        Key::optional("channels", Shape::Map(&Shape::Variant(&CHANNEL)), "Where notices can go, by name."),
        NOTIFY_KEY,
        RECOVER_AFTER,
        RULES_KEY,
    ],
    one_of: &[],
};

/// What stands for the alerts of a sync.
pub(super) const POLICY_SHAPE: Shape = Shape::Either(&[Shape::Word(&[OFF]), Shape::Section(&POLICY)]);

pub(super) static POLICY: Section = Section {
    what: "`alerts`",
    id: "alerts",
    about: "When to tell whom that this sync goes wrong: what differs from larder.yml.",
    keys: &[NOTIFY_KEY, RECOVER_AFTER, RULES_KEY],
    one_of: &[],
};

static NOTIFY: Section = Section {
    what: "`notify`",
    id: "notify",
    about: "The channels of each level.",
    keys: &[
        Key::optional("warning", NAMES, "The channels that are told of warnings."),
        Key::optional("critical", NAMES, "The channels that are told of what is critical."),
    ],
    one_of: &[],
};

static RULES: Section = Section {
    what: "`rules`",
    id: "rules",
    about: "What each level begins with, or `off`.",
    keys: &[
        Key::optional(
            "failed",
            Shape::Either(&[Shape::Word(&[OFF, "warning", "critical"]), Shape::Section(&RUN_LEVELS)]),
            "Runs that failed, one after the other.",
        ),
        Key::optional("blocked", Shape::Word(&[OFF, "warning", "critical"]), "A guard stopped the run."),
        Key::optional(
            "rejected",
            Shape::Either(&[Shape::Word(&[OFF]), Shape::Section(&REJECT_LEVELS)]),
            "Rows of a run that were rejected.",
        ),
        Key::optional(
            "slow",
            Shape::Either(&[Shape::Word(&[OFF]), Shape::Section(&SPAN_LEVELS)]),
            "How long a run takes.",
        ),
        Key::optional(
            "stale",
            Shape::Either(&[Shape::Word(&[OFF]), Shape::Section(&SPAN_LEVELS)]),
            "For how long no run has succeeded.",
        ),
        Key::optional(
            "row_drop",
            Shape::Either(&[Shape::Word(&[OFF]), Shape::Section(&SHARE_LEVELS)]),
            "Percent of rows that are missing from the usual number.",
        ),
    ],
    one_of: &[],
};

static RUN_LEVELS: Section = Section {
    what: "the rule",
    id: "levels_of_runs",
    about: "With how many failed runs in a row each level begins.",
    keys: &[Key::optional("warning", Shape::Count, WARNING), Key::optional("critical", Shape::Count, CRITICAL)],
    one_of: &[],
};

static SPAN_LEVELS: Section = Section {
    what: "the rule",
    id: "levels_of_spans",
    about: "With what time each level begins.",
    keys: &[Key::optional("warning", Shape::Span, WARNING), Key::optional("critical", Shape::Span, CRITICAL)],
    one_of: &[],
};

static SHARE_LEVELS: Section = Section {
    what: "the rule",
    id: "levels_of_shares",
    about: "With what share each level begins.",
    keys: &[Key::optional("warning", Shape::Percent, WARNING), Key::optional("critical", Shape::Percent, CRITICAL)],
    one_of: &[],
};

static REJECT_LEVELS: Section = Section {
    what: "the rule",
    id: "levels_of_rejects",
    about: "With how many rejected rows each level begins.",
    keys: &[
        Key::optional("warning", Shape::Section(&REJECTS), WARNING),
        Key::optional("critical", Shape::Section(&REJECTS), CRITICAL),
    ],
    one_of: &[],
};

static REJECTS: Section = Section {
    what: "a limit of `rejected`",
    id: "rejects",
    about: "Rejected rows that are too many: either number is enough.",
    keys: &[
        Key::optional("rows", Shape::Count, "So many rows."),
        Key::optional("percent", Shape::Percent, "Such a share of the rows that the query returned."),
    ],
    one_of: &[],
};

const WARNING: &str = "With what a warning begins.";
const CRITICAL: &str = "With what it is critical.";

/// A channel, by its type.
static CHANNEL: Variant = Variant {
    what: "the channel",
    tag: "type",
    cases: &[("slack", &SLACK), ("webhook", &WEBHOOK), ("mail", &MAIL)],
    other: None,
};

const TYPE: &str = "What kind of channel it is.";

static SLACK: Section = Section {
    what: "the channel",
    id: "channel_slack",
    about: "An incoming webhook of Slack, or of what takes the same messages.",
    keys: &[
        Key::required("type", Shape::Word(&["slack"]), TYPE),
        Key::required("url", Shape::Text, "Its address. Keep it out of files: `${SLACK_URL}`."),
    ],
    one_of: &[],
};

static WEBHOOK: Section = Section {
    what: "the channel",
    id: "channel_webhook",
    about: "An HTTP endpoint that takes a notice as JSON.",
    keys: &[
        Key::required("type", Shape::Word(&["webhook"]), TYPE),
        Key::required("url", Shape::Text, "Its address."),
        Key::optional("secret", Shape::Text, "What notices are signed with. Keep it out of files."),
    ],
    one_of: &[],
};

static MAIL: Section = Section {
    what: "the channel",
    id: "channel_mail",
    about: "Mail.",
    keys: &[
        Key::required("type", Shape::Word(&["mail"]), TYPE),
        Key::required("host", Shape::Text, "The mail server."),
        Key::optional("port", Shape::Count, "Its port. Default: that of `tls`."),
        Key::optional("tls", Shape::Word(&words(&SMTP_TLS)), "How the connection is encrypted. Default `tls`."),
        Key::optional("user", Shape::Text, "The user, for a server that asks."),
        Key::optional("password", Shape::Text, "Its password. Keep it out of files."),
        Key::required("from", Shape::Text, "The sender, for example `Larder <larder@example.com>`."),
        Key::required("to", NAMES, "The recipients."),
    ],
    one_of: &[],
};

/// How bad it is. Ordered: critical is above warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Somebody should look during the day.
    Warning,
    /// Somebody should look now.
    Critical,
}

impl Level {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What `alerts` of `larder.yml` says.
#[derive(Debug, Clone, Default)]
pub struct Alerting {
    /// Where notices can go, by name.
    pub channels: BTreeMap<String, Channel>,
    /// What counts for a sync that says nothing else.
    pub policy: AlertPolicy,
}

/// Where notices go.
#[derive(Debug, Clone)]
pub enum Channel {
    /// An incoming webhook of Slack, or of what takes the same messages. Its address is a secret.
    Slack(Secret),
    /// An HTTP endpoint that takes a notice as JSON.
    Webhook {
        /// The address; it may hold a token.
        url: Secret,
        /// The key that notices are signed with, if they are to be.
        secret: Option<Secret>,
    },
    /// Mail.
    Mail(Mail),
}

/// How mail is sent.
#[derive(Debug, Clone)]
pub struct Mail {
    /// The mail server.
    pub host: String,
    /// Its port; that of the kind of connection if not given.
    pub port: Option<u16>,
    /// How the connection is encrypted.
    pub tls: SmtpTls,
    /// User and password, for a server that asks.
    pub login: Option<(String, Secret)>,
    /// The sender.
    pub from: Mailbox,
    /// The recipients.
    pub to: Vec<Mailbox>,
}

/// How a connection to a mail server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// From its first byte (port 465).
    Tls,
    /// After a command in the clear, without which nothing is sent (port 587).
    StartTls,
    /// Not at all (port 25), for a relay on this machine.
    None,
}

/// Rules and who is told.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertPolicy {
    /// When to tell.
    pub rules: Rules,
    /// The channels for each level.
    pub notify: BTreeMap<Level, Vec<String>>,
    /// So many runs in a row must be well before an alert ends. Damps what fails every other time.
    pub recover_after: u64,
}

impl Default for AlertPolicy {
    fn default() -> Self {
        Self { rules: Rules::default(), notify: BTreeMap::new(), recover_after: 1 }
    }
}

/// When to tell: for each rule what a level begins with. A rule without levels is off.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rules {
    /// Runs that failed in a row.
    pub failed: Levels<u64>,
    /// A guard stopped the run.
    pub blocked: Levels<()>,
    /// Rows of a run that were rejected.
    pub rejected: Levels<Rejects>,
    /// For how long a run takes.
    pub slow: Levels<Duration>,
    /// For how long no run has succeeded.
    pub stale: Levels<Duration>,
    /// By how much fewer rows the query returned than the runs before, in percent.
    pub row_drop: Levels<f64>,
}

/// What each level of a rule begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels<T> {
    /// The limit at which a warning begins.
    pub warning: Option<T>,
    /// The limit at which it is critical.
    pub critical: Option<T>,
}

impl<T> Default for Levels<T> {
    fn default() -> Self {
        Self { warning: None, critical: None }
    }
}

impl<T> Levels<T> {
    fn only(level: Level, limit: T) -> Self {
        match level {
            Level::Warning => Self { warning: Some(limit), critical: None },
            Level::Critical => Self { warning: None, critical: Some(limit) },
        }
    }

    /// True if no level has a limit.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.warning.is_none() && self.critical.is_none()
    }

    /// The highest level whose limit is reached, with that limit.
    pub fn reached(&self, is_reached: impl Fn(&T) -> bool) -> Option<(Level, &T)> {
        let critical = self.critical.as_ref().map(|limit| (Level::Critical, limit));
        let warning = self.warning.as_ref().map(|limit| (Level::Warning, limit));
        critical.into_iter().chain(warning).find(|(_, limit)| is_reached(limit))
    }
}

/// Rejected rows that are too many: either number is enough.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rejects {
    /// So many.
    pub rows: Option<u64>,
    /// Such a share of the rows that the query returned.
    pub percent: Option<f64>,
}

/// The channels by name.
type Channels = BTreeMap<String, Channel>;

/// Reads `alerts` of `larder.yml`. What is allowed but unwise goes to `warnings`: line and message.
pub(super) fn read(node: Node, sheet: &mut Sheet, warnings: &mut Vec<(u32, String)>) -> Option<Alerting> {
    let mut fields = sheet.fields(node, &ALERTS)?;
    let mut alerting = Alerting::default();
    let channels = fields.read("channels", sheet, |node, sheet| sheet.entries(node, "channels"));
    for entry in channels.into_iter().flatten() {
        if !is_plain_name(&entry.key) {
            sheet.report(entry.line, "the name of a channel must be 1 to 64 of A-Z a-z 0-9 _ -");
        }
        if let Some(channel) = read_channel(entry.node, sheet, warnings) {
            alerting.channels.insert(entry.key, channel);
        }
    }
    // Unless the rules say otherwise, what always needs a person is told.
    alerting.policy.rules.failed = Levels::only(Level::Critical, 1);
    alerting.policy.rules.blocked = Levels::only(Level::Critical, ());
    read_fields(&mut fields, &mut alerting.policy, Some(&alerting.channels), sheet);
    Some(alerting)
}

/// Reads `alerts` of a sync, over what `larder.yml` says; that is not known if it has mistakes.
pub(super) fn read_policy(node: Option<Node>, alerting: Option<&Alerting>, sheet: &mut Sheet) -> AlertPolicy {
    let mut policy = alerting.map(|alerting| alerting.policy.clone()).unwrap_or_default();
    let Some(node) = node else { return policy };
    if is_off(&node) {
        return AlertPolicy::default();
    }
    if let Some(mut fields) = sheet.fields(node, &POLICY) {
        read_fields(&mut fields, &mut policy, alerting.map(|alerting| &alerting.channels), sheet);
    }
    policy
}

/// Reads the keys that both sections have.
fn read_fields(fields: &mut Fields, policy: &mut AlertPolicy, channels: Option<&Channels>, sheet: &mut Sheet) {
    if let Some(node) = fields.take("notify") {
        policy.notify = read_notify(node, channels, sheet);
    }
    if let Some(runs) = fields.read("recover_after", sheet, |node, sheet| at_least_one(node, "recover_after", sheet)) {
        policy.recover_after = runs;
    }
    if let Some(node) = fields.take("rules") {
        read_rules(node, &mut policy.rules, sheet);
    }
}

/// A channel, a list of them, or either for each level.
fn read_notify(node: Node, channels: Option<&Channels>, sheet: &mut Sheet) -> BTreeMap<Level, Vec<String>> {
    let Content::Map(_) = node.content else {
        let names = read_names(node, channels, sheet);
        return LEVELS.iter().map(|(_, level)| (*level, names.clone())).collect();
    };
    let Some(mut fields) = sheet.fields(node, &NOTIFY) else { return BTreeMap::new() };
    let nodes = LEVELS.map(|(word, level)| (level, fields.take(word)));
    nodes.into_iter().filter_map(|(level, node)| Some((level, read_names(node?, channels, sheet)))).collect()
}

fn read_names(node: Node, channels: Option<&Channels>, sheet: &mut Sheet) -> Vec<String> {
    let mut names = Vec::new();
    for node in one_or_many(node) {
        let line = node.line;
        let Some(name) = sheet.text(node, "notify") else { continue };
        // Mistakes of larder.yml were reported there.
        if let Some(channels) = channels
            && !channels.contains_key(&name)
        {
            let hint = hint(&name, channels.keys().map(String::as_str));
            sheet.report(line, format!("larder.yml has no alert channel `{name}`; {hint}"));
        } else if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn one_or_many(node: Node) -> Vec<Node> {
    match node.content {
        Content::List(nodes) => nodes,
        _ => vec![node],
    }
}

fn read_rules(node: Node, rules: &mut Rules, sheet: &mut Sheet) {
    let Some(mut fields) = sheet.fields(node, &RULES) else { return };
    let [failed, blocked, rejected, slow, stale, row_drop] =
        ["failed", "blocked", "rejected", "slow", "stale", "row_drop"].map(|name| fields.take(name));
    if let Some(node) = blocked {
        read_bare(node, "blocked", (), &mut rules.blocked, sheet);
    }
    match failed {
        Some(node @ Node { content: Content::Text { .. }, .. }) => {
            read_bare(node, "failed", 1, &mut rules.failed, sheet);
        }
        node => read_levels(node, "failed", &RUN_LEVELS, (&mut rules.failed, at_least_one), sheet),
    }
    read_levels(rejected, "rejected", &REJECT_LEVELS, (&mut rules.rejected, read_rejects), sheet);
    read_levels(slow, "slow", &SPAN_LEVELS, (&mut rules.slow, read_span), sheet);
    read_levels(stale, "stale", &SPAN_LEVELS, (&mut rules.stale, read_span), sheet);
    read_levels(row_drop, "row_drop", &SHARE_LEVELS, (&mut rules.row_drop, positive_percent), sheet);
}

/// A rule as one word: `off`, or the level that begins with the limit which needs no saying.
fn read_bare<T: Clone>(node: Node, name: &str, limit: T, rule: &mut Levels<T>, sheet: &mut Sheet) {
    let choices = [(OFF, None), ("warning", Some(Level::Warning)), ("critical", Some(Level::Critical))];
    if let Some(level) = sheet.choice(node, name, &choices) {
        *rule = level.map_or(Levels::default(), |level| Levels::only(level, limit));
    }
}

/// Reads the limit of a level; the text is the rule's name.
type ReadLimit<T> = fn(Node, &str, &mut Sheet) -> Option<T>;

/// A rule as `off` or limits by level. Changes nothing if it is not there.
fn read_levels<T>(
    node: Option<Node>,
    name: &str,
    section: &'static Section,
    (rule, read): (&mut Levels<T>, ReadLimit<T>),
    sheet: &mut Sheet,
) {
    let Some(node) = node else { return };
    if is_off(&node) {
        *rule = Levels::default();
        return;
    }
    let Content::Map(_) = node.content else {
        let expected = "`off` or limits by level: `{warning: …, critical: …}`";
        return sheet.expected::<()>(&node, name, expected).unwrap_or(());
    };
    let Some(mut fields) = sheet.fields(node, section) else { return };
    *rule = Levels {
        warning: fields.read("warning", sheet, |node, sheet| read(node, name, sheet)),
        critical: fields.read("critical", sheet, |node, sheet| read(node, name, sheet)),
    };
    if rule.is_off() && sheet.is_clean() {
        sheet.report(fields.line(), format!("`{name}` has no level; give `warning` or `critical`, or `{name}: off`"));
    }
}

fn at_least_one(node: Node, what: &str, sheet: &mut Sheet) -> Option<u64> {
    let line = node.line;
    let count = sheet.count(node, what)?;
    if count == 0 {
        sheet.report(line, format!("`{what}` must be at least 1"));
        return None;
    }
    Some(count)
}

fn positive_percent(node: Node, what: &str, sheet: &mut Sheet) -> Option<f64> {
    let line = node.line;
    let percent = sheet.percent(node, what)?;
    if percent <= 0.0 {
        sheet.report(line, format!("`{what}`: the share must be above 0"));
        return None;
    }
    Some(percent)
}

fn read_span(node: Node, what: &str, sheet: &mut Sheet) -> Option<Duration> {
    let line = node.line;
    let span = sheet.span(node, what)?;
    if span.is_zero() {
        sheet.report(line, format!("`{what}`: the time must be longer than nothing"));
        return None;
    }
    Some(span)
}

fn read_rejects(node: Node, _rule: &str, sheet: &mut Sheet) -> Option<Rejects> {
    let mut fields = sheet.fields(node, &REJECTS)?;
    let rejects = Rejects {
        rows: fields.read("rows", sheet, |node, sheet| at_least_one(node, "rows", sheet)),
        percent: fields.read("percent", sheet, |node, sheet| positive_percent(node, "percent", sheet)),
    };
    if rejects == Rejects::default() && sheet.is_clean() {
        sheet.report(fields.line(), "a limit of `rejected` needs `rows`, `percent` or both");
    }
    Some(rejects)
}

fn is_off(node: &Node) -> bool {
    matches!(&node.content, Content::Text { text, .. } if text == OFF)
}

fn read_channel(node: Node, sheet: &mut Sheet, warnings: &mut Vec<(u32, String)>) -> Option<Channel> {
    let (kind, mut fields) = sheet.variant(node, &CHANNEL)?;
    if kind == Some("mail") {
        return read_mail(&mut fields, sheet, warnings).map(Channel::Mail);
    }
    let url = fields.read("url", sheet, |node, sheet| read_address(node, sheet, warnings));
    if kind == Some("slack") {
        return url.map(Channel::Slack);
    }
    let secret = fields.read("secret", sheet, |node, sheet| read_secret(node, "secret", sheet, warnings));
    url.map(|url| Channel::Webhook { url, secret })
}

fn read_mail(fields: &mut Fields, sheet: &mut Sheet, warnings: &mut Vec<(u32, String)>) -> Option<Mail> {
    let host = fields.read("host", sheet, |node, sheet| sheet.parsed(node, "host", host_name));
    let port = fields.read("port", sheet, read_port);
    let tls = fields.read("tls", sheet, |node, sheet| sheet.choice(node, "tls", &SMTP_TLS)).unwrap_or(SmtpTls::Tls);
    let user = fields.read("user", sheet, |node, sheet| sheet.text(node, "user"));
    let password = fields.read("password", sheet, |node, sheet| read_secret(node, "password", sheet, warnings));
    if user.is_some() != password.is_some() {
        sheet.report(fields.line(), "`user` and `password` go together");
    }
    if tls == SmtpTls::None && password.is_some() {
        sheet.report(fields.line(), "`tls: none` would send the password in the clear");
    }
    let from = fields.read("from", sheet, |node, sheet| read_mailbox(node, "from", sheet));
    let to: Vec<Node> = fields.take("to").map(one_or_many).unwrap_or_default();
    let to: Vec<Mailbox> = to.into_iter().filter_map(|node| read_mailbox(node, "to", sheet)).collect();
    if to.is_empty() && sheet.is_clean() {
        sheet.report(fields.line(), "`to` names nobody");
    }
    Some(Mail { host: host?, port, tls, login: user.zip(password), from: from?, to })
}

fn read_port(node: Node, sheet: &mut Sheet) -> Option<u16> {
    let line = node.line;
    let port = u16::try_from(sheet.count(node, "port")?).ok().filter(|port| *port > 0);
    if port.is_none() {
        sheet.report(line, "`port` must be from 1 to 65535");
    }
    port
}

fn host_name(text: &str) -> Result<String, &'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    let is_host = text.chars().all(allowed);
    if is_host {
        Ok(text.to_owned())
    } else {
        Err("must be the name or address of a mail server, without scheme and port")
    }
}

fn read_mailbox(node: Node, what: &str, sheet: &mut Sheet) -> Option<Mailbox> {
    sheet.parsed(node, what, |text| {
        text.parse::<Mailbox>()
            .map_err(|_| "must be a mail address such as `a@example.com` or `Larder <a@example.com>`")
    })
}

fn read_address(node: Node, sheet: &mut Sheet, warnings: &mut Vec<(u32, String)>) -> Option<Secret> {
    let line = node.line;
    let secret = read_secret(node, "url", sheet, warnings)?;
    match reqwest::Url::parse(&secret.0) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(secret),
        _ => {
            sheet.report(line, "`url` must be an address that begins with https:// or http://");
            None
        }
    }
}

/// A text that must not be shown. One that is written out in the file is allowed, with a warning.
fn read_secret(node: Node, what: &str, sheet: &mut Sheet, warnings: &mut Vec<(u32, String)>) -> Option<Secret> {
    let line = node.line;
    let is_written_out = matches!(node.content, Content::Text { from_variable: false, .. });
    // What is read from a file brings the line's end along.
    let text = sheet.text(node, what)?.trim().to_owned();
    if is_written_out {
        warnings.push((
            line,
            format!(
                "`{what}` of an alert channel is written out here; keep secrets out of files: `{what}: \"${{NAME}}\"`"
            ),
        ));
    }
    Some(Secret(text))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const CHANNELS: &str = "channels:\n  team: {type: slack, url: \"${SLACK}\"}\n  pager: {type: webhook, url: \"https://p.example\", secret: \"${KEY}\"}\n";

    fn parse(text: &str, sheet: &mut Sheet) -> Option<Node> {
        sheet.parse_with(text, &|name| match name {
            "SLACK" => Some("https://hooks.example/T0/token\n".to_owned()),
            "KEY" => Some("the secret".to_owned()),
            _ => None,
        })
    }

    /// `alerts` of larder.yml with two channels, its problems and its warnings.
    fn alerting(text: &str) -> (Alerting, Vec<String>, Vec<(u32, String)>) {
        let mut sheet = Sheet::new(Path::new("larder.yml"));
        let mut warnings = Vec::new();
        let node = parse(&format!("{CHANNELS}{text}"), &mut sheet);
        let alerting = node.and_then(|node| read(node, &mut sheet, &mut warnings)).unwrap_or_default();
        let problems: Vec<String> = sheet.into_problems().iter().map(ToString::to_string).collect();
        assert!(!format!("{alerting:?}{problems:?}{warnings:?}").contains("token"), "an address was shown");
        (alerting, problems, warnings)
    }

    fn sound(text: &str) -> Alerting {
        let (alerting, problems, _) = alerting(text);
        assert!(problems.is_empty(), "{problems:?}");
        alerting
    }

    #[test]
    fn rules_are_read_by_level() {
        let text = "rules:\n  failed: {warning: 1, critical: 3}\n  blocked: warning\n  rejected: {critical: {percent: 2.5}}\n  \
                    slow: {warning: 10m}\n  stale: {critical: 1d}\n  row_drop: {warning: 20}\n";
        let Alerting { policy: AlertPolicy { rules, notify, recover_after }, .. } = sound(text);
        assert_eq!(rules.failed, Levels { warning: Some(1), critical: Some(3) });
        assert_eq!(rules.blocked, Levels::only(Level::Warning, ()));
        let rejects = Rejects { rows: None, percent: Some(2.5) };
        assert_eq!(rules.rejected, Levels::only(Level::Critical, rejects));
        assert_eq!(rules.slow, Levels::only(Level::Warning, Duration::from_secs(600)));
        assert_eq!(rules.stale, Levels::only(Level::Critical, Duration::from_secs(86_400)));
        assert_eq!(rules.row_drop, Levels::only(Level::Warning, 20.0));
        assert!(notify.is_empty());
        assert_eq!(recover_after, 1);
    }

    #[test]
    fn without_rules_only_what_needs_a_person_is_told() {
        let rules = sound("").policy.rules;
        let expected = Rules {
            failed: Levels::only(Level::Critical, 1),
            blocked: Levels::only(Level::Critical, ()),
            ..Rules::default()
        };
        assert_eq!(rules, expected);
        assert_eq!(sound("rules: {failed: off, blocked: off}").policy.rules, Rules::default());
    }

    #[test]
    fn sync_replaces_what_it_names() {
        let alerting = sound("notify: [team]\nrules: {slow: {warning: 10m}}\n");
        let mut sheet = Sheet::new(Path::new("syncs/s.yml"));
        let node = parse("notify: {critical: pager}\nrecover_after: 3\nrules: {failed: off}\n", &mut sheet);
        let policy = read_policy(node, Some(&alerting), &mut sheet);
        assert!(sheet.is_clean());
        assert_eq!(policy.notify, BTreeMap::from([(Level::Critical, vec!["pager".to_owned()])]));
        assert_eq!(policy.recover_after, 3);
        assert!(policy.rules.failed.is_off() && !policy.rules.slow.is_off() && !policy.rules.blocked.is_off());
        let node = parse("off", &mut sheet);
        assert_eq!(read_policy(node, Some(&alerting), &mut sheet), AlertPolicy::default());
        assert_eq!(read_policy(None, Some(&alerting), &mut sheet), alerting.policy);
        let both = vec!["team".to_owned()];
        assert_eq!(alerting.policy.notify, BTreeMap::from([(Level::Warning, both.clone()), (Level::Critical, both)]));
    }

    #[test]
    fn channels_are_read() {
        let mail = "  mail: {type: mail, host: mail.example, tls: starttls, user: u, password: \"${KEY}\", from: \"Larder <l@x.example>\", to: [a@x.example, b@x.example]}\n";
        let read = sound(mail);
        let Channel::Slack(url) = &read.channels["team"] else { panic!("not Slack") };
        assert_eq!(url.0, "https://hooks.example/T0/token");
        let Channel::Webhook { secret: Some(secret), .. } = &read.channels["pager"] else { panic!("no secret") };
        assert_eq!(secret.0, "the secret");
        let Channel::Mail(mail) = &read.channels["mail"] else { panic!("not mail") };
        assert_eq!(
            (mail.host.as_str(), mail.port, mail.tls, mail.to.len()),
            ("mail.example", None, SmtpTls::StartTls, 2)
        );
        let (_, problems, warnings) = alerting("");
        assert!(problems.is_empty());
        assert_eq!(warnings.len(), 1, "the webhook's address is written out: {warnings:?}");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("notify: [temas]", "larder.yml has no alert channel `temas`"),
            ("notify: [tean]", "did you mean `team`?"),
            ("rules: {failed: {warning: 0}}", "`failed` must be at least 1"),
            ("rules: {failed: always}", "`always` is unknown"),
            ("rules: {slow: warning}", "`slow` must be `off` or limits by level"),
            ("rules: {slow: {warning: 0s}}", "longer than nothing"),
            ("rules: {slow: {warn: 1m}}", "unknown key `warn` in the rule"),
            ("rules: {slow: {}}", "`slow` has no level"),
            ("rules: {blocked: {warning: 1}}", "`blocked` must be a text"),
            ("rules: {rejected: {warning: {}}}", "needs `rows`, `percent` or both"),
            ("rules: {row_drop: {warning: 0}}", "must be above 0"),
            ("rules: {failing: critical}", "unknown key `failing`"),
            ("recover_after: 0", "`recover_after` must be at least 1"),
            ("  m: {type: slack, url: \"${SLACK}\", secret: \"${KEY}\"}", "unknown key `secret` in the channel"),
            ("  bad: {type: slack, url: \"ftp://x\"}", "`url` must be an address"),
            ("  m: {type: mail, host: h, from: a@b.example, to: nobody}", "must be a mail address"),
            ("  m: {type: mail, host: \"smtp://h\", from: a@b.example, to: a@b.example}", "without scheme and port"),
            ("  m: {type: mail, host: h, user: u, from: a@b.example, to: a@b.example}", "go together"),
            (
                "  m: {type: mail, host: h, tls: none, user: u, password: \"${KEY}\", from: a@b.example, to: a@b.example}",
                "in the clear",
            ),
            ("  m: {type: mail, host: h, port: 70000, from: a@b.example, to: a@b.example}", "from 1 to 65535"),
        ] {
            let (_, problems, _) = alerting(text);
            assert!(problems.iter().any(|problem| problem.contains(expected)), "{text}: {problems:?}");
        }
    }
}
