//! Liquid templates: compiled once, rendered per row.
//!
//! Every output `{{ … }}` is compiled as a tag of our own, because the crate can only write text and we need other
//! things: the value itself, with its type, where a template is one single output; elsewhere fractions that look like
//! fractions (`5.0`) and objects in one order. The crate's objects have none, and a row must not render differently in
//! every process. For the same reason what a loop goes over is first put into a variable, objects as sorted pairs.
//!
//! Messages never hold values of a row: the crate adds them to its errors, so only the first line and the cause that
//! it gives for it are kept, and the place in the template is added.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::ops::Range;

use larder_types::json::{Fragment, write_float};
use larder_types::value::Value;
use liquid::{Parser, ParserBuilder};
use liquid_core::model::{KString, Object, ObjectView};
use liquid_core::parser::FilterChain;
use liquid_core::{
    Error, Language, ParseTag, Renderable, Result as LiquidResult, Runtime, TagReflection, TagTokenIter,
    Value as LiquidValue, ValueView,
};

use super::cell;
use super::filters;
use super::scan::{self, Loop, Output, Scan};

/// Most bytes that one template may write for one row. A loop over a long list must not grow without end.
pub(crate) const MAX_OUTPUT_BYTES: usize = 64 * 1024;

const VALUE_TAG: &str = "larder_value";
const TEXT_TAG: &str = "larder_text";
const LOOP_TAG: &str = "larder_loop";

/// Compiles templates; made once for a mapping.
pub(crate) struct Compiler(Parser);

/// A compiled template.
pub(crate) struct Template {
    program: liquid::Template,
    /// Whether it yields a value with its type, or text.
    is_value: bool,
    /// The column, if the template is nothing but `{{ row.column }}`.
    plain_column: Option<String>,
}

/// Why a template gave nothing for a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RenderError {
    /// A filter or tag refused its input.
    #[error("its template failed: {0}")]
    Failed(String),
    /// More output than [`MAX_OUTPUT_BYTES`].
    #[error("its template wrote more than {MAX_OUTPUT_BYTES} bytes")]
    TooLong,
}

impl Compiler {
    /// # Errors
    /// Never in practice; the crate's interface allows for it.
    pub(crate) fn new() -> Result<Self, String> {
        let mut builder =
            ParserBuilder::with_stdlib().tag(Emit::Value).tag(Emit::Text).tag(Emit::Loop).tag(Emit::Assign);
        for filter in filters::all() {
            builder = builder.filter(filter);
        }
        builder.build().map(Self).map_err(|error| first_line(&error))
    }

    /// Compiles one template and tells what it refers to.
    ///
    /// # Errors
    /// The crate's words for a syntax error, an unknown tag or an unknown filter.
    pub(crate) fn compile(&self, text: &str) -> Result<(Template, Scan), String> {
        // First as written, so that errors quote what the user wrote.
        self.0.parse(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let found = scan::scan(text);
        let single = scan::single_output(text, &found);
        let rewritten = match single {
            Some(expression) => format!("{{% {VALUE_TAG} {} %}}", expression.trim()),
            None => rewritten(text, &found),
        };
        let program = self.0.parse(&rewritten).map_err(|error| first_line(&error))?;
        let plain_column = single.and_then(|expression| scan::plain_column(expression)).map(str::to_owned);
        Ok((Template { program, is_value: single.is_some(), plain_column }, found))
    }
}

/// The template with our tags in place of its outputs and before its loops.
fn rewritten(text: &str, found: &Scan) -> String {
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    for Output { whole, expression } in &found.outputs {
        let front = &text[whole.start + 2..expression.start];
        let back = &text[expression.end..whole.end - 2];
        let tag = format!("{{%{front} {TEXT_TAG} {} {back}%}}", text[expression.clone()].trim());
        edits.push((whole.clone(), tag));
    }
    for (number, Loop { start, over }) in found.loops.iter().enumerate() {
        let trims = if text[start + 2..].starts_with('-') { "-" } else { "" };
        let variable = format!("{LOOP_TAG}_{number}");
        edits.push((*start..*start, format!("{{%{trims} {LOOP_TAG} {variable} = {} %}}", &text[over.clone()])));
        edits.push((over.clone(), variable));
    }
    edits.sort_by_key(|(place, _)| place.start);
    let mut out = String::with_capacity(2 * text.len());
    let mut at = 0;
    for (place, replacement) in edits {
        out.push_str(&text[at..place.start]);
        out.push_str(&replacement);
        at = place.end;
    }
    out.push_str(&text[at..]);
    out
}

impl Template {
    /// The column, if the template is nothing but `{{ row.column }}`.
    pub(crate) fn plain_column(&self) -> Option<&str> {
        self.plain_column.as_deref()
    }

