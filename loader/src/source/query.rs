//! Queries: one statement on an SQLite connection, checked to be a single SELECT that reads only, and its rows as a
//! stream.
//!
//! The rows are made by a thread of their own, because a statement borrows its connection; a bounded channel hands
//! them over, so SQLite waits for whoever reads. Dropping the stream interrupts the statement and waits for the thread.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{Field, Schema, SchemaRef};
use rusqlite::types::Value;
use rusqlite::{Connection, InterruptHandle, OpenFlags, Rows};

use super::dialect::Dialect;
use super::dynamic::{DynamicColumn, Kind};
use super::guard::Guard;
use super::statement::{Statement, replace};
use super::warehouse::Warehouse;
use super::{BATCH_ROWS, CANCEL_POLL, RowStream, SourceError};
use crate::cancel::Cancel;

/// Batches that may be ready before they are asked for.
const QUEUE: usize = 2;

/// Name of the view that exists while the types of a statement's columns are asked for.
const TYPES_VIEW: &str = "larder types of a model";

/// What is known of a statement before it runs.
#[derive(Debug)]
pub(super) struct Shape {
    /// The result columns, and the types that are certain without values.
    pub(super) columns: Vec<(String, Kind)>,
    /// The columns of tables that are read.
    pub(super) reads: BTreeSet<(String, String)>,
}

/// An existing SQLite database, which is only read.
pub(super) struct Database {
    path: PathBuf,
    cancel: Cancel,
}

impl Database {
    pub(super) fn new(path: &Path, cancel: &Cancel) -> Self {
        Self { path: path.to_path_buf(), cancel: cancel.clone() }
    }
}

impl Warehouse for Database {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    fn can_write(&self) -> bool {
        false
    }

    fn query(&self, statement: &Statement) -> Result<RowStream, SourceError> {
        open(connect(&self.path)?, statement, &self.cancel)
    }

    fn describe(&self, statement: &Statement) -> Result<SchemaRef, SourceError> {
        describe(&mut connect(&self.path)?, statement)
    }

    fn execute(&self, _statements: &[Statement]) -> Result<Option<u64>, SourceError> {
        Err(SourceError::file(&self.path, "the loader only reads this database and never writes into it"))
    }
}

/// SQLite's message, with the place in the statement where it knows one.
fn sqlite_fault(select: &Statement, error: &rusqlite::Error) -> SourceError {
    match error {
        rusqlite::Error::SqlInputError { msg, sql, offset, .. } => {
            // After the end of a first statement, `sql` is only the rest of the text.
            let start = select.text.len().saturating_sub(sql.len());
            match usize::try_from(*offset).ok().and_then(|offset| select.text.get(..start + offset)) {
                Some(before) => {
                    let line = before.matches('\n').count() + 1;
                    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
                    select.fault(format!("line {line}, column {column}: {msg}"))
                }
                None => select.fault(msg.clone()),
            }
        }
        rusqlite::Error::SqliteFailure(_, Some(message)) => select.fault(message.clone()),
        other => select.fault(other.to_string()),
    }
}

/// A name as SQL takes it whatever is in it.
pub(super) fn quoted(name: &str) -> String {
    Dialect::Sqlite.quoted(name)
}

/// Opens an existing database read-only.
pub(super) fn connect(path: &Path) -> Result<Connection, SourceError> {
    if !path.is_file() {
        return Err(SourceError::file(path, "there is no such database file"));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| SourceError::file(path, error))?;
    // The file is read only now: until then, anything passes for a database.
    let tables: rusqlite::Result<i64> =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0));
    tables.map_err(|error| SourceError::file(path, format!("not a readable SQLite database: {error}")))?;
    Ok(connection)
}

