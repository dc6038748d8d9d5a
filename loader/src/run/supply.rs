//! The supply: where the destinations of a run wait for the rows that are read once for all of them.
//!
//! The query is asked as soon as one destination is known to be there, so that a cluster which is away delays nobody
//! else; if none is there it is not asked at all. Whoever gives up, even by a panic, says so, so that nobody waits for
//! ever.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::planned::Planned;
use super::reading::Taken;
use super::stop::Stop;
use crate::mapping::Mapping;

/// What every destination starts from.
#[derive(Clone)]
pub(super) struct Supplied {
    pub(super) mapping: Arc<Mapping>,
    pub(super) rows: Rows,
}

/// The rows of a run.
#[derive(Clone)]
pub(super) enum Rows {
    /// They were read.
    Taken(Taken),
    /// They are in the warehouse, where each destination reads what it needs.
    Planned(Arc<Planned>),
}

pub(super) struct Supply {
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    /// Destinations of which it is not known yet whether they are there.
    unsure: usize,
    /// Destinations that wait for rows, or will.
    there: usize,
    /// One of them needs all rows.
    all: bool,
    rows: Option<Result<Supplied, Stop>>,
}

/// A destination's promise to say whether it is there.
pub(super) struct Greeting<'a>(&'a Supply);

/// The reader's promise to say what it has read.
pub(super) struct Reader<'a>(&'a Supply);

impl Supply {
    pub(super) fn new(destinations: usize) -> Self {
        let inner = Inner { unsure: destinations, there: 0, all: false, rows: None };
        Self { inner: Mutex::new(inner), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each destination takes one before it looks at its cluster.
    pub(super) fn greeting(&self) -> Greeting<'_> {
        Greeting(self)
    }

    /// Waits until a destination is there. `None` if none is.
    pub(super) fn reader(&self) -> Option<Reader<'_>> {
        let undecided = |inner: &mut Inner| inner.there == 0 && inner.unsure > 0;
        let inner = self.changed.wait_while(self.lock(), undecided).unwrap_or_else(PoisonError::into_inner);
        // Lazily: a reader that is dropped says that it died.
        (inner.there > 0).then(|| Reader(self))
    }
}

impl Greeting<'_> {
    /// The destination is there, and perhaps needs `all` rows: waits for the rows.
    pub(super) fn wait(self, all: bool) -> Result<Supplied, Stop> {
        let supply = self.0;
        let mut inner = supply.lock();
        inner.there += 1;
        inner.all |= all;
        drop(inner);
        drop(self);
        let inner = supply.changed.wait_while(supply.lock(), |inner| inner.rows.is_none());
        let mut inner = inner.unwrap_or_else(PoisonError::into_inner);
        inner.there -= 1;
        let is_last = inner.there == 0 && inner.unsure == 0;
        // The last one gets the rows for itself, so that it can free them as it goes.
        let rows = if is_last { inner.rows.take() } else { inner.rows.clone() };
        rows.unwrap_or_else(|| Err(Stop::Failed("the rows were given away".to_owned())))
    }
}

impl Drop for Greeting<'_> {
    fn drop(&mut self) {
        self.0.lock().unsure -= 1;
        self.0.changed.notify_all();
    }
}

impl Reader<'_> {
    /// Whether a destination that is there needs all rows.
    pub(super) fn needs_all(&self) -> bool {
        self.0.lock().all
    }

    /// Hands the rows out.
    pub(super) fn supply(self, rows: Result<Supplied, Stop>) {
        self.0.lock().rows = Some(rows);
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let died = || Err(Stop::Failed("the thread that reads rows panicked".to_owned()));
        self.0.lock().rows.get_or_insert_with(died);
        self.0.changed.notify_all();
    }
}
