//! Mappings: from the columns of a row to the fields of a record.
//!
//! A mapping is compiled against the source's schema before any row is read, so that a misspelt column or filter is a
//! problem with a name and not a million rejected rows. It then works in two steps, far apart in time: [`BatchReader`]
//! turns the mapped columns of an Arrow row into bytes (see the module `cell`), and `Mapping::fields` turns such bytes into
//! field values. Between the two lies the diff, which drops the rows whose bytes have not changed.

pub(crate) mod cell;
pub(crate) mod column;
mod compile;
#[cfg(test)]
pub(crate) mod option_tests;
mod outline;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, Field, Schema};
use larder_types::json::Fragment;
use larder_types::key::{Key, KeyError};
use larder_types::names::{FieldName, SyncName};
use larder_types::patch::Nulls;
use larder_types::value::{Value, ValueType};

use self::cell::{Cell, NotARow};
use self::column::Column;
use self::outline::Outline;
use crate::liquid::{Failure, Row, Template};
use crate::project::{KeySpec, Model, OnError, SyncSpec};

/// Something wrong with a sync's mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The sync.
    pub sync: SyncName,
    /// The field, if the problem is one field's.
    pub field: Option<FieldName>,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "sync `{}`, field `{field}`: {}", self.sync, self.message),
            None => write!(f, "sync `{}`: {}", self.sync, self.message),
        }
    }
}

/// A compiled mapping.
pub struct Mapping {
    key: Vec<SourceColumn>,
    /// What stands between the parts of a key of several columns.
    separator: char,
    /// Ordered by name: the order of cells in a row's bytes.
    columns: Vec<SourceColumn>,
    fields: Vec<CompiledField>,
    outline: Outline,
}

/// A column of the source.
#[derive(Debug, Clone)]
pub struct SourceColumn {
    /// Its place in the source's batches.
    pub index: usize,
    /// Its description.
    pub field: Field,
}

struct CompiledField {
    name: FieldName,
    kind: ValueType,
    from: Compiled,
    nulls: Nulls,
    on_error: OnError,
}

/// How often fields took the value of their `on_error`, in rows that were not rejected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Replaced(pub(crate) BTreeMap<FieldName, u64>);

impl Replaced {
    fn count(&mut self, field: &FieldName, times: u64) {
        *self.0.entry(field.clone()).or_default() += times;
    }

    /// Adds the counts of other rows.
    pub(crate) fn append(&mut self, other: &Self) {
        other.0.iter().for_each(|(field, times)| self.count(field, *times));
    }
}

/// What templates read beside the row, by path: the variables of the sync and what is known of the sync itself.
/// Nothing that changes from run to run is among it: a row must become the same fields in every run.
pub(crate) fn constants(spec: &SyncSpec) -> Vec<(String, Value)> {
    let text = |text: &str| Value::String(text.to_owned());
    let model = match &spec.model {
        Model::Sql { name, .. } => name,
        Model::Table(table) => table,
    };
    let variables = spec.variables.iter().map(|(name, value)| (format!("vars.{name}"), value.clone()));
    let of_sync = [("name", spec.name.as_str()), ("model", model), ("collection", spec.collection.as_str())];
    variables.chain(of_sync.into_iter().map(|(name, value)| (format!("sync.{name}"), text(value)))).collect()
}

enum Compiled {
    /// By its place in [`Mapping::columns`].
    Column(usize),
    Constant(Value),
    /// With the places in [`Mapping::columns`] of the columns that it reads.
    Template {
        template: Box<Template>,
        columns: Vec<usize>,
    },
    Object(Vec<(String, Compiled)>),
    List(Vec<Compiled>),
}

/// Why a row has no fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The field at fault.
    pub field: FieldName,
    /// Why, in one word.
    pub code: &'static str,
    /// Why, in a sentence that holds no values.
    pub message: String,
}

