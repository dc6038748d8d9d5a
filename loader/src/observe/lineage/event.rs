//! OpenLineage events: what a run reads and writes, in the words of the specification, version 2-0-2.
//!
//! Pure. Every facet names its producer and the version of the schema that it follows.

use jiff::Timestamp;
use larder_types::value::ValueType;
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_128;

/// Who says so.
const PRODUCER: &str = concat!("urn:larder:loader:", env!("CARGO_PKG_VERSION"));
const RUN_EVENT: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";
/// Longest message of an error, in characters.
const MAX_ERROR: usize = 2_000;

/// What happened to a run. A run has one `Start` and one of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EventType {
    Start,
    Complete,
    Fail,
    Abort,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Start => "START",
            Self::Complete => "COMPLETE",
            Self::Fail => "FAIL",
            Self::Abort => "ABORT",
        }
    }
}

/// What an event is made of.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) kind: EventType,
    pub(super) at: Timestamp,
    /// The loader's id of the run.
    pub(super) run: String,
    pub(super) namespace: String,
    pub(super) sync: String,
    /// The statement, if the sync has one.
    pub(super) sql: Option<String>,
    pub(super) error: Option<String>,
    pub(super) input: Input,
    pub(super) outputs: Vec<Output>,
}

/// What is read.
#[derive(Debug, Clone)]
pub(super) struct Input {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) rows: Option<u64>,
}

/// What is written.
#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) fields: Vec<(String, ValueType)>,
    /// Rows that were acknowledged, and the bytes they were sent in.
    pub(super) written: Option<(u64, u64)>,
}

impl Event {
    /// The event as JSON.
    pub(super) fn to_json(&self) -> Value {
        let mut run_facets = Map::new();
        let engine = json!({ "name": "larder-loader", "version": env!("CARGO_PKG_VERSION") });
        add(&mut run_facets, "processing_engine", "1-1-1/ProcessingEngineRunFacet", engine);
        if let Some(error) = &self.error {
            let message: String = error.chars().take(MAX_ERROR).collect();
            let error = json!({ "message": message, "programmingLanguage": "Rust" });
            add(&mut run_facets, "errorMessage", "1-0-1/ErrorMessageRunFacet", error);
        }
        let mut job_facets = Map::new();
        let kind = json!({ "processingType": "BATCH", "integration": "LARDER", "jobType": "SYNC" });
        add(&mut job_facets, "jobType", "2-0-3/JobTypeJobFacet", kind);
        if let Some(sql) = &self.sql {
            add(&mut job_facets, "sql", "1-1-0/SQLJobFacet", json!({ "query": sql }));
        }
        json!({
            "eventType": self.kind.as_str(),
            "eventTime": self.at.to_string(),
            "producer": PRODUCER,
            "schemaURL": RUN_EVENT,
            "run": { "runId": run_uuid(&self.run), "facets": run_facets },
            "job": { "namespace": self.namespace, "name": self.sync, "facets": job_facets },
            "inputs": [self.input.to_json()],
            "outputs": self.outputs.iter().map(Output::to_json).collect::<Vec<_>>(),
        })
    }
}

impl Input {
    fn to_json(&self) -> Value {
        let mut facets = Map::new();
        if let Some(rows) = self.rows {
            let statistics = json!({ "rowCount": rows });
            add(&mut facets, "inputStatistics", "1-0-0/InputStatisticsInputDatasetFacet", statistics);
        }
        json!({ "namespace": self.namespace, "name": self.name, "inputFacets": facets })
    }
}

impl Output {
    fn to_json(&self) -> Value {
        let fields = self.fields.iter().map(|(name, kind)| json!({ "name": name, "type": kind.as_str() }));
        let fields: Vec<Value> = fields.collect();
        let mut facets = Map::new();
        add(&mut facets, "schema", "1-1-1/SchemaDatasetFacet", json!({ "fields": fields }));
        let mut output_facets = Map::new();
        if let Some((rows, bytes)) = self.written {
            let statistics = json!({ "rowCount": rows, "size": bytes });
            add(&mut output_facets, "outputStatistics", "1-0-2/OutputStatisticsOutputDatasetFacet", statistics);
        }
        json!({ "namespace": self.namespace, "name": self.name, "facets": facets, "outputFacets": output_facets })
    }
}

/// Adds a facet. `schema` is its version and name, for example `1-0-1/ErrorMessageRunFacet`.
fn add(facets: &mut Map<String, Value>, key: &str, schema: &str, mut facet: Value) {
    let name = schema.split('/').next_back().unwrap_or(schema);
    facet["_producer"] = PRODUCER.into();
    facet["_schemaURL"] = format!("https://openlineage.io/spec/facets/{schema}.json#/$defs/{name}").into();
    facets.insert(key.to_owned(), facet);
}

