//! What the loader asks of a worker: one JSON object on one line of its standard input.
//!
//! Secrets travel in it and nowhere else: neither the arguments nor the environment of a process are private.

use std::path::PathBuf;

use larder_types::value::Value;
use serde::{Deserialize, Serialize};

/// A driver, how to log in, and what to do there.
#[derive(Serialize, Deserialize)]
pub(super) struct Request {
    /// The driver's library.
    pub(super) library: PathBuf,
    /// The function by which the library is entered, if it is not the usual one.
    pub(super) entrypoint: Option<String>,
    /// Options of the database, among them `uri`.
    pub(super) database: Vec<(String, String)>,
    /// Options of the connection.
    pub(super) connection: Vec<(String, String)>,
    /// Options of every statement.
    pub(super) statement: Vec<Hint>,
    /// Statements that make the session what it should be, before anything else is done.
    pub(super) session: Vec<Setting>,
    pub(super) task: Task,
}

/// An option of a statement.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hint {
    pub(super) name: String,
    pub(super) value: String,
    /// If not, a driver that does not know it works without.
    pub(super) required: bool,
}

/// A statement that sets the session.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Setting {
    pub(super) text: String,
    /// If not, a database that refuses it works without.
    pub(super) required: bool,
}

/// A statement and the values of its parameters in order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call {
    pub(super) text: String,
    pub(super) params: Vec<Param>,
}

/// What is to be done.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Task {
    /// Load the driver, and do not log in.
    Load,
    /// Log in and tell what driver and database these are.
    Info,
    /// Send the columns of a statement. Each of `before` runs first.
    Describe { before: Vec<Call>, call: Call },
    /// Send the rows of a statement. Each of `before` runs first.
    Query { before: Vec<Call>, call: Call },
    /// Run statements that write, in one transaction where that can be.
    Execute(Vec<Call>),
}

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Param {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// Days since 1970.
    Date(i32),
    /// Microseconds since 1970, UTC.
    Timestamp(i64),
}

impl Param {
    pub(super) fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(yes) => Self::Bool(*yes),
            Value::Int(number) => Self::Int(*number),
            Value::Float(number) => Self::Float(*number),
            Value::Date(days) => Self::Date(*days),
            Value::Timestamp(micros) => Self::Timestamp(*micros),
            other => Self::Text(other.to_text()),
        }
    }
}

/// What a worker tells of driver and database, as far as the driver knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Info {
    pub(crate) database: Option<String>,
    pub(crate) database_version: Option<String>,
    pub(crate) driver: Option<String>,
    pub(crate) driver_version: Option<String>,
}

/// The last words of a worker that did what it was asked.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Done {
    /// Rows that were sent.
    pub(super) rows: u64,
    /// Rows that the last statement changed, if the database tells.
    pub(super) changed: Option<u64>,
    pub(super) info: Option<Info>,
}
