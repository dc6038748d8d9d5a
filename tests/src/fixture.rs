//! Collections, syncs and runs made through the HTTP interface, as any client would make them.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::http::{Client, Response};

/// A collection with the syncs that feed it.
pub struct Collection<'a> {
    client: &'a Client,
    name: String,
}

/// An open run.
pub struct Run<'a> {
    client: &'a Client,
    path: String,
    /// Its generation.
    pub generation: u64,
}

impl<'a> Collection<'a> {
    /// Makes the collection, or finds it made.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn put(client: &'a Client, name: &str) -> Result<Self> {
        let answer = client.json("PUT", &format!("/v1/collections/{name}"), &json!({}))?;
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
        Ok(Self { client, name: name.to_owned() })
    }

    /// Declares a sync that owns these fields.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn sync(&self, sync: &str, fields: &Value, on_exit: &str) -> Result<Response> {
        let path = format!("/v1/collections/{}/syncs/{sync}", self.name);
        Ok(self.client.json("PUT", &path, &json!({"fields": fields, "on_exit": on_exit}))?)
    }

    /// Opens a run of a sync.
    ///
    /// # Errors
    /// When the node does not answer or refuses.
    pub fn open(&self, sync: &str, kind: &str) -> Result<Run<'a>> {
        let path = format!("/v1/collections/{}/syncs/{sync}/runs", self.name);
        let opened = self.client.json("POST", &path, &json!({"kind": kind}))?.expect(201).value();
        let run = opened["run"].as_str().context("no run id")?;
        let generation = opened["generation"].as_u64().context("no generation")?;
        Ok(Run { client: self.client, path: format!("{path}/{run}"), generation })
    }

    /// Opens a delta run, sends these lines as its one batch and commits it.
    ///
    /// # Errors
    /// When the node does not answer or refuses.
    pub fn load(&self, sync: &str, lines: &str) -> Result<Value> {
        let run = self.open(sync, "delta")?;
        let answer = run.batch(1, lines)?.expect(200).value();
        run.commit()?;
        Ok(answer)
    }

    /// Looks a record up; the key is put into the path as it is.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn get(&self, key: &str) -> Result<Response> {
        Ok(self.client.get(&format!("/v1/collections/{}/records/id/{key}", self.name))?)
    }
}

impl Run<'_> {
    /// Where the run is.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Sends a batch.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn batch(&self, seq: u32, lines: &str) -> Result<Response> {
        Ok(self.client.ndjson(&format!("{}/batches/{seq}", self.path), lines)?)
    }

    /// Commits the run and returns what the node says of it.
    ///
    /// # Errors
    /// When the node does not answer or refuses.
    pub fn commit(&self) -> Result<Value> {
        Ok(self.client.json("POST", &format!("{}/commit", self.path), &json!({}))?.expect(200).value())
    }

    /// What the node says of the run.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn info(&self) -> Result<Value> {
        Ok(self.client.get(&self.path)?.expect(200).value())
    }
}

/// One upsert as a line of NDJSON.
#[must_use]
pub fn upsert(key: &str, set: &Value) -> String {
    json!({"op": "upsert", "key": key, "set": set}).to_string() + "\n"
}