/// The specification wants UUIDs: one made of the run's id, in the form for one's own ways of making them (version 8),
/// so that the events of a run agree.
fn run_uuid(run: &str) -> String {
    let bits = xxh3_128(run.as_bytes());
    let bits = bits & !(0xF << 76) | (0x8 << 76);
    let bits = bits & !(0x3 << 62) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn event(kind: EventType) -> Event {
        let output = |host: &str| Output {
            namespace: format!("larder://{host}:8080"),
            name: "orders".to_owned(),
            fields: vec![("total".to_owned(), ValueType::Decimal), ("note".to_owned(), ValueType::Any)],
            written: (kind != EventType::Start).then_some((7, 300)),
        };
        Event {
            kind,
            at: "2026-03-01T10:00:00.25Z".parse().unwrap(),
            run: "20260301100000-0000abcd".to_owned(),
            namespace: "shop".to_owned(),
            sync: "orders".to_owned(),
            sql: Some("SELECT 1".to_owned()),
            error: (kind == EventType::Fail).then(|| "the source is away".to_owned()),
            input: Input {
                namespace: "postgresql".to_owned(),
                name: "public.orders".to_owned(),
                rows: (kind != EventType::Start).then_some(9),
            },
            outputs: vec![output("eu"), output("us")],
        }
    }

    /// What the specification asks of a facet: its own members, and the two that all have.
    fn assert_facet(facet: &Value, schema: &str, required: &[&str]) {
        let url = facet["_schemaURL"].as_str().unwrap();
        let name = schema.split('/').next_back().unwrap();
        assert_eq!(url, format!("https://openlineage.io/spec/facets/{schema}.json#/$defs/{name}"));
        assert!(facet["_producer"].as_str().unwrap().starts_with("urn:larder:"));
        for member in required {
            assert!(!facet[*member].is_null(), "{schema} lacks {member}");
        }
    }

    /// What the specification asks of an event.
    fn assert_event(event: &Value) {
        let members: BTreeSet<&str> = event.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = ["eventType", "eventTime", "producer", "schemaURL", "run", "job", "inputs", "outputs"];
        assert_eq!(members, expected.into_iter().collect());
        assert!(["START", "COMPLETE", "FAIL", "ABORT"].contains(&event["eventType"].as_str().unwrap()));
        event["eventTime"].as_str().unwrap().parse::<Timestamp>().unwrap();
        let uuid = event["run"]["runId"].as_str().unwrap();
        let groups: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12], "{uuid}");
        assert!(uuid.chars().all(|c| c == '-' || c.is_ascii_hexdigit()), "{uuid}");
        assert_eq!(&uuid[14..15], "8", "{uuid} has no version");
        assert!("89ab".contains(&uuid[19..20]), "{uuid} has no variant");
        for part in [&event["job"], &event["inputs"][0], &event["outputs"][0], &event["outputs"][1]] {
            assert!(part["namespace"].is_string() && part["name"].is_string(), "{part}");
        }
    }

    #[test]
    fn begin_and_end_have_what_the_specification_asks_for() {
        for (kind, word) in [
            (EventType::Start, "START"),
            (EventType::Complete, "COMPLETE"),
            (EventType::Fail, "FAIL"),
            (EventType::Abort, "ABORT"),
        ] {
            let json = event(kind).to_json();
            assert_event(&json);
            assert_eq!(json["eventType"], word);
            assert_facet(&json["job"]["facets"]["sql"], "1-1-0/SQLJobFacet", &["query"]);
            let job_type = &json["job"]["facets"]["jobType"];
            assert_facet(job_type, "2-0-3/JobTypeJobFacet", &["processingType", "integration"]);
            let engine = &json["run"]["facets"]["processing_engine"];
            assert_facet(engine, "1-1-1/ProcessingEngineRunFacet", &["version"]);
            assert_facet(&json["outputs"][1]["facets"]["schema"], "1-1-1/SchemaDatasetFacet", &["fields"]);
        }
    }

    #[test]
    fn the_end_has_counts_and_a_failure_its_reason() {
        let json = event(EventType::Fail).to_json();
        let error = &json["run"]["facets"]["errorMessage"];
        assert_facet(error, "1-0-1/ErrorMessageRunFacet", &["message", "programmingLanguage"]);
        let input = &json["inputs"][0]["inputFacets"]["inputStatistics"];
        assert_facet(input, "1-0-0/InputStatisticsInputDatasetFacet", &[]);
        assert_eq!(input["rowCount"], 9);
        let output = &json["outputs"][0]["outputFacets"]["outputStatistics"];
        assert_facet(output, "1-0-2/OutputStatisticsOutputDatasetFacet", &[]);
        assert_eq!((&output["rowCount"], &output["size"]), (&json!(7), &json!(300)));
        let json = event(EventType::Start).to_json();
        assert!(json["inputs"][0]["inputFacets"].as_object().unwrap().is_empty());
        assert!(json["run"]["facets"]["errorMessage"].is_null());
    }

    #[test]
    fn events_of_a_run_agree_on_its_id() {
        let id = |kind| event(kind).to_json()["run"]["runId"].clone();
        assert_eq!(id(EventType::Start), id(EventType::Complete));
        assert_ne!(run_uuid("a"), run_uuid("b"));
    }
}
