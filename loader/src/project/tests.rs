//! Whole projects, good and bad.

use std::fs;
use std::path::Path;

use larder_types::json::Fragment;
use larder_types::names::SyncName;
use larder_types::patch::{ExitMode, Nulls};
use larder_types::value::{Value, ValueType};

use super::load::load;
use super::{
    ClientCertificate, ColumnType, Expression, FileFormat, Guard, Limit, Model, OnDuplicate, OnError, Problems,
    Project, SourceSpec, SyncSpec, TlsFiles, log::Retention,
};

pub(super) const LARDER: &str = "cluster: {url: \"http://127.0.0.1:8080\", key: \"${KEY}\"}\n";
const SOURCE: &str = "driver: files\ntables:\n  planes: data/planes.parquet\n  extra: data/extra.csv\n";
pub(super) const SYNC: &str = "source: warehouse\ntable: planes\nkey: tailnum\ncollection: planes\ncolumns: [model]\n";

/// A project's files; the later of two with the same name wins.
pub(super) fn try_load(files: &[(&str, &str)]) -> Result<Project, Problems> {
    let folder = tempfile::tempdir().unwrap();
    let basis = [("larder.yml", LARDER), ("sources/warehouse.yml", SOURCE), ("models/usage.sql", "SELECT 1 AS id")];
    for (name, text) in basis.iter().chain(files) {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    load(folder.path(), None, &|name| (name == "KEY").then(|| "the secret".to_owned()))
}

pub(super) fn load_sync(text: &str) -> SyncSpec {
    let project = try_load(&[("syncs/s.yml", text)]).unwrap_or_else(|problems| panic!("{problems}"));
    project.syncs.into_values().next().unwrap()
}

/// The problems of a project, one a line; none of them shows the secret.
pub(super) fn problems(files: &[(&str, &str)]) -> String {
    let text = try_load(files).map(|_| ()).unwrap_err().to_string();
    assert!(!text.contains("the secret"), "{text}");
    text
}

pub(super) fn assert_problem(name: &str, text: &str, expected: &str) {
    let found = problems(&[(name, text)]);
    assert!(found.lines().any(|line| line.contains(expected)), "expected {expected:?} for\n{text}\nfound\n{found}");
}

#[test]
fn files_of_a_clusters_tls_are_found_from_the_projects_folder() {
    let text = "cluster: {url: \"https://a/\", key: \"${KEY}\", ca: tls/ca.pem, client_certificate: {certificate: c, key: /k}}";
    let project = try_load(&[("larder.yml", text)]).unwrap();
    assert_eq!(project.clusters.values().next().unwrap().url, "https://a");
    let TlsFiles { ca, client } = project.clusters.values().next().unwrap().tls.clone();
    assert_eq!(ca, Some(project.root.join("tls/ca.pem")));
    assert_eq!(client, Some(ClientCertificate { certificate: project.root.join("c"), key: "/k".into() }));
}

#[test]
fn what_is_sent_kept_and_shown_is_for_the_project_to_say() {
    let settings = |text: &str| try_load(&[("larder.yml", &format!("{LARDER}{text}"))]).unwrap();
    let project = settings("");
    assert_eq!((project.push.max_in_flight, project.push.give_up_after.as_secs()), (8, 900));
    assert_eq!(project.retention, Retention::default());
    assert!(project.redaction.shows("email") && !project.redaction.keys);
    let project = settings(
        "push: {in_flight: {max: 2}, give_up_after: 1h}\nredact: [email]\n\
         retention: {runs: 1d, requests: {age: 2d, size: 1MiB}, rejected_rows: 3d}",
    );
    assert_eq!((project.push.max_in_flight, project.push.give_up_after.as_secs()), (2, 3600));
    let Retention { runs, requests, requests_bytes, rejected_rows } = project.retention;
    assert_eq!([runs, requests, rejected_rows].map(|span| span.as_secs() / 86_400), [1, 2, 3]);
    assert_eq!(requests_bytes, 1 << 20);
    assert!(!project.redaction.shows("email") && !project.redaction.keys);
    let project = settings("redact: {fields: [a, b], keys: hash}\nretention: {requests: 5d}");
    assert!(!project.redaction.shows("b") && project.redaction.keys);
    assert_eq!(project.retention.requests.as_secs(), 5 * 86_400);
    for (text, expected) in [
        ("push: {in_flight: {max: 0}}", "`in_flight.max` must be from 1 to 64, not 0"),
        ("push: {give_up_after: soon}", "`give_up_after`: must be a span of time"),
        ("retention: {requests: {size: 1GB}}", "`size`: must be a size such as"),
        ("redact: {keys: yes}", "`keys`: `yes` is unknown"),
    ] {
        assert_problem("larder.yml", &format!("{LARDER}{text}"), expected);
    }
}

#[test]
fn whole_project_is_read() {
    let sync = r#"
source: warehouse
model: usage
key: tailnum
collection: planes
primary_index: tail
on_exit: clear
columns: [manufacturer, model]
fields:
  flights: {column: n_flights, type: int}
  note: {value: "x"}
  label: {template: "{{ row.model }}", type: string}
  seats: seats
  home: {object: {lat: lat, lon: {column: lon}}}
  tags: {list: [a, {value: 1}]}
guard: {max_removed: {percent: 2.5, rows: 7}, min_rows: 3}
on_duplicate: skip
"#;
    let project = try_load(&[
        ("syncs/plane_usage.yml", sync),
        ("sources/db.yaml", "driver: sqlite\npath: ${NOT_SET:-w.db}\n"),
        ("syncs/README.md", "no sync"),
    ])
    .unwrap();
    assert_eq!(project.clusters.values().next().unwrap().url, "http://127.0.0.1:8080");
    assert_eq!(project.clusters.values().next().unwrap().key.0, "the secret");
    assert!(!format!("{project:?}").contains("the secret"));
    assert_eq!(project.state_dir, project.root.join(".larder"));
    assert!(project.warnings.is_empty());
    let SourceSpec::Sqlite { path } = &project.sources["db"] else { panic!("not a database") };
    assert_eq!(path, &project.root.join("w.db"));

    let sync = &project.syncs[&SyncName::new("plane_usage").unwrap()];
    assert_eq!(sync.file, Path::new("syncs/plane_usage.yml"));
    assert_eq!(sync.model, Model::sql("usage", "SELECT 1 AS id"));
    assert_eq!((sync.key.to_string().as_str(), sync.collection.as_str()), ("tailnum", "planes"));
    assert_eq!(sync.primary_index.as_ref().map(|index| index.as_str()), Some("tail"));
    assert_eq!((sync.on_exit, sync.on_duplicate), (ExitMode::Clear, OnDuplicate::Skip));
    let max_removed = Limit { percent: 2.5, rows: 7 };
    assert_eq!(sync.guard, Guard { max_removed, min_rows: 3, ..Guard::default() });

    let column = |name: &str| Expression::Column(name.to_owned());
    let fields: Vec<_> = sync.fields.iter().map(|f| (f.name.as_str(), f.kind, f.from.clone())).collect();
    let expected = [
        ("manufacturer", ValueType::Any, column("manufacturer")),
        ("model", ValueType::Any, column("model")),
        ("flights", ValueType::Int, column("n_flights")),
        ("note", ValueType::Any, Expression::Constant(Value::String("x".to_owned()))),
        ("label", ValueType::String, Expression::Template("{{ row.model }}".to_owned())),
        ("seats", ValueType::Any, column("seats")),
        (
            "home",
            ValueType::Any,
            Expression::Object(vec![("lat".to_owned(), column("lat")), ("lon".to_owned(), column("lon"))]),
        ),
        ("tags", ValueType::Any, Expression::List(vec![column("a"), Expression::Constant(Value::Int(1))])),
    ];
    assert_eq!(fields, expected);
}

#[test]
fn what_is_left_out_has_its_default() {
    let sync = load_sync(SYNC);
    assert_eq!((sync.on_exit, sync.on_duplicate, sync.primary_index), (ExitMode::Keep, OnDuplicate::Fail, None));
    assert_eq!(sync.guard, Guard::default());
    assert_eq!(sync.model, Model::Table("planes".to_owned()));
}

#[test]
fn constants_keep_their_values() {
    for (yaml, expected) in [
        ("~", Value::Null),
        ("true", Value::Bool(true)),
        ("no", Value::String("no".to_owned())),
        ("9007199254740993", Value::Int(9_007_199_254_740_993)),
        ("18446744073709551615", Value::UInt(u64::MAX)),
        ("1.5", Value::Float(1.5)),
        ("\"1\"", Value::String("1".to_owned())),
        ("007", Value::String("007".to_owned())),
        ("\"a $$ b\"", Value::String("a $ b".to_owned())),
        ("[1, {b: [x]}]", Value::List(Fragment::parse(r#"[1,{"b":["x"]}]"#).unwrap())),
        ("{b: 9007199254740993, a: ~}", Value::Struct(Fragment::parse(r#"{"b":9007199254740993,"a":null}"#).unwrap())),
    ] {
        let sync = load_sync(&format!("{SYNC}fields:\n  f: {{value: {yaml}}}\n"));
        assert_eq!(sync.fields[1].from, Expression::Constant(expected), "{yaml}");
    }
}

#[test]
fn every_type_has_its_word() {
    for kind in ValueType::ALL {
        let sync = load_sync(&format!("{SYNC}fields:\n  f: {{column: c, type: {kind}}}\n"));
        assert_eq!(sync.fields[1].kind, kind);
    }
}

#[test]
fn formats_are_known_by_extension_or_by_word() {
    let source = "driver: files\ntables:\n  a: a.PARQUET\n  b: b-*.jsonl\n  c: {path: c.txt, format: csv, types: {zip: string}}\n  d: {path: /abs/d.ndjson}\n";
    let project = try_load(&[("sources/w.yml", source)]).unwrap();
    let SourceSpec::Files { tables } = &project.sources["w"] else { panic!("not files") };
    let found: Vec<_> = tables.values().map(|table| table.format).collect();
    assert_eq!(found, [FileFormat::Parquet, FileFormat::Ndjson, FileFormat::Csv, FileFormat::Ndjson]);
    assert_eq!(tables["b"].path, project.root.join("b-*.jsonl").to_string_lossy());
    assert_eq!(tables["c"].types["zip"], ColumnType::String);
    assert_eq!(tables["d"].path, "/abs/d.ndjson");
}

#[test]
fn unknown_keys_are_refused_wherever_they_stand() {
    for (name, text, expected) in [
        ("larder.yml", format!("{LARDER}extra: 1\n"), "larder.yml:2: unknown key `extra` in larder.yml"),
        (
            "larder.yml",
            "cluster:\n  url: http://a\n  key: k\n  kye: k\n".to_owned(),
            "larder.yml:4: unknown key `kye` in the cluster; did you mean `key`?",
        ),
        ("sources/w.yml", format!("{SOURCE}path: x\n"), "sources/w.yml:5: unknown key `path` in the source"),
        ("sources/w.yml", "driver: sqlite\npath: x\ntables: {}\n".to_owned(), "sources/w.yml:3: unknown key `tables`"),
        (
            "sources/w.yml",
            "driver: files\ntables:\n  a:\n    path: a.csv\n    fromat: csv\n".to_owned(),
            "sources/w.yml:5: unknown key `fromat` in the table `a`; did you mean `format`?",
        ),
        (
            "syncs/s.yml",
            format!("{SYNC}collections: x\n"),
            "syncs/s.yml:6: unknown key `collections` in the sync; did you mean `collection`?",
        ),
        (
            "syncs/s.yml",
            format!("{SYNC}fields:\n  f: {{column: a, typ: int}}\n"),
            "syncs/s.yml:7: unknown key `typ` in the field `f`; did you mean `type`?",
        ),
        (
            "syncs/s.yml",
            format!("{SYNC}fields:\n  f:\n    object:\n      a: {{column: b, type: int}}\n"),
            "syncs/s.yml:9: unknown key `type` in the mapping of `a`",
        ),
        ("syncs/s.yml", format!("{SYNC}guard: {{max_rows: 1}}\n"), "syncs/s.yml:6: unknown key `max_rows` in `guard`"),
        (
            "syncs/s.yml",
            format!("{SYNC}guard: {{max_removed: {{percentage: 1}}}}\n"),
            "syncs/s.yml:6: unknown key `percentage` in `max_removed`",
        ),
    ] {
        assert_problem(name, &text, expected);
    }
}

#[test]
fn wrong_values_are_reported_with_file_line_and_key() {
    for (text, expected) in [
        ("source: [a]", "`source` must be a text, not a list"),
        ("source: wharehouse", "there is no source `wharehouse` (sources/wharehouse.yml); did you mean `warehouse`?"),
        ("table: plnes", "source `warehouse` has no table `plnes`; did you mean `planes`?"),
        ("table: ~", "`table` must be a text, not nothing"),
        ("model: usage", "the sync has `model` and `table` at once; keep one"),
        ("key: 5", "`key` must be a column's name or a list of columns, not an integer"),
        ("key: []", "`key` names no column"),
        ("key: [a, a]", "`key` names the column `a` twice"),
        ("key: {columns: [a, b], separator: x}", "`separator`: must be one of the characters :.-_"),
        ("nulls: drop", "`nulls`: `drop` is unknown; known: `write`, `skip`, `clear`"),
        ("variables: {a-b: 1}", "variable `a-b`: a name is of"),
        ("fields: {f: {variable: regin}}", "the sync has no variable `regin`"),
        ("fields: {f: {column: a, on_error: ignore}}", "`on_error`: `ignore` is unknown; known: `reject`, `null`"),
        (
            "fields: {f: {column: a, type: int, on_error: {default: x}}}",
            "field `f`: the default is a string that cannot become a field of type int",
        ),
        ("key: ''", "`key` must not be empty"),
        ("collection: a b", "`collection`: a collection name may not hold the character ' '"),
        ("primary_index: a/b", "`primary_index`: a name of an index may not hold"),
        ("on_exit: drop", "`on_exit`: `drop` is unknown; known: `keep`, `clear`, `delete`"),
        ("on_duplicate: last", "`on_duplicate`: `last` is unknown"),
        ("columns: model", "`columns` must be a list, not a text"),
        ("columns: [model, [a]]", "`columns` must be a text, not a list"),
        ("columns: [model, model]", "field `model` is given twice"),
        ("columns: []", "the sync writes no field"),
        ("fields: [a]", "`fields` must be a mapping, not a list"),
        ("fields: {model: a}", "field `model` is given twice"),
        (
            "fields: {f: true}",
            "`f` must be a column's name or a mapping (a constant is `{value: ...}`), not a truth value",
        ),
        ("fields: {f: {type: int}}", "the field `f` needs one of `column`, `value`"),
        ("fields: {f: {column: a, value: 1}}", "the field `f` has `column` and `value` at once; keep one"),
        ("fields: {f: {column: a, type: integer}}", "`type`: `integer` is unknown"),
        ("fields: {f: {column: a, type: boll}}", "did you mean `bool`?"),
        (
            "fields: {f: {value: x, type: int}}",
            "field `f`: the constant is a string that cannot become a field of type int",
        ),
        ("fields: {f: {object: {a: b}, type: int}}", "field `f`: an object cannot become a field of type int"),
        ("fields: {f: {list: [b], type: struct}}", "field `f`: a list cannot become a field of type struct"),
        ("fields: {f: {object: [a]}}", "`object` must be a mapping, not a list"),
        ("fields: {f: {list: [3]}}", "`f` must be a column's name or a mapping"),
        ("fields: {\"a\\tb\": c}", "field `a\tb`: a field name may not hold"),
        ("guard: 10", "`guard` must be a mapping, not an integer"),
        ("guard: {min_rows: -5}", "`min_rows` must be an integer that is not negative, not -5"),
        ("guard: {min_rows: 1.5}", "`min_rows` must be an integer that is not negative, not 1.5"),
        ("guard: {max_removed: {percent: 101}}", "`percent` must be a number from 0 to 100, not 101"),
        ("guard: {max_removed: {rows: many}}", "`rows` must be an integer that is not negative, not a text"),
        ("key: ${MISSING}", "the environment variable MISSING is not set"),
        ("key: \"${{ row }}\"", "`${` must begin"),
    ] {
        let (key, _) = text.split_once(':').unwrap();
        let others: Vec<&str> = SYNC.lines().filter(|line| !line.starts_with(&format!("{key}:"))).collect();
        let text = format!("{}\n{text}\n", others.join("\n"));
        assert_problem("syncs/s.yml", &text, expected);
        let found = problems(&[("syncs/s.yml", &text)]);
        assert!(found.starts_with("syncs/s.yml:") && found.lines().count() == 1, "{text}\n{found}");
    }
}

#[test]
fn wrong_sources_and_settings_are_reported() {
    for (name, text, expected) in [
        ("larder.yml", "", "larder.yml:1: larder.yml must be a mapping, not nothing"),
        ("larder.yml", "state: x\n", "larder.yml:1: larder.yml needs one of `cluster`, `clusters`"),
        ("larder.yml", "cluster: {url: \"http://a\"}\n", "larder.yml:1: the cluster lacks the key `key`"),
        ("larder.yml", "cluster: {url: \"ftp://a\", key: k}\n", "`cluster.url`: must be `http://host:port`"),
        ("larder.yml", "cluster: {url: \"http://a\", key: k, ca: c}\n", "its `url` must begin with https://"),
        (
            "larder.yml",
            "cluster: {url: \"https://a\", key: k, client_certificate: {key: k}}\n",
            "`client_certificate` lacks the key `certificate`",
        ),
        ("larder.yml", "cluster: {url: \"http://a\", key: 5}\n", "`cluster.key` must be a text"),
        ("larder.yml", "cluster: [", "larder.yml:1: "),
        ("sources/w.yml", "path: x\n", "the source lacks the key `driver`"),
        ("sources/w.yml", "driver: postgres\n", "there is no driver `postgres`; did you mean `postgresql`?"),
        ("sources/w.yml", "driver: sqlite\n", "the source lacks the key `path`"),
        ("sources/w.yml", "driver: files\n", "the source lacks the key `tables`"),
        ("sources/w.yml", "driver: files\ntables: {}\n", "sources/w.yml:2: `tables` names no table"),
        (
            "sources/w.yml",
            "driver: files\ntables:\n  a: data/a\n",
            "sources/w.yml:3: table `a`: the path does not tell the format",
        ),
        ("sources/w.yml", "driver: files\ntables:\n  a: {path: a.csv, format: xml}\n", "`format`: `xml` is unknown"),
        (
            "sources/w.yml",
            "driver: files\ntables:\n  a: 'd*/a.csv'\n",
            "`*` and `?` may stand in the last part of a path only",
        ),
        (
            "sources/w.yml",
            "driver: files\ntables:\n  a: a.csv\n  A: b.csv\n",
            "sources/w.yml:4: tables `a` and `A` have the same name",
        ),
        (
            "sources/w.yml",
            "driver: files\ntables:\n  sqlite_x: a.csv\n",
            "names that begin with `sqlite_` are reserved",
        ),
        ("sources/w.yml", "driver: files\ntables:\n  'a b': a.csv\n", "table `a b`: a table name is"),
        ("sources/w.yml", "driver: files\ntables:\n  a: {path: a.csv, types: {z: text}}\n", "`z`: `text` is unknown"),
        (
            "sources/w.yml",
            "driver: files\ntables:\n  a: {path: a.parquet, types: {z: int}}\n",
            "Parquet files bring their types",
        ),
        ("sources/a b.yml", "driver: sqlite\npath: x\n", "sources/a b.yml: the file's name"),
        ("sources/warehouse.yaml", "driver: sqlite\npath: x\n", "defines `warehouse` too"),
        ("syncs/a b.yml", SYNC, "syncs/a b.yml: the file's name"),
        ("syncs/s.yml", "source: warehouse\n", "syncs/s.yml:1: the sync needs one of `model`, `table`"),
        ("syncs/s.yml", "source: warehouse\n", "the sync writes no field"),
        (
            "syncs/s.yml",
            "source: warehouse\nmodel: usag\n",
            "there is no model `usag` (models/usag.sql); did you mean `usage`?",
        ),
        (
            "larder.yml",
            "cluster: {url: \"http://a\", key: k}\nstate: x\nstate: y\n",
            "larder.yml:3: the key `state` is there twice",
        ),
    ] {
        assert_problem(name, text, expected);
    }
}

#[test]
fn a_key_is_taken_without_its_line_end_and_refused_if_no_request_can_carry_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("larder.yml"), LARDER).unwrap();
    let with_key = |key: &str| load(folder.path(), None, &|_| Some(key.to_owned()));
    for (key, expected) in [("k-1\n", "k-1"), ("k-1 \r\n", "k-1"), ("\n", "")] {
        assert_eq!(with_key(key).unwrap().clusters.values().next().unwrap().key.0, expected);
    }
    for key in ["k\n1", "k\u{e9}y", "k\0"] {
        let found = with_key(key).unwrap_err().to_string();
        assert!(found.starts_with("larder.yml:1: `cluster.key` holds a character"), "{found}");
        assert!(!found.contains(key), "{found}");
    }
}

#[test]
fn problems_of_all_files_are_reported_at_once() {
    let found = problems(&[
        ("larder.yml", "cluster: {url: x, key: \"${ONE}${TWO}\"}\nfoo: 1\n"),
        ("sources/w.yml", "driver: file\n"),
        ("syncs/a.yml", "source: warehouse\nkey: 1\ncollection: a b\nfoo: 1\n"),
        ("syncs/b.yml", "a: [\n"),
    ]);
    for expected in [
        "ONE",
        "TWO",
        "cluster.url",
        "larder.yml:2: ",
        "sources/w.yml:1: ",
        "syncs/a.yml:2: ",
        "syncs/a.yml:3: ",
        "syncs/a.yml:4: ",
        "syncs/b.yml",
    ] {
        assert!(found.contains(expected), "{expected} is missing in\n{found}");
    }
}

#[test]
fn sync_of_a_broken_source_is_not_blamed_for_it() {
    let found = problems(&[("sources/warehouse.yml", "driver: files\n"), ("syncs/s.yml", SYNC)]);
    assert_eq!(found.lines().count(), 1, "{found}");
}

#[test]
fn field_of_two_syncs_is_refused() {
    let other = SYNC.replace("[model]", "[year, model]");
    let found = problems(&[("syncs/a.yml", SYNC), ("syncs/b.yml", &other)]);
    assert_eq!(
        found,
        "syncs/b.yml: field `model` of collection `planes` is written by syncs/a.yml too; a field belongs to one sync"
    );
    assert!(try_load(&[("syncs/a.yml", SYNC), ("syncs/b.yml", &SYNC.replace("[model]", "[year]"))]).is_ok());
    assert!(
        try_load(&[("syncs/a.yml", SYNC), ("syncs/b.yml", &SYNC.replace("collection: planes", "collection: p2"))])
            .is_ok()
    );

    let index = |name: &str, column: &str| format!("{}primary_index: {name}\n", SYNC.replace("[model]", column));
    let found = problems(&[("syncs/a.yml", &index("x", "[a]")), ("syncs/b.yml", &index("y", "[b]"))]);
    assert!(
        found.starts_with("syncs/b.yml: `primary_index` of collection `planes` is `y` here and `x` in syncs/a.yml"),
        "{found}"
    );
}

#[test]
fn key_that_is_written_out_is_warned_about() {
    for (key, expected) in [("lk_abc", "is written out here"), ("${NOT_SET:-}", "is empty")] {
        let yaml = format!("cluster:\n  url: http://a\n  key: \"{key}\"\n");
        let project = try_load(&[("larder.yml", &yaml)]).unwrap();
        let warning = project.warnings[0].to_string();
        assert!(warning.starts_with("larder.yml:3: ") && warning.contains(expected), "{warning}");
        assert!(!warning.contains("lk_abc"), "{warning}");
    }
}

#[test]
fn folder_without_a_project_is_told_from_a_broken_one() {
    let folder = tempfile::tempdir().unwrap();
    let found = load(folder.path(), None, &|_| None).unwrap_err().to_string();
    assert!(found.contains("larder-loader init"), "{found}");
}

#[test]
fn parameters_keep_the_types_that_they_are_given() {
    let sync = |params: &str| {
        let text = format!("source: s\nmodel: m\nkey: id\ncollection: c\ncolumns: [id]\nparams:\n{params}");
        try_load(&[
            ("syncs/s.yml", &text),
            ("models/m.sql", "SELECT 1 AS id"),
            ("sources/s.yml", "driver: sqlite\npath: w.db\n"),
        ])
    };
    let project = sync(
        "  a: 5\n  b: \"5\"\n  c: {value: \"${N:-7}\", type: int}\n  d: {value: 2024-02-29, type: date}\n  e: ~\n",
    )
    .unwrap();
    let Model::Sql { params, .. } = &project.syncs.values().next().unwrap().model else { panic!("not SQL") };
    let expected = [
        ("a", Value::Int(5)),
        ("b", Value::String("5".to_owned())),
        ("c", Value::Int(7)),
        ("d", Value::Date(19_782)),
        ("e", Value::Null),
    ];
    assert_eq!(params, &expected.map(|(name, value)| (name.to_owned(), value)).into());

    for (params, expected) in [
        ("  a-b: 1\n", "begins with no digit"),
        ("  1a: 1\n", "begins with no digit"),
        ("  a: [1]\n", "`a` must be a text"),
        ("  a: {value: {b: 1}}\n", "`a` must be a text"),
        ("  a: {value: secret, type: int}\n", "its value is no int"),
        ("  a: {value: 1, type: struct}\n", "`struct` is unknown"),
        ("  a: {value: inf, type: float}\n", "its value is no"),
    ] {
        let problems = sync(params).unwrap_err().to_string();
        assert!(problems.contains(expected) && !problems.contains("secret"), "{params}: {problems}");
    }
}

#[test]
fn tables_may_be_of_a_schema() {
    let sync = |table: &str, more: &str| {
        let text = format!("source: s\ntable: '{table}'\nkey: id\ncollection: c\ncolumns: [id]\n{more}");
        try_load(&[("syncs/s.yml", &text), ("sources/s.yml", "driver: sqlite\npath: w.db\n")])
    };
    for table in ["users", "app.users", r#""my.schema".users"#] {
        let project = sync(table, "").unwrap();
        assert_eq!(project.syncs.values().next().unwrap().model, Model::Table(table.to_owned()));
    }
    for table in ["app.", ".users", "a..b", r#""open"#] {
        let problems = sync(table, "").unwrap_err().to_string();
        assert!(problems.contains("`schema.table`"), "{table}: {problems}");
    }
    assert!(sync("users", "params: {a: 1}\n").unwrap_err().to_string().contains("a `table` has none"));
}

#[test]
fn fields_say_what_nulls_and_errors_do() {
    let sync = load_sync(&format!(
        "{}nulls: skip\nvariables: {{region: north, rate: 1.5}}\nfields:\n  a: {{column: x, nulls: clear}}\n  \
         b: {{column: y, type: int, on_error: {{default: \"7\"}}}}\n  c: {{column: z, on_error: null}}\n  \
         d: {{variable: region, nulls: write}}\n  e: {{object: {{r: {{variable: rate}}}}}}\n",
        SYNC.replace("key: tailnum", "key: {columns: [country, tailnum], separator: \".\"}")
    ));
    assert_eq!((sync.key.columns().len(), sync.key.separator()), (2, '.'));
    let found: Vec<_> = sync.fields.iter().map(|field| (field.name.as_str(), field.nulls, &field.on_error)).collect();
    let (int, null) = (OnError::Use(Value::Int(7)), OnError::Use(Value::Null));
    let expected = [
        ("model", Nulls::Skip, &OnError::Reject),
        ("a", Nulls::Clear, &OnError::Reject),
        ("b", Nulls::Skip, &int),
        ("c", Nulls::Skip, &null),
        ("d", Nulls::Write, &OnError::Reject),
        ("e", Nulls::Skip, &OnError::Reject),
    ];
    assert_eq!(found, expected);
    assert_eq!(sync.fields[4].from, Expression::Constant(Value::String("north".to_owned())));
    let rate = ("r".to_owned(), Expression::Constant(Value::Float(1.5)));
    assert_eq!(sync.fields[5].from, Expression::Object(vec![rate]));
    assert_eq!(sync.variables.len(), 2);
}

#[test]
fn an_environment_is_laid_over_the_settings() {
    let yaml = r#"
cluster: {url: "http://127.0.0.1:8080", key: "${KEY}"}
env: {DB: dev.db, PORT: "1"}
environments:
  prod:
    cluster: {url: "https://larder.example"}
    env: {DB: "${KEY}.db"}
  staging:
    cluster: {key: "${STAGING_KEY}"}
    state: elsewhere
"#;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("larder.yml"), yaml).unwrap();
    fs::create_dir(folder.path().join("sources")).unwrap();
    fs::write(folder.path().join("sources/db.yml"), "driver: sqlite\npath: \"${DB}${PORT}\"\n").unwrap();
    let load_in = |environment| load(folder.path(), environment, &|name| (name == "KEY").then(|| "k".to_owned()));
    let of = |project: Project| {
        let SourceSpec::Sqlite { path } = &project.sources["db"] else { panic!("not a database") };
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let cluster = project.clusters.values().next().unwrap();
        (cluster.url.clone(), cluster.key.0.clone(), name(&project.state_dir), name(path))
    };
    let expected =
        |url: &str, state: &str, path: &str| (url.to_owned(), "k".to_owned(), state.to_owned(), path.to_owned());
    assert_eq!(of(load_in(None).unwrap()), expected("http://127.0.0.1:8080", ".larder", "dev.db1"));
    assert_eq!(of(load_in(Some("prod")).unwrap()), expected("https://larder.example", ".larder-prod", "k.db1"));
    let found = load_in(Some("staging")).unwrap_err().to_string();
    assert_eq!(
        found,
        "larder.yml:9: the environment variable STAGING_KEY is not set; set it, or give a default: \
         `${STAGING_KEY:-default}`"
    );
    let found = load_in(Some("prd")).unwrap_err().to_string();
    assert!(found.contains("`environments` has no `prd`, which was chosen; did you mean `prod`?"), "{found}");
}
