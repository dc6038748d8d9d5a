//! Compiling a mapping: names are resolved, templates parsed, constants converted, and every problem is collected.

use std::collections::BTreeMap;

use arrow_schema::{Field, Schema};
use larder_types::names::FieldName;
use larder_types::value::{Value, ValueType};

use super::column::{can_be_key, is_supported, opaque_type};
use super::outline::Outline;
use super::{Compiled, CompiledField, Mapping, Problem, SourceColumn, constants};
use crate::liquid::Template;
use crate::project::{Expression, SyncSpec};

/// Most column names that a message lists.
const MAX_LISTED: usize = 40;

pub(super) struct Compilation<'a> {
    spec: &'a SyncSpec,
    schema: &'a Schema,
    /// The columns in use by name; their places are known once all are found.
    used: BTreeMap<String, SourceColumn>,
    problems: Vec<Problem>,
}

/// An expression whose columns still go by name.
enum Draft {
    Column(String),
    Constant(Value),
    Template(Template),
    Object(Vec<(String, Draft)>),
    List(Vec<Draft>),
}

impl<'a> Compilation<'a> {
    pub(super) fn new(spec: &'a SyncSpec, schema: &'a Schema) -> Self {
        Self { spec, schema, used: BTreeMap::new(), problems: Vec::new() }
    }

    pub(super) fn finish(mut self) -> Result<Mapping, Vec<Problem>> {
        let spec = self.spec;
        let key: Vec<Option<SourceColumn>> = spec.key.columns().iter().map(|name| self.key_column(name)).collect();
        let mut drafts = Vec::with_capacity(spec.fields.len());
        for field in &spec.fields {
            if let Some(draft) = self.draft(&field.name, &field.from, field.kind) {
                drafts.push((field, draft));
            }
        }
        let key: Option<Vec<SourceColumn>> = key.into_iter().collect();
        let (Some(key), true) = (key, self.problems.is_empty()) else { return Err(self.problems) };
        let places: BTreeMap<&str, usize> = self.used.keys().map(String::as_str).zip(0..).collect();
        let fields = drafts
            .into_iter()
            .map(|(field, draft)| CompiledField {
                name: field.name.clone(),
                kind: field.kind,
                from: place(draft, &places),
                nulls: field.nulls,
                on_error: field.on_error.clone(),
            })
            .collect();
        let outline = Outline::of(spec, self.used.keys().cloned().collect());
        let columns = self.used.into_values().collect();
        Ok(Mapping { key, separator: spec.key.separator(), columns, fields, outline })
    }

    fn key_column(&mut self, name: &str) -> Option<SourceColumn> {
        let column = self.find(None, name, "the key column")?;
        if can_be_key(&column.field) {
            return Some(column);
        }
        let kind = column.field.data_type();
        self.problem(None, format!("the key column `{name}` has the type {kind}, which is no key; cast it in SQL"));
        None
    }

    fn problem(&mut self, field: Option<&FieldName>, message: String) {
        self.problems.push(Problem { sync: self.spec.name.clone(), field: field.cloned(), message });
    }

