//! Databases behind ADBC drivers, each driver in a child process of its own.
//!
//! ```text
//! loader                                          worker (this program as `source-worker`)
//!   request: one line of JSON      -- stdin -->     load driver, log in, set the session
//!   rows as they are asked for     <-- stdout --    frames: connected, Arrow IPC, done or fault
//! ```
//!
//! Why a process for each: several Go runtimes in one process are not supported, a driver that crashes takes only its
//! worker along, and cancelling is killing. The pipe is the backpressure.
//!
//! Invariants:
//! - the end of the rows is said, with their number; a worker that ends in any other way is an error;
//! - secrets go through the pipe only, and no message shows one;
//! - every wait for a worker has a limit, and a worker never outlives whoever waits for it;
//! - a query is one statement that reads, and its session is read-only where the database knows such sessions.

mod call;
mod fault;
mod frame;
pub(crate) mod known;
pub(crate) mod locate;
mod process;
mod request;
#[cfg(test)]
pub(crate) mod tests;
mod worker;

use std::io::{self, BufReader};
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_schema::{ArrowError, SchemaRef};

pub(crate) use self::call::password as uri_password;
use self::fault::{Fault, Stage};
use self::frame::{DataReader, Kind};
use self::locate::Found;
pub(crate) use self::process::COMMAND as WORKER_COMMAND;
use self::process::Worker;
pub(crate) use self::request::Info;
use self::request::{Done, Request, Setting, Task};
pub(crate) use self::worker::main as worker_main;
use super::dialect::Dialect;
use super::statement::Statement;
use super::warehouse::Warehouse;
use super::{RowStream, SourceError};
use crate::cancel::Cancel;
use crate::project::driver::DriverName;
use crate::project::{DriverSource, write_span};

type Frames = DataReader<BufReader<Worker>>;

/// A database behind a driver.
pub(crate) struct Adbc {
    source: DriverSource,
    found: Found,
    /// What no message may show, the longest first.
    secrets: Vec<String>,
    cancel: Cancel,
}

impl Adbc {
    /// Finds the driver of a source. Nothing is loaded yet. What it will do ends soon after `cancel` was decided.
    ///
    /// # Errors
    /// When the driver is not installed, with what to do.
    pub(crate) fn new(source: &DriverSource, cancel: &Cancel) -> Result<Self, SourceError> {
        let found = match &source.driver {
            DriverName::Name(name) => locate::by_name(name, &locate::folders()).map_err(|reason| {
                let install = match known::find(name) {
                    Some(known) => format!("install it with `{}`", known.install()),
                    None => "`larder-loader drivers list` shows the drivers that are found".to_owned(),
                };
                SourceError::Message(format!("driver `{name}` is not installed: {reason}; {install}"))
            }),
            DriverName::Library(path) => {
                locate::by_path(path).map_err(|reason| SourceError::Message(format!("driver: {reason}")))
            }
        }?;
        Ok(Self { source: source.clone(), found, secrets: call::secrets(source), cancel: cancel.clone() })
    }

    /// Where the driver was found.
    pub(crate) fn found(&self) -> &Found {
        &self.found
    }

    /// Loads the driver in a worker, without logging in.
    ///
    /// # Errors
    /// When it is no driver that this machine can load.
    pub(crate) fn load(&self) -> Result<(), SourceError> {
        let (mut frames, mut session) = self.start(self.request(Task::Load, true)?, None)?;
        session.finish(&mut frames).map(drop)
    }

    /// Logs in and asks what driver and database these are.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses the login.
    pub(crate) fn info(&self) -> Result<Info, SourceError> {
        let (mut frames, mut session) = self.start(self.request(Task::Info, true)?, None)?;
        session.connect(&mut frames)?;
        Ok(session.finish(&mut frames)?.info.unwrap_or_default())
    }

    fn request(&self, task: Task, reads: bool) -> Result<Request, SourceError> {
        let (database, connection, statement) = call::options(&self.source, reads)?;
        let settings = call::session(self.source.dialect, reads);
        let session = settings.iter().map(|(text, required)| Setting { text: (*text).to_owned(), required: *required });
        Ok(Request {
            library: self.found.library.clone(),
            entrypoint: self.source.entrypoint.clone().or_else(|| self.found.entrypoint.clone()),
            database,
            connection,
            statement,
            session: session.collect(),
            task,
        })
    }

