//! Work that may wait for the disk or take long: it gets a thread on which that does no harm.
//!
//! In a simulation there is one thread, and such work takes the time that the simulated machine takes for it.

use tokio::task::JoinHandle;

/// The cores of the machine.
pub(crate) fn cores() -> usize {
    #[cfg(test)]
    if crate::simulated::is_on() {
        return 2;
    }
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Does work where it may block.
pub(crate) fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    #[cfg(test)]
    if crate::simulated::is_on() {
        return crate::simulated::work(work);
    }
    tokio::task::spawn_blocking(work)
}
