//! Sources of every kind over small files, and over real ones.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{Int64Builder, ListBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float64Array, Int64Array,
    ListArray, RecordBatch, StringArray, StructArray, TimestampNanosecondArray, UInt64Array,
};
use arrow_buffer::OffsetBuffer;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use larder_types::value::Value;
use parquet::arrow::ArrowWriter;
use rusqlite::Connection;

use super::statement::Statement;
use super::{EXTENSION_NAME, RowStream, SourceError, UUID_EXTENSION, describe, open, warehouse};
use crate::cancel::{Cancel, Why};
use crate::project::{ColumnType, FileFormat, FileTable, Model, Project, SourceSpec};

/// A folder with files, and sources over them.
struct Room {
    folder: tempfile::TempDir,
    tables: BTreeMap<String, FileTable>,
}

impl Room {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), tables: BTreeMap::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn parquet(&self, name: &str, columns: Vec<(&str, ArrayRef)>) {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(self.path(name)).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    fn table(&mut self, name: &str, path: &str, format: FileFormat) {
        self.table_with(name, path, format, &[]);
    }

    fn table_with(&mut self, name: &str, path: &str, format: FileFormat, types: &[(&str, ColumnType)]) {
        let path = self.path(path).to_string_lossy().into_owned();
        let types = types.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
        self.tables.insert(name.to_owned(), FileTable { path, format, types });
    }

    fn files(&self) -> SourceSpec {
        SourceSpec::Files { tables: self.tables.clone() }
    }

    fn project(&self) -> Project {
        Project {
            environment: None,
            root: self.folder.path().to_path_buf(),
            clusters: BTreeMap::new(),
            state_dir: self.path(".larder"),
            sources: BTreeMap::new(),
            syncs: BTreeMap::new(),
            serve: crate::project::serve::Serve::default(),
            push: crate::project::push::PushSpec::default(),
            retention: crate::project::log::Retention::default(),
            redaction: crate::project::log::Redaction::default(),
            alerting: crate::project::Alerting::default(),
            lineage: None,
            warnings: Vec::new(),
        }
    }

    fn open(&self, spec: &SourceSpec, model: &Model) -> Result<RowStream, SourceError> {
        open(&self.project(), spec, model, &Cancel::default())
    }

    fn open_table(&self, name: &str) -> Result<RowStream, SourceError> {
        self.open(&self.files(), &Model::Table(name.to_owned()))
    }

    fn open_sql(&self, text: &str) -> Result<RowStream, SourceError> {
        self.open(&self.files(), &sql(text))
    }
}

fn sql(text: &str) -> Model {
    Model::sql("m", text)
}

fn types(stream: &RowStream) -> Vec<DataType> {
    stream.schema.fields().iter().map(|field| field.data_type().clone()).collect()
}

fn names(stream: &RowStream) -> Vec<String> {
    stream.schema.fields().iter().map(|field| field.name().clone()).collect()
}

/// All rows as texts, NULL as `-`; checks that every batch has the stream's schema.
fn rows(stream: RowStream) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("-");
    let mut rows = Vec::new();
    for batch in stream.batches {
        let batch = batch.unwrap();
        assert_eq!(batch.schema(), stream.schema);
        let columns: Vec<ArrayRef> = batch.columns().iter().map(without_zone).collect();
        let texts: Vec<_> =
            columns.iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            let cells = texts
                .iter()
                .zip(&columns)
                .map(|(text, column)| if column.is_null(row) { "-".to_owned() } else { text.value(row).to_string() });
            rows.push(cells.collect());
        }
    }
    rows
}

/// The formatter knows no time zones.
fn without_zone(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
            Arc::new(column.as_primitive::<TimestampMicrosecondType>().clone().with_timezone_opt(None::<&str>))
        }
        _ => Arc::clone(column),
    }
}

fn count(stream: RowStream) -> usize {
    stream.batches.map(|batch| batch.unwrap().num_rows()).sum()
}

/// The error of opening, or else of the rows, which must be the last item.
fn error_of(stream: Result<RowStream, SourceError>) -> String {
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(error) => return error.to_string(),
    };
    let error = stream.batches.find_map(Result::err).expect("the rows ended without an error");
    assert!(stream.batches.next().is_none(), "rows after an error");
    error.to_string()
}

