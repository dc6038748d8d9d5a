//! A warehouse for tests: an SQLite database that may be written to, and speaks the SQL of DuckDB as far as the tests
//! use it. Its planner schema is a file beside it, and the presence of that file says that there is such a warehouse.

use std::path::{Path, PathBuf};

use arrow_schema::SchemaRef;
use md5::{Digest, Md5};
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;

use super::dialect::Dialect;
use super::statement::Statement;
use super::warehouse::Warehouse;
use super::{RowStream, SourceError, query};
use crate::cancel::Cancel;

/// The file of the planner schema.
pub(crate) const PLANNER: &str = "larder_planner.db";

pub(crate) struct Writable {
    path: PathBuf,
    cancel: Cancel,
}

/// The warehouse at a path, if there is one.
pub(super) fn at(path: &Path, cancel: &Cancel) -> Option<Box<dyn Warehouse>> {
    path.with_file_name(PLANNER)
        .exists()
        .then(|| Box::new(Writable { path: path.to_path_buf(), cancel: cancel.clone() }) as Box<dyn Warehouse>)
}

impl Writable {
    fn connect(&self) -> Connection {
        let connection = Connection::open(&self.path).unwrap();
        let planner = self.path.with_file_name(PLANNER);
        connection.execute("ATTACH ?1 AS larder_planner", [planner.to_str().unwrap()]).unwrap();
        let hex =
            |text: String| Md5::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
        connection.create_scalar_function("md5", 1, flags, move |context| Ok(hex(context.get(0)?))).unwrap();
        connection
    }
}

impl Warehouse for Writable {
    fn dialect(&self) -> Dialect {
        Dialect::DuckDb
    }

    fn can_write(&self) -> bool {
        true
    }

    fn query(&self, statement: &Statement) -> Result<RowStream, SourceError> {
        query::open(self.connect(), statement, &self.cancel)
    }

    fn describe(&self, statement: &Statement) -> Result<SchemaRef, SourceError> {
        Ok(self.query(statement)?.schema)
    }

    fn execute(&self, statements: &[Statement]) -> Result<Option<u64>, SourceError> {
        let mut connection = self.connect();
        let transaction = connection.transaction().unwrap();
        for statement in statements.iter().filter(|statement| !statement.text.starts_with("CREATE SCHEMA")) {
            transaction.execute(&statement.text, []).map_err(|error| statement.fault(error.to_string()))?;
        }
        transaction.commit().unwrap();
        Ok(None)
    }
}
