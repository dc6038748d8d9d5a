//! Liquid templates: compiled once, rendered per row.
//!
//! Every output `{{ … }}` is compiled as a tag of our own, because the crate can only write text and we need two other
//! things: the value itself, with its type, where a template is one single output, and fractions that look like
//! fractions (`5.0`) elsewhere.
//!
//! Messages never hold values of a row: the crate adds them to its errors, so only the first line and the cause that
//! it gives for it are kept.

use std::fmt;
use std::io::{self, Write};

use larder_types::json::{Fragment, write_float};
use larder_types::value::Value;
use liquid::{Parser, ParserBuilder};
use liquid_core::model::{KString, Object};
use liquid_core::parser::FilterChain;
use liquid_core::{
    Error, Language, ParseTag, Renderable, Result as LiquidResult, Runtime, TagReflection, TagTokenIter,
    Value as LiquidValue, ValueView,
};

use super::cell;
use super::filters;
use super::scan::{self, Scan};

/// Most bytes that one template may write for one row. A loop over a long list must not grow without end.
pub(crate) const MAX_OUTPUT_BYTES: usize = 64 * 1024;

const VALUE_TAG: &str = "larder_value";
const TEXT_TAG: &str = "larder_text";

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
        let mut builder = ParserBuilder::with_stdlib().tag(Emit { as_value: true }).tag(Emit { as_value: false });
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
            None => with_text_tags(text, &found),
        };
        let program = self.0.parse(&rewritten).map_err(|error| first_line(&error))?;
        let plain_column = single.and_then(|expression| scan::plain_column(expression)).map(str::to_owned);
        Ok((Template { program, is_value: single.is_some(), plain_column }, found))
    }
}

fn with_text_tags(text: &str, found: &Scan) -> String {
    let mut out = String::with_capacity(text.len() + 16 * found.outputs.len());
    let mut at = 0;
    for output in &found.outputs {
        let front = &text[output.whole.start + 2..output.expression.start];
        let back = &text[output.expression.end..output.whole.end - 2];
        out.push_str(&text[at..output.whole.start]);
        out.push_str(&format!("{{%{front} {TEXT_TAG} {} {back}%}}", text[output.expression.clone()].trim()));
        at = output.whole.end;
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
    let message = message.strip_prefix("liquid: ").unwrap_or(message).trim();
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

/// The tag that stands for an output.
#[derive(Debug, Clone, Copy)]
struct Emit {
    as_value: bool,
}

#[derive(Debug)]
struct Emitted {
    chain: FilterChain,
    as_value: bool,
}

impl TagReflection for Emit {
    fn tag(&self) -> &str {
        if self.as_value { VALUE_TAG } else { TEXT_TAG }
    }

    fn description(&self) -> &'static str {
        ""
    }
}

impl ParseTag for Emit {
    fn parse(&self, mut arguments: TagTokenIter<'_>, options: &Language) -> LiquidResult<Box<dyn Renderable>> {
        let chain = arguments.expect_next("expression expected")?.expect_filter_chain(options).into_result()?;
        arguments.expect_nothing()?;
        Ok(Box::new(Emitted { chain, as_value: self.as_value }))
    }

    fn reflection(&self) -> &dyn TagReflection {
        self
    }
}

impl Renderable for Emitted {
    fn render_to(&self, writer: &mut dyn Write, runtime: &dyn Runtime) -> LiquidResult<()> {
        let value = self.chain.evaluate(runtime)?;
        let written = if self.as_value {
            let mut bytes = Vec::new();
            cell::put(&Ok(from_liquid(value.as_view())?), &mut bytes);
            writer.write_all(&bytes)
        } else {
            match float_of(value.as_view()) {
                Some(float) => {
                    let mut text = String::new();
                    write_float(float, &mut text);
                    writer.write_all(text.as_bytes())
                }
                None => write!(writer, "{}", Rendered(value.as_view())),
            }
        };
        written.map_err(|_| Error::with_msg("the output is too long"))
    }
}

struct Rendered<'a>(&'a dyn ValueView);

impl fmt::Display for Rendered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.render().fmt(f)
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
        let mut members = object
            .iter()
            .map(|(name, item)| Ok((name.as_str().to_owned(), from_liquid(item)?)))
            .collect::<LiquidResult<Vec<_>>>()?;
        // The crate's objects have no order of their own.
        members.sort_by(|a, b| a.0.cmp(&b.0));
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
