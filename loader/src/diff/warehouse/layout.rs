//! The SQL of a diff in the warehouse: which tables there are, how they are made, and what is asked of them.
//!
//! Pure: names and types go in, statements come out. For a result with the number N there are two tables:
//!
//! | table | content | lives |
//! | --- | --- | --- |
//! | `<prefix>_rows_<N>` | key and mapped columns of the result, as it was at one moment | until the run has ended |
//! | `<prefix>_keys_<N>` | each key once, `larder_id` (15 hexadecimal digits of the key's hash) and `larder_hash` (the row's hash; empty if rows share the key) | as long as a destination has acknowledged it |
//!
//! The model runs once, so it does not matter if it gives another result the next time. No value of a row is ever
//! written into a statement: rows are named by `larder_id`.

use arrow_schema::Field;

use super::row_hash;
use crate::source::dialect::Dialect;
use crate::source::statement::{Statement, without_semicolon};

/// Hexadecimal digits of a `larder_id`: as many as an `u64` holds with room for a mark.
pub(super) const ID_DIGITS: usize = 15;
/// The columns that come with every row, after the key and the mapped columns.
pub(super) const ID: &str = "larder_id";
pub(super) const HASH: &str = "larder_hash";
pub(super) const OLD: &str = "larder_old";
/// What the names of tables and of our own columns begin with.
pub(crate) const RESERVED: &str = "larder_";

/// What the SQL of one sync depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) dialect: Dialect,
    /// The schema of the tables, with what is before it.
    pub(crate) schema: Vec<String>,
    /// What the tables' names begin with: the sync's, so that people recognise them, and what tells it from others.
    pub(crate) prefix: String,
    /// Hexadecimal digits.
    pub(crate) salt: String,
    /// The columns of the key, each once, in order.
    pub(crate) keys: Vec<Field>,
    /// The mapped columns, each once, in order.
    pub(crate) columns: Vec<Field>,
}

/// Which rows of a result are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted<'a> {
    /// All, beside what was acknowledged of each.
    All,
    /// Those that differ from what was acknowledged, and those with these ids.
    Changed(&'a [u64]),
}

impl Layout {
    /// Whether there is SQL for a dialect.
    pub(crate) fn speaks(dialect: Dialect) -> bool {
        matches!(
            dialect,
            Dialect::Postgres
                | Dialect::DuckDb
                | Dialect::Redshift
                | Dialect::Snowflake
                | Dialect::BigQuery
                | Dialect::Databricks
        )
    }

    fn table(&self, kind: &str, number: u64) -> String {
        let mut parts = self.schema.clone();
        parts.push(format!("{}_{kind}_{number}", self.prefix));
        self.dialect.relation(&parts)
    }

    fn statement(&self, text: String) -> Statement {
        Statement::new("diff: warehouse", text)
    }

    /// Makes the schema if need be. May be refused although the schema is there.
    pub(crate) fn create_schema(&self) -> Statement {
        self.statement(format!("CREATE SCHEMA IF NOT EXISTS {}", self.dialect.relation(&self.schema)))
    }

    /// Makes the tables of a result.
    pub(crate) fn materialise(&self, model: &Statement, number: u64) -> Vec<Statement> {
        let quoted = |field: &Field| self.dialect.quoted(field.name());
        let (rows, keys) = (self.table("rows", number), self.table("keys", number));
        let mapped = self.columns.iter().filter(|column| self.keys.iter().all(|key| key.name() != column.name()));
        let all: Vec<String> = self.keys.iter().chain(mapped).map(quoted).collect();
        // A table that vanishes when PostgreSQL crashes will do for rows, as the run dies with it, and not for keys.
        let create = if self.dialect == Dialect::Postgres { "CREATE UNLOGGED TABLE" } else { "CREATE TABLE" };
        let of_model = Statement {
            name: model.name.clone(),
            text: format!(
                "{create} {rows} AS SELECT {} FROM (\n{}\n) AS larder_model",
                all.join(", "),
                without_semicolon(&model.text, self.dialect)
            ),
            params: model.params.clone(),
        };
        let names: Vec<String> = self.keys.iter().map(quoted).collect();
        let names = names.join(", ");
        let present: Vec<String> = self.keys.iter().map(|key| format!("{} IS NOT NULL", quoted(key))).collect();
        let hashed = if self.columns.is_empty() { &self.keys } else { &self.columns };
        let of_keys = format!(
            "CREATE TABLE {keys} AS SELECT {names}, MIN({ID}) AS {ID}, CASE WHEN COUNT(*) = 1 THEN MIN({HASH}) ELSE '' \
             END AS {HASH} FROM (SELECT {names}, SUBSTR({}, 1, {ID_DIGITS}) AS {ID}, {} AS {HASH} FROM {rows} WHERE {}) \
             AS larder_rows GROUP BY {names}",
            row_hash::expression(self.dialect, &self.salt, &self.keys),
            row_hash::expression(self.dialect, &self.salt, hashed),
            present.join(" AND "),
        );
        let mut statements = self.drop_result(number);
        statements.extend([of_model, self.statement(of_keys)]);
        if self.dialect == Dialect::Postgres {
            // Its planner would otherwise know nothing of tables that are a second old.
            statements.extend([rows, keys].map(|table| self.statement(format!("ANALYZE {table}"))));
        }
        statements
    }

