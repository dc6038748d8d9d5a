//! The tables of keys, held against the parser.

use super::FileKind;
use super::keys::{Section, Shape, Variant};
use super::sheet::taken;
use super::tests::problems;

/// Every section that a shape leads to.
fn sections(shape: &Shape, found: &mut Vec<&'static Section>) {
    match shape {
        Shape::List(inner) | Shape::Map(inner) => sections(inner, found),
        Shape::Either(shapes) => shapes.iter().for_each(|shape| sections(shape, found)),
        Shape::Variant(variant) => {
            cases(variant).iter().for_each(|section| sections(&Shape::Section(section), found));
        }
        Shape::Section(section) if !found.iter().any(|other| other.id == section.id) => {
            found.push(section);
            section.keys.iter().for_each(|key| sections(&key.shape, found));
        }
        _ => {}
    }
}

fn cases(variant: &'static Variant) -> Vec<&'static Section> {
    variant.cases.iter().map(|case| case.1).chain(variant.other).collect()
}

fn all_sections() -> Vec<&'static Section> {
    let mut found = Vec::new();
    FileKind::ALL.iter().for_each(|kind| sections(&kind.shape(), &mut found));
    found
}

/// YAML of mappings with all keys of a section, each with something of its shape: one mapping for each way to choose
/// among the keys that exclude each other.
fn examples(section: &'static Section, depth: usize) -> Vec<String> {
    let one_of = if section.one_of.is_empty() { &[""] } else { section.one_of };
    let example = |form: &&str| {
        let keys = section.keys.iter().filter(|key| key.name == *form || !section.one_of.contains(&key.name));
        let keys: Vec<String> =
            keys.map(|key| format!("{}: {}", key.name, examples_of(&key.shape, depth)[0])).collect();
        format!("{{{}}}", keys.join(", "))
    };
    one_of.iter().map(example).collect()
}

fn examples_of(shape: &Shape, depth: usize) -> Vec<String> {
    let one = match shape {
        Shape::Text => "x".to_owned(),
        Shape::Span => "1m".to_owned(),
        Shape::Bool => "true".to_owned(),
        Shape::Count | Shape::Percent | Shape::Scalar | Shape::Anything => "1".to_owned(),
        Shape::Null => "~".to_owned(),
        Shape::Word(words) => words[0].to_owned(),
        Shape::List(item) => format!("[{}]", examples_of(item, depth).join(", ")),
        Shape::Map(value) => {
            let entries = examples_of(value, depth).into_iter().enumerate();
            let entries: Vec<String> = entries.map(|(at, value)| format!("x{at}: {value}")).collect();
            format!("{{{}}}", entries.join(", "))
        }
        Shape::Variant(variant) => {
            return cases(variant).into_iter().flat_map(|section| examples(section, depth)).collect();
        }
        Shape::Section(section) if depth < 5 => return examples(section, depth + 1),
        Shape::Section(_) => "x".to_owned(),
        Shape::Part(_) => "{}".to_owned(),
        // The last is the most detailed.
        Shape::Either(shapes) => return examples_of(shapes.last().unwrap(), depth),
    };
    vec![one]
}

#[test]
fn every_key_of_the_tables_is_read() {
    let mut files = Vec::new();
    for kind in FileKind::ALL {
        for (at, text) in examples_of(&kind.shape(), 0).into_iter().enumerate() {
            files.push(match kind {
                FileKind::Settings => ("larder.yml".to_owned(), text),
                FileKind::Source => (format!("sources/s{at}.yml"), text),
                FileKind::Sync => (format!("syncs/s{at}.yml"), text),
            });
        }
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let found = problems(&files);
    assert!(!found.contains("unknown key"), "{found}");
    let taken = taken::all();
    for section in all_sections() {
        for key in section.keys {
            assert!(taken.contains(&(section.id, key.name)), "nobody reads `{}` of {}", key.name, section.id);
        }
    }
}

#[test]
fn tables_are_well_formed() {
    let sections = all_sections();
    for section in &sections {
        assert_eq!(sections.iter().filter(|other| other.id == section.id).count(), 1, "{}", section.id);
        assert!(section.one_of.iter().all(|name| section.keys.iter().any(|key| key.name == *name)), "{}", section.id);
        assert!(!section.about.is_empty() && section.keys.iter().all(|key| !key.about.is_empty()), "{}", section.id);
        assert!(section.id.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{}", section.id);
    }
}
