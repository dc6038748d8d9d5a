//! The worker: the child process that holds one driver, does one thing with it, and ends.
//!
//! A driver is foreign code in this process. It may crash, hang, print, or bring a runtime that does not get on with
//! another one: here it takes only itself along. What the driver prints goes to standard error, never between the
//! frames. The worker ends when its standard input does, that is, when the loader is gone, however long the database
//! still takes.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::process::ExitCode;
use std::sync::Arc;

use adbc_core::error::{Error, Status};
use adbc_core::options::{AdbcVersion, InfoCode, OptionConnection, OptionStatement, OptionValue};
use adbc_core::{Connection as _, Database as _, Driver as _, Optionable as _, Statement as _};
use adbc_driver_manager::{ManagedConnection, ManagedDriver, ManagedStatement};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{
    Array, ArrayRef, BooleanArray, Date32Array, Float64Array, Int64Array, NullArray, RecordBatch, RecordBatchReader,
    StringArray, TimestampMicrosecondArray,
};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::SchemaRef;
use rustix::process::{Signal, getpid, kill_process};

use super::fault::{Fault, Stage};
use super::frame::{self, DataWriter, Kind};
use super::request::{Call, Done, Hint, Info, Param, Request, Setting, Task};
use crate::source::BATCH_ROWS;

/// Runs the worker: reads the request from standard input and answers on standard output.
#[must_use]
pub(crate) fn main() -> ExitCode {
    let mut out = match take_output() {
        Ok(out) => out,
        Err(_) => return ExitCode::FAILURE,
    };
    let answer = read_request().and_then(|request| {
        end_with_the_loader()?;
        work(request, &mut out)
    });
    let sent = match &answer {
        Ok(done) => say(&mut out, Kind::Done, done),
        Err(fault) => say(&mut out, Kind::Fault, fault),
    };
    // The loader waits for nothing else, and what the driver would still do at exit may take for ever.
    if answer.is_ok() && sent.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Standard output, which from now on nobody else in this process writes to.
fn take_output() -> io::Result<File> {
    let out = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok(File::from(out))
}

fn read_request() -> Result<Request, Fault> {
    // No more than the line is read: the rest of the input is its end.
    let mut line = Vec::new();
    BufReader::with_capacity(1, io::stdin()).read_until(b'\n', &mut line).map_err(broken)?;
    // What the line holds is secret, so its faults are not told in detail.
    serde_json::from_slice(&line).map_err(|_| Fault::new(Stage::Worker, "the request cannot be read"))
}

/// Kills this process when its standard input ends.
fn end_with_the_loader() -> Result<(), Fault> {
    let watch = || {
        let mut byte = [0];
        while matches!(io::stdin().read(&mut byte), Ok(1..)) {}
        let _ = kill_process(getpid(), Signal::KILL);
    };
    std::thread::Builder::new().name("loader watch".to_owned()).spawn(watch).map(drop).map_err(broken)
}

fn broken(error: io::Error) -> Fault {
    Fault::new(Stage::Worker, error.to_string())
}

fn say(out: &mut File, kind: Kind, payload: &impl serde::Serialize) -> io::Result<()> {
    frame::write(out, kind, &serde_json::to_vec(payload)?)?;
    out.flush()
}

fn work(request: Request, out: &mut File) -> Result<Done, Fault> {
    let Request { library, entrypoint, database, connection, statement, session, task } = request;
    let at = |stage| move |error: Error| Fault::adbc(stage, &error);
    let entrypoint = entrypoint.as_ref().map(|name| name.as_bytes());
    let mut driver = ManagedDriver::load_dynamic_from_filename(&library, entrypoint, AdbcVersion::V110)
        .map_err(at(Stage::Driver))?;
    if matches!(task, Task::Load) {
        return Ok(Done::default());
    }
    let options = database.into_iter().map(|(name, value)| (name.as_str().into(), OptionValue::String(value)));
    let database = driver.new_database_with_opts(options.collect::<Vec<_>>()).map_err(at(Stage::Login))?;
    let options = connection.into_iter().map(|(name, value)| (name.as_str().into(), OptionValue::String(value)));
    let mut connection = database.new_connection_with_opts(options.collect::<Vec<_>>()).map_err(at(Stage::Login))?;
    frame::write(out, Kind::Connected, &[]).map_err(broken)?;
    out.flush().map_err(broken)?;
    let mut work = Session { connection: &mut connection, hints: &statement, out };
    work.set(&session)?;
    work.perform(task)
}

/// A session with the database, and where its answers go.
struct Session<'a> {
    connection: &'a mut ManagedConnection,
    hints: &'a [Hint],
    out: &'a mut File,
}

