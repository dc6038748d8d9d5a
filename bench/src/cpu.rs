//! Processor time of processes, from the kernel's own accounts.
//!
//! `/proc/<pid>/task/<tid>/schedstat` counts nanoseconds on a processor for each thread. A thread that ends between two
//! readings takes its time with it, so readings suit servers whose threads live long.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Processor time of threads at one moment, in nanoseconds by process and thread id.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading(BTreeMap<(u32, u32), u64>);

impl Reading {
    /// Reads all threads of `pids`. `None` when there is no such process or the kernel keeps no such account.
    pub(crate) fn of(pids: &[u32]) -> Option<Self> {
        let mut threads = BTreeMap::new();
        for &pid in pids {
            for entry in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
                let thread = entry.file_name().to_str().and_then(|name| name.parse().ok());
                // A thread may end between the listing and here; it is then as if it had ended before.
                if let (Some(thread), Some(nanos)) = (thread, nanos_in(&entry.path().join("schedstat"))) {
                    threads.insert((pid, thread), nanos);
                }
            }
        }
        (!threads.is_empty()).then_some(Self(threads))
    }

    /// Reads the calling thread alone.
    pub(crate) fn of_this_thread() -> Option<Self> {
        let nanos = nanos_in(Path::new("/proc/thread-self/schedstat"))?;
        Some(Self(BTreeMap::from([((0, 0), nanos)])))
    }

    /// Processor time between an earlier reading and this one. Threads that are new count from their beginning.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        let nanos = self.0.iter().map(|(thread, nanos)| {
            let before = earlier.0.get(thread).copied().unwrap_or_default();
            nanos.saturating_sub(before)
        });
        Duration::from_nanos(nanos.sum())
    }
}

fn nanos_in(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_in_the_account() {
        let own = [std::process::id()];
        let (process, thread) = (Reading::of(&own).unwrap(), Reading::of_this_thread().unwrap());
        let enough = Duration::from_millis(5);
        let mut sum = 0_u64;
        loop {
            for number in 0..100_000_u64 {
                sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(number));
            }
            let in_thread = Reading::of_this_thread().unwrap().since(&thread);
            if in_thread >= enough && Reading::of(&own).unwrap().since(&process) >= enough {
                break;
            }
        }
    }

    #[test]
    fn only_time_between_the_readings_counts() {
        let earlier = Reading(BTreeMap::from([((1, 1), 500), ((1, 2), 70)]));
        let later = Reading(BTreeMap::from([((1, 1), 800), ((1, 3), 5)]));
        assert_eq!(later.since(&earlier), Duration::from_nanos(305));
        assert!(Reading::of(&[u32::MAX]).is_none());
    }
}
