//! What a template sees while it is rendered for one row: columns, variables, counters, loops; and what it has used up.

use std::cell::{Cell, RefCell};

use larder_types::value::Value as Field;

use super::error::Failure;
use super::expression::{Applied, Chain, Expression, Literal, Path, Root, Step};
use super::limits::{MAX_ROUNDS, MAX_WORK_BYTES};
use super::names::{FOR_LOOP, Names, ROW_LOOP};
use super::value::Value;

/// The columns of one row.
pub trait Row {
    /// The value of the column that stands at this place in [`Template::columns`](super::Template::columns).
    ///
    /// # Errors
    /// A sentence that names the column and holds no value.
    fn column(&self, place: usize) -> Result<&Field, String>;
}

/// The state of rendering.
pub(super) struct Scope<'r> {
    names: &'r Names,
    row: &'r dyn Row,
    /// Lists and objects of columns, which are read from their text once.
    parsed: RefCell<Vec<(usize, Value<'r>)>>,
    /// By the places of [`Names::variables`].
    variables: Vec<Option<Value<'r>>>,
    counters: Vec<(usize, i64)>,
    /// The loops around the current place, the innermost last.
    pub(super) frames: Vec<Frame<'r>>,
    /// Next items of cycles, by group.
    pub(super) cycles: Vec<(String, usize)>,
    /// Where loops ended, by name.
    pub(super) ends: Vec<(&'r str, usize)>,
    /// The last text of an `ifchanged`.
    pub(super) changed: Option<String>,
    rounds: usize,
    work: Cell<usize>,
}

/// A round of a loop.
#[derive(Debug)]
pub(super) struct Frame<'r> {
    /// The variable and what it holds.
    pub(super) variable: usize,
    pub(super) item: Value<'r>,
    pub(super) name: &'r str,
    pub(super) index: usize,
    pub(super) length: usize,
    /// Of a table row.
    pub(super) columns: Option<usize>,
}

impl<'r> Scope<'r> {
    pub(super) fn new(names: &'r Names, row: &'r dyn Row) -> Self {
        Self {
            names,
            row,
            parsed: RefCell::default(),
            variables: Vec::new(),
            counters: Vec::new(),
            frames: Vec::new(),
            cycles: Vec::new(),
            ends: Vec::new(),
            changed: None,
            rounds: 0,
            work: Cell::new(0),
        }
    }

    pub(super) fn set(&mut self, variable: usize, value: Value<'r>) {
        if self.variables.len() <= variable {
            self.variables.resize(variable + 1, None);
        }
        self.variables[variable] = Some(value);
    }

    /// Adds to a counter and gives its value before or after.
    pub(super) fn count(&mut self, variable: usize, down: bool) -> i64 {
        let at = self.counters.iter().position(|(counter, _)| *counter == variable).unwrap_or_else(|| {
            self.counters.push((variable, 0));
            self.counters.len() - 1
        });
        let counter = &mut self.counters[at].1;
        if down {
            *counter -= 1;
            return *counter;
        }
        *counter += 1;
        *counter - 1
    }

    /// Counts a round of a loop.
    pub(super) fn charge_round(&mut self) -> Result<(), Failure> {
        self.rounds += 1;
        if self.rounds > MAX_ROUNDS { Err(Failure::TooManyRounds) } else { Ok(()) }
    }

    /// Counts bytes that are read or made.
    pub(super) fn charge(&self, bytes: usize) -> Result<(), Failure> {
        let work = self.work.get().saturating_add(bytes);
        self.work.set(work);
        if work > MAX_WORK_BYTES { Err(Failure::TooMuchWork) } else { Ok(()) }
    }

    /// The value of a chain; a failure names it.
    pub(super) fn chain(&self, chain: &'r Chain) -> Result<Value<'r>, Failure> {
        let filtered = || {
            let mut value = self.value(&chain.first)?;
            for applied in &chain.filters {
                value = self.applied(applied, value)?;
            }
            Ok(value)
        };
        filtered().map_err(|failure: Failure| failure.within(&chain.source))
    }

    fn applied(&self, applied: &'r Applied, input: Value<'r>) -> Result<Value<'r>, Failure> {
        let arguments = applied.arguments.iter().map(|argument| self.value(argument)).collect::<Result<Vec<_>, _>>()?;
        let named = applied
            .named
            .iter()
            .map(|(name, argument)| Ok((name.as_str(), self.value(argument)?)))
            .collect::<Result<Vec<_>, Failure>>()?;
        self.charge(input.weight())?;
        let output = applied.filter.apply(input, &arguments, &named)?;
        self.charge(output.weight())?;
        Ok(output)
    }

