//! A value that one thread replaces while others read it.
//!
//! Invariant: what was replaced is dropped only when every thread that was pinned at that time has let go, so a
//! reference is valid for as long as the guard under which it was taken.

#![allow(unsafe_code, reason = "references into memory that the epoch keeps")]

use std::sync::atomic::Ordering;

use crossbeam_epoch::{Atomic, Guard, Owned};

/// The cell.
pub(crate) struct Published<T>(Atomic<T>);

impl<T: Send + Sync + 'static> Published<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Atomic::new(value))
    }

    /// The value of now.
    pub(crate) fn load<'g>(&'g self, guard: &'g Guard) -> &'g T {
        // Acquire pairs with the Release in `replace`: the value was complete before.
        let value = self.0.load(Ordering::Acquire, guard);
        // SAFETY: the pointer is never null, and what it points to is retired through the epoch only, or dropped with
        // the cell, which the reference keeps borrowed.
        unsafe { value.deref() }
    }

    /// Puts another value in place of the present one.
    pub(crate) fn replace(&self, value: T) {
        let guard = crossbeam_epoch::pin();
        let old = self.0.swap(Owned::new(value), Ordering::AcqRel, &guard);
        // SAFETY: the value is out of reach for threads that pin themselves from now on, and is retired once, by the
        // one swap that took it out.
        unsafe { guard.defer_destroy(old) };
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        let last = std::mem::replace(&mut self.0, Atomic::null());
        // SAFETY: nobody else has the cell any more, so nobody has a reference into it.
        drop(unsafe { last.try_into_owned() });
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn the_old_value_lives_as_long_as_a_guard_from_before() {
        let cell = Published::new(String::from("old"));
        let guard = crossbeam_epoch::pin();
        let old = cell.load(&guard);
        cell.replace(String::from("new"));
        assert_eq!((old.as_str(), cell.load(&guard).as_str()), ("old", "new"));
    }
}
