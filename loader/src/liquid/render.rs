//! Rendering: walks a tree for one row and writes text.

use super::condition::{Comparison, Condition, Junction, are_equal};
use super::error::Failure;
use super::expression::Expression;
use super::limits::MAX_OUTPUT_BYTES;
use super::node::{Arm, Body, Loop, LoopKind, Node, Offset};
use super::scope::{Frame, Scope};
use super::value::Value;

/// What comes after a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// A scope and the text written so far.
pub(super) struct Renderer<'s, 'r> {
    scope: &'s mut Scope<'r>,
    out: String,
}

impl<'s, 'r> Renderer<'s, 'r> {
    pub(super) fn new(scope: &'s mut Scope<'r>) -> Self {
        Self { scope, out: String::new() }
    }

    /// The text of a whole template.
    pub(super) fn text(mut self, body: &'r Body) -> Result<String, Failure> {
        self.body(body)?;
        Ok(self.out)
    }

    fn push(&mut self, text: &str) -> Result<(), Failure> {
        if self.out.len() + text.len() > MAX_OUTPUT_BYTES {
            return Err(Failure::TooLong);
        }
        self.out.push_str(text);
        Ok(())
    }

    fn write(&mut self, value: &Value<'_>) -> Result<(), Failure> {
        match value {
            Value::Text(text) => self.push(text),
            _ => {
                value.write(&mut self.out);
                if self.out.len() > MAX_OUTPUT_BYTES { Err(Failure::TooLong) } else { Ok(()) }
            }
        }
    }