    /// Removes both tables of a result, if they are there.
    pub(crate) fn drop_result(&self, number: u64) -> Vec<Statement> {
        [self.drop_rows(number), self.drop_table("keys", number)].into()
    }

    /// Removes the rows of a result, if they are there.
    pub(crate) fn drop_rows(&self, number: u64) -> Statement {
        self.drop_table("rows", number)
    }

    fn drop_table(&self, kind: &str, number: u64) -> Statement {
        self.statement(format!("DROP TABLE IF EXISTS {}", self.table(kind, number)))
    }

    /// Counts what there is of a result: rows, rows without a key, keys, keys that rows share.
    pub(crate) fn count_result(&self, number: u64) -> Statement {
        let (rows, keys) = (self.table("rows", number), self.table("keys", number));
        let missing: Vec<String> =
            self.keys.iter().map(|key| format!("{} IS NULL", self.dialect.quoted(key.name()))).collect();
        self.statement(format!(
            "SELECT (SELECT COUNT(*) FROM {rows}) AS n_rows, (SELECT COUNT(*) FROM {rows} WHERE {}) AS n_keyless, \
             (SELECT COUNT(*) FROM {keys}) AS n_keys, (SELECT COUNT(*) FROM {keys} WHERE {HASH} = '') AS n_shared",
            missing.join(" OR ")
        ))
    }

    /// Counts the keys of a result that was acknowledged.
    pub(crate) fn count_keys(&self, number: u64) -> Statement {
        self.statement(format!("SELECT COUNT(*) AS n_keys FROM {}", self.table("keys", number)))
    }

    /// The keys of a result that was acknowledged.
    pub(crate) fn keys(&self, number: u64) -> Statement {
        let names: Vec<String> = self.keys.iter().map(|key| self.dialect.quoted(key.name())).collect();
        self.statement(format!("SELECT {} FROM {}", names.join(", "), self.table("keys", number)))
    }

    /// The rows of result `number`: key and mapped columns, `larder_id`, `larder_hash`, and if there is a `base`,
    /// `larder_old`, the hash that was acknowledged. Of rows that have left `larder_hash` is null; of rows that are new,
    /// `larder_old`. Rows that share a key are left out.
    pub(crate) fn delta(&self, number: u64, base: Option<u64>, wanted: Wanted<'_>) -> Statement {
        let quoted = |field: &Field| self.dialect.quoted(field.name());
        let key = |field: &Field| {
            let name = quoted(field);
            if base.is_some() {
                format!("COALESCE(n.{name}, o.{name}) AS {name}")
            } else {
                format!("n.{name} AS {name}")
            }
        };
        let mapped = self.columns.iter().filter(|column| self.keys.iter().all(|key| key.name() != column.name()));
        let mut columns: Vec<String> = self.keys.iter().map(key).collect();
        columns.extend(mapped.map(|column| format!("r.{0} AS {0}", quoted(column))));
        columns.extend([format!("n.{ID} AS {ID}"), format!("n.{HASH} AS {HASH}")]);
        if base.is_some() {
            columns.push(format!("o.{HASH} AS {OLD}"));
        }
        let rows = self.table("rows", number);
        let join = if base.is_some() { "LEFT JOIN" } else { "JOIN" };
        self.statement(format!(
            "SELECT {} FROM {} {join} {rows} AS r ON {} WHERE {}",
            columns.join(", "),
            self.pairs(number, base),
            self.same_key("n", "r"),
            is_wanted(base, wanted),
        ))
    }

    /// Counts the rows of [`Self::delta`].
    pub(crate) fn count_delta(&self, number: u64, base: Option<u64>, wanted: Wanted<'_>) -> Statement {
        let (pairs, is_wanted) = (self.pairs(number, base), is_wanted(base, wanted));
        self.statement(format!("SELECT COUNT(*) AS n_rows FROM {pairs} WHERE {is_wanted}"))
    }

    /// The keys of a result beside those of its base.
    fn pairs(&self, number: u64, base: Option<u64>) -> String {
        let keys = self.table("keys", number);
        match base {
            None => format!("{keys} AS n"),
            Some(base) => {
                format!("{keys} AS n FULL OUTER JOIN {} AS o ON {}", self.table("keys", base), self.same_key("n", "o"))
            }
        }
    }

    fn same_key(&self, left: &str, right: &str) -> String {
        let pair = |key: &Field| format!("{left}.{0} = {right}.{0}", self.dialect.quoted(key.name()));
        let pairs: Vec<String> = self.keys.iter().map(pair).collect();
        pairs.join(" AND ")
    }
}

/// The condition on a pair of keys.
fn is_wanted(base: Option<u64>, wanted: Wanted<'_>) -> String {
    match (base, wanted) {
        (None, _) => format!("n.{HASH} <> ''"),
        (Some(_), Wanted::All) => format!("(n.{HASH} IS NULL OR n.{HASH} <> '')"),
        (Some(_), Wanted::Changed(ids)) => {
            let ids: Vec<String> = ids.iter().map(|id| format!("'{id:0ID_DIGITS$x}'")).collect();
            let doubted = if ids.is_empty() { String::new() } else { format!(" OR o.{ID} IN ({})", ids.join(", ")) };
            format!(
                "(n.{HASH} IS NULL OR n.{HASH} <> '') AND (n.{HASH} IS NULL OR o.{HASH} IS NULL OR n.{HASH} <> \
                 o.{HASH}{doubted})"
            )
        }
    }
}