    fn start(&self, request: Request, model: Option<&Statement>) -> Result<(Frames, Session), SourceError> {
        let worker = Worker::start(&request, &self.source.root, self.secrets.clone()).map_err(|error| {
            SourceError::Message(format!("driver `{}`: no process for it: {error}", self.source.driver))
        })?;
        Ok(self.session(worker, model))
    }

    fn session(&self, mut worker: Worker, model: Option<&Statement>) -> (Frames, Session) {
        worker.limit(self.source.login_timeout);
        worker.cancelled_by(&self.cancel);
        let session = Session {
            driver: self.source.driver.to_string(),
            model: model.map(|statement| statement.name.clone()),
            secrets: self.secrets.clone(),
            login: self.source.login_timeout,
            query: self.source.query_timeout,
            connected: false,
        };
        (DataReader::new(BufReader::new(worker)), session)
    }
}

impl Warehouse for Adbc {
    fn dialect(&self) -> Dialect {
        self.source.dialect
    }

    fn can_write(&self) -> bool {
        true
    }

    fn query(&self, statement: &Statement) -> Result<RowStream, SourceError> {
        statement.check_reads(self.source.dialect)?;
        let (before, call) = call::of(statement, self.source.dialect)?;
        let request = self.request(Task::Query { before, call }, true)?;
        let (frames, session) = self.start(request, Some(statement))?;
        rows(frames, session)
    }

    fn describe(&self, statement: &Statement) -> Result<SchemaRef, SourceError> {
        statement.check_reads(self.source.dialect)?;
        let (before, call) = call::of(statement, self.source.dialect)?;
        let request = self.request(Task::Describe { before, call }, true)?;
        let (mut frames, mut session) = self.start(request, Some(statement))?;
        session.connect(&mut frames)?;
        let mut reader = session.open(frames)?;
        let schema = reader.schema();
        match reader.next() {
            None => session.finish(reader.get_mut()).map(|_| schema),
            Some(Ok(_)) => Err(session.fault("rows came where only columns were asked for")),
            Some(Err(error)) => Err(session.failed(reader.get_mut(), &error)),
        }
    }

    fn execute(&self, statements: &[Statement]) -> Result<Option<u64>, SourceError> {
        let mut calls = Vec::with_capacity(statements.len());
        for statement in statements {
            let (before, call) = call::of(statement, self.source.dialect)?;
            calls.extend(before);
            calls.push(call);
        }
        let (mut frames, mut session) = self.start(self.request(Task::Execute(calls), false)?, statements.first())?;
        session.connect(&mut frames)?;
        let done = session.finish(&mut frames).map_err(|error| match error {
            // Not what the database says of a statement: the answer is lost, and the last word may have been spoken.
            SourceError::Message(reason) => {
                SourceError::Message(format!("{reason}; whether the statements took effect is not known"))
            }
            error => error,
        })?;
        Ok(done.changed)
    }
}

/// The rows that a session sends.
fn rows(mut frames: Frames, mut session: Session) -> Result<RowStream, SourceError> {
    session.connect(&mut frames)?;
    let reader = session.open(frames)?;
    let schema = reader.schema();
    Ok(RowStream { schema, batches: Box::new(Rows { reader: Some(reader), session, rows: 0 }) })
}

/// A session with a worker: how far it has come, and what messages about it need.
struct Session {
    driver: String,
    model: Option<String>,
    secrets: Vec<String>,
    login: Duration,
    query: Duration,
    connected: bool,
}

impl Session {
    /// Waits until the database has taken the login.
    fn connect(&mut self, frames: &mut Frames) -> Result<(), SourceError> {
        match frames.connected() {
            Ok(true) => {
                frames.input().get_mut().limit(self.query);
                self.connected = true;
                Ok(())
            }
            Ok(false) => Err(self.ended(frames, "it ended without a login")),
            Err(error) => Err(self.broken(frames, &error)),
        }
    }

    /// Waits for the columns of the answer.
    fn open(&mut self, mut frames: Frames) -> Result<StreamReader<Frames>, SourceError> {
        // What fails before there are columns is said in their place.
        if let Err(error) = frames.wait() {
            return Err(self.broken(&mut frames, &error));
        }
        if frames.end().is_some() {
            return Err(self.ended(&mut frames, "it told no columns"));
        }
        StreamReader::try_new(frames, None).map_err(|error| self.fault(&told(&error)))
    }

