//! A log without a thread of its own: whoever simulates time lets it write, one round at a time.
//!
//! What the writer does is the same; only when is decided elsewhere. Between two rounds what was handed over is readable
//! and not on disk, as it is while a real disk is busy.

use std::fmt;
use std::sync::{Arc, Mutex};

use super::lock;
use super::writer::Writer;

/// Who writes a log.
#[derive(Debug, Clone, Default)]
pub enum LogWriter {
    /// A thread of the log's own.
    #[default]
    Thread,
    /// Whoever holds these steps. For simulations: callers never wait for the queue to have room.
    Steps(LogSteps),
}

/// The writer of one log, to be stepped. Cheap to clone.
#[derive(Clone)]
pub struct LogSteps {
    writer: Arc<Mutex<Option<Writer>>>,
    due: Arc<dyn Fn() + Send + Sync>,
}

impl LogSteps {
    /// Steps for a log that is still to be opened. `due` is called whenever there is something to write: it must be
    /// quick and must not step.
    #[must_use]
    pub fn new(due: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self { writer: Arc::default(), due }
    }

    /// Writes what is queued, syncs it and tells who waits, as far as one round of the writer goes. Returns whether the
    /// log goes on: it does not once it was closed or has failed.
    pub fn step(&self) -> bool {
        let mut writer = lock(&self.writer);
        let goes_on = writer.as_mut().is_some_and(Writer::step);
        if !goes_on {
            // Whoever is still queued hears of the end.
            let ended = writer.take();
            drop(writer);
            drop(ended);
        }
        goes_on
    }

    /// Ends the log where it stands, as a crash does: nothing more is written.
    pub fn cut(&self) {
        let cut = lock(&self.writer).take();
        drop(cut);
    }

    /// Whether nothing is written any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        lock(&self.writer).is_none()
    }

    pub(super) fn open(&self, writer: Writer) {
        *lock(&self.writer) = Some(writer);
    }

    pub(super) fn tell(&self) {
        (self.due)();
    }
}

impl fmt::Debug for LogSteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogSteps")
    }
}
