//! `preview`: some rows of a sync as the source has them and as records. Sends nothing and keeps nothing.

use arrow_array::RecordBatch;
use larder_types::value::Value;
use serde::Serialize;
use serde_json::value::RawValue;

use super::output::{complain, say};
use super::say_json;
use crate::cancel::Cancel;
use crate::mapping::column::{Column, is_supported};
use crate::mapping::{self, Mapping, Replaced};
use crate::project::{Project, SyncSpec};
use crate::run::ExitClass;
use crate::source;

/// Which rows to show.
pub(super) struct Wanted {
    pub(super) limit: usize,
    /// Only rows with this primary key.
    pub(super) key: Option<String>,
}

/// A row as it is shown.
#[derive(Serialize)]
struct Row {
    /// Its place in the result, counted from 1.
    row: u64,
    key: Option<String>,
    source: Vec<Cell>,
    record: Vec<Cell>,
    error: Option<Fault>,
}

#[derive(Serialize)]
struct Cell {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    /// Absent where the value cannot be read.
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Fault {
    field: Option<String>,
    code: String,
    message: String,
}

/// Shows rows of a sync. Rows that cannot be mapped make the exit code 3, as a run's would.
pub(super) fn preview(project: &Project, sync: &SyncSpec, wanted: &Wanted, json: bool) -> ExitClass {
    match rows(project, sync, wanted) {
        Err((exit, problems)) => {
            problems.iter().for_each(|problem| complain(format_args!("error: {problem}")));
            exit
        }
        Ok(rows) => {
            for row in &rows {
                if json { say_json(row) } else { print(row) }
            }
            if let (true, Some(key)) = (rows.is_empty(), &wanted.key) {
                complain(format_args!("no row has the key `{key}`"));
            } else if rows.is_empty() {
                complain("the query has no rows");
            }
            let rejected = rows.iter().any(|row| row.error.is_some());
            if rejected { ExitClass::Partial } else { ExitClass::Ok }
        }
    }
}

type Problems = (ExitClass, Vec<String>);

fn rows(project: &Project, sync: &SyncSpec, wanted: &Wanted) -> Result<Vec<Row>, Problems> {
    let failed = |error: &dyn std::fmt::Display| (ExitClass::Failed, vec![error.to_string()]);
    let spec = project.sources.get(&sync.source).ok_or_else(|| failed(&"the sync's source is not there"))?;
    let stream = source::open(project, spec, &sync.model, &Cancel::default()).map_err(|error| failed(&error))?;
    let mapping = mapping::compile(sync, &stream.schema)
        .map_err(|problems| (ExitClass::Config, problems.iter().map(ToString::to_string).collect()))?;
    let mut shown = Vec::new();
    let mut before = 0;
    for batch in stream.batches {
        let batch = batch.map_err(|error| failed(&error))?;
        let view = View::new(&mapping, &batch).map_err(|error| failed(&error))?;
        for row in 0..batch.num_rows() {
            if shown.len() == wanted.limit {
                return Ok(shown);
            }
            let key = view.reader.key(row).ok().map(|key| key.as_str().to_owned());
            if wanted.key.is_none() || wanted.key == key {
                shown.push(view.row(row, before + row as u64 + 1, key));
            }
        }
        before += batch.num_rows() as u64;
    }
    Ok(shown)
}

/// A batch made readable, with all columns and not only those that are mapped.
struct View<'a> {
    mapping: &'a Mapping,
    reader: mapping::BatchReader,
    columns: Vec<(String, String, Option<Column>)>,
}

impl<'a> View<'a> {
    fn new(mapping: &'a Mapping, batch: &RecordBatch) -> Result<Self, arrow_schema::ArrowError> {
        let schema = batch.schema();
        let columns = schema.fields().iter().zip(batch.columns()).map(|(field, array)| {
            let column = is_supported(field).then(|| Column::new(field, array)).transpose()?;
            Ok((field.name().clone(), field.data_type().to_string(), column))
        });
        let columns = columns.collect::<Result<Vec<_>, arrow_schema::ArrowError>>()?;
        Ok(Self { mapping, reader: mapping.reader(batch)?, columns })
    }

    fn row(&self, row: usize, number: u64, key: Option<String>) -> Row {
        let source = self.columns.iter().map(|(name, kind, column)| {
            let cell = match column {
                Some(column) => column.cell(row).map_err(|fault| fault.to_string()),
                None => Err("has a type that cannot be read; cast it in SQL".to_owned()),
            };
            Cell::new(name, kind, cell)
        });
        let source = source.collect();
        let (record, error) = match self.record(row) {
            Ok(record) => (record, None),
            Err(fault) => (Vec::new(), Some(fault)),
        };
        let error = error.or_else(|| {
            let error = self.reader.key(row).err()?;
            Some(Fault { field: None, code: "invalid_key".to_owned(), message: error.to_string() })
        });
        Row { row: number, key, source, record, error }
    }

    fn record(&self, row: usize) -> Result<Vec<Cell>, Fault> {
        let mut bytes = Vec::new();
        self.reader.encode(row, &mut bytes);
        let unreadable =
            |_| Fault { field: None, code: "invalid_value".to_owned(), message: "the row cannot be read".to_owned() };
        let cells = self.mapping.decode(&bytes).map_err(unreadable)?;
        let values = self.mapping.fields(&cells, &mut Replaced::default()).map_err(|error| Fault {
            field: Some(error.field.to_string()),
            code: error.code.to_owned(),
            message: error.message,
        })?;
        let fields = self.mapping.declared().zip(values);
        Ok(fields
            .map(|((name, kind, _), value)| {
                let kind = if kind.as_str() == "any" { value.kind().to_owned() } else { kind.as_str().to_owned() };
                Cell::new(name.as_str(), &kind, Ok(value))
            })
            .collect())
    }
}

impl Cell {
    fn new(name: &str, kind: &str, value: Result<Value, String>) -> Self {
        let (value, error) = match value {
            Ok(value) => {
                let mut json = String::new();
                value.write_json(&mut json);
                match RawValue::from_string(json) {
                    Ok(raw) => (Some(raw), None),
                    Err(_) => (None, Some("has no JSON".to_owned())),
                }
            }
            Err(error) => (None, Some(error)),
        };
        Self { name: name.to_owned(), kind: kind.to_owned(), value, error }
    }
}

fn print(row: &Row) {
    say(format_args!("row {}: key {}", row.row, row.key.as_deref().unwrap_or("none")));
    for (what, cells) in [("source", &row.source), ("record", &row.record)] {
        for cell in cells {
            let value = match (&cell.value, &cell.error) {
                (Some(value), _) => value.get().to_owned(),
                (None, error) => format!("! {}", error.as_deref().unwrap_or_default()),
            };
            say(format_args!("  {what}  {}: {value}  ({})", cell.name, cell.kind));
        }
    }
    if let Some(Fault { field, code, message }) = &row.error {
        let field = field.as_ref().map(|field| format!("field `{field}`: ")).unwrap_or_default();
        say(format_args!("  rejected: {field}{message} ({code})"));
    }
}
