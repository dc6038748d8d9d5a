//! A project: the folder of YAML and SQL files in which a data engineer defines syncs.
//!
//! ```text
//! larder.yml      where the cluster is, where state is kept
//! sources/*.yml   databases and files to read from
//! models/*.sql    statements over a source
//! syncs/*.yml     which rows of which model go to which fields of which collection
//! ```
//!
//! [`Project::load`] is the only way in, and a [`Project`] that exists is sound: every reference resolves, every name
//! is well formed, and no field is written by two syncs. What only the source itself can tell (do the files exist, has
//! the query this column?) is not known here.

pub(crate) mod alerts;
mod cluster;
mod dbt;
mod diff;
pub(crate) mod driver;
mod environment;
mod expression;
mod field;
mod guard;
mod interpolate;
mod key;
#[cfg(test)]
mod key_tests;
mod keys;
pub(crate) mod lineage;
mod load;
pub mod log;
mod model;
mod node;
mod problem;
pub mod push;
pub mod schedule;
mod schema;
#[cfg(test)]
mod schema_tests;
pub mod serve;
mod sheet;
mod size;
mod source_file;
pub(crate) mod span;
pub(crate) mod suggest;
mod sync_file;
#[cfg(test)]
mod tests;
mod tls;
mod variable;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_types::names::{CollectionName, FieldName, IndexName, SyncName};
use larder_types::patch::{ExitMode, Nulls};
use larder_types::value::{Value, ValueType};

pub use alerts::{AlertPolicy, Alerting};
pub use cluster::DestinationName;
pub use diff::{DiffSpec, Incremental, Lookback};
pub use driver::DriverSource;
pub use guard::{Guard, Limit};
pub use key::KeySpec;
pub use lineage::Lineage;
pub use problem::{Problem, Problems};
pub use schema::{FileKind, schema};
pub(crate) use span::write_span;
pub use tls::{ClientCertificate, TlsFiles};

use self::log::{Redaction, Retention};
use self::push::PushSpec;
use self::schedule::Schedule;
use self::serve::Serve;

/// Everything that a project defines, checked: every reference resolves and every name is well formed.
#[derive(Debug)]
pub struct Project {
    /// The project's folder.
    pub root: PathBuf,
    /// The environment that was chosen, if one was.
    pub environment: Option<String>,
    /// The clusters that syncs may feed, by the name of the destination. There is one at least.
    pub clusters: BTreeMap<DestinationName, Cluster>,
    /// Where state is kept; relative paths were resolved against `root`.
    pub state_dir: PathBuf,
    /// The sources by name.
    pub sources: BTreeMap<String, SourceSpec>,
    /// The syncs by name.
    pub syncs: BTreeMap<SyncName, SyncSpec>,
    /// What the daemon needs to know.
    pub serve: Serve,
    /// How batches are sent.
    pub push: PushSpec,
    /// For how long the history is kept.
    pub retention: Retention,
    /// What is not shown.
    pub redaction: Redaction,
    /// When to tell whom.
    pub alerting: Alerting,
    /// Where lineage events go, if they are wanted.
    pub lineage: Option<Lineage>,
    /// What is allowed but unwise.
    pub warnings: Vec<Problem>,
}

impl Project {
    /// Loads the project in a folder, as it is in one of its environments or, if none is named, by itself. Variables come
    /// from the process.
    ///
    /// # Errors
    /// Everything that is wrong in any of its files, at once.
    pub fn load(root: &Path, environment: Option<&str>) -> Result<Self, Problems> {
        load::load(root, environment, &|name| std::env::var(name).ok())
    }
}

/// Sources, tables and models are named like collections: 1 to 64 of `A-Z a-z 0-9 _ -`.
fn is_plain_name(name: &str) -> bool {
    CollectionName::new(name).is_ok()
}

/// A cluster and how to reach it.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// `http://host:port` or `https://host:port`, without a path.
    pub url: String,
    /// The API key.
    pub key: Secret,
    /// For `https`: whom to trust and what to show.
    pub tls: TlsFiles,
}

/// A text that is never printed.
#[derive(Clone)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Where rows come from.
#[derive(Debug, Clone)]
pub enum SourceSpec {
    /// An existing SQLite database, opened read-only.
    Sqlite {
        /// The file.
        path: PathBuf,
    },
    /// Files presented as tables.
    Files {
        /// The tables by name.
        tables: BTreeMap<String, FileTable>,
    },
    /// A database behind an ADBC driver.
    Driver(Box<DriverSource>),
}

/// One table made of files.
#[derive(Debug, Clone)]
pub struct FileTable {
    /// A path or glob, resolved against the project's folder.
    pub path: String,
    /// How the files are read.
    pub format: FileFormat,
    /// Types of columns of CSV and NDJSON files that are not to be guessed.
    pub types: BTreeMap<String, ColumnType>,
}

