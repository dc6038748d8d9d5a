//! An alarm clock finer than the runtime's timer, which ticks in milliseconds.
//!
//! A generator that can only wake once a millisecond sends in bursts and adds a millisecond to every latency it shows.
//! A kernel timer on a file descriptor wakes within some tens of microseconds, without spinning.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One reusable alarm.
#[derive(Debug)]
pub(crate) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// Makes an alarm on the current runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[allow(
            deprecated,
            reason = "deprecated for types whose descriptor may change or close under the runtime; an OwnedFd's cannot, \
                      and the replacement would put unsafe code into a program that needs none"
        )]
        Ok(Self(AsyncFd::with_interest(timer, Interest::READABLE)?))
    }

    /// Waits until `due`; returns at once if that is past.
    pub(crate) async fn wait_until(&self, due: Instant) -> io::Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once_after(left))?;
        let mut expirations = [0; 8];
        self.0
            .async_io(Interest::READABLE, |timer| Ok(rustix::io::read(timer, &mut expirations)?))
            .await
            .map(|_eight_bytes| ())
    }
}

fn once_after(left: Duration) -> Itimerspec {
    let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
    Itimerspec {
        it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: Timespec { tv_sec: seconds, tv_nsec: left.subsec_nanos().into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_alarm_never_rings_early() {
        let alarm = Alarm::new().unwrap();
        for micros in [0, 1, 50, 3000, 10] {
            let due = Instant::now() + Duration::from_micros(micros);
            alarm.wait_until(due).await.unwrap();
            assert!(Instant::now() >= due, "{micros} us");
        }
    }
}
