//! The drivers that the loader knows: what they connect to, how, and where they come from.
//!
//! Any other ADBC driver works too, by the name of its manifest or by its path; the loader then writes standard SQL and
//! knows no options.

use super::super::dialect::Dialect;

/// A driver that the loader knows.
pub(crate) struct Known {
    /// As `driver` takes it, which is also the name of its manifest.
    pub(crate) name: &'static str,
    /// What it connects to.
    pub(crate) title: &'static str,
    pub(crate) dialect: Dialect,
    /// What `uri` looks like; empty if there is none.
    pub(crate) uri: &'static str,
    /// Options that matter, each with what it is.
    pub(crate) options: &'static [(&'static str, &'static str)],
    /// The licence of the driver; empty if it is not known.
    pub(crate) licence: &'static str,
    pub(crate) note: &'static str,
}

/// The known drivers, the most used first.
pub(crate) const KNOWN: [Known; 12] = [
    Known {
        name: "postgresql",
        title: "PostgreSQL, and Citus, CockroachDB, Neon, Timescale, Yugabyte and others with its protocol",
        dialect: Dialect::Postgres,
        uri: "postgresql://USER:${PASSWORD}@HOST:5432/DATABASE?sslmode=require",
        options: &[],
        licence: "Apache-2.0",
        note: "Queries run in read-only sessions.",
    },
    Known {
        name: "duckdb",
        title: "DuckDB: its databases, and Parquet, CSV, JSON, Iceberg, Delta on disk, S3, GCS and Azure",
        dialect: Dialect::DuckDb,
        uri: "path/to/file.duckdb (none: a database in memory, for SQL over files)",
        options: &[
            ("memory_limit", "how much memory a query may take, for example 2GB"),
            ("threads", "how many cores"),
        ],
        licence: "MIT",
        note: "Queries open the file read-only.",
    },
    Known {
        name: "snowflake",
        title: "Snowflake",
        dialect: Dialect::Snowflake,
        uri: "USER:${PASSWORD}@ACCOUNT/DATABASE/SCHEMA?warehouse=WAREHOUSE&role=ROLE",
        options: &[
            ("adbc.snowflake.sql.account", "the account, in place of a uri"),
            ("username", "the user"),
            ("password", "the password"),
            ("adbc.snowflake.sql.warehouse", "the warehouse"),
            ("adbc.snowflake.sql.db", "the database"),
            ("adbc.snowflake.sql.schema", "the schema"),
            ("adbc.snowflake.sql.role", "the role"),
            ("adbc.snowflake.sql.auth_type", "auth_snowflake, or auth_jwt for a key pair"),
            ("adbc.snowflake.sql.client_option.jwt_private_key", "the file of the private key, for auth_jwt"),
        ],
        licence: "Apache-2.0",
        note: "Names of tables are case-sensitive here: write them as SHOW TABLES does.",
    },
    Known {
        name: "bigquery",
        title: "Google BigQuery",
        dialect: Dialect::BigQuery,
        uri: "",
        options: &[
            ("adbc.bigquery.sql.project_id", "the project that pays for queries"),
            ("adbc.bigquery.sql.dataset_id", "the data set of names without one"),
            ("adbc.bigquery.sql.auth_type", "adbc.bigquery.sql.auth_type.json_credential_file, for example"),
            ("adbc.bigquery.sql.auth_credentials", "path or content of the credentials"),
        ],
        licence: "Apache-2.0",
        note: "",
    },
    Known {
        name: "redshift",
        title: "Amazon Redshift",
        dialect: Dialect::Redshift,
        uri: "postgresql://USER:${PASSWORD}@HOST:5439",
        options: &[
            ("redshift.cluster_type", "redshift, redshift-iam or redshift-serverless"),
            ("redshift.db_name", "the database"),
            ("redshift.cluster_identifier", "the cluster, for redshift-iam"),
            ("redshift.workgroup_name", "the workgroup, for redshift-serverless"),
        ],
        licence: "",
        note: "",
    },
    Known {
        name: "databricks",
        title: "Databricks SQL",
        dialect: Dialect::Databricks,
        uri: "databricks://token:${TOKEN}@HOST:443/sql/1.0/warehouses/ID",
        options: &[],
        licence: "Apache-2.0",
        note: "",
    },
    Known {
        name: "flightsql",
        title: "Flight SQL: Dremio, StarRocks, Doris, InfluxDB, GizmoSQL and others",
        dialect: Dialect::Standard,
        uri: "grpc+tls://HOST:31337",
        options: &[
            ("username", "the user"),
            ("password", "the password"),
            ("adbc.flight.sql.authorization_header", "for example `Bearer ${TOKEN}`"),
        ],
        licence: "Apache-2.0",
        note: "",
    },
    Known {
        name: "mysql",
        title: "MySQL and MariaDB",
        dialect: Dialect::MySql,
        uri: "USER:${PASSWORD}@tcp(HOST:3306)/DATABASE",
        options: &[],
        licence: "Apache-2.0",
        note: "",
    },
    Known {
        name: "mssql",
        title: "Microsoft SQL Server, Azure SQL, Fabric",
        dialect: Dialect::SqlServer,
        uri: "sqlserver://USER:${PASSWORD}@HOST:1433?database=DATABASE",
        options: &[],
        licence: "",
        note: "",
    },
    Known {
        name: "trino",
        title: "Trino and Starburst",
        dialect: Dialect::Standard,
        uri: "https://USER:${PASSWORD}@HOST:8443?catalog=CATALOG&schema=SCHEMA",
        options: &[],
        licence: "Apache-2.0",
        note: "",
    },
    Known {
        name: "clickhouse",
        title: "ClickHouse",
        dialect: Dialect::Standard,
        uri: "https://HOST:8443",
        options: &[("username", "the user"), ("password", "the password")],
        licence: "Apache-2.0",
        note: "",
    },
    Known {
        name: "exasol",
        title: "Exasol",
        dialect: Dialect::Standard,
        uri: "exasol://USER:${PASSWORD}@HOST:8563",
        options: &[],
        licence: "MIT",
        note: "",
    },
];

/// The known driver of this name.
pub(crate) fn find(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

impl Known {
    /// How to get the driver.
    pub(crate) fn install(&self) -> String {
        format!("dbc install {}", self.name)
    }
}

/// The dialect of a driver by its library's name, for drivers that are given by path.
pub(crate) fn dialect_of_library(file: &str) -> Dialect {
    let by_name = KNOWN.iter().find(|known| file.contains(known.name)).map(|known| known.dialect);
    by_name.unwrap_or(if file.contains("sqlite") { Dialect::Sqlite } else { Dialect::Standard })
}
