//! The request log: what each attempt to send a batch was and how it ended, for whoever asks later what happened.

use std::time::Duration;

use jiff::Timestamp;

use super::batch::Batch;

/// One attempt to send a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt<'a> {
    pub(crate) batch: &'a Batch,
    /// From 1.
    pub(crate) number: u32,
    pub(crate) at: Timestamp,
    pub(crate) latency: Duration,
    /// The HTTP status, if there was an answer.
    pub(crate) status: Option<u16>,
    /// The cluster's word for what is wrong.
    pub(crate) code: Option<&'a str>,
    /// What went wrong, in words without values.
    pub(crate) error: Option<&'a str>,
    /// Rows that were rejected.
    pub(crate) rejected: u64,
    /// Batches that are in flight beside this one.
    pub(crate) in_flight: u64,
}

/// Takes attempts in. Called between two batches: must return at once, and cannot fail.
pub(crate) trait RequestLog: Sync {
    /// Notes an attempt down.
    fn note(&self, attempt: &Attempt<'_>);
}
