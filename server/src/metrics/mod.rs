//! `GET /metrics` of the admin listener: the node's numbers in Prometheus' text format.
//!
//! Nothing is kept for it: each number is read from whoever owns it when it is asked for, and what cores count is added
//! up then. So there are no registered objects, only this list: a family of metrics is one function of the file named
//! for its subject, called here.
//!
//! Invariants:
//! - Labels are names of collections and syncs, shards, and words of ours: never a looked-up value, a key, a credential.
//! - Nothing here is waited for: neither the disk nor a lock that is held for longer than a moment.

mod collections;
mod cores;
mod node;
mod process;

use std::sync::Arc;

use hyper::header::HeaderValue;
use larder_types::prometheus::Text;

pub(crate) use self::cores::CoreMeter;
use crate::core::Shared;

/// The media type of the text.
pub(crate) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// What the metrics are made of. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Shared>);

impl Metrics {
    pub(crate) fn of(shared: &Arc<Shared>) -> Self {
        Self(Arc::clone(shared))
    }

    /// All metrics of now. Takes milliseconds where there are many collections and shards.
    pub(crate) fn render(&self) -> String {
        let Self(shared) = self;
        let status = shared.node.status();
        let mut text = Text::default();
        process::write(&mut text);
        cores::write(&mut text, &shared.meters, shared.connections());
        node::write_memory(&mut text, &status);
        node::write_log(&mut text, &status.log);
        node::write_snapshots(&mut text, &status);
        node::write_groups(&mut text, &status);
        collections::write(&mut text, &shared.node);
        text.finish()
    }
}
