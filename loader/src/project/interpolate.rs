//! Interpolation: `${VAR}` and `${VAR:-default}` in the texts of YAML files, `$$` for a dollar sign.
//!
//! It works on values that were parsed already, so whatever a variable holds stays one text and can never become
//! YAML of its own.

/// Where variables come from: a name to its content, if it is set.
pub(crate) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A text after interpolation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Interpolated {
    /// The text.
    pub(crate) text: String,
    /// True if at least one variable was named.
    pub(crate) has_variable: bool,
}

/// Replaces the variables of a text.
///
/// # Errors
/// A sentence for each variable that is not set and has no default, and for each `${` that opens no variable.
pub(crate) fn interpolate(text: &str, variables: Variables<'_>) -> Result<Interpolated, Vec<String>> {
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
            let Some((name, default, after)) = reference(after) else {
                faults.push(
                    "`${` must begin `${NAME}` or `${NAME:-default}`; write `$${` for the characters themselves"
                        .to_owned(),
                );
                break;
            };
            match (variables(name), default) {
                (Some(content), _) => out.text.push_str(&content),
                (None, Some(default)) => out.text.push_str(default),
                (None, None) => faults.push(format!(
                    "the environment variable {name} is not set; set it, or give a default: `${{{name}:-default}}`"
                )),
            }
            rest = after;
        } else {
            out.text.push('$');
        }
    }
    out.text.push_str(rest);
    if faults.is_empty() { Ok(out) } else { Err(faults) }
}

/// Splits `NAME}rest` or `NAME:-default}rest`.
fn reference(text: &str) -> Option<(&str, Option<&str>, &str)> {
    let (inside, rest) = text.split_once('}')?;
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let is_name = starts_well && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_name.then_some((name, default, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Result<String, Vec<String>> {
        let variables = |name: &str| match name {
            "A" => Some("alpha".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("${A} $$ }".to_owned()),
            _ => None,
        };
        interpolate(text, &variables).map(|out| out.text)
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
        for text in ["${", "${A", "${}", "${1A}", "${{ row.price }}", "${A-B}"] {
            let faults = run(text).unwrap_err();
            assert!(faults[0].contains("$${"), "{text}: {faults:?}");
        }
    }
}
