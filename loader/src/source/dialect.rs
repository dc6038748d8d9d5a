//! Dialects: how databases differ in the little SQL that the loader itself writes.

/// The SQL of one family of databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// SQLite, embedded or through a driver.
    Sqlite,
    /// PostgreSQL and what speaks its protocol and SQL.
    Postgres,
    /// DuckDB.
    DuckDb,
    /// Amazon Redshift.
    Redshift,
    /// Snowflake.
    Snowflake,
    /// Google BigQuery.
    BigQuery,
    /// Databricks and Spark.
    Databricks,
    /// MySQL and MariaDB.
    MySql,
    /// Microsoft SQL Server.
    SqlServer,
    /// Anything else: standard SQL.
    Standard,
}

/// How a statement refers to a parameter that is bound beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marker {
    /// `:name`, as models are written.
    Named,
    /// `$1`, the same number wherever the same parameter stands.
    Numbered,
    /// `?`, one for each place.
    Question,
}

impl Dialect {
    /// Every dialect with the word that stands for it in a source's `dialect`.
    pub(crate) const ALL: [(&'static str, Self); 10] = [
        ("sqlite", Self::Sqlite),
        ("postgresql", Self::Postgres),
        ("duckdb", Self::DuckDb),
        ("redshift", Self::Redshift),
        ("snowflake", Self::Snowflake),
        ("bigquery", Self::BigQuery),
        ("databricks", Self::Databricks),
        ("mysql", Self::MySql),
        ("sqlserver", Self::SqlServer),
        ("standard", Self::Standard),
    ];

    /// The word that stands for it.
    pub(crate) fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, dialect)| *dialect == self).map_or("standard", |(word, _)| word)
    }

    /// A name as this SQL takes it whatever is in it.
    pub(crate) fn quoted(self, name: &str) -> String {
        match self {
            Self::BigQuery => format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`")),
            Self::Databricks | Self::MySql => format!("`{}`", name.replace('`', "``")),
            Self::SqlServer => format!("[{}]", name.replace(']', "]]")),
            _ => format!("\"{}\"", name.replace('"', "\"\"")),
        }
    }

    /// A table, with the schemas before it, as this SQL takes it.
    pub(crate) fn relation<S: AsRef<str>>(self, parts: &[S]) -> String {
        let parts: Vec<String> = parts.iter().map(|part| self.quoted(part.as_ref())).collect();
        parts.join(".")
    }

    pub(super) fn marker(self) -> Marker {
        match self {
            Self::Sqlite => Marker::Named,
            Self::Postgres | Self::DuckDb | Self::Redshift => Marker::Numbered,
            _ => Marker::Question,
        }
    }

    /// Whether `\` takes the meaning from a quote within a text.
    pub(super) fn escapes_with_backslash(self) -> bool {
        matches!(self, Self::Snowflake | Self::BigQuery | Self::Databricks | Self::MySql)
    }

    /// Whether texts may stand between `$tag$` and `$tag$`.
    pub(super) fn has_dollar_quotes(self) -> bool {
        matches!(self, Self::Postgres | Self::DuckDb | Self::Snowflake | Self::Redshift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_whatever_is_in_them() {
        for (dialect, expected) in [
            (Dialect::Postgres, r#""odd ""name".plain"#),
            (Dialect::Snowflake, r#""odd ""name".plain"#),
            (Dialect::BigQuery, r#"`odd "name`.plain"#),
            (Dialect::MySql, r#"`odd "name`.plain"#),
            (Dialect::SqlServer, r#"[odd "name].plain"#),
        ] {
            let relation = dialect.relation(&[r#"odd "name"#, "plain"]);
            let plain = dialect.quoted("plain");
            assert_eq!(relation, expected.replace("plain", &plain), "{dialect:?}");
        }
        assert_eq!(Dialect::MySql.quoted("a`b"), "`a``b`");
        assert_eq!(Dialect::BigQuery.quoted("a`b\\"), "`a\\`b\\\\`");
        assert_eq!(Dialect::SqlServer.quoted("a]b"), "[a]]b]");
    }

    #[test]
    fn every_dialect_has_a_word() {
        for (word, dialect) in Dialect::ALL {
            assert_eq!(dialect.as_str(), word);
        }
    }
}