impl Session<'_> {
    fn set(&mut self, settings: &[Setting]) -> Result<(), Fault> {
        for Setting { text, required } in settings {
            let call = Call { text: text.clone(), params: Vec::new() };
            match self.run(&call) {
                Err(fault) if *required => return Err(fault),
                _ => {}
            }
        }
        Ok(())
    }

    fn perform(&mut self, task: Task) -> Result<Done, Fault> {
        match task {
            Task::Load => Ok(Done::default()),
            Task::Info => Ok(Done { info: Some(info(self.connection)), ..Done::default() }),
            Task::Describe { before, call } => {
                for call in before {
                    self.run(&call)?;
                }
                let schema = self.columns(&call)?;
                StreamWriter::try_new(DataWriter::new(&mut *self.out), &schema)
                    .and_then(|mut writer| writer.finish())
                    .map_err(sending)?;
                Ok(Done::default())
            }
            Task::Query { before, call } => {
                for call in before {
                    self.run(&call)?;
                }
                let rows = self.send_rows(&call)?;
                Ok(Done { rows, ..Done::default() })
            }
            Task::Execute(calls) => {
                let changed = self.execute(&calls)?;
                Ok(Done { changed, ..Done::default() })
            }
        }
    }

    fn statement(&mut self, call: &Call) -> Result<ManagedStatement, Fault> {
        let mut statement = self.connection.new_statement().map_err(failed)?;
        for Hint { name, value, required } in self.hints {
            let set = statement.set_option(OptionStatement::from(name.as_str()), value.as_str().into());
            if *required {
                set.map_err(failed)?;
            }
        }
        statement.set_sql_query(&call.text).map_err(failed)?;
        if !call.params.is_empty() {
            // Some drivers bind to what was prepared, and others know no preparing.
            match statement.prepare() {
                Err(error) if error.status != Status::NotImplemented => return Err(failed(error)),
                _ => {}
            }
            statement.bind(parameters(&call.params)?).map_err(failed)?;
        }
        Ok(statement)
    }

    /// Runs a statement whose rows, if it has any, nobody wants.
    fn run(&mut self, call: &Call) -> Result<Option<u64>, Fault> {
        let changed = self.statement(call)?.execute_update().map_err(failed)?;
        Ok(changed.and_then(|rows| u64::try_from(rows).ok()))
    }

    fn execute(&mut self, calls: &[Call]) -> Result<Option<u64>, Fault> {
        // A database without transactions refuses this, and then every statement stands alone.
        let whole = self.connection.set_option(OptionConnection::AutoCommit, "false".into()).is_ok();
        let mut changed = None;
        for call in calls {
            // The session ends with the error, and what was done in it is undone.
            changed = self.run(call)?;
        }
        if whole {
            self.connection.commit().map_err(failed)?;
        }
        Ok(changed)
    }

    /// The columns of a statement: told by the driver, or those of the statement without its rows.
    fn columns(&mut self, call: &Call) -> Result<SchemaRef, Fault> {
        if let Ok(schema) = self.statement(call)?.execute_schema() {
            return Ok(Arc::new(schema));
        }
        let text = format!("SELECT * FROM (\n{}\n) AS larder_columns WHERE 1 = 0", call.text);
        let empty = Call { text, params: call.params.clone() };
        Ok(self.statement(&empty)?.execute().map_err(failed)?.schema())
    }

    fn send_rows(&mut self, call: &Call) -> Result<u64, Fault> {
        let mut statement = self.statement(call)?;
        let reader = statement.execute().map_err(failed)?;
        let mut writer = StreamWriter::try_new(DataWriter::new(&mut *self.out), &reader.schema()).map_err(sending)?;
        // The loader waits for the columns before it waits for rows.
        writer.flush().map_err(sending)?;
        let mut rows = 0;
        for batch in reader {
            let batch = batch.map_err(|error| Fault::among_rows(&error))?;
            for start in (0..batch.num_rows()).step_by(BATCH_ROWS) {
                let part = batch.slice(start, BATCH_ROWS.min(batch.num_rows() - start));
                rows += part.num_rows() as u64;
                writer.write(&part).and_then(|()| writer.flush()).map_err(sending)?;
            }
        }
        writer.finish().map_err(sending)?;
        Ok(rows)
    }
}

fn failed(error: Error) -> Fault {
    Fault::adbc(Stage::Statement, &error)
}

fn sending(error: arrow_schema::ArrowError) -> Fault {
    Fault::new(Stage::Worker, format!("rows cannot be handed over: {error}"))
}

/// One row of parameters, in order.
fn parameters(params: &[Param]) -> Result<RecordBatch, Fault> {
    let columns = params.iter().zip(1..).map(|(param, number)| {
        let column: ArrayRef = match param {
            Param::Null => Arc::new(NullArray::new(1)),
            Param::Bool(yes) => Arc::new(BooleanArray::from(vec![*yes])),
            Param::Int(number) => Arc::new(Int64Array::from(vec![*number])),
            Param::Float(number) => Arc::new(Float64Array::from(vec![*number])),
            Param::Text(text) => Arc::new(StringArray::from(vec![text.as_str()])),
            Param::Date(days) => Arc::new(Date32Array::from(vec![*days])),
            Param::Timestamp(micros) => Arc::new(TimestampMicrosecondArray::from(vec![*micros]).with_timezone("UTC")),
        };
        (format!("p{number}"), column)
    });
    RecordBatch::try_from_iter(columns).map_err(sending)
}

/// What driver and database these are. A driver that does not tell is no fault.
fn info(connection: &ManagedConnection) -> Info {
    let codes = [InfoCode::VendorName, InfoCode::VendorVersion, InfoCode::DriverName, InfoCode::DriverVersion];
    let mut info = Info::default();
    let Ok(reader) = connection.get_info(Some(codes.into_iter().collect())) else { return info };
    for batch in reader.map_while(Result::ok) {
        let (Some(names), Some(values)) =
            (batch.column(0).as_primitive_opt::<UInt32Type>(), batch.column(1).as_union_opt())
        else {
            continue;
        };
        for row in 0..batch.num_rows() {
            let value = values.value(row);
            let Some(text) = value.as_string_opt::<i32>().filter(|text| !text.is_empty() && text.is_valid(0)) else {
                continue;
            };
            let text = Some(text.value(0).to_owned());
            match InfoCode::from(names.value(row)) {
                InfoCode::VendorName => info.database = text,
                InfoCode::VendorVersion => info.database_version = text,
                InfoCode::DriverName => info.driver = text,
                InfoCode::DriverVersion => info.driver_version = text,
                _ => {}
            }
        }
    }
    info
}