/// The type of a column of a CSV or NDJSON file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// `true` or `false`.
    Bool,
    /// An integer of 64 bits.
    Int,
    /// A double.
    Float,
    /// Text as it stands.
    String,
    /// `YYYY-MM-DD`.
    Date,
    /// A date and a time of day, in UTC unless it says otherwise.
    Timestamp,
    /// JSON text.
    Json,
}

impl ColumnType {
    /// All types in the order in which the documentation lists them.
    pub(crate) const ALL: [Self; 7] =
        [Self::Bool, Self::Int, Self::Float, Self::String, Self::Date, Self::Timestamp, Self::Json];

    /// The name used in source files.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "float",
            Self::String => "string",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
            Self::Json => "json",
        }
    }
}

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// Parquet.
    Parquet,
    /// CSV with a header line.
    Csv,
    /// One JSON object a line.
    Ndjson,
}

/// What a sync reads.
#[derive(Debug, Clone, PartialEq)]
pub enum Model {
    /// SQL text (from `models/<name>.sql`).
    Sql {
        /// The model's name.
        name: String,
        /// The statement, in which parameters are `:name`.
        text: String,
        /// The parameters' values.
        params: BTreeMap<String, Value>,
    },
    /// A table of the source as it is: streamed without going through SQL where the source allows it. In a database it
    /// may be `schema.table`, and a part in double quotes may hold dots.
    Table(String),
}

impl Model {
    /// SQL without parameters.
    #[must_use]
    pub fn sql(name: &str, text: &str) -> Self {
        Self::Sql { name: name.to_owned(), text: text.to_owned(), params: BTreeMap::new() }
    }
}

/// A sync: model -> collection.
#[derive(Debug, Clone)]
pub struct SyncSpec {
    /// Its name.
    pub name: SyncName,
    /// The file that defines it, for messages.
    pub file: PathBuf,
    /// The name of its source.
    pub source: String,
    /// What it reads.
    pub model: Model,
    /// The columns that hold the primary key.
    pub key: KeySpec,
    /// Where it writes.
    pub collection: CollectionName,
    /// The clusters that it feeds, each once; one at least. All of the project's, unless the file says otherwise.
    pub destinations: Vec<DestinationName>,
    /// The primary index's name, if the collection is to be made with another than `id`.
    pub primary_index: Option<IndexName>,
    /// The fields it owns, in order.
    pub fields: Vec<FieldMapping>,
    /// Values by name, for templates: `{{ vars.name }}`.
    pub variables: BTreeMap<String, Value>,
    /// What happens to rows that leave the query.
    pub on_exit: ExitMode,
    /// When a run is refused.
    pub guard: Guard,
    /// What happens when the query returns one key twice.
    pub on_duplicate: OnDuplicate,
    /// Words by which commands select syncs.
    pub tags: Vec<String>,
    /// How what changed is found.
    pub diff: DiffSpec,
    /// When it runs by itself.
    pub schedule: Schedule,
    /// A run that takes longer is cancelled.
    pub timeout: Option<Duration>,
    /// When to tell whom of its runs.
    pub alerts: AlertPolicy,
}

/// How one field is made from a row.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldMapping {
    /// The field.
    pub name: FieldName,
    /// Its declared type.
    pub kind: ValueType,
    /// Where its value comes from.
    pub from: Expression,
    /// What a null does to the field.
    pub nulls: Nulls,
    /// What happens if there is no value.
    pub on_error: OnError,
}

impl FieldMapping {
    /// A field that writes nulls and whose errors reject the row.
    #[must_use]
    pub fn new(name: FieldName, kind: ValueType, from: Expression) -> Self {
        Self { name, kind, from, nulls: Nulls::Write, on_error: OnError::Reject }
    }
}

/// What happens to a row from which a field cannot be made: a value that does not convert, a template that fails.
#[derive(Debug, Clone, PartialEq)]
pub enum OnError {
    /// The row is rejected.
    Reject,
    /// The field takes this value, in its declared type, and that is counted. Null is one.
    Use(Value),
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Expression {
    /// A column of the row.
    Column(String),
    /// The same value in every row.
    Constant(Value),
    /// A Liquid template over `row`. One that is a single `{{ expression }}` keeps the expression's type.
    Template(String),
    /// An object with these members in order.
    Object(Vec<(String, Expression)>),
    /// A list of these elements.
    List(Vec<Expression>),
}

/// What happens when the query returns one key more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDuplicate {
    /// The run fails before it pushes anything. The default: which row is right is not for us to guess.
    Fail,
    /// Rows with such a key are left out and counted as rejected.
    Skip,
}