    pub(super) fn value(&self, expression: &'r Expression) -> Result<Value<'r>, Failure> {
        Ok(match expression {
            Expression::Literal(literal) => literal.value(),
            Expression::Path(path) => return self.path(path),
            Expression::Range(ends) => {
                let end = |value: Value<'_>| value.to_number().truncated().unwrap_or(0);
                Value::Range(end(self.value(&ends.0)?), end(self.value(&ends.1)?))
            }
        })
    }

    fn path(&self, path: &'r Path) -> Result<Value<'r>, Failure> {
        let (mut value, mut steps) = match &path.root {
            Root::Column(column) => (self.column(*column)?, path.steps.as_slice()),
            Root::Variable(FOR_LOOP) if self.frames.iter().any(|frame| frame.columns.is_none()) => {
                self.loop_member(&path.steps)
            }
            Root::Variable(ROW_LOOP) => self.table_member(&path.steps),
            Root::Constant(place) => (Value::of_column(self.names.constant_value(*place)), path.steps.as_slice()),
            Root::Variable(variable) => (self.variable(*variable), path.steps.as_slice()),
            Root::Named(name) => (self.named(&self.value(name)?.to_text()), path.steps.as_slice()),
        };
        while let Some((step, rest)) = steps.split_first() {
            self.charge(value.weight())?;
            value = match step {
                Step::Member(name) => value.member(name),
                Step::Index(at) => value.item(*at),
                Step::Computed(index) => value.at(&self.value(index)?),
            };
            steps = rest;
        }
        Ok(value)
    }

    fn column(&self, place: usize) -> Result<Value<'r>, Failure> {
        let field = self.row.column(place).map_err(Failure::Column)?;
        if !matches!(field, Field::List(_) | Field::Struct(_)) {
            return Ok(Value::of_column(field));
        }
        if let Some((_, value)) = self.parsed.borrow().iter().find(|(column, _)| *column == place) {
            return Ok(value.clone());
        }
        let value = Value::of_column(field);
        self.parsed.borrow_mut().push((place, value.clone()));
        Ok(value)
    }

    fn variable(&self, variable: usize) -> Value<'r> {
        if let Some(frame) = self.frames.iter().rev().find(|frame| frame.variable == variable) {
            return frame.item.clone();
        }
        if let Some(Some(value)) = self.variables.get(variable) {
            return value.clone();
        }
        if let Some((_, count)) = self.counters.iter().find(|(counter, _)| *counter == variable) {
            return Value::whole(*count);
        }
        Value::Nil
    }

    fn named(&self, name: &str) -> Value<'r> {
        self.names.find(name).map_or(Value::Nil, |variable| self.variable(variable))
    }

    /// What `forloop` and its members give, and the steps that are left.
    fn loop_member(&self, steps: &'r [Step]) -> (Value<'r>, &'r [Step]) {
        let mut frames = self.frames.iter().rev().filter(|frame| frame.columns.is_none());
        let mut frame = frames.next();
        let mut steps = steps;
        while let Some((Step::Member(name), rest)) = steps.split_first()
            && name == "parentloop"
        {
            frame = frames.next();
            steps = rest;
        }
        frame.map_or((Value::Nil, steps), |frame| frame.member(steps))
    }

    fn table_member(&self, steps: &'r [Step]) -> (Value<'r>, &'r [Step]) {
        let frame = self.frames.iter().rev().find(|frame| frame.columns.is_some());
        frame.map_or((Value::Nil, steps), |frame| frame.member(steps))
    }
}

impl<'r> Frame<'r> {
    fn member(&self, steps: &'r [Step]) -> (Value<'r>, &'r [Step]) {
        match steps.split_first() {
            Some((Step::Member(name), rest)) => (self.property(name), rest),
            _ => (Value::Nil, steps),
        }
    }

    fn property(&self, name: &str) -> Value<'r> {
        let column = self.columns.map(|columns| (self.index % columns, columns));
        match (name, column) {
            ("index", _) => Value::count(self.index + 1),
            ("index0", _) => Value::count(self.index),
            ("rindex", _) => Value::count(self.length - self.index),
            ("rindex0", _) => Value::count(self.length - self.index - 1),
            ("first", _) => Value::Bool(self.index == 0),
            ("last", _) => Value::Bool(self.index + 1 == self.length),
            ("length", _) => Value::count(self.length),
            ("name", None) => Value::text_of(self.name),
            ("col", Some((column, _))) => Value::count(column + 1),
            ("col0", Some((column, _))) => Value::count(column),
            ("col_first", Some((column, _))) => Value::Bool(column == 0),
            ("col_last", Some((column, columns))) => Value::Bool(column + 1 == columns),
            ("row", Some((_, columns))) => Value::count(self.index / columns + 1),
            _ => Value::Nil,
        }
    }
}

impl Literal {
    fn value(&self) -> Value<'_> {
        match self {
            Self::Nil => Value::Nil,
            Self::Bool(yes) => Value::Bool(*yes),
            Self::Number(number) => Value::Number(*number),
            Self::Text(text) => Value::text_of(text.as_str()),
            Self::Empty => Value::Empty,
            Self::Blank => Value::Blank,
        }
    }
}
