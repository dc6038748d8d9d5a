//! What a source's settings and a statement become for the driver: options, settings of the session, calls.

use std::collections::BTreeMap;
use std::path::Path;

use larder_types::value::Value;

use super::request::{Call, Hint, Param};
use crate::project::DriverSource;
use crate::source::SourceError;
use crate::source::dialect::Dialect;
use crate::source::statement::{Statement, replace, without_semicolon};

type Options = Vec<(String, String)>;

/// Beginnings of the names of options that are not the database's but a statement's.
const OF_STATEMENTS: [&str; 6] = [
    "adbc.statement.",
    "adbc.rpc.result_queue_size",
    "adbc.postgresql.",
    "adbc.sqlite.query.",
    "adbc.snowflake.rpc.",
    "adbc.bigquery.sql.query.",
];
const OF_CONNECTIONS: &str = "adbc.connection.";

/// Bounds what drivers read ahead of the rows that are asked for; those who know no such option work without.
const HINTS: [(Dialect, &str, &str); 5] = [
    (Dialect::Postgres, "adbc.postgresql.batch_size_hint_bytes", "1048576"),
    (Dialect::Snowflake, "adbc.rpc.result_queue_size", "4"),
    (Dialect::Snowflake, "adbc.snowflake.rpc.prefetch_concurrency", "2"),
    (Dialect::BigQuery, "adbc.bigquery.sql.query.result_buffer_size", "8"),
    (Dialect::Standard, "adbc.rpc.result_queue_size", "4"),
];

/// Everything in a source that no message may show, the longest first.
pub(super) fn secrets(source: &DriverSource) -> Vec<String> {
    let mut secrets: Vec<String> =
        source.secret_options.iter().filter_map(|name| Some(source.options.get(name)?.0.clone())).collect();
    if let Some(password) = source.uri.as_ref().and_then(|uri| password(&uri.0)) {
        secrets.push(decoded(password));
        secrets.push(password.to_owned());
    }
    // Messages have single blanks and no lines, and what drivers print comes by the line: so does a key of many lines.
    let lines = secrets.iter().flat_map(|secret| secret.lines());
    let lines: Vec<String> = lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    secrets.extend(lines);
    secrets.retain(|secret| !secret.is_empty());
    secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    secrets.dedup();
    secrets
}

/// The password in a URI: `scheme://user:password@host`, or without a scheme.
pub(crate) fn password(uri: &str) -> Option<&str> {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let (user, _) = rest.rsplit_once('@')?;
    user.split_once(':').map(|(_, password)| password)
}

/// A text with `%41` and the like replaced by what they stand for.
fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let code = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        if let Some(byte) = code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            out.push(byte);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The options of database and connection, and the hints of statements. `reads`: nothing will be written.
pub(super) fn options(source: &DriverSource, reads: bool) -> Result<(Options, Options, Vec<Hint>), SourceError> {
    let mut database: BTreeMap<String, String> = BTreeMap::new();
    let mut connection = Vec::new();
    let mut statement = Vec::new();
    if source.dialect == Dialect::Snowflake {
        let seconds = source.login_timeout.as_secs().max(1);
        database.insert("adbc.snowflake.sql.client_option.login_timeout".to_owned(), format!("{seconds}s"));
    }
    match (&source.uri, source.dialect) {
        (Some(uri), Dialect::DuckDb) => database.extend(duckdb_file(&uri.0, &source.root, reads)?),
        (Some(uri), _) => drop(database.insert("uri".to_owned(), uri.0.clone())),
        (None, _) => {}
    }
    for (dialect, name, value) in HINTS {
        if dialect == source.dialect && !source.options.contains_key(name) {
            statement.push(Hint { name: name.to_owned(), value: value.to_owned(), required: false });
        }
    }
    for (name, value) in &source.options {
        let (name, value) = (name.clone(), value.0.clone());
        if OF_STATEMENTS.iter().any(|begin| name.starts_with(begin)) {
            statement.push(Hint { name, value, required: true });
        } else if name.starts_with(OF_CONNECTIONS) {
            connection.push((name, value));
        } else {
            database.insert(name, value);
        }
    }
    Ok((database.into_iter().collect(), connection, statement))
}

/// How DuckDB opens a file. One that is not there would be made, which no query may do.
fn duckdb_file(path: &str, root: &Path, reads: bool) -> Result<Options, SourceError> {
    let mut options = vec![("path".to_owned(), path.to_owned())];
    // `md:` and the like are not files.
    let is_file = path != ":memory:" && !path.split('/').next().unwrap_or_default().contains(':');
    if is_file {
        let file = root.join(path);
        if !file.is_file() {
            return Err(SourceError::file(&file, "there is no such database file"));
        }
        if reads {
            options.push(("access_mode".to_owned(), "READ_ONLY".to_owned()));
        }
    }
    Ok(options)
}

/// Statements that make a session what it should be, and whether it must not be used without.
pub(super) fn session(dialect: Dialect, reads: bool) -> &'static [(&'static str, bool)] {
    // A server that notices that the client is gone stops a query that nobody waits for.
    const NOTICE: (&str, bool) = ("SET client_connection_check_interval = '5s'", false);
    match (dialect, reads) {
        (Dialect::Postgres, true) => &[("SET default_transaction_read_only = on", true), NOTICE],
        (Dialect::Postgres, false) => &[NOTICE],
        _ => &[],
    }
}

/// A statement as calls: those that must run before it, and itself.
pub(super) fn of(statement: &Statement, dialect: Dialect) -> Result<(Vec<Call>, Call), SourceError> {
    let bound = statement.bind(dialect)?;
    if dialect == Dialect::Postgres && !bound.names.is_empty() {
        return Ok(by_settings(statement, &bound.names));
    }
    let params = bound.names.iter().map(|name| statement.params.get(name).map_or(Param::Null, Param::of)).collect();
    Ok((Vec::new(), Call { text: complete(&bound.text, dialect), params }))
}

