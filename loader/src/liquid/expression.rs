//! Expressions: literals, paths such as `row.list[0].name`, ranges, and chains of filters.

use super::error::Problem;
use super::filters::{self, Filter};
use super::limits::MAX_BRACKETS;
use super::markup::{Markup, Token};
use super::names::{Names, ROW};
use super::number::Number;

#[derive(Debug)]
pub(super) enum Expression {
    Literal(Literal),
    Path(Path),
    /// `(first..last)`
    Range(Box<(Expression, Expression)>),
}

#[derive(Debug, Clone)]
pub(super) enum Literal {
    Nil,
    Bool(bool),
    Number(Number),
    Text(String),
    Empty,
    Blank,
}

#[derive(Debug)]
pub(super) struct Path {
    pub(super) root: Root,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug)]
pub(super) enum Root {
    /// A column, by its place in [`Names::columns`].
    Column(usize),
    /// A variable, by its place in [`Names::variables`].
    Variable(usize),
    /// A constant, by its place in [`Names`].
    Constant(usize),
    /// `[expression]`: a variable whose name is the value of an expression.
    Named(Box<Expression>),
}

#[derive(Debug)]
pub(super) enum Step {
    /// `.name` or `['name']`
    Member(String),
    /// `[0]`
    Index(i64),
    /// `[expression]`
    Computed(Expression),
}

/// An expression and the filters that its value goes through.
#[derive(Debug)]
pub(super) struct Chain {
    /// As it stands in the template, on one line, for messages.
    pub(super) source: String,
    pub(super) first: Expression,
    pub(super) filters: Vec<Applied>,
}

/// A filter with its arguments.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) filter: Filter,
    pub(super) arguments: Vec<Expression>,
    /// Named arguments; the filter has accepted their names.
    pub(super) named: Vec<(String, Expression)>,
}

impl Chain {
    /// All of a markup as a chain. An empty markup is null.
    pub(super) fn parse(markup: &mut Markup<'_>, names: &mut Names) -> Result<Self, Problem> {
        let mark = markup.mark();
        if markup.peek().is_none() {
            return Ok(Self { source: String::new(), first: Expression::Literal(Literal::Nil), filters: Vec::new() });
        }
        let first = Expression::parse(markup, names)?;
        let mut filters = Vec::new();
        while markup.take("|") {
            filters.push(Applied::parse(markup, names)?);
        }
        markup.expect_end()?;
        Ok(Self { source: markup.source(mark), first, filters })
    }

    /// The column, if the chain is nothing but `row.column`.
    pub(super) fn plain_column(&self) -> Option<usize> {
        match &self.first {
            Expression::Path(Path { root: Root::Column(column), steps })
                if steps.is_empty() && self.filters.is_empty() =>
            {
                Some(*column)
            }
            _ => None,
        }
    }
}

impl Applied {
    fn parse(markup: &mut Markup<'_>, names: &mut Names) -> Result<Self, Problem> {
        let Some(Token::Name(name)) = markup.peek() else { return Err(markup.unexpected("the name of a filter")) };
        markup.next();
        let (mut arguments, mut named) = (Vec::new(), Vec::new());
        if markup.take(":") {
            loop {
                match markup.take_label() {
                    Some(label) => named.push((label.to_owned(), Expression::parse(markup, names)?)),
                    None => arguments.push(Expression::parse(markup, names)?),
                }
                if !markup.take(",") {
                    break;
                }
            }
        }
        let filter = filters::prepare(name, &arguments, &named)?;
        Ok(Self { filter, arguments, named })
    }
}

impl Expression {
    pub(super) fn parse(markup: &mut Markup<'_>, names: &mut Names) -> Result<Self, Problem> {
        Self::nested(markup, names, 0)
    }

    fn nested(markup: &mut Markup<'_>, names: &mut Names, depth: usize) -> Result<Self, Problem> {
        if depth > MAX_BRACKETS {
            return Err(Problem::new(format!("brackets stand more than {MAX_BRACKETS} deep in each other")));
        }
        let start = match markup.peek() {
            Some(Token::Name(name)) => {
                markup.next();
                if let Some(literal) = word(name) {
                    return Ok(Self::Literal(literal));
                }
                Start::Name(name)
            }
            Some(Token::Text(text)) => {
                markup.next();
                return Ok(Self::Literal(Literal::Text(text.to_owned())));
            }
            Some(Token::Number(number)) => {
                markup.next();
                return Ok(Self::Literal(Literal::Number(number)));
            }
            Some(Token::Sign("(")) => {
                markup.next();
                let first = Self::nested(markup, names, depth + 1)?;
                markup.expect("..")?;
                let last = Self::nested(markup, names, depth + 1)?;
                markup.expect(")")?;
                return Ok(Self::Range(Box::new((first, last))));
            }
            Some(Token::Sign("[")) => {
                markup.next();
                let name = Self::nested(markup, names, depth + 1)?;
                markup.expect("]")?;
                match name {
                    Self::Literal(Literal::Text(name)) => {
                        return Self::path(Start::Name(&name), markup, names, depth);
                    }
                    computed => Start::Computed(computed),
                }
            }
            _ => return Err(markup.unexpected("a value")),
        };
        Self::path(start, markup, names, depth)
    }

    /// The steps of a path, and what it begins with.
    fn path(start: Start<'_>, markup: &mut Markup<'_>, names: &mut Names, depth: usize) -> Result<Self, Problem> {
        let mut steps = Vec::new();
        loop {
            if markup.take(".") {
                let Some(Token::Name(name)) = markup.peek() else { return Err(markup.unexpected("a name")) };
                markup.next();
                steps.push(Step::Member(name.to_owned()));
            } else if markup.take("[") {
                let index = Self::nested(markup, names, depth + 1)?;
                markup.expect("]")?;
                steps.push(match index {
                    Self::Literal(Literal::Text(name)) => Step::Member(name),
                    Self::Literal(Literal::Number(Number::Whole(at))) if i64::try_from(at).is_ok() => {
                        Step::Index(i64::try_from(at).unwrap_or_default())
                    }
                    computed => Step::Computed(computed),
                });
            } else {
                break;
            }
        }
        let root = match start {
            Start::Computed(name) => Root::Named(Box::new(name)),
            Start::Name(name) if name == ROW || names.is_group(name) => match steps.first() {
                Some(Step::Member(member)) => {
                    let root = match names.constant(name, member) {
                        _ if name == ROW => Root::Column(names.column(member)),
                        Some(place) => Root::Constant(place),
                        None => Root::Variable(names.variable(&format!("{name}.{member}"))),
                    };
                    steps.remove(0);
                    root
                }
                _ => Root::Variable(names.variable(name)),
            },
            Start::Name(name) => Root::Variable(names.variable(name)),
        };
        Ok(Self::Path(Path { root, steps }))
    }

    /// The text, if it is written in the template.
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Literal(Literal::Text(text)) => Some(text),
            _ => None,
        }
    }
}

/// What a path begins with.
enum Start<'t> {
    Name(&'t str),
    /// `[expression]`
    Computed(Expression),
}

/// The words that are values.
fn word(name: &str) -> Option<Literal> {
    Some(match name {
        "nil" | "null" => Literal::Nil,
        "true" => Literal::Bool(true),
        "false" => Literal::Bool(false),
        "empty" => Literal::Empty,
        "blank" => Literal::Blank,
        _ => return None,
    })
}
