//! The SQL of every dialect against files, and what a delta is made into.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_schema::{DataType, Field, TimeUnit};

use super::layout::{Layout, Wanted};
use crate::source::dialect::Dialect;
use crate::source::statement::Statement;

fn layout(dialect: Dialect) -> Layout {
    let field = |name: &str, kind: DataType| Field::new(name, kind, true);
    let json = HashMap::from([("ARROW:extension:name".to_owned(), "arrow.json".to_owned())]);
    Layout {
        dialect,
        schema: vec!["db".to_owned(), "larder_planner".to_owned()],
        prefix: "users_0a1b2c3d".to_owned(),
        salt: "5eed".to_owned(),
        keys: vec![field("id", DataType::Int64), field("Odd \"name", DataType::Utf8)],
        columns: vec![
            field("blob", DataType::Binary),
            field("born", DataType::Date32),
            field("id", DataType::Int64),
            field("name", DataType::Utf8),
            field("opens", DataType::Time64(TimeUnit::Microsecond)),
            field("profile", DataType::Utf8).with_metadata(json),
            field("score", DataType::Float64),
            field("seen", DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")))),
            field("tags", DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)))),
            field("updated", DataType::Timestamp(TimeUnit::Microsecond, None)),
            field("vip", DataType::Boolean),
        ],
    }
}

/// Everything that is ever asked of a warehouse, statement by statement.
fn all_sql(dialect: Dialect) -> String {
    let layout = layout(dialect);
    let model = Statement {
        name: "users".to_owned(),
        text: "SELECT * FROM users WHERE country = :country;".to_owned(),
        params: BTreeMap::new(),
    };
    let mut statements = vec![layout.create_schema()];
    statements.extend(layout.materialise(&model, 8));
    statements.extend([
        layout.count_result(8),
        layout.count_keys(7),
        layout.keys(7),
        layout.delta(8, None, Wanted::All),
        layout.delta(8, Some(7), Wanted::All),
        layout.delta(8, Some(7), Wanted::Changed(&[])),
        layout.delta(8, Some(7), Wanted::Changed(&[0x0fff, 0x0abc_def0_1234_5678])),
        layout.count_delta(8, None, Wanted::All),
        layout.count_delta(8, Some(7), Wanted::Changed(&[0x0fff])),
        layout.drop_rows(8),
    ]);
    statements.iter().map(|statement| format!("{};\n", statement.text)).collect()
}

#[test]
fn the_sql_of_each_dialect_is_as_it_was_reviewed() {
    for (dialect, golden) in [
        (Dialect::Postgres, include_str!("golden/postgresql.sql")),
        (Dialect::DuckDb, include_str!("golden/duckdb.sql")),
        (Dialect::Redshift, include_str!("golden/redshift.sql")),
        (Dialect::Snowflake, include_str!("golden/snowflake.sql")),
        (Dialect::BigQuery, include_str!("golden/bigquery.sql")),
        (Dialect::Databricks, include_str!("golden/databricks.sql")),
    ] {
        assert_eq!(all_sql(dialect), golden, "{dialect:?}");
    }
}

#[test]
fn a_mapping_without_columns_hashes_the_key() {
    let layout = Layout { columns: Vec::new(), ..layout(Dialect::Postgres) };
    let made = layout.materialise(&Statement::new("m", "SELECT 1"), 1);
    assert!(made.iter().all(|statement| !statement.text.contains("|| )")), "{made:?}");
    assert!(made[3].text.contains("md5('5eed' || COALESCE(length(\"id\"::text)"), "{}", made[3].text);
}