/// Compiles the mapping of a sync against the columns of its source.
///
/// # Errors
/// Every problem found: unknown columns, templates that do not parse or use unknown names, constants that do not fit
/// their type, columns of types that cannot be read.
pub fn compile(spec: &SyncSpec, schema: &Schema) -> Result<Mapping, Vec<Problem>> {
    compile::Compilation::new(spec, schema).finish()
}

impl Mapping {
    /// The source columns that fields are made from, each once, by name. Only these decide whether a row has changed.
    #[must_use]
    pub fn columns(&self) -> &[SourceColumn] {
        &self.columns
    }

    /// Whether the key or a field is made from the column at this place of the source's batches.
    pub(crate) fn uses(&self, index: usize) -> bool {
        self.key.iter().any(|column| column.index == index) || self.columns.iter().any(|column| column.index == index)
    }

    /// The source columns of the key, in order.
    pub(crate) fn key_columns(&self) -> impl Iterator<Item = &SourceColumn> {
        self.key.iter()
    }

    /// Stands for the key column and all fields with their types and expressions: mappings that may give the same row
    /// different fields have different fingerprints.
    #[must_use]
    pub fn fingerprint(&self) -> u128 {
        self.outline.fingerprint()
    }

    /// The fields in order, with their types and what nulls do to them.
    pub fn declared(&self) -> impl Iterator<Item = (&FieldName, ValueType, Nulls)> {
        self.fields.iter().map(|field| (&field.name, field.kind, field.nulls))
    }

    /// Makes the rows of a batch readable.
    ///
    /// # Errors
    /// When a column holds values that cannot be brought into one form; the source then sends what it did not announce.
    pub fn reader(&self, batch: &RecordBatch) -> Result<BatchReader, ArrowError> {
        let read = |column: &SourceColumn| Column::new(&column.field, batch.column(column.index));
        Ok(BatchReader {
            key: KeyReader { columns: self.key.iter().map(read).collect::<Result<_, _>>()?, separator: self.separator },
            columns: self.columns.iter().map(read).collect::<Result<_, _>>()?,
        })
    }

    /// Reads back the bytes that [`BatchReader::encode`] wrote.
    pub(crate) fn decode(&self, mut bytes: &[u8]) -> Result<Vec<Cell>, NotARow> {
        let cells = self.columns.iter().map(|_| cell::take(&mut bytes)).collect::<Result<Vec<_>, _>>()?;
        if bytes.is_empty() { Ok(cells) } else { Err(NotARow) }
    }

    /// The fields of a row, in order, in their declared types. What took the place of values that could not be made is
    /// counted.
    ///
    /// # Errors
    /// The first field that the row has no value for; the row is then to be rejected.
    pub(crate) fn fields(&self, cells: &[Cell], replaced: &mut Replaced) -> Result<Vec<Value>, FieldError> {
        let scope = Scope { mapping: self, cells };
        let mut here = Vec::new();
        let values = self.fields.iter().map(|field| match (scope.field(field), &field.on_error) {
            (Ok(value), _) => Ok(value),
            (Err(_), OnError::Use(value)) => {
                here.push(&field.name);
                Ok(value.clone())
            }
            (Err((code, message)), OnError::Reject) => Err(FieldError { field: field.name.clone(), code, message }),
        });
        let values = values.collect::<Result<Vec<_>, _>>()?;
        here.into_iter().for_each(|field| replaced.count(field, 1));
        Ok(values)
    }
}

/// The keys of the rows of one batch.
pub(crate) struct KeyReader {
    columns: Vec<Column>,
    separator: char,
}

impl KeyReader {
    /// Finds the columns of the key by their names.
    ///
    /// # Errors
    /// When the batch lacks one, or it cannot be read.
    pub(crate) fn new(batch: &RecordBatch, columns: &[String], separator: char) -> Result<Self, ArrowError> {
        let schema = batch.schema();
        let column = |name: &String| {
            let missing = || ArrowError::SchemaError(format!("the key's column `{name}` is not there"));
            let (index, field) = schema.column_with_name(name).ok_or_else(missing)?;
            Column::new(field, batch.column(index))
        };
        Ok(Self { columns: columns.iter().map(column).collect::<Result<_, _>>()?, separator })
    }

