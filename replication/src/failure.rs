//! The latch that stops a node.
//!
//! Some things a node must not live on after: a failed fsync, bytes that cannot be what was written, a panic in a task
//! that nobody awaits. The first of them is kept, told to whoever waits, and never taken back.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

/// Whether and why a node failed. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    reason: Arc<watch::Sender<Option<String>>>,
}

impl Failure {
    /// Nothing has failed yet.
    pub(crate) fn new() -> Self {
        Self { reason: Arc::new(watch::Sender::new(None)) }
    }

    /// Notes a failure, unless one was noted before.
    pub(crate) fn fail(&self, reason: impl Into<String>) {
        self.reason.send_if_modified(|noted| {
            if noted.is_some() {
                return false;
            }
            let reason = reason.into();
            tracing::error!(reason, "this node can go on no longer");
            *noted = Some(reason);
            true
        });
    }

    /// The reason, if something has failed.
    pub(crate) fn reason(&self) -> Option<String> {
        self.reason.borrow().clone()
    }

    /// Waits until something has failed.
    pub(crate) async fn wait(&self) -> String {
        let mut reasons = self.reason.subscribe();
        loop {
            if let Some(reason) = reasons.borrow_and_update().clone() {
                return reason;
            }
            // The sender lives as long as `self`, so this ends only with a change.
            if reasons.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Runs a task that must not die unnoticed: its panic is a failure.
    pub(crate) fn watch(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.watch_handle(name, tokio::spawn(task));
    }

    /// The same for a task that is to be stopped some day.
    pub(crate) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> Watched {
        let task = tokio::spawn(task);
        Watched { abort: task.abort_handle(), watcher: self.watch_handle(name, task) }
    }

    fn watch_handle(&self, name: &'static str, task: JoinHandle<()>) -> JoinHandle<()> {
        let failure = self.clone();
        tokio::spawn(async move {
            if let Err(error) = task.await
                && error.is_panic()
            {
                failure.fail(format!("a panic in the task `{name}`: see the log before this"));
            }
        })
    }
}

/// A background task; dropping this stops it.
#[derive(Debug)]
pub(crate) struct Watched {
    abort: AbortHandle,
    watcher: JoinHandle<()>,
}

impl Watched {
    /// Stops the task and waits until it is gone.
    pub(crate) async fn stop(mut self) {
        self.abort.abort();
        // The watcher does not panic, and nobody aborts it.
        let _ = (&mut self.watcher).await;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_is_kept() {
        let failure = Failure::new();
        assert_eq!(failure.reason(), None);
        failure.fail("one");
        failure.fail("two");
        assert_eq!(failure.wait().await, "one");
        assert_eq!(failure.reason().as_deref(), Some("one"));
    }

    #[tokio::test]
    async fn a_panic_in_a_task_is_a_failure() {
        let failure = Failure::new();
        let waiting = tokio::spawn({
            let failure = failure.clone();
            async move { failure.wait().await }
        });
        let _task = failure.spawn("test", async { panic!("on purpose") });
        assert!(waiting.await.unwrap().contains("`test`"));
    }

    #[tokio::test]
    async fn a_stopped_task_is_no_failure() {
        let failure = Failure::new();
        failure.spawn("test", std::future::pending()).stop().await;
        assert_eq!(failure.reason(), None);
    }
}