/// Checks a statement, and finds its columns and what it reads.
pub(super) fn check(connection: &mut Connection, select: &Statement) -> Result<Shape, SourceError> {
    select.bind(Dialect::Sqlite)?;
    let guard = Guard::set(connection).map_err(|error| sqlite_fault(select, &error))?;
    let names = names(connection, select, &guard);
    Guard::lift(connection).map_err(|error| sqlite_fault(select, &error))?;
    let kinds = kinds(connection, select).map_err(|error| sqlite_fault(select, &error));
    let (names, kinds) = (names?, kinds?);
    Ok(Shape { columns: names.into_iter().zip(kinds).collect(), reads: guard.reads() })
}

fn names(connection: &Connection, select: &Statement, guard: &Guard) -> Result<Vec<String>, SourceError> {
    const EXPECTED: &str = "a model is one SELECT statement";
    let statement = connection.prepare(&select.text).map_err(|error| match (guard.refused(), &error) {
        (Some(refused), _) => select.fault(format!("{EXPECTED} that only reads, and {refused} is not allowed")),
        (None, rusqlite::Error::MultipleStatement) => select.fault(format!("{EXPECTED}, and this is more than one")),
        (None, rusqlite::Error::Empty) => select.fault(format!("{EXPECTED}, and this is none")),
        _ => sqlite_fault(select, &error),
    })?;
    if !statement.readonly() || statement.is_explain() != 0 || statement.column_count() == 0 {
        return Err(select.fault(format!("{EXPECTED}, and this is another kind of statement")));
    }
    for index in 1..=statement.parameter_count() {
        let name = statement.parameter_name(index).and_then(|name| name.strip_prefix(':'));
        if name.is_none_or(|name| !select.params.contains_key(name)) {
            return Err(select.fault("parameters are written `:name`, and their values are in the sync's `params`"));
        }
    }
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut seen = BTreeSet::new();
    if let Some(name) = names.iter().find(|name| !seen.insert(name.as_str())) {
        return Err(select.fault(format!("two columns are named `{name}`; rename one with `AS`")));
    }
    Ok(names)
}

/// The types of the columns as far as the statement tells. A view is asked, because SQLite knows the types of a view's
/// columns through expressions and casts, and of a statement's only where they are plain columns.
fn kinds(connection: &Connection, select: &Statement) -> rusqlite::Result<Vec<Kind>> {
    let view = quoted(TYPES_VIEW);
    // A view has no parameters; their types are not known before they have values.
    let text = replace(&select.text, Dialect::Sqlite, |_| "NULL".to_owned());
    connection.prepare(&format!("CREATE TEMP VIEW {view} AS {text}"))?.execute([])?;
    let kinds = connection
        .prepare(&format!("PRAGMA temp.table_info({view})"))?
        .query_map([], |row| row.get::<_, String>(2))?
        .map(|declared| declared.map(|declared| Kind::declared(&declared)))
        .collect();
    connection.execute(&format!("DROP VIEW temp.{view}"), [])?;
    kinds
}

/// The columns of a statement as far as they are known without running it.
pub(super) fn describe(connection: &mut Connection, select: &Statement) -> Result<SchemaRef, SourceError> {
    let mut shape = check(connection, select)?;
    shape.columns.iter_mut().for_each(|(_, kind)| *kind = kind.without_values());
    Ok(schema(&shape.columns))
}

fn schema(columns: &[(String, Kind)]) -> SchemaRef {
    let fields: Vec<Field> = columns.iter().map(|(name, kind)| Field::new(name, kind.data_type(), true)).collect();
    Arc::new(Schema::new(fields))
}

/// Runs a statement on a connection of its own, under the guard, and streams its rows.
pub(super) fn open(mut connection: Connection, select: &Statement, cancel: &Cancel) -> Result<RowStream, SourceError> {
    let shape = check(&mut connection, select)?;
    Guard::set(&mut connection).map_err(|error| sqlite_fault(select, &error))?;
    let interrupt = connection.get_interrupt_handle();
    let (sender, receiver) = sync_channel(QUEUE);
    let reading = Reading { select: select.clone(), columns: shape.columns, rows: 0 };
    let thread = std::thread::Builder::new()
        .name("query".to_owned())
        .spawn(move || reading.run(&connection, &sender))
        .map_err(|error| select.fault(format!("no thread to run it on: {error}")))?;
    let mut batches = QueryBatches {
        select: select.clone(),
        receiver: Some(receiver),
        interrupt,
        thread: Some(thread),
        cancel: cancel.clone(),
    };
    match batches.receive() {
        Some(Ok(Message::Schema(schema))) => Ok(RowStream { schema, batches: Box::new(batches) }),
        Some(Err(error)) => Err(error),
        _ => Err(batches.cut_off()),
    }
}

