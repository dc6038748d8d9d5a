//! Keeping server and generator off each other's processor.
//!
//! A child inherits the processors of the thread that starts it. So a server is pinned by pinning this thread first,
//! starting the server, and then moving this thread away: no thread of the server ever ran elsewhere.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// One processor for servers, another for the generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Split {
    /// Where servers run.
    pub(crate) server: usize,
    /// Where the generator runs.
    pub(crate) generator: usize,
}

impl Split {
    /// The first two processors that this thread may use; `None` when there is only one.
    pub(crate) fn find() -> io::Result<Option<Self>> {
        let allowed = sched_getaffinity(None)?;
        let mut processors = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
        Ok(match (processors.next(), processors.next()) {
            (Some(server), Some(generator)) => Some(Self { server, generator }),
            _ => None,
        })
    }
}

/// Pins the calling thread, and whatever it starts from now on, to one processor.
pub(crate) fn pin(processor: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinning_leaves_one_processor() {
        // On a thread of its own, so that the other tests keep all processors.
        std::thread::spawn(|| {
            let Some(split) = Split::find().unwrap() else { return };
            assert_ne!(split.server, split.generator);
            pin(split.generator).unwrap();
            let left = sched_getaffinity(None).unwrap();
            assert_eq!(left.count(), 1);
            assert!(left.is_set(split.generator));
            assert_eq!(Split::find().unwrap(), None, "one processor cannot be split");
        })
        .join()
        .unwrap();
    }
}