    /// The template's value for a row; `globals` holds the object `row`.
    pub(crate) fn render(&self, globals: &Object) -> Result<Value, RenderError> {
        let mut out = Bounded { bytes: Vec::new(), overflowed: false };
        let result = self.program.render_to(&mut out, globals);
        if out.overflowed {
            return Err(RenderError::TooLong);
        }
        result.map_err(|error| RenderError::Failed(first_line(&error)))?;
        if self.is_value {
            let cell = cell::take(&mut out.bytes.as_slice());
            return cell.ok().and_then(Result::ok).ok_or_else(|| RenderError::Failed("no value".to_owned()));
        }
        String::from_utf8(out.bytes)
            .map(Value::String)
            .map_err(|_| RenderError::Failed("output that is not UTF-8".to_owned()))
    }
}

/// The first line of an error, with its cause, and without the values that follow.
fn first_line(error: &Error) -> String {
    let text = error.to_string();
    let mut lines = text.lines();
    let message = lines.next().unwrap_or_default();
    let message = match message.strip_prefix("liquid: ").unwrap_or(message).trim() {
        "Unknown index" => "the value has no such member or item",
        // The crate goes on with the value.
        message if message.starts_with("Expected scalar, found") => "an index must be one text or number",
        message => message,
    };
    let cause = match (lines.next().map(str::trim), lines.next().map(str::trim)) {
        (Some("with:"), Some(line)) => line.strip_prefix("cause="),
        _ => None,
    };
    cause.map_or_else(|| message.to_owned(), |cause| format!("{message}: {cause}"))
}

/// Collects output up to the limit.
struct Bounded {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT_BYTES {
            self.overflowed = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A tag of ours that evaluates an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Emit {
    /// Writes the value with its type.
    Value,
    /// Writes the value as text.
    Text,
    /// Puts what a loop goes over into a variable.
    Loop,
    /// The tag that people write; ours names the place of an error.
    Assign,
}

#[derive(Debug)]
struct Emitted {
    chain: FilterChain,
    emit: Emit,
    /// The variable, if it goes into one.
    variable: Option<KString>,
    /// As it stands in the template, on one line.
    source: String,
}

impl TagReflection for Emit {
    fn tag(&self) -> &str {
        match self {
            Self::Value => VALUE_TAG,
            Self::Text => TEXT_TAG,
            Self::Loop => LOOP_TAG,
            Self::Assign => "assign",
        }
    }

    fn description(&self) -> &'static str {
        ""
    }
}

impl ParseTag for Emit {
    fn parse(&self, mut arguments: TagTokenIter<'_>, options: &Language) -> LiquidResult<Box<dyn Renderable>> {
        let mut variable = None;
        if let Self::Loop | Self::Assign = self {
            let name = arguments.expect_next("Identifier expected.")?.expect_identifier().into_result()?;
            variable = Some(KString::from_ref(name));
            let equals = arguments.expect_next("Assignment operator \"=\" expected.")?;
            equals.expect_str("=").into_result_custom_msg("Assignment operator \"=\" expected.")?;
        }
        let expression = arguments.expect_next("expression expected")?;
        let source = expression.as_str().split_whitespace().collect::<Vec<_>>().join(" ");
        let chain = expression.expect_filter_chain(options).into_result()?;
        arguments.expect_nothing()?;
        Ok(Box::new(Emitted { chain, emit: *self, variable, source }))
    }

