//! Records as the clusters hold them, read for people who want to see what a sync did or would do.

use std::collections::BTreeMap;

use larder_types::api::DEFAULT_INDEX;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::runtime::Runtime;

use crate::project::{Cluster, SyncSpec};
use crate::push::client::{Client, Looked};
use crate::push::retry::RetryPolicy;

/// What is known of a record in a cluster.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Record {
    /// It is there.
    Found {
        /// Its fields by name, those of other syncs included.
        fields: BTreeMap<String, Box<RawValue>>,
    },
    /// It is not there.
    Absent,
    /// It cannot be told.
    Unknown {
        /// Why.
        reason: String,
    },
}

/// Reads records of one collection of one cluster.
pub(super) struct Records {
    runtime: Runtime,
    /// Nothing if no record can be read; why.
    source: Result<(Client, String), String>,
}

impl Records {
    /// Finds out how records are looked up. If that cannot be, each record is unknown for that reason.
    pub(super) fn of(cluster: &Cluster, spec: &SyncSpec) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let source = runtime.block_on(async {
            if cluster.key.0.is_empty() {
                return Err("the cluster's key in larder.yml is empty".to_owned());
            }
            let client = Client::new(cluster, spec, RetryPolicy::default()).map_err(|error| error.to_string())?;
            let index = client.primary_index().await?;
            Ok((client, index.unwrap_or_else(|| DEFAULT_INDEX.to_owned())))
        });
        Ok(Self { runtime, source })
    }

    /// Looks a record up.
    pub(super) fn get(&self, key: &str) -> Record {
        let (client, index) = match &self.source {
            Ok(source) => source,
            Err(reason) => return Record::Unknown { reason: reason.clone() },
        };
        match self.runtime.block_on(client.record(index, key)) {
            Looked::Found(fields) => Record::Found { fields },
            Looked::Absent => Record::Absent,
            Looked::NotAllowed => {
                Record::Unknown { reason: "the API key may not look records up: it lacks the scope `read`".to_owned() }
            }
            Looked::Unknown(reason) => Record::Unknown { reason },
        }
    }
}