    fn body(&mut self, body: &'r Body) -> Result<Flow, Failure> {
        for node in &body.nodes {
            let flow = self.node(node)?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn node(&mut self, node: &'r Node) -> Result<Flow, Failure> {
        match node {
            Node::Text(text) => self.push(text)?,
            Node::Output(chain) => {
                let value = self.scope.chain(chain)?;
                self.write(&value)?;
            }
            Node::Assign { variable, value } => {
                let value = self.scope.chain(value)?;
                self.scope.set(*variable, value);
            }
            Node::Capture { variable, body } => {
                let (text, flow) = self.apart(body)?;
                self.scope.set(*variable, Value::text_of(text));
                return Ok(flow);
            }
            Node::If { branches, otherwise } => {
                for branch in branches {
                    let holds = self.holds(&branch.condition);
                    if holds.map_err(|failure| failure.within(&branch.condition.source))? != branch.negated {
                        return self.body(&branch.body);
                    }
                }
                return self.body(otherwise);
            }
            Node::Case { subject, arms } => return self.case(subject, arms),
            Node::Loop(node) => return self.repeat(node),
            Node::Cycle { group, key, items } => self.cycle(group.as_ref(), key, items)?,
            Node::Count { variable, down } => {
                let count = Value::whole(self.scope.count(*variable, *down));
                self.write(&count)?;
            }
            Node::IfChanged(body) => return self.if_changed(body),
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    /// Renders a body into a text of its own.
    fn apart(&mut self, body: &'r Body) -> Result<(String, Flow), Failure> {
        let start = self.out.len();
        let flow = self.body(body)?;
        let text = self.out.split_off(start);
        self.scope.charge(text.len())?;
        Ok((text, flow))
    }

    /// From right to left: `a and b or c` is `a and (b or c)`. What does not matter is not looked at.
    fn holds(&self, condition: &'r Condition) -> Result<bool, Failure> {
        let mut result = self.compare(&condition.first)?;
        for (junction, comparison) in &condition.rest {
            match (junction, result) {
                // The rest, whatever it is, changes nothing.
                (Junction::And, false) => return Ok(false),
                (Junction::Or, true) => return Ok(true),
                _ => result = self.compare(comparison)?,
            }
        }
        Ok(result)
    }

    fn compare(&self, comparison: &'r Comparison) -> Result<bool, Failure> {
        let left = self.scope.value(&comparison.left)?;
        match &comparison.right {
            None => Ok(left.is_truthy()),
            Some((operator, right)) => {
                let right = self.scope.value(right)?;
                self.scope.charge(left.weight() + right.weight())?;
                operator.holds(&left, &right)
            }
        }
    }

    /// Every `when` that fits is rendered, once for each value that fits, and each `else` that no `when` before it did.
    fn case(&mut self, subject: &'r Expression, arms: &'r [Arm]) -> Result<Flow, Failure> {
        let subject = self.scope.value(subject)?;
        let mut found = false;
        for arm in arms {
            let Some(values) = &arm.values else {
                if !found {
                    let flow = self.body(&arm.body)?;
                    if flow != Flow::Next {
                        return Ok(flow);
                    }
                }
                continue;
            };
            for value in values {
                let value = self.scope.value(value)?;
                self.scope.charge(subject.weight() + value.weight())?;
                if are_equal(&subject, &value) {
                    found = true;
                    let flow = self.body(&arm.body)?;
                    if flow != Flow::Next {
                        return Ok(flow);
                    }
                }
            }
        }
        Ok(Flow::Next)
    }

    fn cycle(&mut self, group: Option<&'r Expression>, key: &str, items: &'r [Expression]) -> Result<(), Failure> {
        let key = match group {
            Some(group) => format!("={}", self.scope.value(group)?.to_text()),
            None => key.to_owned(),
        };
        let cycles = &mut self.scope.cycles;
        let at = cycles.iter().position(|(group, _)| *group == key).unwrap_or_else(|| {
            cycles.push((key, 0));
            cycles.len() - 1
        });
        let turn = cycles[at].1;
        cycles[at].1 = if turn + 1 >= items.len() { 0 } else { turn + 1 };
        match items.get(turn) {
            Some(item) => {
                let value = self.scope.value(item)?;
                self.write(&value)
            }
            None => Ok(()),
        }
    }

    fn if_changed(&mut self, body: &'r Body) -> Result<Flow, Failure> {
        let (text, flow) = self.apart(body)?;
        if self.scope.changed.as_ref() != Some(&text) {
            self.push(&text)?;
            self.scope.changed = Some(text);
        }
        Ok(flow)
    }

    fn repeat(&mut self, node: &'r Loop) -> Result<Flow, Failure> {
        let over = self.scope.value(&node.over)?;
        let total = length(&over);
        let from = match &node.offset {
            Offset::None => 0,
            Offset::Continue => self.scope.ends.iter().find(|(name, _)| *name == node.name).map_or(0, |(_, end)| *end),
            Offset::Given(offset) => self.count_of(offset, "offset")?.unwrap_or(0),
        };
        let limit = match &node.limit {
            Some(limit) => self.count_of(limit, "limit")?,
            None => None,
        };
        let from = from.min(total);
        let to = limit.map_or(total, |limit| from.saturating_add(limit).min(total));
        self.scope.ends.retain(|(name, _)| *name != node.name);
        self.scope.ends.push((&node.name, to));
        let items = Items { over, from, to, reversed: node.reversed };
        match &node.kind {
            LoopKind::For { otherwise } if from == to => self.body(otherwise),
            LoopKind::For { .. } => self.rounds(node, &items),
            LoopKind::TableRow { columns } => {
                let columns = match columns {
                    Some(columns) => self.count_of(columns, "cols")?,
                    None => None,
                };
                self.table(node, &items, columns.unwrap_or(to - from).max(1))
            }
        }
    }

    /// A number of items that a loop was given; null is none.
    fn count_of(&self, expression: &'r Expression, what: &str) -> Result<Option<usize>, Failure> {
        let value = self.scope.value(expression)?;
        if value.is_nil() {
            return Ok(None);
        }
        let number = value
            .to_integer()
            .ok_or_else(|| Failure::refused(format!("`{what}` needs a whole number and got a {}", value.kind())))?;
        Ok(Some(usize::try_from(number).unwrap_or(0)))
    }

    fn rounds(&mut self, node: &'r Loop, items: &Items<'r>) -> Result<Flow, Failure> {
        let length = items.to - items.from;
        for index in 0..length {
            self.scope.charge_round()?;
            let frame = Frame {
                variable: node.variable,
                item: items.get(index),
                name: &node.name,
                index,
                length,
                columns: None,
            };
            if self.round(frame, node)? == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn table(&mut self, node: &'r Loop, items: &Items<'r>, columns: usize) -> Result<Flow, Failure> {
        let length = items.to - items.from;
        self.push("<tr class=\"row1\">\n")?;
        for index in 0..length {
            self.scope.charge_round()?;
            let column = index % columns;
            self.push(&format!("<td class=\"col{}\">", column + 1))?;
            let item = items.get(index);
            let frame =
                Frame { variable: node.variable, item, name: &node.name, index, length, columns: Some(columns) };
            let flow = self.round(frame, node)?;
            self.push("</td>")?;
            if flow == Flow::Break {
                break;
            }
            if column + 1 == columns && index + 1 < length {
                self.push(&format!("</tr>\n<tr class=\"row{}\">", index / columns + 2))?;
            }
        }
        self.push("</tr>\n")?;
        Ok(Flow::Next)
    }

    fn round(&mut self, frame: Frame<'r>, node: &'r Loop) -> Result<Flow, Failure> {
        self.scope.frames.push(frame);
        let flow = self.body(&node.body)?;
        self.scope.frames.pop();
        Ok(flow)
    }
}

/// How many items a loop goes over. A text is one item, and an empty one none.
fn length(over: &Value<'_>) -> usize {
    match over {
        Value::List(items) => items.len(),
        Value::Object(object) => object.0.len(),
        Value::Range(first, last) => {
            usize::try_from((i128::from(*last) - i128::from(*first) + 1).max(0)).unwrap_or(usize::MAX)
        }
        Value::Text(text) => usize::from(!text.is_empty()),
        _ => 0,
    }
}

/// What a loop goes over, from one place to before another.
struct Items<'r> {
    over: Value<'r>,
    from: usize,
    to: usize,
    reversed: bool,
}

impl<'r> Items<'r> {
    fn get(&self, index: usize) -> Value<'r> {
        let at = if self.reversed { self.to - 1 - index } else { self.from + index };
        match &self.over {
            Value::List(items) => items.get(at).cloned().unwrap_or(Value::Nil),
            Value::Object(object) => object.pair(at).unwrap_or(Value::Nil),
            Value::Range(first, _) => Value::whole(i128::from(*first) + at as i128),
            other => other.clone(),
        }
    }
}