    /// Finds a column by its exact name and checks that it can be read.
    fn find(&mut self, field: Option<&FieldName>, name: &str, what: &str) -> Option<SourceColumn> {
        let found: Vec<(usize, &Field)> = self
            .schema
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, column)| column.name() == name)
            .map(|(index, column)| (index, column.as_ref()))
            .collect();
        match found.as_slice() {
            [(index, column)] if is_supported(column) => Some(SourceColumn { index: *index, field: (*column).clone() }),
            [(_, column)] => {
                let kind = opaque_type(column).filter(|name| !name.is_empty());
                let kind = kind.unwrap_or_else(|| column.data_type().to_string());
                self.problem(
                    field,
                    format!(
                        "{what} `{name}` has the type {kind}, which cannot be read; cast it in SQL, for example \
                         `CAST({name} AS VARCHAR)`"
                    ),
                );
                None
            }
            [] => {
                let known = known_columns(self.schema);
                self.problem(field, format!("{what} `{name}` is not in the query's result; its columns are: {known}"));
                None
            }
            _ => {
                self.problem(field, format!("{what} `{name}` is in the query's result more than once; rename one"));
                None
            }
        }
    }

    fn use_column(&mut self, field: &FieldName, name: &str) -> Option<()> {
        if !self.used.contains_key(name) {
            let column = self.find(Some(field), name, "the column")?;
            self.used.insert(name.to_owned(), column);
        }
        Some(())
    }

    fn draft(&mut self, field: &FieldName, from: &Expression, kind: ValueType) -> Option<Draft> {
        match from {
            Expression::Column(name) => {
                self.use_column(field, name)?;
                Some(Draft::Column(name.clone()))
            }
            Expression::Constant(value) => match value.clone().convert(kind) {
                Ok(value) => Some(Draft::Constant(value)),
                Err(reason) => {
                    self.problem(Some(field), format!("its constant is {reason}"));
                    None
                }
            },
            Expression::Template(text) => self.template(field, text),
            Expression::Object(members) => {
                let drafts: Vec<Option<(String, Draft)>> = members
                    .iter()
                    .map(|(name, member)| Some((name.clone(), self.draft(field, member, ValueType::Any)?)))
                    .collect();
                drafts.into_iter().collect::<Option<Vec<_>>>().map(Draft::Object)
            }
            Expression::List(items) => {
                let drafts: Vec<Option<Draft>> =
                    items.iter().map(|item| self.draft(field, item, ValueType::Any)).collect();
                drafts.into_iter().collect::<Option<Vec<_>>>().map(Draft::List)
            }
        }
    }

    fn known_constants(&self) -> String {
        let paths: Vec<String> = constants(self.spec).into_iter().map(|(path, _)| format!("`{path}`")).collect();
        paths.join(", ")
    }

    fn template(&mut self, field: &FieldName, text: &str) -> Option<Draft> {
        let template = match Template::parse(text, &constants(self.spec)) {
            Ok(template) => template,
            Err(problem) => {
                self.problem(Some(field), format!("its template is not valid Liquid: {problem}"));
                return None;
            }
        };
        let before = self.problems.len();
        for name in template.undefined() {
            let advice = match name.split_once('.').unwrap_or((name, "")) {
                ("row", "") => "`row` can only be used as row.column or row['column']".to_owned(),
                ("vars" | "sync", _) => format!("there is no `{name}`; there is {}", self.known_constants()),
                _ => format!("unknown variable `{name}`; a column is written row.{name} or row['{name}']"),
            };
            self.problem(Some(field), format!("its template cannot work: {advice}"));
        }
        for column in template.columns() {
            self.use_column(field, column);
        }
        if self.problems.len() > before {
            return None;
        }
        // A template that only names a column is that column: types that Liquid does not have stay whole.
        match template.plain_column() {
            Some(place) => Some(Draft::Column(template.columns()[place].clone())),
            None => Some(Draft::Template(template)),
        }
    }
}

fn place(draft: Draft, places: &BTreeMap<&str, usize>) -> Compiled {
    match draft {
        Draft::Column(name) => Compiled::Column(places[name.as_str()]),
        Draft::Constant(value) => Compiled::Constant(value),
        Draft::Template(template) => {
            let columns = template.columns().iter().map(|name| places[name.as_str()]).collect();
            Compiled::Template { template: Box::new(template), columns }
        }
        Draft::Object(members) => {
            Compiled::Object(members.into_iter().map(|(name, draft)| (name, place(draft, places))).collect())
        }
        Draft::List(items) => Compiled::List(items.into_iter().map(|draft| place(draft, places)).collect()),
    }
}

fn known_columns(schema: &Schema) -> String {
    let names: Vec<&str> = schema.fields().iter().take(MAX_LISTED).map(|field| field.name().as_str()).collect();
    let more = schema.fields().len().saturating_sub(MAX_LISTED);
    if more == 0 { names.join(", ") } else { format!("{}, and {more} more", names.join(", ")) }
}
