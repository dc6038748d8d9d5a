//! `variables`: values of a sync by name, for its expressions (`{variable: name}`) and templates (`{{ vars.name }}`).

use std::collections::BTreeMap;

use larder_types::value::Value;

use super::expression::read_constant;
use super::node::Node;
use super::sheet::Sheet;
use super::suggest::hint;

/// The variables of a sync.
pub(super) type Variables = BTreeMap<String, Value>;

/// Tells whether a text may be a variable's name: a word that a template can write after a dot.
pub(super) fn is_name(name: &str) -> bool {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts_well && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Reads the variables of a sync.
pub(super) fn read(node: Node, sheet: &mut Sheet) -> Option<Variables> {
    let mut variables = Variables::new();
    for entry in sheet.entries(node, "variables")? {
        if !is_name(&entry.key) {
            let key = &entry.key;
            sheet.report(entry.line, format!("variable `{key}`: a name is of A-Z a-z 0-9 _ and begins with no digit"));
        } else if let Some(value) = read_constant(entry.node, &entry.key, sheet) {
            variables.insert(entry.key, value);
        }
    }
    Some(variables)
}

/// The value that a name stands for.
pub(super) fn find(node: Node, variables: &Variables, sheet: &mut Sheet) -> Option<Value> {
    sheet.parsed(node, "variable", |name| {
        let hint = || hint(name, variables.keys().map(String::as_str));
        variables.get(name).cloned().ok_or_else(|| format!("the sync has no variable `{name}`; {}", hint()))
    })
}
