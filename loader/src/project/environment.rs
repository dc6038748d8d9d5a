//! `environments` and `env` of `larder.yml`: one project for several places.
//!
//! ```yaml
//! cluster: {url: "http://127.0.0.1:8080", key: "${LARDER_KEY:-dev}"}
//! env: {WAREHOUSE: analytics_dev}         # what ${WAREHOUSE} is where the process has no such variable
//! environments:
//!   prod:
//!     cluster: {url: "https://larder.example"}
//!     env: {WAREHOUSE: analytics}
//! ```
//! The chosen environment is laid over the rest of the file, mapping by mapping, before variables are put in; what other
//! environments need is not asked for. Each environment has a state folder of its own.

use std::collections::BTreeMap;

use super::interpolate::Variables;
use super::is_plain_name;
use super::keys::{Key, Shape};
use super::node::{Content, Entry, Node};
use super::sheet::Sheet;
use super::suggest::hint;

pub(super) const ENV: Key =
    Key::optional("env", Shape::Map(&Shape::Text), "What `${NAME}` is where the process has no such variable.");

/// What is laid over the file for an environment.
pub(super) const fn environments(settings: &'static Shape) -> Key {
    Key::optional("environments", Shape::Map(settings), "What differs in each environment, chosen with `--env NAME`.")
}

/// Lays the chosen environment over the file. Tells whether it names a state folder.
pub(super) fn choose(file: Node, chosen: Option<&str>, sheet: &mut Sheet) -> Option<(Node, bool)> {
    let Node { line, content: Content::Map(mut entries) } = file else { return Some((file, false)) };
    #[cfg(test)]
    super::sheet::taken::note("settings", "environments");
    let found = entries.iter().position(|entry| entry.key == "environments").map(|at| entries.remove(at));
    let all = match found {
        Some(entry) => sheet.entries(entry.node, "environments")?,
        None => Vec::new(),
    };
    for entry in all.iter().filter(|entry| !is_plain_name(&entry.key)) {
        sheet.report(entry.line, format!("environment `{}`: a name is 1 to 64 of A-Z a-z 0-9 _ -", entry.key));
    }
    let mut file = Node { line, content: Content::Map(entries) };
    let Some(name) = chosen else { return Some((file, false)) };
    let names: Vec<&str> = all.iter().map(|entry| entry.key.as_str()).collect();
    let Some(at) = names.iter().position(|other| *other == name) else {
        let message = format!("`environments` has no `{name}`, which was chosen; {}", hint(name, names));
        sheet.report(line, message);
        return None;
    };
    let overlay = all.into_iter().nth(at)?.node;
    let names_state = matches!(&overlay.content, Content::Map(entries) if entries.iter().any(|e| e.key == "state"));
    if !matches!(overlay.content, Content::Map(_)) {
        return sheet.expected(&overlay, name, "a mapping");
    }
    if let Content::Map(entries) = &overlay.content
        && let Some(entry) = entries.iter().find(|entry| entry.key == "environments")
    {
        sheet.report(entry.line, "an environment has no environments of its own");
    }
    lay_over(&mut file, overlay);
    Some((file, names_state))
}

/// Mappings are merged key by key; anything else is replaced.
fn lay_over(below: &mut Node, above: Node) {
    match (&mut below.content, above) {
        (Content::Map(entries), Node { content: Content::Map(overlay), .. }) => {
            for entry in overlay {
                match entries.iter_mut().find(|other| other.key == entry.key) {
                    Some(other) => lay_over(&mut other.node, entry.node),
                    None => entries.push(entry),
                }
            }
        }
        (_, above) => *below = above,
    }
}

/// Takes `env` out of the file: what holds where the process has no such variable. Only the process itself may stand in
/// these texts.
pub(super) fn take_env(file: &mut Node, variables: &Variables<'_>, sheet: &mut Sheet) -> BTreeMap<String, String> {
    #[cfg(test)]
    super::sheet::taken::note("settings", ENV.name);
    let Content::Map(entries) = &mut file.content else { return BTreeMap::new() };
    let Some(at) = entries.iter().position(|entry| entry.key == ENV.name) else { return BTreeMap::new() };
    let node = sheet.interpolate(entries.remove(at).node, variables);
    let mut texts = BTreeMap::new();
    for Entry { key, node, .. } in sheet.entries(node, ENV.name).into_iter().flatten() {
        match node.content {
            Content::Text { text, .. } => drop(texts.insert(key, text)),
            _ => drop(sheet.expected::<()>(&node, &key, "a text (put numbers in quotes)")),
        }
    }
    texts
}