/// Gives the parameters of a prepared statement their values.
fn bind(statement: &mut rusqlite::Statement<'_>, select: &Statement) -> rusqlite::Result<()> {
    for index in 1..=statement.parameter_count() {
        let name = statement.parameter_name(index).and_then(|name| name.strip_prefix(':')).unwrap_or_default();
        let value = select.params.get(name).map_or(Value::Null, sqlite_value);
        statement.raw_bind_parameter(index, value)?;
    }
    Ok(())
}

/// A parameter's value as the columns of files would hold it.
fn sqlite_value(value: &larder_types::value::Value) -> Value {
    use larder_types::value::Value as Given;
    match value {
        Given::Null => Value::Null,
        Given::Bool(yes) => Value::Integer(i64::from(*yes)),
        Given::Int(number) => Value::Integer(*number),
        Given::Float(number) => Value::Real(*number),
        Given::Binary(bytes) => Value::Blob(bytes.clone()),
        // From RFC 3339 to what SQLite's own functions write.
        Given::Timestamp(_) => Value::Text(value.to_text().trim_end_matches('Z').replacen('T', " ", 1)),
        other => Value::Text(other.to_text()),
    }
}

/// What the thread sends: a schema, batches, and then the end or an error.
enum Message {
    Schema(SchemaRef),
    Batch(RecordBatch),
    End,
}

type Sender = SyncSender<Result<Message, SourceError>>;

/// The rows as they arrive from the thread.
struct QueryBatches {
    select: Statement,
    /// None once the end or an error has arrived.
    receiver: Option<Receiver<Result<Message, SourceError>>>,
    interrupt: InterruptHandle,
    thread: Option<JoinHandle<()>>,
    cancel: Cancel,
}

impl QueryBatches {
    fn receive(&mut self) -> Option<Result<Message, SourceError>> {
        let receiver = self.receiver.as_ref()?;
        let message = loop {
            match receiver.recv_timeout(CANCEL_POLL) {
                Err(RecvTimeoutError::Timeout) if self.cancel.why().is_some() => break Err(SourceError::Cancelled),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break Err(self.cut_off()),
                Ok(message) => break message,
            }
        };
        if matches!(message, Ok(Message::End) | Err(_)) {
            self.receiver = None;
        }
        Some(message)
    }

    /// The thread has gone without saying that the rows are complete.
    fn cut_off(&self) -> SourceError {
        self.select.fault("the query stopped before its last row")
    }
}

impl Iterator for QueryBatches {
    type Item = Result<RecordBatch, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.receive()? {
            Ok(Message::Batch(batch)) => Some(Ok(batch)),
            Ok(Message::End) => None,
            Ok(Message::Schema(_)) => Some(Err(self.cut_off())),
            Err(error) => Some(Err(error)),
        }
    }
}

impl Drop for QueryBatches {
    fn drop(&mut self) {
        self.receiver = None;
        self.interrupt.interrupt();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed, and has been an error item unless nobody read any further.
            drop(thread.join());
        }
    }
}

/// The work of the thread.
struct Reading {
    select: Statement,
    columns: Vec<(String, Kind)>,
    /// Rows read so far.
    rows: u64,
}

impl Reading {
    fn run(mut self, connection: &Connection, sender: &Sender) {
        // Nobody listens any more if sending fails: then there is nothing left to do.
        if let Err(error) = self.stream(connection, sender) {
            drop(sender.send(Err(error)));
        } else {
            drop(sender.send(Ok(Message::End)));
        }
    }

