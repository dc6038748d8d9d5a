//! What a simulation decides in place of the machine: chance, and when work is done that elsewhere has its own threads.
//!
//! A simulation runs on one thread, under tokio's paused clock: when nothing is left to do, time jumps to the next timer.
//! Together with chance from one seed that makes a run a function of its seed. Tests that are no simulations are not
//! touched: what is here applies to the thread that has called [`begin`].

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use futures_util::FutureExt;
use openraft::impls::TokioRuntime;
use openraft::rt::AsyncRuntime;
use openraft::rt::deterministic_rng::DeterministicRng;
use openraft_rt_sim::SimWatch;
use tokio::task::JoinHandle;

type Chance = DeterministicRng<TokioRuntime>;

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Makes the calling thread a simulation's.
pub(crate) fn begin(seed: u64) {
    STATE.set(Some(seed));
}

/// Whether the calling thread is a simulation's.
pub(crate) fn is_on() -> bool {
    STATE.get().is_some()
}

/// A number of chance. The whole run shares one sequence.
pub(crate) fn chance() -> u64 {
    let state = STATE.get().unwrap_or_else(|| RandomState::new().hash_one(0)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    if is_on() {
        STATE.set(Some(state));
    }
    // SplitMix64's way of making a sequence that counts into one that does not show it.
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A number below `end`.
pub(crate) fn below(end: u64) -> u64 {
    chance() % end.max(1)
}

/// One of several; there must be one.
pub(crate) fn one_of<T>(all: &[T]) -> &T {
    let at = usize::try_from(below(all.len() as u64)).unwrap_or_default();
    &all[at]
}

/// Whether something happens that does so many times in a thousand.
pub(crate) fn happens(per_mille: u64) -> bool {
    below(1000) < per_mille
}

/// A pause of up to so many microseconds.
pub(crate) fn pause(up_to_micros: u64) -> Duration {
    Duration::from_micros(below(up_to_micros))
}

/// Does work as a thread would that has other things to do, too.
pub(crate) fn work<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(async move {
        tokio::time::sleep(pause(20_000)).await;
        work()
    })
}

/// Tokio's, but for chance: its watch channels wake who waits in an order that differs from run to run.
#[derive(Debug)]
pub(crate) struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + Send> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Chance as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = SimWatch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        let seeded = Chance::scope(chance(), async { Chance::thread_rng() });
        seeded.now_or_never().expect("it waits for nothing")
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        self.0.block_on(future)
    }
}