/// The line's end closes a comment that ends the text: drivers put texts into others.
fn complete(text: &str, dialect: Dialect) -> String {
    format!("{}\n", without_semicolon(text, dialect))
}

/// PostgreSQL's driver streams a query only if nothing is bound to it, and otherwise holds the whole result in memory.
/// So the values are bound to a statement that keeps them as settings of the session, and the query reads those.
fn by_settings(statement: &Statement, names: &[String]) -> (Vec<Call>, Call) {
    let number = |name: &str| names.iter().position(|other| other == name).unwrap_or_default() + 1;
    let text = replace(&statement.text, Dialect::Postgres, |name| match statement.params.get(name) {
        None | Some(Value::Null) => "NULL".to_owned(),
        Some(value) => format!("CAST(current_setting('larder.p{}') AS {})", number(name), postgres_type(value)),
    });
    let given = names.iter().filter_map(|name| Some((name, statement.params.get(name)?)));
    let before = given.filter(|(_, value)| **value != Value::Null).map(|(name, value)| Call {
        text: format!("SELECT set_config('larder.p{}', $1, false)", number(name)),
        params: vec![Param::Text(value.to_text())],
    });
    (before.collect(), Call { text: complete(&text, Dialect::Postgres), params: Vec::new() })
}

fn postgres_type(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "boolean",
        Value::Int(_) => "bigint",
        Value::Float(_) => "double precision",
        Value::UInt(_) | Value::Decimal(_) => "numeric",
        Value::Date(_) => "date",
        Value::Timestamp(_) => "timestamptz",
        _ => "text",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Secret;

    #[test]
    fn passwords_are_found_in_uris() {
        for (uri, expected) in [
            ("postgresql://me:p%40ss@host/db", Some("p%40ss")),
            ("postgresql://me:a@b@host/db", Some("a@b")),
            ("me:secret@account/db?x=1", Some("secret")),
            ("postgresql://me@host:5432/db", None),
            ("postgresql://host:5432/db", None),
        ] {
            assert_eq!(password(uri), expected, "{uri}");
        }
        assert_eq!(decoded("p%40ss%2"), "p@ss%2");
        assert_eq!(decoded("100%é"), "100%é");
    }

    #[test]
    fn everything_secret_of_a_source_is_known() {
        let mut source = DriverSource::bare("postgresql").unwrap();
        source.uri = Some(Secret("postgresql://me:p%40ss@host/db".to_owned()));
        source.options = [("token", "t0ken-of-mine"), ("role", "reader")]
            .map(|(name, value)| (name.to_owned(), Secret(value.to_owned())))
            .into();
        source.secret_options = vec!["token".to_owned()];
        assert_eq!(secrets(&source), ["t0ken-of-mine", "p%40ss", "p@ss"]);
        source.uri = None;
        source.options = [("token".to_owned(), Secret("-- BEGIN --\n  bWluZQ==\n".to_owned()))].into();
        assert_eq!(secrets(&source), ["-- BEGIN --\n  bWluZQ==\n", "-- BEGIN --", "bWluZQ=="]);
    }

    #[test]
    fn options_go_where_they_belong() {
        let mut source = DriverSource::bare("snowflake").unwrap();
        source.options =
            [("adbc.snowflake.sql.db", "d"), ("adbc.connection.x", "c"), ("adbc.rpc.result_queue_size", "9")]
                .map(|(name, value)| (name.to_owned(), Secret(value.to_owned())))
                .into();
        let (database, connection, statement) = options(&source, true).unwrap();
        let login = ("adbc.snowflake.sql.client_option.login_timeout".to_owned(), "30s".to_owned());
        assert_eq!(database, [login, ("adbc.snowflake.sql.db".to_owned(), "d".to_owned())]);
        assert_eq!(connection, [("adbc.connection.x".to_owned(), "c".to_owned())]);
        let sizes: Vec<_> = statement.iter().filter(|hint| hint.name == "adbc.rpc.result_queue_size").collect();
        assert!(matches!(sizes.as_slice(), [hint] if hint.value == "9" && hint.required), "{sizes:?}");
    }

    #[test]
    fn postgresql_gets_values_as_settings() {
        let params = [("n", Value::Int(5)), ("t", Value::String("x".to_owned())), ("z", Value::Null)];
        let statement = Statement {
            name: "m".to_owned(),
            text: "SELECT :t, :n, :t, :z -- end".to_owned(),
            params: params.map(|(name, value)| (name.to_owned(), value)).into(),
        };
        let (before, call) = of(&statement, Dialect::Postgres).unwrap();
        let t = "CAST(current_setting('larder.p1') AS text)";
        let n = "CAST(current_setting('larder.p2') AS bigint)";
        assert_eq!(call.text, format!("SELECT {t}, {n}, {t}, NULL -- end\n"));
        let before: Vec<_> = before.into_iter().map(|call| (call.text, call.params)).collect();
        assert_eq!(
            before,
            [
                ("SELECT set_config('larder.p1', $1, false)".to_owned(), vec![Param::Text("x".to_owned())]),
                ("SELECT set_config('larder.p2', $1, false)".to_owned(), vec![Param::Text("5".to_owned())]),
            ]
        );
        let (before, call) = of(&statement, Dialect::DuckDb).unwrap();
        assert!(before.is_empty());
        assert_eq!(call.params, [Param::Text("x".to_owned()), Param::Int(5), Param::Null]);
    }
}