    fn stream(&mut self, connection: &Connection, sender: &Sender) -> Result<(), SourceError> {
        let mut statement =
            connection.prepare(&self.select.text).map_err(|error| sqlite_fault(&self.select, &error))?;
        bind(&mut statement, &self.select).map_err(|error| sqlite_fault(&self.select, &error))?;
        let mut rows = statement.raw_query();
        let first = self.first_rows(&mut rows)?;
        self.decide(&first)?;
        let schema = schema(&self.columns);
        let mut columns = self.new_columns();
        for row in &first {
            self.rows += 1;
            for (position, value) in row.iter().enumerate() {
                self.append(&mut columns, position, value.into())?;
            }
        }
        let first_count = first.len();
        drop(first);
        if sender.send(Ok(Message::Schema(Arc::clone(&schema)))).is_err() {
            return Ok(());
        }
        let mut count = first_count;
        while count > 0 {
            let batch = self.batch(&schema, &mut columns)?;
            if sender.send(Ok(Message::Batch(batch))).is_err() {
                return Ok(());
            }
            count = self.next_rows(&mut rows, &mut columns)?;
        }
        Ok(())
    }

    /// Up to a batch of rows as they are.
    fn first_rows(&self, rows: &mut Rows<'_>) -> Result<Vec<Vec<Value>>, SourceError> {
        let mut first = Vec::new();
        while first.len() < BATCH_ROWS {
            let Some(row) = rows.next().map_err(|error| sqlite_fault(&self.select, &error))? else { break };
            let values =
                (0..self.columns.len()).map(|position| row.get::<_, Value>(position)).collect::<Result<_, _>>();
            first.push(values.map_err(|error| sqlite_fault(&self.select, &error))?);
        }
        Ok(first)
    }

    /// Decides the types of the columns by the first rows.
    fn decide(&mut self, first: &[Vec<Value>]) -> Result<(), SourceError> {
        for (position, (name, kind)) in self.columns.iter_mut().enumerate() {
            let mut seen = Kind::Null;
            for (row, values) in (1..).zip(first) {
                seen = seen.widen(values[position].data_type()).ok_or_else(|| SourceError::Cell {
                    place: format!("model `{}`", self.select.name),
                    row,
                    column: name.clone(),
                    reason: "BLOB and other values in one column; make them one type with `CAST`".to_owned(),
                })?;
            }
            if seen != Kind::Null {
                *kind = seen;
            } else if first.is_empty() {
                *kind = kind.without_values();
            }
        }
        Ok(())
    }

    fn new_columns(&self) -> Vec<DynamicColumn> {
        self.columns.iter().map(|(_, kind)| DynamicColumn::new(*kind)).collect()
    }

    /// Appends up to a batch of further rows and tells how many there were.
    fn next_rows(&mut self, rows: &mut Rows<'_>, columns: &mut [DynamicColumn]) -> Result<usize, SourceError> {
        for count in 0..BATCH_ROWS {
            let Some(row) = rows.next().map_err(|error| sqlite_fault(&self.select, &error))? else { return Ok(count) };
            self.rows += 1;
            for position in 0..columns.len() {
                let value = row.get_ref(position).map_err(|error| sqlite_fault(&self.select, &error))?;
                self.append(columns, position, value)?;
            }
        }
        Ok(BATCH_ROWS)
    }

    fn append(
        &self,
        columns: &mut [DynamicColumn],
        position: usize,
        value: rusqlite::types::ValueRef<'_>,
    ) -> Result<(), SourceError> {
        columns[position].append(value).map_err(|reason| SourceError::Cell {
            place: format!("model `{}`", self.select.name),
            row: self.rows,
            column: self.columns[position].0.clone(),
            reason,
        })
    }

    fn batch(&self, schema: &SchemaRef, columns: &mut [DynamicColumn]) -> Result<RecordBatch, SourceError> {
        let arrays: Vec<ArrayRef> = columns.iter_mut().map(DynamicColumn::finish).collect();
        RecordBatch::try_new(Arc::clone(schema), arrays).map_err(|error| self.select.fault(error.to_string()))
    }
}
