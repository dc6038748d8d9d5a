//! Globs: `*` and `?` in the last part of a path.

use std::fs;
use std::path::{Path, PathBuf};

use super::SourceError;

/// The files that a path or pattern stands for, in the order of their names. Never empty: a pattern that nothing
/// matches is an error, because an empty table would make every row look removed. Hidden files match only a pattern
/// that begins with a dot.
pub(super) fn expand(pattern: &str) -> Result<Vec<PathBuf>, SourceError> {
    let path = Path::new(pattern);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !name.contains(['*', '?']) {
        return Ok(vec![path.to_path_buf()]);
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let name_pattern: Vec<char> = name.chars().collect();
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| SourceError::file(folder, error))? {
        let entry = entry.map_err(|error| SourceError::file(folder, error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let hidden = name.starts_with('.') && name_pattern.first() != Some(&'.');
        if !hidden && matches(&name_pattern, &name) && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    if files.is_empty() {
        return Err(SourceError::Message(format!("no file matches {pattern}")));
    }
    files.sort();
    Ok(files)
}

/// Matches a name against a pattern; on a mismatch only the last `*` needs to be tried again, one character further.
fn matches(pattern: &[char], name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(&wanted) if wanted == '?' || wanted == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((after_star, from)) = retry else { return false };
                retry = Some((after_star, from + 1));
                p = after_star;
                n = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_match() {
        for (pattern, name, expected) in [
            ("*.csv", "a.csv", true),
            ("*.csv", "a.csv.bak", false),
            ("flights*.parquet", "flights.parquet", true),
            ("flights*.parquet", "flights_2013_01.parquet", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("*ab", "aab", true),
            ("?", "é", true),
            ("*", "", true),
        ] {
            let pattern_chars: Vec<char> = pattern.chars().collect();
            assert_eq!(matches(&pattern_chars, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn files_come_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.csv", "a.csv", ".c.csv", "d.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join("e.csv")).unwrap();
        let found = expand(&folder.path().join("*.csv").to_string_lossy()).unwrap();
        assert_eq!(found, [folder.path().join("a.csv"), folder.path().join("b.csv")]);
    }

    #[test]
    fn a_pattern_without_a_match_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let error = expand(&folder.path().join("*.csv").to_string_lossy()).unwrap_err().to_string();
        assert!(error.contains("*.csv"), "{error}");
    }
}