    /// The key of a row, see [`KeySpec`] for the key of several columns.
    ///
    /// # Errors
    /// When one of its cells holds nothing that can be a key, or all together are too long.
    pub(crate) fn key(&self, row: usize) -> Result<Key, KeyError> {
        let part = |column: &Column| match column.cell(row) {
            Ok(value) => Key::from_value(&value),
            Err(_) => Err(KeyError::Kind("value that cannot be read")),
        };
        if let [column] = self.columns.as_slice() {
            return part(column);
        }
        let mut text = String::new();
        for (place, column) in self.columns.iter().enumerate() {
            KeySpec::put_part(self.separator, place == 0, part(column)?.as_str(), &mut text);
        }
        Key::new(&text)
    }
}

/// The rows of one batch.
pub struct BatchReader {
    key: KeyReader,
    columns: Vec<Column>,
}

impl BatchReader {
    /// The primary key of a row, see [`KeySpec`] for the key of several columns.
    ///
    /// # Errors
    /// When one of its cells holds nothing that can be a key, or all together are too long.
    pub fn key(&self, row: usize) -> Result<Key, KeyError> {
        self.key.key(row)
    }

    /// Appends the mapped cells of a row.
    pub fn encode(&self, row: usize, out: &mut Vec<u8>) {
        self.columns.iter().for_each(|column| column.put(row, out));
    }
}

/// One row while its fields are made.
struct Scope<'a> {
    mapping: &'a Mapping,
    cells: &'a [Cell],
}

/// The same row as a template sees it: by the places of the columns that it reads.
struct TemplateRow<'a> {
    scope: &'a Scope<'a>,
    columns: &'a [usize],
}

impl Row for TemplateRow<'_> {
    fn column(&self, place: usize) -> Result<&Value, String> {
        self.scope.column(self.columns[place]).map_err(|(_, message)| message)
    }
}

type Reason = (&'static str, String);

impl Scope<'_> {
    /// A field's value in its declared type.
    fn field(&self, field: &CompiledField) -> Result<Value, Reason> {
        let value = self.value(&field.from)?;
        value.convert(field.kind).map_err(|reason| ("type_mismatch", format!("holds {reason}")))
    }

    fn value(&self, from: &Compiled) -> Result<Value, Reason> {
        match from {
            Compiled::Column(at) => self.column(*at).cloned(),
            Compiled::Constant(value) => Ok(value.clone()),
            Compiled::Template { template, columns } => {
                template.render(&TemplateRow { scope: self, columns }).map_err(|failure| match failure {
                    Failure::Column(_) => ("invalid_value", failure.to_string()),
                    _ => ("template_failed", failure.to_string()),
                })
            }
            Compiled::Object(members) => {
                let values =
                    members.iter().map(|(_, member)| self.nested(member)).collect::<Result<Vec<_>, Reason>>()?;
                let members = members.iter().map(|(name, _)| name.as_str()).zip(&values);
                Fragment::object(members).map(Value::Struct).map_err(|error| ("too_deep", error.to_string()))
            }
            Compiled::List(items) => {
                let values = items.iter().map(|item| self.nested(item)).collect::<Result<Vec<_>, Reason>>()?;
                Fragment::list(&values).map(Value::List).map_err(|error| ("too_deep", error.to_string()))
            }
        }
    }

    /// A value inside an object or list: it has no declared type, but must be one that JSON can hold.
    fn nested(&self, from: &Compiled) -> Result<Value, Reason> {
        let value = self.value(from)?;
        value.convert(ValueType::Any).map_err(|reason| ("type_mismatch", format!("holds {reason}")))
    }

    fn column(&self, at: usize) -> Result<&Value, Reason> {
        self.cells[at]
            .as_ref()
            .map_err(|fault| ("invalid_value", format!("column `{}` {fault}", self.mapping.columns[at].field.name())))
    }
}