fn ints(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn strings(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn demo_data(name: &str) -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../docs/demo/data").join(name)
}

// ---- CSV

#[test]
fn csv_types_come_from_the_first_rows() {
    let mut room = Room::new();
    room.write(
        "a.csv",
        "\u{feff}id,zip,share,ok,day,at,note,none\n1,01234,1.5,true,2013-01-01,2013-01-01 05:00:00,\"a, \"\"b\"\"\",\n2,,2,FALSE,2013-01-02,2013-01-02,é,\n",
    );
    room.table("t", "a.csv", FileFormat::Csv);
    let stream = room.open_table("t").unwrap();
    assert_eq!(names(&stream), ["id", "zip", "share", "ok", "day", "at", "note", "none"]);
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    assert_eq!(
        types(&stream),
        [
            DataType::Int64,
            DataType::Utf8,
            DataType::Float64,
            DataType::Boolean,
            DataType::Date32,
            utc,
            DataType::Utf8,
            DataType::Utf8
        ]
    );
    assert_eq!(
        rows(stream),
        [
            ["1", "01234", "1.5", "true", "2013-01-01", "2013-01-01T05:00:00", "a, \"b\"", "-"],
            ["2", "-", "2.0", "false", "2013-01-02", "2013-01-02T00:00:00", "é", "-"],
        ]
    );
}

#[test]
fn csv_with_a_header_only_is_an_empty_table() {
    let mut room = Room::new();
    room.write("a.csv", "id,name\n");
    room.table("t", "a.csv", FileFormat::Csv);
    let stream = room.open_table("t").unwrap();
    assert_eq!(types(&stream), [DataType::Utf8, DataType::Utf8]);
    assert_eq!(count(stream), 0);
    assert_eq!(rows(room.open_sql("SELECT count(*) FROM t").unwrap()), [["0"]]);
}

#[test]
fn csv_value_that_does_not_fit_fails_the_stream_with_its_row() {
    let mut room = Room::new();
    let mut text = "id,zip\n".to_owned();
    (0..12_000).for_each(|row| text.push_str(&format!("{row},{}\n", 10_000 + row)));
    text.push_str("12000,secret\n12001,5\n");
    room.write("a.csv", &text);
    room.table("t", "a.csv", FileFormat::Csv);
    let error = error_of(room.open_table("t"));
    assert!(error.contains("row 12001, column `zip`") && error.contains("types: {zip: string}"), "{error}");
    assert!(!error.contains("secret"), "{error}");

    room.table_with("t", "a.csv", FileFormat::Csv, &[("zip", ColumnType::String)]);
    assert_eq!(count(room.open_table("t").unwrap()), 12_002);
    room.table_with("t", "a.csv", FileFormat::Csv, &[("zap", ColumnType::String)]);
    let error = error_of(room.open_table("t"));
    assert!(error.contains("`zap`") && error.contains("did you mean `zip`?"), "{error}");
}

#[test]
fn csv_with_a_quote_out_of_place_fails_instead_of_losing_rows() {
    let mut room = Room::new();
    room.table("t", "a.csv", FileFormat::Csv);
    for (text, line) in [
        ("id,v\n1,a\n2,\"b\n3,c\n".to_owned(), 3),
        ("id,v\n1,a\n2,\"b\n3,\"c\"\n".to_owned(), 3),
        ("\"id,v\n1,a\n".to_owned(), 1),
        // Far behind what the types are guessed from and what is read at once.
        (format!("id,v\n{}1,\"b\n1,a\n", "1,a\n".repeat(20_000)), 20_002),
    ] {
        room.write("a.csv", &text);
        let error = error_of(room.open_table("t"));
        assert!(error.contains(&format!("a.csv: line {line}: a cell that begins with")), "{error}");
        assert!(error_of(room.open_sql("SELECT * FROM t")).contains(&format!("a.csv: line {line}: ")));
    }
}

#[test]
fn csv_with_a_line_of_another_length_fails() {
    let mut room = Room::new();
    room.table("t", "a.csv", FileFormat::Csv);
    for (text, expected) in [("a,b\n1,2\n3\n", "a.csv"), ("", "column"), ("a,a\n1,2\n", "two columns are named `a`")] {
        room.write("a.csv", text);
        let error = error_of(room.open_table("t"));
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}

// ---- NDJSON

#[test]
fn ndjson_keeps_nested_and_mixed_values_as_json() {
    let mut room = Room::new();
    room.write(
        "a.ndjson",
        "{\"id\": 1, \"n\": 1, \"tags\": [1, {\"b\": 2.50}], \"mixed\": \"x\"}\n\n{\"id\": 2, \"n\": 1.5, \"big\": 18446744073709551616, \"mixed\": 7, \"text\": \"a\\nb\", \"ok\": true}\n",
    );
    room.table("t", "a.ndjson", FileFormat::Ndjson);
    let stream = room.open_table("t").unwrap();
    assert_eq!(names(&stream), ["id", "n", "tags", "mixed", "big", "text", "ok"]);
    let json: Vec<bool> =
        stream.schema.fields().iter().map(|field| field.metadata().contains_key(EXTENSION_NAME)).collect();
    assert_eq!(json, [false, false, true, true, true, false, false]);
    assert_eq!(
        rows(stream),
        [
            ["1", "1.0", "[1, {\"b\": 2.50}]", "\"x\"", "-", "-", "-"],
            ["2", "1.5", "-", "7", "18446744073709551616", "a\nb", "true"],
        ]
    );
}

#[test]
fn ndjson_line_that_is_no_object_fails_the_stream_with_its_line() {
    let mut room = Room::new();
    room.table("t", "a.jsonl", FileFormat::Ndjson);
    for (text, expected) in [
        ("{\"id\":1}\n{\"id\":", "line 2"),
        ("{\"id\":1}\n[\"secret\"]\n", "line 2"),
        ("{\"id\":1}\n{\"id\":2} secret\n", "line 2"),
        ("", "no row"),
    ] {
        room.write("a.jsonl", text);
        let error = error_of(room.open_table("t"));
        assert!(error.contains(expected) && !error.contains("secret"), "{text:?}: {error}");
    }
    let mut text = String::new();
    (0..10_000).for_each(|row| text.push_str(&format!("{{\"id\":{row}}}\n")));
    room.write("a.jsonl", &format!("{text}{{\"id\":\"secret\"}}\n{{\"id\":1}}\n"));
    let error = error_of(room.open_table("t"));
    assert!(error.contains("row 10001, column `id`") && !error.contains("secret"), "{error}");
}

// ---- Parquet

#[test]
fn parquet_streams_with_its_own_types() {
    let mut room = Room::new();
    let decimals = Decimal128Array::from(vec![Some(150), None]).with_precision_and_scale(10, 2).unwrap();
    room.parquet("a.parquet", vec![("id", ints(&[1, 2])), ("price", Arc::new(decimals))]);
    room.table("t", "a.parquet", FileFormat::Parquet);
    let stream = room.open_table("t").unwrap();
    assert_eq!(types(&stream), [DataType::Int64, DataType::Decimal128(10, 2)]);
    assert_eq!(rows(stream), [["1", "1.50"], ["2", "-"]]);
}

#[test]
fn parquet_cut_short_or_damaged_is_an_error() {
    let mut room = Room::new();
    room.table("t", "a.parquet", FileFormat::Parquet);
    let many: Vec<i64> = (0..50_000).map(|n| n * 7919 % 104_729).collect();
    room.parquet("a.parquet", vec![("id", ints(&many))]);
    let whole = fs::read(room.path("a.parquet")).unwrap();

    fs::write(room.path("a.parquet"), &whole[..whole.len() / 2]).unwrap();
    let error = error_of(room.open_table("t"));
    assert!(error.contains("a.parquet") && error.contains("Parquet"), "{error}");

    let mut damaged = whole.clone();
    damaged[4..60].fill(0xff);
    fs::write(room.path("a.parquet"), &damaged).unwrap();
    let error = error_of(room.open_table("t"));
    assert!(error.contains("a.parquet"), "{error}");
}

#[test]
fn files_of_a_glob_form_one_table() {
    let mut room = Room::new();
    room.parquet("p1.parquet", vec![("id", ints(&[1])), ("name", strings(&["a"]))]);
    room.parquet("p2.parquet", vec![("name", strings(&["b"])), ("id", ints(&[2]))]);
    room.table("p", "p*.parquet", FileFormat::Parquet);
    assert_eq!(rows(room.open_table("p").unwrap()), [["1", "a"], ["2", "b"]]);

    room.write("c1.csv", "id,n\n1,5\n");
    room.write("c2.csv", "n,id\n2.5,2\n");
    room.table("c", "c*.csv", FileFormat::Csv);
    assert_eq!(rows(room.open_table("c").unwrap()), [["1", "5.0"], ["2", "2.5"]]);
    assert_eq!(rows(room.open_sql("SELECT sum(n) AS n FROM c").unwrap()), [["7.5"]]);

    room.write("j1.ndjson", "{\"id\":1}\n");
    room.write("j2.ndjson", "{\"name\":\"b\",\"id\":2}\n");
    room.table("j", "j*.ndjson", FileFormat::Ndjson);
    assert_eq!(rows(room.open_table("j").unwrap()), [["1", "-"], ["2", "b"]]);
}

#[test]
fn files_of_a_glob_that_differ_are_refused_by_name() {
    let mut room = Room::new();
    room.parquet("p1.parquet", vec![("id", ints(&[1])), ("name", strings(&["a"]))]);
    room.table("p", "p*.parquet", FileFormat::Parquet);
    let others: [(&str, Vec<(&str, ArrayRef)>); 3] = [
        ("`name`", vec![("id", ints(&[1]))]),
        ("`more`", vec![("id", ints(&[1])), ("name", strings(&["a"])), ("more", ints(&[1]))]),
        ("`id` is of type Utf8, but Int64", vec![("id", strings(&["1"])), ("name", strings(&["a"]))]),
    ];
    for (expected, columns) in others {
        room.parquet("p2.parquet", columns);
        let error = error_of(room.open_table("p"));
        assert!(error.contains("p1.parquet") && error.contains("p2.parquet") && error.contains(expected), "{error}");
    }
    room.write("c1.csv", "id,n\n1,5\n");
    room.write("c2.csv", "id,m\n1,5\n");
    room.table("c", "c*.csv", FileFormat::Csv);
    let error = error_of(room.open_table("c"));
    assert!(error.contains("c1.csv") && error.contains("c2.csv"), "{error}");
    room.table("none", "x*.csv", FileFormat::Csv);
    let error = error_of(room.open_table("none"));
    assert!(error.contains("`none`") && error.contains("x*.csv"), "{error}");
}

#[test]
fn real_parquet_files_are_read_whole() {
    let mut room = Room::new();
    for (name, expected) in [("airlines", 16), ("airports", 1458), ("planes", 3322)] {
        let path = demo_data(&format!("{name}.parquet")).to_string_lossy().into_owned();
        let table = FileTable { path, format: FileFormat::Parquet, types: BTreeMap::new() };
        room.tables.insert(name.to_owned(), table);
        assert_eq!(count(room.open_table(name).unwrap()), expected, "{name}");
    }
    let grouped = room
        .open_sql("SELECT manufacturer, count(*) AS n FROM planes GROUP BY manufacturer ORDER BY n DESC, 1 LIMIT 2")
        .unwrap();
    assert_eq!(rows(grouped), [["BOEING", "1630"], ["AIRBUS INDUSTRIE", "400"]]);
}

// ---- SQL over files

#[test]
fn values_reach_sql_as_documented() {
    let mut room = Room::new();
    let mut lists = ListBuilder::new(Int64Builder::new());
    lists.append_value([Some(1), None]);
    room.parquet(
        "a.parquet",
        vec![
            ("ok", Arc::new(BooleanArray::from(vec![true])) as ArrayRef),
            ("day", Arc::new(Date32Array::from(vec![15_706]))),
            (
                "at",
                Arc::new(TimestampNanosecondArray::from(vec![1_357_016_400_250_000_000]).with_timezone("UTC"))
                    as ArrayRef,
            ),
            ("price", Arc::new(Decimal128Array::from(vec![-150]).with_precision_and_scale(10, 2).unwrap())),
            ("tags", Arc::new(lists.finish())),
            ("nan", Arc::new(Float64Array::from(vec![f64::NAN]))),
        ],
    );
    room.table("t", "a.parquet", FileFormat::Parquet);
    let stream = room.open_sql("SELECT *, typeof(ok), typeof(price), date(at, '+1 day') AS next FROM t").unwrap();
    assert_eq!(
        rows(stream),
        [["1", "2013-01-01", "2013-01-01 05:00:00.250", "-1.50", "[1,null]", "-", "integer", "text", "2013-01-02"]]
    );
}

#[test]
fn nested_times_and_uuids_reach_sql_as_text() {
    let mut room = Room::new();
    let at = Arc::new(TimestampNanosecondArray::from(vec![1_357_016_400_000_000_000]).with_timezone("UTC"));
    let inner = Field::new("at", at.data_type().clone(), true);
    let one = StructArray::from(vec![(Arc::new(inner), at as ArrayRef)]);
    let item = Arc::new(Field::new("item", one.data_type().clone(), true));
    let nested = ListArray::new(item, OffsetBuffer::from_lengths([1]), Arc::new(one), None);
    let uuid = FixedSizeBinaryArray::try_from_iter(std::iter::once(*b"0123456789abcdef")).unwrap();
    let fields = vec![
        Field::new("nested", nested.data_type().clone(), true),
        Field::new("uuid", DataType::FixedSizeBinary(16), true)
            .with_metadata(HashMap::from([(EXTENSION_NAME.to_owned(), UUID_EXTENSION.to_owned())])),
    ];
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(nested), Arc::new(uuid)]).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(room.path("a.parquet")).unwrap(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();

    room.table("t", "a.parquet", FileFormat::Parquet);
    let table = room.open_table("t").unwrap();
    assert_eq!(table.schema.field(1).metadata()[EXTENSION_NAME], UUID_EXTENSION);
    let stream = room.open_sql("SELECT nested, uuid FROM t").unwrap();
    assert_eq!(rows(stream), [[r#"[{"at":"2013-01-01T05:00:00Z"}]"#, "30313233-3435-3637-3839-616263646566"]]);
}

#[test]
fn integer_beyond_what_sql_holds_is_refused() {
    let mut room = Room::new();
    room.parquet("a.parquet", vec![("id", Arc::new(UInt64Array::from(vec![u64::MAX])) as ArrayRef)]);
    room.table("t", "a.parquet", FileFormat::Parquet);
    assert_eq!(rows(room.open_table("t").unwrap()), [["18446744073709551615"]]);
    let error = error_of(room.open_sql("SELECT id FROM t"));
    assert!(error.contains("`t`") && error.contains("`id`") && !error.contains("18446744073709551615"), "{error}");
}

#[test]
fn only_tables_that_the_statement_reads_are_opened() {
    let mut room = Room::new();
    room.write("a.csv", "id,x\n1,2\n3,4\n");
    room.table("a", "a.csv", FileFormat::Csv);
    room.table("gone", "gone.csv", FileFormat::Csv);
    let stream = room.open_sql("SELECT count(*) AS n FROM A AS aliased").unwrap();
    assert_eq!(rows(stream), [["2"]]);
    let error = error_of(room.open_sql("SELECT * FROM gone"));
    assert!(error.contains("gone.csv"), "{error}");
    let error = error_of(room.open_sql("SELECT * FROM gne"));
    assert!(error.contains("no such table: gne") && error.contains("did you mean `gone`?"), "{error}");
    let error = describe(&room.files(), &sql("SELECT * FROM other")).unwrap_err().to_string();
    assert!(error.contains("no such table: other") && error.contains("known: `a`, `gone`"), "{error}");
}

#[test]
fn scratch_database_leaves_nothing_behind() {
    let mut room = Room::new();
    room.write("a.csv", "id\n1\n");
    room.table("a", "a.csv", FileFormat::Csv);
    let stream = room.open_sql("SELECT id FROM a").unwrap();
    let left = || fs::read_dir(room.path(".larder/tmp")).unwrap().count();
    assert_eq!(left(), 0, "the file stays in its folder while it is used");
    assert_eq!(rows(stream), [["1"]]);
    assert_eq!(left(), 0);
}

#[test]
fn description_of_sql_over_files_needs_no_rows() {
    let mut room = Room::new();
    room.write("a.csv", "id,x\n1,2.5\n");
    room.table("a", "a.csv", FileFormat::Csv);
    let schema = describe(&room.files(), &sql("SELECT id, x AS y, CAST(id AS TEXT) AS t, sum(x) AS s FROM a")).unwrap();
    let columns: Vec<_> = schema.fields().iter().map(|f| (f.name().as_str(), f.data_type().clone())).collect();
    let expected = [("id", DataType::Int64), ("y", DataType::Float64), ("t", DataType::Utf8), ("s", DataType::Null)];
    assert_eq!(columns, expected);
    assert!(!room.path(".larder").exists());
}

// ---- SQLite

fn database(room: &Room, statements: &str) -> SourceSpec {
    let path = room.path("w.db");
    Connection::open(&path).unwrap().execute_batch(statements).unwrap();
    SourceSpec::Sqlite { path }
}

#[test]
fn sqlite_tables_and_statements_are_read() {
    let room = Room::new();
    let spec = database(
        &room,
        "CREATE TABLE \"odd \"\"name\" (id INTEGER, b BLOB, n TEXT); INSERT INTO \"odd \"\"name\" VALUES (1, x'00ff', NULL);",
    );
    let stream = room.open(&spec, &Model::Table("odd \"name".to_owned())).unwrap();
    assert_eq!(types(&stream), [DataType::Int64, DataType::Binary, DataType::Utf8]);
    assert_eq!(rows(stream), [["1", "00ff", "-"]]);
    let error = error_of(room.open(&spec, &Model::Table("missing".to_owned())));
    assert!(error.contains("no such table: missing"), "{error}");
}

#[test]
fn columns_without_a_declared_type_are_of_no_type_until_there_are_values() {
    let room = Room::new();
    let spec = database(&room, "CREATE TABLE t (id, a, n INTEGER); CREATE VIEW v AS SELECT id, a, n FROM t;");
    let all = || [Model::Table("t".to_owned()), Model::Table("v".to_owned()), sql("SELECT * FROM t")];
    for model in all() {
        let schema = describe(&spec, &model).unwrap();
        assert_eq!(
            schema.fields().iter().map(|field| field.data_type()).collect::<Vec<_>>(),
            [&DataType::Null, &DataType::Null, &DataType::Int64]
        );
        let stream = room.open(&spec, &model).unwrap();
        assert_eq!(types(&stream), [DataType::Null, DataType::Null, DataType::Int64]);
    }
    Connection::open(room.path("w.db")).unwrap().execute_batch("INSERT INTO t VALUES ('x', x'00', 1)").unwrap();
    for model in all() {
        assert_eq!(describe(&spec, &model).unwrap().field(0).data_type(), &DataType::Null);
        let stream = room.open(&spec, &model).unwrap();
        assert_eq!(types(&stream), [DataType::Utf8, DataType::Binary, DataType::Int64]);
    }
}

#[test]
fn file_that_is_no_database_is_refused() {
    let room = Room::new();
    room.write("text.db", "this is not a database, but long enough to look at");
    for (name, expected) in [("missing.db", "no such database file"), ("text.db", "not a readable SQLite database")] {
        let spec = SourceSpec::Sqlite { path: room.path(name) };
        let error = error_of(room.open(&spec, &sql("SELECT 1")));
        assert!(error.contains(name) && error.contains(expected), "{error}");
    }
    assert!(!room.path("missing.db").exists(), "opening made the file");
}

#[test]
fn anything_but_one_reading_select_is_refused() {
    let room = Room::new();
    let spec = database(&room, "CREATE TABLE t (id INTEGER); INSERT INTO t VALUES (1);");
    let before = fs::read(room.path("w.db")).unwrap();
    for (text, expected) in [
        ("INSERT INTO t VALUES (2)", "INSERT is not allowed"),
        ("UPDATE t SET id = 2 RETURNING id", "UPDATE is not allowed"),
        ("DELETE FROM t", "DELETE is not allowed"),
        ("DROP TABLE t", "a change of the schema is not allowed"),
        ("CREATE TEMP TABLE x (id)", "a change of the schema is not allowed"),
        ("ATTACH 'other.db' AS o", "ATTACH is not allowed"),
        ("PRAGMA table_info(t)", "PRAGMA is not allowed"),
        ("SELECT * FROM pragma_table_info('t')", "not authorized"),
        ("BEGIN", "a transaction is not allowed"),
        ("VACUUM INTO 'copy.db'", "another kind of statement"),
        ("SELECT load_extension('x')", "not allowed"),
        ("EXPLAIN SELECT 1", "another kind of statement"),
        ("SELECT 1; SELECT 2", "more than one"),
        ("SELECT 1; DELETE FROM t", "not allowed"),
        ("  -- nothing\n", "none"),
        ("SELECT ?1", "parameters"),
        ("SELECT id, id FROM t", "two columns are named `id`"),
        ("SELECT 1,\n  missing FROM t", "line 2, column 3: no such column: missing"),
        ("SELECT 1; SELEC 2", "line 1, column 11"),
        ("SELEC 1", "line 1, column 1"),
    ] {
        let error = error_of(room.open(&spec, &sql(text)));
        assert!(error.starts_with("model `m`: ") && error.contains(expected), "{text}: {error}");
    }
    assert_eq!(fs::read(room.path("w.db")).unwrap(), before);
    assert!(!room.path("copy.db").exists() && !room.path("other.db").exists());
}

#[test]
fn statements_of_every_reading_form_are_accepted() {
    let room = Room::new();
    let spec = database(
        &room,
        "CREATE TABLE t (id INTEGER); INSERT INTO t VALUES (1), (2); CREATE VIEW v AS SELECT id AS x FROM t;",
    );
    for (text, expected) in [
        ("SELECT id FROM t ORDER BY id DESC; -- done\n", vec!["2", "1"]),
        ("VALUES (5), (6)", vec!["5", "6"]),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT i FROM n",
            vec!["1", "2", "3"],
        ),
        ("SELECT x FROM v UNION SELECT 9", vec!["1", "2", "9"]),
        ("SELECT json_group_array(id) FROM t", vec!["[1,2]"]),
        ("SELECT CAST(1 AS TEXT) || upper('a')", vec!["1A"]),
    ] {
        let found: Vec<String> = rows(room.open(&spec, &sql(text)).unwrap()).into_iter().flatten().collect();
        assert_eq!(found, expected, "{text}");
    }
}

/// A statement whose column holds 1 in the first rows and `last` in the last of 10 000.
fn late(last: &str) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
         SELECT i, CASE WHEN i < 10000 THEN {last} END AS c FROM n"
    )
}

#[test]
fn late_value_of_another_type_fails_the_stream_with_its_row() {
    let room = Room::new();
    let spec = database(&room, "");
    for (early, last) in [("1", "1.5"), ("1", "'secret'"), ("NULL", "7"), ("'a'", "x'00'"), ("1.5", "9007199254740993")]
    {
        let text = late(&format!("{early} ELSE {last}"));
        let error = error_of(room.open(&spec, &sql(&text)));
        assert!(error.contains("row 10000, column `c`") && error.contains("CAST("), "{text}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
    for (cast, kind) in [("INTEGER", DataType::Int64), ("TEXT", DataType::Utf8), ("REAL", DataType::Float64)] {
        let text = late("NULL ELSE 7").replace("CASE", "CAST(CASE").replace("END", &format!("END AS {cast})"));
        let stream = room.open(&spec, &sql(&text)).unwrap();
        assert_eq!(stream.schema.field(1).data_type(), &kind, "{text}");
        assert_eq!(count(stream), 10_000);
    }
}

#[test]
fn statement_that_fails_half_way_is_an_error_item() {
    let room = Room::new();
    let spec = database(&room, "");
    let text = late("1 ELSE abs(-9223372036854775807 - 1)");
    let mut stream = room.open(&spec, &sql(&text)).unwrap();
    assert_eq!(stream.batches.next().unwrap().unwrap().num_rows(), 4096);
    let error = stream.batches.find_map(Result::err).unwrap().to_string();
    assert!(error.contains("model `m`") && error.contains("integer overflow"), "{error}");
    assert!(stream.batches.next().is_none());
}

#[test]
fn numbers_of_the_first_rows_are_widened() {
    let room = Room::new();
    let spec = database(&room, "");
    let mut stream =
        room.open(&spec, &sql("SELECT 1 AS a, 1 AS b, NULL AS c UNION ALL SELECT 2.5, 'x', NULL")).unwrap();
    assert_eq!(types(&stream), [DataType::Float64, DataType::Utf8, DataType::Null]);
    let batch = stream.batches.next().unwrap().unwrap();
    assert_eq!(batch.column(0).as_primitive::<Float64Type>().values(), &[1.0, 2.5]);
    assert_eq!(batch.column(1).as_string::<i32>().value(0), "1");
    let error = error_of(room.open(&spec, &sql("SELECT x'00' AS a UNION ALL SELECT 1")));
    assert!(error.contains("column `a`") && error.contains("BLOB"), "{error}");
}

#[test]
fn stream_may_be_dropped_before_its_end() {
    let room = Room::new();
    let spec = database(&room, "");
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let mut stream = room.open(&spec, &sql(endless)).unwrap();
    let batch = stream.batches.next().unwrap().unwrap();
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(0), 1);
    drop(stream);
    // One row and then no other: the thread is inside SQLite when the stream is dropped.
    let silent = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i <= 4096";
    drop(room.open(&spec, &sql(silent)).unwrap());
}

/// A model with parameters.
fn with_params(text: &str, params: &[(&str, Value)]) -> Model {
    let params = params.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Model::Sql { name: "m".to_owned(), text: text.to_owned(), params }
}

#[test]
fn parameters_are_bound_and_never_become_sql() {
    let room = Room::new();
    let spec = database(&room, "CREATE TABLE t (id INTEGER, day TEXT); INSERT INTO t VALUES (1, 'a'), (2, 'b''c');");
    let text = "SELECT id, :n AS n, :again AS at FROM t WHERE day = :day AND id < :n AND :n > 0";
    let day = Value::String("b'c".to_owned());
    let params = [("n", Value::Int(5)), ("day", day), ("again", Value::Timestamp(1_500_000))];
    let model = with_params(text, &params);
    assert_eq!(rows(room.open(&spec, &model).unwrap()), [["2", "5", "1970-01-01 00:00:01.500"]]);
    assert_eq!(describe(&spec, &model).unwrap().fields().len(), 3);
    assert_eq!(super::count(&spec, &model, &Cancel::default()).unwrap(), Some(1));

    for (text, params, expected) in [
        ("SELECT :a", &[][..], "`:a` has no value"),
        ("SELECT 1", &[("a", Value::Null)], "no `:a`"),
        ("SELECT ?", &[], "written `:name`"),
        ("SELECT $a", &[], "written `:name`"),
    ] {
        let error = error_of(room.open(&spec, &with_params(text, params)));
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn parameters_of_statements_over_files_are_bound() {
    let mut room = Room::new();
    room.write("t.csv", "id,v\n1,a\n2,b\n");
    room.table("t", "t.csv", FileFormat::Csv);
    let model = with_params("SELECT id FROM t WHERE v = :v", &[("v", Value::String("b".to_owned()))]);
    assert_eq!(rows(room.open(&room.files(), &model).unwrap()), [["2"]]);
}

#[test]
fn rows_of_a_model_are_counted() {
    let room = Room::new();
    let spec = database(&room, "CREATE TABLE t (id INTEGER); INSERT INTO t VALUES (1), (2), (3);");
    assert_eq!(super::count(&spec, &Model::Table("t".to_owned()), &Cancel::default()).unwrap(), Some(3));
    assert_eq!(super::count(&spec, &Model::Table("main.t".to_owned()), &Cancel::default()).unwrap(), Some(3));
    assert_eq!(
        super::count(&spec, &sql("SELECT id FROM t WHERE id > 1 -- most;\n;"), &Cancel::default()).unwrap(),
        Some(2)
    );
    assert!(super::count(&spec, &sql("SELECT id FROM missing"), &Cancel::default()).is_err());
}

#[test]
fn embedded_database_is_never_written_into() {
    let room = Room::new();
    let spec = database(&room, "CREATE TABLE t (id INTEGER);");
    let database = warehouse::warehouse(&spec, &Cancel::default()).unwrap().unwrap();
    assert!(!database.can_write());
    let error = database.execute(&[Statement::new("s", "DELETE FROM t")]).unwrap_err().to_string();
    assert!(error.contains("only reads"), "{error}");
    assert!(error_of(database.query(&Statement::new("s", "DELETE FROM t"))).contains("DELETE is not allowed"));
}

#[test]
fn cancelled_statements_end_soon() {
    let mut room = Room::new();
    let spec = database(&room, "CREATE TABLE t (id INTEGER);");
    let endless = sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n");
    let cancel = Cancel::default();
    let (told, project) = (cancel.clone(), room.project());
    let waiting = std::thread::spawn(move || open(&project, &spec, &endless, &told).map(|_| ()));
    cancel.cancel(Why::Asked);
    assert!(matches!(waiting.join().unwrap(), Err(SourceError::Cancelled)));

    room.write("t.csv", "id\n1\n");
    room.table("t", "t.csv", FileFormat::Csv);
    let loading = open(&room.project(), &room.files(), &sql("SELECT id FROM t"), &cancel).map(|_| ());
    assert!(matches!(loading, Err(SourceError::Cancelled)));
}