    fn reflection(&self) -> &dyn TagReflection {
        self
    }
}

impl Renderable for Emitted {
    fn render_to(&self, writer: &mut dyn Write, runtime: &dyn Runtime) -> LiquidResult<()> {
        let located = |error| Error::with_msg(format!("{} in `{}`", first_line(&error), self.source));
        let value = self.chain.evaluate(runtime).map_err(located)?;
        if let Some(variable) = &self.variable {
            let value = if self.emit == Emit::Loop { in_order(value.as_view()) } else { value.into_owned() };
            runtime.set_global(variable.clone(), value);
            return Ok(());
        }
        let written = if self.emit == Emit::Value {
            let mut bytes = Vec::new();
            cell::put(&Ok(from_liquid(value.as_view())?), &mut bytes);
            writer.write_all(&bytes)
        } else {
            let mut text = String::new();
            write_text(value.as_view(), &mut text);
            writer.write_all(text.as_bytes())
        };
        written.map_err(|_| Error::with_msg("the output is too long"))
    }
}

/// What a loop goes over: of an object its members as pairs, sorted by name.
fn in_order(value: &dyn ValueView) -> LiquidValue {
    match value.as_object() {
        Some(object) => LiquidValue::array(
            members(object)
                .into_iter()
                .map(|(name, member)| LiquidValue::array([LiquidValue::scalar(name), member.to_value()])),
        ),
        None => value.to_value(),
    }
}

/// The members of an object, sorted by name: the crate keeps them in no order.
fn members(object: &dyn ObjectView) -> Vec<(String, &dyn ValueView)> {
    let mut members: Vec<(String, &dyn ValueView)> =
        object.iter().map(|(name, member)| (name.as_str().to_owned(), member)).collect();
    members.sort_by(|a, b| a.0.cmp(&b.0));
    members
}

/// A value in the middle of text: lists and objects without punctuation, as Liquid has it.
fn write_text(value: &dyn ValueView, out: &mut String) {
    if let Some(float) = float_of(value) {
        write_float(float, out);
    } else if let Some(list) = value.as_array() {
        list.values().for_each(|item| write_text(item, out));
    } else if let Some(object) = value.as_object() {
        for (name, member) in members(object) {
            out.push_str(&name);
            write_text(member, out);
        }
    } else {
        // Writing to a text does not fail.
        let _ = write!(out, "{}", value.render());
    }
}

fn float_of(value: &dyn ValueView) -> Option<f64> {
    value.as_scalar().filter(|scalar| scalar.type_name() == "fractional number").and_then(|scalar| scalar.to_float())
}

/// A value of a row as templates see it. Decimals are numbers where a double stands for exactly the same number, and
/// text otherwise; dates and timestamps are ISO 8601 text.
pub(crate) fn to_liquid(value: &Value) -> LiquidValue {
    match value {
        Value::Null => LiquidValue::Nil,
        Value::Bool(yes) => LiquidValue::scalar(*yes),
        Value::Int(number) => LiquidValue::scalar(*number),
        Value::Float(float) => LiquidValue::scalar(*float),
        Value::Decimal(decimal) => {
            let text = decimal.to_string();
            let exact = super::number::Number::parse(&text).and_then(|number| {
                decimal
                    .to_integer()
                    .and_then(|whole| i64::try_from(whole).ok())
                    .map(LiquidValue::scalar)
                    .filter(|_| decimal.scale() == 0)
                    .or_else(|| number.as_exact_f64().map(LiquidValue::scalar))
            });
            exact.unwrap_or_else(|| LiquidValue::scalar(text))
        }
        Value::String(text) => LiquidValue::scalar(KString::from_ref(text)),
        Value::List(json) | Value::Struct(json) => {
            serde_json::from_str::<serde_json::Value>(json.as_str()).map_or(LiquidValue::Nil, json_to_liquid)
        }
        Value::UInt(_) | Value::Binary(_) | Value::Date(_) | Value::Timestamp(_) => {
            LiquidValue::scalar(value.to_text())
        }
    }
}

fn json_to_liquid(json: serde_json::Value) -> LiquidValue {
    use serde_json::Value as Json;
    match json {
        Json::Null => LiquidValue::Nil,
        Json::Bool(yes) => LiquidValue::scalar(yes),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => LiquidValue::scalar(whole),
            (None, Some(float)) if !number.is_u64() => LiquidValue::scalar(float),
            _ => LiquidValue::scalar(number.to_string()),
        },
        Json::String(text) => LiquidValue::scalar(text),
        Json::Array(items) => LiquidValue::array(items.into_iter().map(json_to_liquid)),
        Json::Object(members) => {
            LiquidValue::Object(members.into_iter().map(|(name, item)| (name.into(), json_to_liquid(item))).collect())
        }
    }
}

fn from_liquid(value: &dyn ValueView) -> LiquidResult<Value> {
    let too_deep = |_| Error::with_msg("the result is nested too deep");
    if let Some(array) = value.as_array() {
        let items = array.values().map(from_liquid).collect::<LiquidResult<Vec<_>>>()?;
        return Fragment::list(&items).map(Value::List).map_err(too_deep);
    }
    if let Some(object) = value.as_object() {
        let members = members(object)
            .into_iter()
            .map(|(name, item)| Ok((name, from_liquid(item)?)))
            .collect::<LiquidResult<Vec<_>>>()?;
        let members = members.iter().map(|(name, item)| (name.as_str(), item));
        return Fragment::object(members).map(Value::Struct).map_err(too_deep);
    }
    let Some(scalar) = value.as_scalar() else { return Ok(Value::Null) };
    Ok(match scalar.type_name() {
        "whole number" => scalar.to_integer().map_or(Value::Null, Value::Int),
        "fractional number" => scalar.to_float().map_or(Value::Null, Value::Float),
        "boolean" => scalar.to_bool().map_or(Value::Null, Value::Bool),
        _ => Value::String(scalar.to_kstr().as_str().to_owned()),
    })
}
