//! The parser: pieces become a tree. Every problem that can be known without a row is found here.

use super::condition::Condition;
use super::error::Problem;
use super::expression::{Chain, Expression};
use super::lexer::{self, Piece};
use super::limits::MAX_NESTING;
use super::markup::{Markup, Token};
use super::names::Names;
use super::node::{Arm, Body, Branch, Loop, LoopKind, Node, Offset};

/// Tags that need other templates, which a mapping has not.
const FILE_TAGS: [&str; 2] = ["include", "render"];

/// Parses a template; the names it uses are added to `names`.
///
/// # Errors
/// The first problem, with its line.
pub(super) fn parse(template: &str, names: &mut Names) -> Result<Body, Problem> {
    let pieces = lexer::pieces(template)?.into_iter();
    let mut parser = Parser { pieces, names, depth: 0 };
    let (body, _) = parser.body(&[])?;
    Ok(body)
}

struct Parser<'t, 'n> {
    pieces: std::vec::IntoIter<Piece<'t>>,
    names: &'n mut Names,
    /// How many blocks are open.
    depth: usize,
}

/// The tag that ended a body.
#[derive(Debug, Clone, Copy)]
struct End<'t> {
    name: &'t str,
    markup: &'t str,
    line: usize,
}

/// A tag whose body is being read.
#[derive(Debug, Clone, Copy)]
struct Opening<'t> {
    name: &'t str,
    markup: &'t str,
    line: usize,
}

