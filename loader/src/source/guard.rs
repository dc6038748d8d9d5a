//! The guard of a database connection: a statement may read and do nothing else.
//!
//! SQLite asks it about every action while a statement is prepared. It also notes which columns of which tables the
//! statement reads, so that only those need to be loaded.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

/// What the guard has seen since it was set.
#[derive(Debug, Default)]
struct Seen {
    reads: BTreeSet<(String, String)>,
    refused: Option<&'static str>,
}

/// A guard that is set on a connection.
#[derive(Debug, Clone)]
pub(super) struct Guard(Arc<Mutex<Seen>>);

impl Guard {
    /// Sets a guard on a connection. It stays until [`Guard::lift`].
    pub(super) fn set(connection: &mut Connection) -> rusqlite::Result<Self> {
        let guard = Self(Arc::default());
        let hook = guard.clone();
        connection.authorizer(Some(move |context: AuthContext<'_>| hook.judge(context.action)))?;
        Ok(guard)
    }

    /// Takes the guard off a connection.
    pub(super) fn lift(connection: &mut Connection) -> rusqlite::Result<()> {
        connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)
    }

    /// The first thing that was refused, in a word.
    pub(super) fn refused(&self) -> Option<&'static str> {
        self.seen().refused
    }

    /// What was read: table and column, as the tables spell them.
    pub(super) fn reads(&self) -> BTreeSet<(String, String)> {
        self.seen().reads.clone()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, action: AuthAction<'_>) -> Authorization {
        let refused = match action {
            AuthAction::Select | AuthAction::Recursive => return Authorization::Allow,
            AuthAction::Read { table_name, column_name } => {
                self.seen().reads.insert((table_name.to_owned(), column_name.to_owned()));
                return Authorization::Allow;
            }
            AuthAction::Function { function_name } if !function_name.eq_ignore_ascii_case("load_extension") => {
                return Authorization::Allow;
            }
            AuthAction::Function { .. } => "load_extension",
            AuthAction::Attach { .. } => "ATTACH",
            AuthAction::Detach { .. } => "DETACH",
            AuthAction::Pragma { .. } => "PRAGMA",
            AuthAction::Insert { table_name } if !is_catalogue(table_name) => "INSERT",
            AuthAction::Update { table_name, .. } if !is_catalogue(table_name) => "UPDATE",
            AuthAction::Delete { table_name } if !is_catalogue(table_name) => "DELETE",
            AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } => "a transaction",
            _ => "a change of the schema",
        };
        self.seen().refused.get_or_insert(refused);
        Authorization::Deny
    }
}

/// SQLite's own tables, in which `CREATE` and `DROP` write.
fn is_catalogue(table: &str) -> bool {
    table.starts_with("sqlite_")
}
