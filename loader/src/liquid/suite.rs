//! The public conformance suite golden-liquid, in `loader/tests/golden-liquid`: every case either passes or stands in
//! `exceptions.txt` with the reason, and none that passes stands there.
//!
//! The suite's data are variables of their own, and a mapping has only the row. So the data are put where a tag would
//! have put them, which is the one difference to what a mapping does.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::render::Renderer;
use super::scope::{Row, Scope};
use super::value::Value;
use super::*;

#[derive(Deserialize)]
struct Suite {
    tests: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    template: String,
    #[serde(default)]
    data: Option<Box<serde_json::value::RawValue>>,
    result: Option<String>,
    results: Option<Vec<String>>,
    #[serde(default)]
    invalid: bool,
}

struct NoRow;

impl Row for NoRow {
    fn column(&self, _: usize) -> Result<&Field, String> {
        Err("there is no row".to_owned())
    }
}

fn render(case: &Case) -> Result<String, String> {
    let data = json::read(case.data.as_ref().map_or("{}", |data| data.get()));
    let Value::Object(data) = data else { panic!("{}: its data are no object", case.name) };
    let mut names = Names::new(&[]);
    // Also those that the template reads by computed names.
    let places: Vec<usize> = data.0.iter().map(|(name, _)| names.variable(name)).collect();
    let body = parser::parse(&case.template, &mut names).map_err(|problem| problem.to_string())?;
    let mut scope = Scope::new(&names, &NoRow);
    for (place, (_, value)) in places.into_iter().zip(&data.0) {
        scope.set(place, value.clone());
    }
    Renderer::new(&mut scope).text(&body).map_err(|failure| failure.to_string())
}

/// Why a case does not pass.
fn fault(case: &Case) -> Option<String> {
    match render(case) {
        Err(_) if case.invalid => None,
        Err(message) => Some(format!("refused: {message}")),
        Ok(text) if case.invalid => Some(format!("accepted, and wrote {text:?}")),
        Ok(text) => {
            let expected: Vec<&String> = case.result.iter().chain(case.results.iter().flatten()).collect();
            (!expected.contains(&&text)).then(|| format!("wrote {text:?} instead of {:?}", expected[0]))
        }
    }
}

/// Names of cases with reasons: a line `# reason` stands for the names under it.
fn exceptions(text: &str) -> BTreeMap<&str, &str> {
    let mut reason = "";
    let mut exceptions = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix("# ") {
            Some(words) => reason = words,
            None => assert!(exceptions.insert(line, reason).is_none(), "{line} stands there twice"),
        }
    }
    exceptions
}

#[test]
fn every_case_passes_or_is_a_known_exception() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden-liquid");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let (suite, list) = (read("golden_liquid.json"), read("exceptions.txt"));
    let suite: Suite = serde_json::from_str(&suite).unwrap();
    let mut exceptions = exceptions(&list);
    let mut surprises = Vec::new();
    let mut passed = 0;
    for case in &suite.tests {
        match (fault(case), exceptions.remove(case.name.as_str())) {
            (None, None) => passed += 1,
            (Some(_), Some(_)) => {}
            (Some(fault), None) => surprises.push(format!("{}: {fault}", case.name)),
            (None, Some(_)) => surprises.push(format!("{}: passes, and is an exception", case.name)),
        }
    }
    surprises.extend(exceptions.keys().map(|name| format!("{name}: is no case")));
    let page = std::fs::read_to_string(folder.join("../../../docs/liquid.md")).unwrap();
    let figures = format!("**Of its {} cases\n{passed} pass", suite.tests.len());
    assert!(page.contains(&figures), "the page does not say: {figures}");
    assert!(surprises.is_empty(), "{passed} passed; {} surprises:\n{}", surprises.len(), surprises.join("\n"));
}
