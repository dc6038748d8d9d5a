//! The latch that stops the log for good at its first failure.
//!
//! Invariant: once set it never changes, and whoever asks the log for anything gets the same error. A failed sync must
//! not be tried again, since the kernel may have dropped what it could not write; the node has to stop and, started
//! again, find out what is on disk.

use std::io;
use std::sync::OnceLock;

use super::Done;

/// Set at most once.
#[derive(Default)]
pub(super) struct Failure(OnceLock<(io::ErrorKind, String)>);

impl Failure {
    /// Notes the failure. Returns whether it is the first one.
    pub(super) fn set(&self, error: &io::Error) -> bool {
        self.0.set((error.kind(), format!("the log takes nothing more: {error}"))).is_ok()
    }

    /// An error if the log has failed.
    pub(super) fn check(&self) -> io::Result<()> {
        match self.0.get() {
            Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
            None => Ok(()),
        }
    }
}

/// A caller who waits for the disk. Is told exactly once, whatever happens to the writer.
pub(super) struct Waiter(Option<Done>);

impl Waiter {
    pub(super) fn new(done: Done) -> Self {
        Self(Some(done))
    }

    pub(super) fn tell(mut self, result: io::Result<()>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(closed()));
        }
    }
}

/// The error of whoever comes too late.
pub(super) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed")
}
