//! Interpolation: `${VAR}`, `${VAR:-default}` and `${file:path}` in the texts of YAML files, `$$` for a dollar sign.
//!
//! It works on values that were parsed already, so whatever a variable or file holds stays one text and can never become
//! YAML of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Largest file that a text may take in. It is meant for secrets.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Where variables and files come from.
pub(super) struct Variables<'a> {
    /// The environment of the process: a name to its content, if it is set.
    pub(super) environment: &'a dyn Fn(&str) -> Option<String>,
    /// What holds where the environment has nothing: `env` of `larder.yml`.
    pub(super) fallback: BTreeMap<String, String>,
    /// The project's folder, which relative paths begin at.
    pub(super) root: &'a Path,
}

impl Variables<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        (self.environment)(name).or_else(|| self.fallback.get(name).cloned())
    }

    /// The content of a file, without the line end that editors and secret stores put behind it.
    fn file(&self, path: &str) -> Result<String, String> {
        let fault = |reason: String| format!("`${{file:{path}}}`: {reason}");
        let file = File::open(self.root.join(path)).map_err(|error| fault(error.to_string()))?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| fault(error.to_string()))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(fault(format!("the file is larger than {} KiB", MAX_FILE_BYTES / 1024)));
        }
        let text = String::from_utf8(bytes).map_err(|_| fault("the file is not UTF-8".to_owned()))?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
    }
}

/// A text after interpolation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Interpolated {
    /// The text.
    pub(crate) text: String,
    /// True if at least one variable or file was named.
    pub(crate) has_variable: bool,
}

/// Replaces the variables of a text.
///
/// # Errors
/// A sentence for each variable that is not set and has no default, and for each `${` that opens no variable.
pub(crate) fn interpolate(text: &str, variables: &Variables<'_>) -> Result<Interpolated, Vec<String>> {
    let mut out = Interpolated { text: String::with_capacity(text.len()), has_variable: false };
    let mut faults = Vec::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.text.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.text.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            out.has_variable = true;
            let Some((reference, after)) = reference(after) else {
                faults.push(
                    "`${` must begin `${NAME}`, `${NAME:-default}` or `${file:path}`; write `$${` for the characters \
                     themselves"
                        .to_owned(),
                );
                break;
            };
            match resolve(&reference, variables) {
                Ok(content) => out.text.push_str(&content),
                Err(fault) => faults.push(fault),
            }
            rest = after;
        } else {
            out.text.push('$');
        }
    }
    out.text.push_str(rest);
    if faults.is_empty() { Ok(out) } else { Err(faults) }
}

/// What stands between `${` and `}`.
enum Reference<'t> {
    Variable { name: &'t str, default: Option<&'t str> },
    File(&'t str),
}

fn resolve(reference: &Reference<'_>, variables: &Variables<'_>) -> Result<String, String> {
    match reference {
        Reference::File(path) => variables.file(path),
        Reference::Variable { name, default } => {
            let content = variables.variable(name).or_else(|| default.map(str::to_owned));
            content.ok_or_else(|| {
                format!("the environment variable {name} is not set; set it, or give a default: `${{{name}:-default}}`")
            })
        }
    }
}

/// Splits `reference}rest`.
fn reference(text: &str) -> Option<(Reference<'_>, &str)> {
    let (inside, rest) = text.split_once('}')?;
    if let Some(path) = inside.strip_prefix("file:") {
        return (!path.is_empty()).then_some((Reference::File(path), rest));
    }
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let is_name = starts_well && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_name.then_some((Reference::Variable { name, default }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Result<String, Vec<String>> {
        run_in(Path::new("."), text)
    }

    fn run_in(root: &Path, text: &str) -> Result<String, Vec<String>> {
        let environment = |name: &str| match name {
            "A" => Some("alpha".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("${A} $$ }".to_owned()),
            _ => None,
        };
        let fallback = [("A", "hidden"), ("LAST", "resort")];
        let fallback = fallback.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        interpolate(text, &Variables { environment: &environment, fallback, root }).map(|out| out.text)
    }

    #[test]
    fn variables_and_defaults_are_replaced() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("${A}", "alpha"),
            ("<${A}-${A}>", "<alpha-alpha>"),
            ("${MISSING:-fallback}", "fallback"),
            ("${MISSING:-}", ""),
            ("${A:-fallback}", "alpha"),
            ("${EMPTY:-fallback}", ""),
            ("${LAST} ${LAST:-unused}", "resort resort"),
            ("$${A}", "${A}"),
            ("$$$${A}", "$${A}"),
            ("costs $5 and $", "costs $5 and $"),
            ("é${A}🙂", "éalpha🙂"),
        ] {
            assert_eq!(run(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn content_of_a_variable_is_not_interpolated_again() {
        assert_eq!(run("${TRICKY}").as_deref(), Ok("${A} $$ }"));
    }

    #[test]
    fn every_missing_variable_is_named() {
        let faults = run("${ONE} ${A} ${TWO}").unwrap_err();
        assert_eq!(faults.len(), 2);
        assert!(faults[0].contains("ONE") && faults[1].contains("TWO"), "{faults:?}");
    }

    #[test]
    fn what_opens_no_variable_is_refused() {
        for text in ["${", "${A", "${}", "${file:}", "${1A}", "${{ row.price }}", "${A-B}"] {
            let faults = run(text).unwrap_err();
            assert!(faults[0].contains("$${"), "{text}: {faults:?}");
        }
    }

    #[test]
    fn files_are_taken_in_without_their_line_end() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [("plain", "s3cret"), ("line", "s3cret\n"), ("windows", "s3cret\r\n")] {
            std::fs::write(folder.path().join(name), content).unwrap();
            assert_eq!(run_in(folder.path(), &format!("<${{file:{name}}}>")).as_deref(), Ok("<s3cret>"));
            let absolute = folder.path().join(name);
            assert_eq!(run(&format!("${{file:{}}}", absolute.display())).as_deref(), Ok("s3cret"));
        }
        std::fs::write(folder.path().join("large"), "s3cret".repeat(20_000)).unwrap();
        std::fs::write(folder.path().join("bytes"), b"s3cret\xff").unwrap();
        for (name, expected) in [("large", "larger than 64 KiB"), ("bytes", "not UTF-8"), ("gone", "${file:gone}")] {
            let faults = run_in(folder.path(), &format!("${{file:{name}}}")).unwrap_err();
            assert!(faults[0].contains(expected) && !faults[0].contains("s3cret"), "{faults:?}");
        }
    }
}
