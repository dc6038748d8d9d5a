//! Batches: every format, every way to be refused, repeats.

use std::io::Write as _;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use hyper::Method;
use larder_server::config::Limits;
use larder_types::api::NDJSON;
use serde_json::json;

use crate::harness::{Harness, upsert};

fn stream(columns: Vec<(&str, ArrayRef)>, compression: Option<CompressionType>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), batch.schema_ref(), options).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn every_format_and_encoding_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    server.people(&json!([{"name": "n", "type": "int"}]));
    let run = server.open("crm", "delta");
    let line = |n: u32| upsert(&format!("k{n}"), &json!({"n": n}));
    server.batch(&run, 1, &line(1)).expect(200);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(line(2).as_bytes()).unwrap();
    let zstd = zstd::encode_all(line(3).as_bytes(), 3).unwrap();
    for (seq, encoding, body) in [(2, "gzip", gzip.finish().unwrap()), (3, "zstd", zstd)] {
        let headers = [("Content-Type", NDJSON), ("Content-Encoding", encoding)];
        server.send(&Method::POST, &format!("{run}/batches/{seq}"), &headers, &body).expect(200);
    }
    for (seq, compression) in [(4, None), (5, Some(CompressionType::ZSTD)), (6, Some(CompressionType::LZ4_FRAME))] {
        let key: ArrayRef = Arc::new(StringArray::from(vec![format!("k{seq}")]));
        let n: ArrayRef = Arc::new(Int64Array::from(vec![i64::from(seq)]));
        let answer = server.arrow(&run, seq, &stream(vec![("_key", key), ("n", n)], compression)).expect(200);
        assert_eq!(answer.value()["accepted"], 1, "{}", answer.text());
    }
    for n in 1..=6 {
        let answer = server.get(&format!("/v1/collections/people/records/id/k{n}")).expect(200);
        assert_eq!(answer.value(), json!({"n": n}));
    }
    server.stop();
}

#[test]
fn what_cannot_be_read_is_refused_and_uses_no_number_up() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits { batch_body_bytes: 10_000, ..Limits::default() });
    server.people(&json!(["n"]));
    let run = server.open("crm", "delta");
    let path = format!("{run}/batches/1");
    let good = upsert("1", &json!({"n": 1}));
    let send = |headers: &[(&str, &str)], body: &[u8]| server.send(&Method::POST, &path, headers, body);
    send(&[], good.as_bytes()).refuses(415, "unsupported_media_type");
    send(&[("Content-Type", "text/csv")], good.as_bytes()).refuses(415, "unsupported_media_type");
    let br = [("Content-Type", NDJSON), ("Content-Encoding", "br")];
    send(&br, good.as_bytes()).refuses(415, "unsupported_media_type");
    let gzip = [("Content-Type", NDJSON), ("Content-Encoding", "gzip")];
    send(&gzip, good.as_bytes()).refuses(400, "invalid_encoding");
    let body = server.batch(&run, 1, &format!("{good}{{\"op\"\n")).refuses(400, "invalid_request");
    assert!(body["message"].as_str().unwrap().contains("line 2"), "{body}");
    let whole = stream(vec![("_key", Arc::new(StringArray::from(vec!["1"])) as ArrayRef)], None);
    server.arrow(&run, 1, &whole[..whole.len() - 8]).refuses(400, "invalid_request");
    let column = Arc::new(StringArray::from(vec!["1"])) as ArrayRef;
    let unknown = stream(vec![("_key", column.clone()), ("nope", column)], None);
    let body = server.arrow(&run, 1, &unknown).refuses(400, "unknown_field");
    assert_eq!(body["details"]["field"], "nope");
    let padding = " ".repeat(10_000 - good.len());
    server.batch(&run, 2, &format!("{good}{padding}")).expect(200);
    server.batch(&run, 1, &format!("{good}{padding} ")).refuses(413, "payload_too_large");
    for bad in ["x", "-1", "01", "1000001", "4294967296"] {
        let answer = server.send(&Method::POST, &format!("{run}/batches/{bad}"), &[("Content-Type", NDJSON)], b"");
        answer.refuses(400, "invalid_request");
    }
    server.batch(&run, 1, &good).expect(200);
    assert_eq!(server.batch(&run, 1_000_000, "").expect(200).value()["accepted"], 0);
    server.stop();
}

#[test]
fn patches_of_one_key_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    server.people(&json!(["n"]));
    let run = server.open("crm", "delta");
    let lines: String = (0..100).map(|n| upsert("k", &json!({"n": n}))).collect();
    assert_eq!(server.batch(&run, 1, &lines).expect(200).value()["accepted"], 100);
    assert_eq!(server.get("/v1/collections/people/records/id/k").value(), json!({"n": 99}));
    server.stop();
}

#[test]
fn a_repeat_answers_as_the_first_time_however_many_rows_were_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    server.people(&json!([{"name": "n", "type": "int"}]));
    let run = server.open("crm", "delta");
    // Enough that not all are noted, so that a repeat has to find them again.
    let bad: String = (0..3000).map(|n| upsert(&format!("bad{n}"), &json!({"n": "x"}))).collect();
    let lines = format!("{}{bad}{}", upsert("a", &json!({"n": 1})), upsert("b", &json!({"n": 2})));
    let first = server.batch(&run, 1, &lines).expect(200).value();
    assert_eq!((first["accepted"].as_u64(), first["rejected"].as_array().map(Vec::len)), (Some(2), Some(3000)));
    server.batch(&run, 2, &upsert("a", &json!({"n": 7}))).expect(200);
    let again = server.batch(&run, 1, &lines).expect(200).value();
    assert_eq!(again["rejected"], first["rejected"]);
    assert_eq!(again["accepted"], 2);
    // The repeat must not have undone the second batch.
    assert_eq!(server.get("/v1/collections/people/records/id/a").value(), json!({"n": 7}));
    server.batch(&run, 1, &upsert("a", &json!({"n": 8}))).refuses(409, "seq_reused");
    let info = server.get(&run).expect(200).value();
    assert_eq!((info["batches"].as_u64(), info["successful"]["added"].as_u64()), (Some(2), Some(2)), "{info}");
    assert_eq!(info["failed"]["added"], 3000);
    server.stop();
}

#[test]
fn a_record_that_outgrows_its_limit_rejects_the_row_that_did_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    server.people(&json!(["a", "b"]));
    let run = server.open("crm", "delta");
    let half = "x".repeat(150 * 1024);
    server.batch(&run, 1, &upsert("k", &json!({"a": half}))).expect(200);
    let lines = upsert("other", &json!({"a": 1})) + &upsert("k", &json!({"b": half}));
    let answer = server.batch(&run, 2, &lines).expect(200).value();
    assert_eq!(answer["accepted"], 1);
    let rejected = &answer["rejected"][0];
    assert_eq!((rejected["row"].as_u64(), rejected["key"].as_str()), (Some(1), Some("k")));
    assert_eq!(rejected["code"], "record_too_large");
    assert_eq!(server.get("/v1/collections/people/records/id/k?fields=b").value(), json!({}));
    assert_eq!(server.get(&run).value()["failed"]["changed"], 1);
    server.stop();
}
