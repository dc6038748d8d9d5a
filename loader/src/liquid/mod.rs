//! Liquid: Shopify's template language for mappings.
//!
//! A template is parsed once, which finds every problem that needs no row, and rendered per row. Rendering reads only
//! the columns that it comes to, is bounded in output, loops and work (see [`limits`]), depends on nothing but the row,
//! and cannot panic whatever the template and the row hold.
//!
//! The language stands on the `liquid` crate where that is right: those of its filters that do what Shopify's do, its
//! registry and its interfaces for them (see `filters::stock`). Its grammar refuses and mistakes too much, and its
//! values have neither decimals nor an order of members, so the way from text to tree to output is our own:
//!
//! `lexer` (pieces) -> `markup` (tokens) -> `parser`, `expression`, `condition` (tree) -> `render` in a `scope`.

mod condition;
mod error;
mod expression;
mod filters;
mod json;
mod lexer;
pub mod limits;
mod markup;
mod names;
mod node;
mod number;
mod parser;
mod render;
mod scope;
#[cfg(test)]
mod suite;
#[cfg(test)]
mod tests;
mod value;

use larder_types::value::Value as Field;

pub use self::error::{Failure, Problem};
use self::expression::Chain;
use self::names::Names;
use self::node::{Body, Node};
use self::render::Renderer;
pub use self::scope::Row;
use self::scope::Scope;

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    names: Names,
    body: Body,
}

impl Template {
    /// Parses a template. It reads `constants` by their paths, which have two parts as in `vars.region`; the first part
    /// of each is no name for a variable then.
    ///
    /// # Errors
    /// The first problem found: syntax, an unknown tag or filter, wrong arguments of a filter, a pattern or date format
    /// that is none, or a limit.
    pub fn parse(text: &str, constants: &[(String, Field)]) -> Result<Self, Problem> {
        if text.len() > limits::MAX_TEMPLATE_BYTES {
            return Err(Problem::new(format!("a template has {} bytes at most", limits::MAX_TEMPLATE_BYTES)));
        }
        let mut names = Names::new(constants);
        let body = parser::parse(text, &mut names).map_err(|mut problem| {
            if !text.trim().contains('\n') {
                problem.line = None;
            }
            problem
        })?;
        Ok(Self { names, body })
    }

    /// The columns that the template reads, as `row.name` or `row['any name']`, each once.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.names.columns
    }

    /// The variables that the template reads and never defines; they are null.
    pub fn undefined(&self) -> impl Iterator<Item = &str> {
        self.names.undefined()
    }

    /// The column, by its place in [`Template::columns`], if the template is nothing but `{{ row.column }}`.
    #[must_use]
    pub fn plain_column(&self) -> Option<usize> {
        self.single().and_then(Chain::plain_column)
    }

    /// The template's value for a row. A template that is one output, and white space around it, has the value of that
    /// output with its type; any other has its text.
    ///
    /// # Errors
    /// When a filter refuses its input, a column cannot be read, or a limit is reached.
    pub fn render(&self, row: &dyn Row) -> Result<Field, Failure> {
        let mut scope = Scope::new(&self.names, row);
        let value = match self.single() {
            Some(chain) => scope.chain(chain)?.to_field()?,
            None => Field::String(Renderer::new(&mut scope).text(&self.body)?),
        };
        if let Field::String(text) = &value
            && text.len() > limits::MAX_OUTPUT_BYTES
        {
            return Err(Failure::TooLong);
        }
        Ok(value)
    }

    /// The output that the template is, if it is one and nothing else.
    fn single(&self) -> Option<&Chain> {
        let mut single = None;
        for node in &self.body.nodes {
            match node {
                Node::Output(chain) if single.is_none() => single = Some(chain),
                Node::Text(text) if text.trim().is_empty() => {}
                _ => return None,
            }
        }
        single
    }
}
