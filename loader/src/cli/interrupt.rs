//! Ctrl-C and SIGTERM: the first asks the runs of this process to stop, which keeps what was acknowledged; the second
//! ends the process at once, which is as safe and costs the next run a little more.

use std::sync::mpsc::sync_channel;

use tokio::signal::unix::{SignalKind, signal};

use super::output::complain;
use crate::cancel::{Cancel, Why};

/// What a shell expects of a process that was interrupted.
const INTERRUPTED: i32 = 130;

/// Has signals cancel what the returned handle is given to, from now on. A process that gets no signal handler is ended by
/// signals as any other.
pub(super) fn cancelled_by_signals() -> Cancel {
    let cancel = Cancel::default();
    let cancelled = cancel.clone();
    let (ready, is_ready) = sync_channel::<()>(0);
    drop(std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            drop(ready);
            for is_first in [true, false] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if is_first {
                    complain("stopping; once more to stop at once");
                    cancelled.cancel(Why::Ending);
                }
            }
            std::process::exit(INTERRUPTED);
        });
    }));
    // Ends once the handlers are in place, or the thread that was to put them there is gone.
    let _: Result<(), _> = is_ready.recv();
    cancel
}