impl<'t> Parser<'t, '_> {
    /// What stands up to one of these tags, or up to the end if there are none.
    fn body(&mut self, ends: &[&str]) -> Result<(Body, Option<End<'t>>), Problem> {
        let mut body = Body::default();
        while let Some(piece) = self.pieces.next() {
            match piece {
                Piece::Text(text) => body.push(Node::Text(text.to_owned()), !text.trim().is_empty()),
                Piece::Raw(text) => body.push(Node::Text(text.to_owned()), !text.is_empty()),
                Piece::Output { markup, line } => {
                    let chain = self.chain(markup).map_err(|problem| problem.at(line))?;
                    body.push(Node::Output(chain), true);
                }
                Piece::Tag { name, markup, line } if ends.contains(&name) => {
                    return Ok((body, Some(End { name, markup, line })));
                }
                Piece::Tag { name, markup, line } => {
                    self.tag(Opening { name, markup, line }, &mut body).map_err(|problem| problem.at(line))?;
                }
            }
        }
        Ok((body, None))
    }

    /// The body of a block up to one of these tags.
    fn block(&mut self, tag: Opening<'t>, ends: &[&str]) -> Result<(Body, End<'t>), Problem> {
        if self.depth >= MAX_NESTING {
            return Err(Problem::new(format!("tags stand more than {MAX_NESTING} deep in each other")));
        }
        self.depth += 1;
        let (body, end) = self.body(ends)?;
        self.depth -= 1;
        end.map(|end| (body, end)).ok_or_else(|| Problem::new(format!("`{0}` has no `end{0}`", tag.name)))
    }

    fn chain(&mut self, markup: &str) -> Result<Chain, Problem> {
        Chain::parse(&mut Markup::new(markup)?, self.names)
    }

    fn tag(&mut self, tag: Opening<'t>, body: &mut Body) -> Result<(), Problem> {
        match tag.name {
            "echo" => {
                let chain = self.chain(tag.markup)?;
                body.push(Node::Output(chain), true);
            }
            "assign" => {
                let node = self.assign(tag.markup)?;
                body.push(node, false);
            }
            "capture" => {
                let variable = self.variable_alone(tag.markup)?;
                let (inner, _) = self.block(tag, &["endcapture"])?;
                body.push(Node::Capture { variable, body: inner }, false);
            }
            "if" | "unless" => self.conditional(tag, body)?,
            "case" => self.case(tag, body)?,
            "for" | "tablerow" => self.repeated(tag, body)?,
            "ifchanged" => {
                let (inner, _) = self.block(tag, &["endifchanged"])?;
                let is_solid = inner.is_solid;
                body.push(Node::IfChanged(inner), is_solid);
            }
            "cycle" => {
                let node = self.cycle(tag.markup)?;
                body.push(node, true);
            }
            "increment" | "decrement" => {
                let variable = self.variable_alone(tag.markup)?;
                body.push(Node::Count { variable, down: tag.name == "decrement" }, true);
            }
            "break" => body.push(Node::Break, true),
            "continue" => body.push(Node::Continue, true),
            "liquid" => self.liquid(tag, body)?,
            name if FILE_TAGS.contains(&name) => {
                let message = format!("the tag `{name}` is not available: a mapping has no other templates");
                return Err(Problem::new(message));
            }
            "else" | "elsif" | "when" => {
                return Err(Problem::new(format!("`{}` stands in no block of its own", tag.name)));
            }
            name if name.starts_with("end") => return Err(Problem::new(format!("`{name}` ends nothing here"))),
            name => return Err(Problem::new(format!("unknown tag `{name}`"))),
        }
        Ok(())
    }

    /// A name that a tag defines. A number is allowed, as in Shopify, and never read again.
    fn defined(&mut self, markup: &mut Markup<'_>) -> Result<usize, Problem> {
        let mark = markup.mark();
        match markup.next() {
            Some(Token::Name(name) | Token::Text(name)) if !name.ends_with('?') => self.names.define(name),
            Some(Token::Number(_)) => {
                let name = markup.source(mark);
                self.names.define(&name)
            }
            _ => Err(Problem::new("expected the name of a variable, of letters, digits, `_` and `-`")),
        }
    }

    fn variable_alone(&mut self, markup: &str) -> Result<usize, Problem> {
        let mut markup = Markup::new(markup)?;
        let variable = self.defined(&mut markup)?;
        markup.expect_end()?;
        Ok(variable)
    }

    fn assign(&mut self, markup: &str) -> Result<Node, Problem> {
        let mut markup = Markup::new(markup)?;
        let variable = self.defined(&mut markup)?;
        markup.expect("=")?;
        let value = Chain::parse(&mut markup, self.names)?;
        Ok(Node::Assign { variable, value })
    }

    /// `if` and `unless`. What follows an `else` is read and never rendered, as in Shopify.
    fn conditional(&mut self, tag: Opening<'t>, into: &mut Body) -> Result<(), Problem> {
        let end = format!("end{}", tag.name);
        let ends = ["elsif", "else", end.as_str()];
        let (mut branches, mut otherwise) = (Vec::new(), None);
        let mut condition = Some(self.condition(tag.markup)?);
        let mut negated = tag.name == "unless";
        loop {
            let (body, end) = self.block(tag, &ends)?;
            match condition.take() {
                Some(condition) if otherwise.is_none() => branches.push(Branch { condition, negated, body }),
                None if otherwise.is_none() => otherwise = Some(body),
                _ => {}
            }
            negated = false;
            match end.name {
                "elsif" => condition = Some(self.condition(end.markup).map_err(|problem| problem.at(end.line))?),
                "else" => {}
                _ => break,
            }
        }
        let mut otherwise = otherwise.unwrap_or_default();
        let is_solid = otherwise.is_solid || branches.iter().any(|branch| branch.body.is_solid);
        if !is_solid {
            otherwise.drop_space();
            branches.iter_mut().for_each(|branch| branch.body.drop_space());
        }
        into.push(Node::If { branches, otherwise }, is_solid);
        Ok(())
    }

    fn condition(&mut self, markup: &str) -> Result<Condition, Problem> {
        Condition::parse(&mut Markup::new(markup)?, self.names)
    }

    fn case(&mut self, tag: Opening<'t>, into: &mut Body) -> Result<(), Problem> {
        let mut markup = Markup::new(tag.markup)?;
        let subject = Expression::parse(&mut markup, self.names)?;
        markup.expect_end()?;
        let ends = ["when", "else", "endcase"];
        // What stands before the first `when` is never rendered.
        let (_, mut end) = self.block(tag, &ends)?;
        let mut arms = Vec::new();
        while end.name != "endcase" {
            let values = match end.name {
                "when" => Some(self.values_of_when(end.markup).map_err(|problem| problem.at(end.line))?),
                _ => None,
            };
            let (body, next) = self.block(tag, &ends)?;
            arms.push(Arm { values, body });
            end = next;
        }
        let is_solid = arms.iter().any(|arm| arm.body.is_solid);
        if !is_solid {
            arms.iter_mut().for_each(|arm| arm.body.drop_space());
        }
        into.push(Node::Case { subject, arms }, is_solid);
        Ok(())
    }

    fn values_of_when(&mut self, markup: &str) -> Result<Vec<Expression>, Problem> {
        let mut markup = Markup::new(markup)?;
        let mut values = vec![Expression::parse(&mut markup, self.names)?];
        while markup.take(",") || markup.take_word("or") {
            values.push(Expression::parse(&mut markup, self.names)?);
        }
        markup.expect_end()?;
        Ok(values)
    }

    fn repeated(&mut self, tag: Opening<'t>, into: &mut Body) -> Result<(), Problem> {
        let mut markup = Markup::new(tag.markup)?;
        let Some(Token::Name(item)) = markup.next() else {
            return Err(Problem::new("expected the name of a variable, as in `for item in list`"));
        };
        let variable = self.names.define(item)?;
        if !markup.take_word("in") {
            return Err(markup.unexpected("`in`"));
        }
        let mark = markup.mark();
        let over = Expression::parse(&mut markup, self.names)?;
        let name = format!("{item}-{}", markup.source(mark));
        let (mut limit, mut offset, mut columns, mut reversed) = (None, Offset::None, None, false);
        let is_table = tag.name == "tablerow";
        loop {
            if markup.take_word("reversed") {
                reversed = true;
            } else if let Some(label) = markup.take_label() {
                match label {
                    "limit" => limit = Some(Expression::parse(&mut markup, self.names)?),
                    "offset" if markup.take_word("continue") => offset = Offset::Continue,
                    "offset" => offset = Offset::Given(Expression::parse(&mut markup, self.names)?),
                    "cols" if is_table => columns = Some(Expression::parse(&mut markup, self.names)?),
                    _ => return Err(Problem::new(format!("`{}` takes no `{label}:`", tag.name))),
                }
            } else if !markup.take(",") {
                break;
            }
        }
        markup.expect_end()?;
        let (mut body, mut end) = self.block(tag, if is_table { &["endtablerow"] } else { &["else", "endfor"] })?;
        let mut otherwise = None;
        while end.name == "else" {
            let (inner, next) = self.block(tag, &["else", "endfor"])?;
            otherwise.get_or_insert(inner);
            end = next;
        }
        let mut otherwise = otherwise.unwrap_or_default();
        let is_solid = is_table || body.is_solid || otherwise.is_solid;
        if !is_solid {
            body.drop_space();
            otherwise.drop_space();
        }
        let kind = if is_table { LoopKind::TableRow { columns } } else { LoopKind::For { otherwise } };
        into.push(Node::Loop(Box::new(Loop { kind, variable, name, over, limit, offset, reversed, body })), is_solid);
        Ok(())
    }

    fn cycle(&mut self, markup: &str) -> Result<Node, Problem> {
        let mut markup = Markup::new(markup)?;
        let mark = markup.mark();
        let first = Expression::parse(&mut markup, self.names)?;
        let (group, mut items) = if markup.take(":") {
            (Some(first), vec![Expression::parse(&mut markup, self.names)?])
        } else {
            (None, vec![first])
        };
        while markup.take(",") {
            items.push(Expression::parse(&mut markup, self.names)?);
        }
        markup.expect_end()?;
        Ok(Node::Cycle { group, key: markup.source(mark), items })
    }

    /// The tags of a `liquid` tag stand where it stands; blocks that it opens, it must close.
    fn liquid(&mut self, tag: Opening<'t>, into: &mut Body) -> Result<(), Problem> {
        if self.depth >= MAX_NESTING {
            return Err(Problem::new(format!("tags stand more than {MAX_NESTING} deep in each other")));
        }
        self.depth += 1;
        let lines = lexer::lines(tag.markup, tag.line)?.into_iter();
        let rest = std::mem::replace(&mut self.pieces, lines);
        let (body, _) = self.body(&[])?;
        self.pieces = rest;
        self.depth -= 1;
        into.nodes.extend(body.nodes);
        into.is_solid |= body.is_solid;
        Ok(())
    }
}
