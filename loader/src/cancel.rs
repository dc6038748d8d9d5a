//! Cancelling: how whoever asked for a run tells it to stop.
//!
//! A [`Cancel`] is a cheap handle on one decision that is made once and never taken back. Threads look at it between
//! two steps, tasks wait for it, and what can only be stopped from outside (a query, a worker process) leaves a hook.
//! A child is cancelled with its parent and not the other way round: one parent stands for a command or a daemon, and
//! each of its runs has a child.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;

/// Why a run is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Somebody asked for it.
    Asked,
    /// It ran into its time limit.
    TimeLimit,
    /// This process is to end.
    Ending,
}

/// Whether, and why, something is to stop. Cheap to clone; clones are the same decision.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    why: watch::Sender<Option<Why>>,
    hooks: Mutex<Hooks>,
    /// Ties a child to its parent for as long as the child lives.
    _parent: Option<Hook>,
}

impl Default for Inner {
    fn default() -> Self {
        Self { why: watch::Sender::new(None), hooks: Mutex::default(), _parent: None }
    }
}

type Action = Box<dyn FnOnce(Why) + Send>;

#[derive(Default)]
struct Hooks {
    next: u64,
    actions: BTreeMap<u64, Action>,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} hooks", self.actions.len())
    }
}

/// Keeps an action in place; dropped, it takes the action away again.
#[derive(Debug)]
#[must_use = "the action is taken away when this is dropped"]
pub struct Hook {
    cancel: Weak<Inner>,
    number: u64,
}

impl Drop for Hook {
    fn drop(&mut self) {
        if let Some(inner) = self.cancel.upgrade() {
            // Dropped once the lock is free: what it holds may have hooks of its own.
            let action = inner.hooks().actions.remove(&self.number);
            drop(action);
        }
    }
}

impl Inner {
    /// The hooks, also if an action panicked: the map itself is whole.
    fn hooks(&self) -> MutexGuard<'_, Hooks> {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cancel {
    /// A decision of its own that this one, too, brings about.
    #[must_use]
    pub fn child(&self) -> Self {
        let mut why = None;
        let child = Arc::new_cyclic(|child: &Weak<Inner>| {
            let child = child.clone();
            let hook = self.hook(move |reason| {
                if let Some(inner) = child.upgrade() {
                    Self(inner).cancel(reason);
                }
            });
            why = self.why();
            Inner { _parent: Some(hook), ..Inner::default() }
        });
        let child = Self(child);
        // The parent may have been cancelled before there was a child to tell.
        if let Some(why) = why.or_else(|| self.why()) {
            child.cancel(why);
        }
        child
    }

    /// Decides. Only the first reason counts.
    pub fn cancel(&self, why: Why) {
        let is_first = self.0.why.send_if_modified(|decided| {
            let is_first = decided.is_none();
            if is_first {
                *decided = Some(why);
            }
            is_first
        });
        if is_first {
            let actions = std::mem::take(&mut self.0.hooks().actions);
            actions.into_values().for_each(|action| action(why));
        }
    }

    /// The reason, once it is decided.
    #[must_use]
    pub fn why(&self) -> Option<Why> {
        *self.0.why.borrow()
    }

    /// Waits for the decision.
    pub async fn cancelled(&self) -> Why {
        let mut decided = self.0.why.subscribe();
        match decided.wait_for(Option::is_some).await.map(|why| *why) {
            Ok(Some(why)) => why,
            // The other end lives as long as `self`.
            _ => std::future::pending().await,
        }
    }

    /// Has `action` done at the decision, on the thread that decides: it must return soon. Done at once if it is late.
    pub fn hook(&self, action: impl FnOnce(Why) + Send + 'static) -> Hook {
        let mut hooks = self.0.hooks();
        let number = hooks.next;
        hooks.next += 1;
        match self.why() {
            Some(why) => {
                drop(hooks);
                action(why);
            }
            None => drop(hooks.actions.insert(number, Box::new(action))),
        }
        Hook { cancel: Arc::downgrade(&self.0), number }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn the_first_reason_counts_and_reaches_children_but_not_parents() {
        let parent = Cancel::default();
        let (one, two) = (parent.child(), parent.child());
        one.cancel(Why::TimeLimit);
        assert_eq!((one.why(), two.why(), parent.why()), (Some(Why::TimeLimit), None, None));
        parent.cancel(Why::Ending);
        parent.cancel(Why::Asked);
        assert_eq!((one.why(), two.why()), (Some(Why::TimeLimit), Some(Why::Ending)));
        assert_eq!(parent.child().why(), Some(Why::Ending), "a child of the cancelled is cancelled");
    }

    #[test]
    fn an_action_is_done_once_unless_it_was_taken_away() {
        let done = Arc::new(AtomicU32::new(0));
        let count = |cancel: &Cancel| {
            let done = Arc::clone(&done);
            cancel.hook(move |_| {
                done.fetch_add(1, Ordering::Relaxed);
            })
        };
        let cancel = Cancel::default();
        let kept = count(&cancel);
        drop(count(&cancel));
        cancel.cancel(Why::Asked);
        cancel.cancel(Why::Asked);
        assert_eq!(done.load(Ordering::Relaxed), 1);
        let late = count(&cancel);
        assert_eq!(done.load(Ordering::Relaxed), 2);
        drop((kept, late));
    }

    #[test]
    fn tasks_wait_for_the_decision() {
        let cancel = Cancel::default();
        let waiting = cancel.clone();
        let task = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(waiting.cancelled())
        });
        cancel.cancel(Why::Asked);
        assert_eq!(task.join().unwrap(), Why::Asked);
    }
}