    /// Reads on to the end, where the worker must have said that it is done.
    fn finish(&mut self, frames: &mut Frames) -> Result<Done, SourceError> {
        let (kind, payload) = match frames.read_end() {
            Ok(end) => end,
            Err(error) => return Err(self.broken(frames, &error)),
        };
        if *kind == Kind::Fault {
            let fault = serde_json::from_slice(payload);
            return Err(fault.map_or_else(|_| self.fault("it failed without a reason"), |fault| self.said(&fault)));
        }
        let done = serde_json::from_slice(payload).map_err(|_| self.fault("its last words cannot be read"))?;
        frames.input().get_mut().finish();
        Ok(done)
    }

    /// What went wrong when a session ended too early: what the worker said of it, or else `reason`.
    fn ended(&mut self, frames: &mut Frames, reason: &str) -> SourceError {
        match self.finish(frames) {
            Ok(_) => self.fault(reason),
            Err(error) => error,
        }
    }

    /// What went wrong when rows could not be read: what the worker said of it, or else what the reader says.
    fn failed(&mut self, frames: &mut Frames, error: &ArrowError) -> SourceError {
        match error {
            // Nothing more can be read; the reader knows no more than that.
            ArrowError::IoError(_, error) if frames.end().is_none() => self.broken(frames, error),
            _ => self.ended(frames, &told(error)),
        }
    }

    /// What went wrong when frames could not be read.
    fn broken(&mut self, frames: &mut Frames, error: &io::Error) -> SourceError {
        let worker = frames.input().get_mut();
        if worker.is_cancelled() {
            return SourceError::Cancelled;
        }
        if worker.has_expired() {
            let (limit, what, name) =
                if self.connected { (self.query, "no answer", "query") } else { (self.login, "no login", "login") };
            let limit = write_span(limit);
            return self.fault(&format!(
                "{what} within {limit}; check the database, or raise `timeouts.{name}` of the source"
            ));
        }
        if error.kind() == io::ErrorKind::UnexpectedEof {
            let death = worker.death();
            return self.fault(&format!("{death}; what it sent is not complete"));
        }
        self.fault(&format!("what it sent cannot be read: {error}"))
    }

    /// What the worker itself says went wrong.
    fn said(&self, fault: &Fault) -> SourceError {
        let message = fault.shown(&self.secrets);
        match (fault.stage, &self.model) {
            (Stage::Statement, Some(model)) => SourceError::Statement { model: model.clone(), reason: message },
            (Stage::Driver, _) => self.fault(&format!("it cannot be loaded: {message}")),
            (Stage::Login, _) => self.fault(&format!("cannot log in: {message}")),
            _ => self.fault(&message),
        }
    }

    fn fault(&self, reason: &str) -> SourceError {
        SourceError::Message(format!("driver `{}`: {reason}", self.driver))
    }
}

/// An error of the reader of rows, which may hold pieces of what it read.
fn told(error: &ArrowError) -> String {
    match error {
        ArrowError::IoError(_, error) => format!("the rows cannot be read: {error}"),
        _ => "what it sent are no rows".to_owned(),
    }
}

/// The rows of a query as they arrive.
struct Rows {
    /// None after the last row and after an error.
    reader: Option<StreamReader<Frames>>,
    session: Session,
    rows: u64,
}

impl Iterator for Rows {
    type Item = Result<RecordBatch, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut reader = self.reader.take()?;
        let frames = match reader.next() {
            Some(Ok(batch)) => {
                self.rows += batch.num_rows() as u64;
                self.reader = Some(reader);
                return Some(Ok(batch));
            }
            Some(Err(error)) => return Some(Err(self.session.failed(reader.get_mut(), &error))),
            None => reader.get_mut(),
        };
        match self.session.finish(frames) {
            Ok(done) if done.rows == self.rows => None,
            Ok(done) => {
                let reason = format!("it sent {} rows, and {} arrived", done.rows, self.rows);
                Some(Err(self.session.fault(&reason)))
            }
            Err(error) => Some(Err(error)),
        }
    }
}
