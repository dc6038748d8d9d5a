//! Filters of the `liquid` crate that do what Shopify's do. They take a text and no argument, and give a text.

use std::sync::LazyLock;

use liquid_core::ParseFilter;
use liquid_core::ValueView as _;
use liquid_core::error::Error;
use liquid_core::model::KStringCow;
use liquid_core::parser::{FilterArguments, PluginRegistry};
use liquid_core::runtime::RuntimeCore;
use liquid_lib::stdlib;

use super::super::error::{Failure, Problem};
use super::super::value::Value;
use super::{Filter, Kind, Outcome};

static STOCK: LazyLock<PluginRegistry<Box<dyn ParseFilter>>> = LazyLock::new(|| {
    let filters: [Box<dyn ParseFilter>; 10] = [
        Box::new(stdlib::Downcase),
        Box::new(stdlib::Upcase),
        Box::new(stdlib::Strip),
        Box::new(stdlib::Lstrip),
        Box::new(stdlib::Rstrip),
        Box::new(stdlib::StripNewlines),
        Box::new(stdlib::StripHtml),
        Box::new(stdlib::Escape),
        Box::new(stdlib::EscapeOnce),
        Box::new(stdlib::UrlDecode),
    ];
    let mut registry = PluginRegistry::new();
    for filter in filters {
        registry.register(filter.reflection().name().to_owned(), filter);
    }
    // What the language has another name for.
    registry.register("h".to_owned(), Box::new(stdlib::Escape));
    registry
});

/// The crate's filter of a name.
pub(super) fn prepare(name: &str) -> Result<Filter, Problem> {
    let Some(filter) = STOCK.get(name) else { return Err(Problem::new(format!("unknown filter `{name}`"))) };
    let none = FilterArguments { positional: Box::new(std::iter::empty()), keyword: Box::new(std::iter::empty()) };
    filter.parse(none).map(|filter| Filter(Kind::Stock(filter))).map_err(|error| Problem::new(first_line(&error)))
}

#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    STOCK.plugin_names()
}

pub(super) fn apply<'r>(filter: &dyn liquid_core::Filter, input: &Value<'r>) -> Outcome<Value<'r>> {
    if input.is_nil() {
        return Ok(Value::Nil);
    }
    let text = input.to_text();
    let made = filter.evaluate(&KStringCow::from_ref(&text), &RuntimeCore::new());
    let made = made.map_err(|error| Failure::refused(format!("`{filter}`: {}", first_line(&error))))?;
    Ok(Value::text_of(made.to_kstr().into_owned().into_string()))
}

/// The crate's words, without the values that it adds in the lines after the first.
fn first_line(error: &Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("liquid: ").unwrap_or(line).to_owned()
}
