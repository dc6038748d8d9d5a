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
mod tests;

use std::fmt;

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, Field, Schema};
use larder_types::json::Fragment;
use larder_types::key::{Key, KeyError};
use larder_types::names::{FieldName, SyncName};
use larder_types::value::{Value, ValueType};

use self::cell::{Cell, NotARow};
use self::column::Column;
use crate::liquid::{Failure, Row, Template};
use crate::project::SyncSpec;

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
    key: SourceColumn,
    /// Ordered by name: the order of cells in a row's bytes.
    columns: Vec<SourceColumn>,
    fields: Vec<CompiledField>,
    fingerprint: u128,
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
        self.key.index == index || self.columns.iter().any(|column| column.index == index)
    }

    /// Stands for the key column and all fields with their types and expressions: mappings that may give the same row
    /// different fields have different fingerprints.
    #[must_use]
    pub fn fingerprint(&self) -> u128 {
        self.fingerprint
    }

    /// The fields with their types, in order.
    pub fn declared(&self) -> impl Iterator<Item = (&FieldName, ValueType)> {
        self.fields.iter().map(|field| (&field.name, field.kind))
    }

    /// Makes the rows of a batch readable.
    ///
    /// # Errors
    /// When a column holds values that cannot be brought into one form; the source then sends what it did not announce.
    pub fn reader(&self, batch: &RecordBatch) -> Result<BatchReader, ArrowError> {
        let read = |column: &SourceColumn| Column::new(&column.field, batch.column(column.index));
        Ok(BatchReader { key: read(&self.key)?, columns: self.columns.iter().map(read).collect::<Result<_, _>>()? })
    }

    /// Reads back the bytes that [`BatchReader::encode`] wrote.
    pub(crate) fn decode(&self, mut bytes: &[u8]) -> Result<Vec<Cell>, NotARow> {
        let cells = self.columns.iter().map(|_| cell::take(&mut bytes)).collect::<Result<Vec<_>, _>>()?;
        if bytes.is_empty() { Ok(cells) } else { Err(NotARow) }
    }

    /// The fields of a row, in order, in their declared types.
    ///
    /// # Errors
    /// The first field that the row has no value for; the row is then to be rejected.
    pub(crate) fn fields(&self, cells: &[Cell]) -> Result<Vec<Value>, FieldError> {
        let scope = Scope { mapping: self, cells };
        self.fields
            .iter()
            .map(|field| {
                let error = |code, message: String| FieldError { field: field.name.clone(), code, message };
                let value = scope.value(&field.from).map_err(|(code, message)| error(code, message))?;
                let converted = value.convert(field.kind);
                converted.map_err(|reason| error("type_mismatch", format!("holds {reason}")))
            })
            .collect()
    }
}

/// The rows of one batch.
pub struct BatchReader {
    key: Column,
    columns: Vec<Column>,
}

impl BatchReader {
    /// The primary key of a row.
    ///
    /// # Errors
    /// When the cell holds nothing that can be a key.
    pub fn key(&self, row: usize) -> Result<Key, KeyError> {
        match self.key.cell(row) {
            Ok(value) => Key::from_value(&value),
            Err(_) => Err(KeyError::Kind("value that cannot be read")),
        }
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
