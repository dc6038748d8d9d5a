//! What happened in a run, as lines: their hash tells two runs apart, and the last of them tell what led to a violation.

use std::collections::VecDeque;
use std::fmt::{Debug, Display, Write};
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Lines that are kept.
const KEPT: usize = 400;

/// The story of a run. Cheap to clone.
#[derive(Clone)]
pub(super) struct Trace(Arc<Mutex<Told>>);

struct Told {
    began: Instant,
    hasher: DefaultHasher,
    last: VecDeque<String>,
    lines: u64,
    /// Whether every line is printed.
    aloud: bool,
}

impl Trace {
    pub(super) fn new(aloud: bool) -> Self {
        let (hasher, last) = (DefaultHasher::new(), VecDeque::new());
        Self(Arc::new(Mutex::new(Told { began: Instant::now(), hasher, last, lines: 0, aloud })))
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line.
    pub(super) fn add(&self, what: impl Display) {
        let mut told = self.lock();
        let line = told.note(what);
        if told.last.len() == KEPT {
            told.last.pop_front();
        }
        told.last.push_back(line);
    }

    /// Adds what is too much to be kept.
    pub(super) fn whisper(&self, what: impl Display) {
        self.lock().note(what);
    }

    /// A number that stands for the whole story.
    pub(super) fn hash(&self) -> u64 {
        self.lock().hasher.finish()
    }

    pub(super) fn lines(&self) -> u64 {
        self.lock().lines
    }

    /// The end of the story.
    pub(super) fn end(&self) -> String {
        self.lock().last.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

impl Told {
    fn note(&mut self, what: impl Display) -> String {
        let line = format!("{:>10.6} {what}", self.began.elapsed().as_secs_f64());
        self.hasher.write(line.as_bytes());
        self.lines += 1;
        if self.aloud {
            println!("{line}");
        }
        line
    }
}

/// Adds what nodes log.
pub(super) struct Listener(pub(super) Trace);

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::DEBUG && metadata.target().starts_with("larder")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("    {}", event.metadata().level()));
        event.record(&mut line);
        self.0.add(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string does not fail.
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}
