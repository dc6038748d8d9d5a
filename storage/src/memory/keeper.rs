//! The keeper: a thread that gets memory ahead of use, and gives back what is no longer needed.
//!
//! It is there so that nobody else waits for the kernel: neither the writer, which would be held up for milliseconds by
//! each new region, nor a reader that happens to be the one who frees memory in the end.
//!
//! It starts when there is something to do for the first time, and then waits for more for as long as the process lives.

use std::sync::PoisonError;

use super::pool::{MAX_READY, Pool, State};

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chore {
    /// Make a region ready.
    Populate,
    /// Give a region's memory back.
    Release,
}

impl State {
    fn chore(&self) -> Option<Chore> {
        match self.ready.len() {
            ready if ready < self.ahead() => Some(Chore::Populate),
            ready if ready > MAX_READY => Some(Chore::Release),
            _ => None,
        }
    }
}

impl Pool {
    /// Wakes the keeper if there is something to do.
    pub(super) fn call_keeper(&'static self, state: &mut State) {
        if state.chore().is_none() {
            return;
        }
        if state.is_kept {
            self.work.notify_one();
            return;
        }
        match std::thread::Builder::new().name("memory".into()).spawn(|| self.keep()) {
            Ok(_) => state.is_kept = true,
            Err(error) => tracing::debug!(%error, "no thread to get memory ahead of use: it is got by whoever uses it"),
        }
    }

    fn keep(&self) -> ! {
        let mut state = self.lock();
        loop {
            let chore = state.chore();
            let region = match chore {
                Some(Chore::Populate) => state.bare(),
                Some(Chore::Release) => state.ready.pop(),
                None => None,
            };
            let (Some(chore), Some(mut region)) = (chore, region) else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            match chore {
                Chore::Populate => region.populate(),
                Chore::Release => region.release(),
            }
            state = self.lock();
            match chore {
                Chore::Populate => state.ready.push(region),
                Chore::Release => state.bare.push(region),
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::sync::MutexGuard;
    use std::time::{Duration, Instant};

    use super::super::pool::{Block, LENT_PER_AHEAD, MAX_AHEAD};
    use super::super::region::Region;
    use super::super::region::tests::backed;
    use super::*;

    /// Waits until a pool is as it should be.
    fn wait_for(pool: &'static Pool, is_done: impl Fn(&State) -> bool) -> MutexGuard<'static, State> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let state = pool.lock();
            if is_done(&state) {
                return state;
            }
            assert!(Instant::now() < deadline, "{} regions are ready, {} bare", state.ready.len(), state.bare.len());
            drop(state);
            std::thread::yield_now();
        }
    }

    /// Waits until the keeper of a pool has nothing left to do. Returns the number of ready regions.
    fn settled(pool: &'static Pool) -> usize {
        wait_for(pool, |state| state.chore().is_none()).ready.len()
    }

    fn take(pool: &'static Pool, regions: usize) -> Vec<Block> {
        (0..2 * regions).map(|_| pool.take()).collect()
    }

    #[test]
    fn memory_is_got_ahead_in_proportion_and_up_to_a_bound() {
        let pool = Box::leak(Box::new(Pool::new()));
        let mut blocks = take(pool, LENT_PER_AHEAD - 1);
        assert!(!pool.lock().is_kept, "a small process needs no keeper");
        assert_eq!(settled(pool), 0);
        blocks.extend(take(pool, 1));
        assert_eq!(settled(pool), 1);
        blocks.extend(take(pool, 3 * LENT_PER_AHEAD * MAX_AHEAD));
        assert_eq!(settled(pool), MAX_AHEAD);
        assert_eq!(pool.count().spare, 2 * MAX_AHEAD as u64);
    }

    #[test]
    fn what_is_no_longer_needed_goes_back_to_the_kernel() {
        let pool = Box::leak(Box::new(Pool::new()));
        let mut regions = Region::reserve().unwrap();
        regions.iter_mut().for_each(Region::populate);
        let all = regions.len();
        let mut state = pool.lock();
        state.ready = regions;
        pool.call_keeper(&mut state);
        drop(state);
        assert_eq!(settled(pool), MAX_READY);
        let state = wait_for(pool, |state| state.bare.len() == all - MAX_READY);
        assert!(state.ready.iter().all(|region| backed(region) > 0));
        assert!(state.bare.iter().all(|region| backed(region) == 0));
    }
}
