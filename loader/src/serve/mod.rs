//! The daemon: runs syncs by their schedules and answers an HTTP API.
//!
//! One thread decides (module [`scheduler`]), each run has a thread, and one runtime serves HTTP (module [`http`]). What
//! they share is a [`Daemon`]. All that must survive is in the state database; the daemon may be killed at any moment.

mod access;
mod answer;
mod api;
mod daemon;
mod http;
mod scheduler;
pub(crate) mod view;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use self::daemon::Daemon;
use crate::cancel::Why;
use crate::project::Project;
use crate::state::StateError;

/// How long cancelled runs may take to end. What is not done then is done as after a crash.
const CANCEL_WITHIN: Duration = Duration::from_secs(30);
/// How often they are told.
const CANCEL_AGAIN: Duration = Duration::from_secs(1);

/// How long notices and events that wait to be sent hold up the end. The next loader sends notices that are left.
const SEND_WITHIN: Duration = Duration::from_secs(10);

/// Why the daemon cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The address.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The state folder. The text is whole.
    #[error("{0}")]
    State(String),
    /// A fault of the loader.
    #[error("the scheduler has panicked; runs that were under way are made again by the next loader")]
    Panicked,
    /// The system gave no thread, runtime or signal handler.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

impl From<StateError> for ServeError {
    fn from(error: StateError) -> Self {
        Self::State(error.to_string())
    }
}

/// Serves until the process is told to end (SIGTERM, SIGINT); then runs may go on for `stop_within` before they are
/// cancelled, at once with a second signal. SIGHUP loads the project again. `listening` is told the address, with the
/// port that was given for port 0.
///
/// # Errors
/// When it cannot begin; see [`ServeError`].
pub(crate) fn serve(
    root: &Path,
    project: Project,
    listen: Option<SocketAddr>,
    listening: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let address = listen.unwrap_or(project.serve.listen);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let failed = |source| ServeError::Listen { address, source };
        let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
        let mut signals = Signals::new()?;
        let daemon = Arc::new(Daemon::new(root, project)?);
        let scheduler = scheduler::start(&daemon)?;
        listening(listener.local_addr().map_err(failed)?);
        let http = tokio::spawn(http::serve(listener, Arc::clone(&daemon)));
        asked_to_stop(&daemon, &mut signals).await;
        // Whoever asks meanwhile hears that it is stopping.
        let joined = tokio::task::spawn_blocking(move || scheduler.join());
        let within = daemon.project().serve.stop_within;
        let is_sound = wind_down(&daemon, async { matches!(joined.await, Ok(Ok(()))) }, within, signals.end()).await;
        http.abort();
        drop(tokio::task::spawn_blocking(move || daemon.observing().finish(SEND_WITHIN)).await);
        if is_sound { Ok(()) } else { Err(ServeError::Panicked) }
    });
    // Not dropped, which would wait for a thread that waits for a run that does not end.
    runtime.shutdown_background();
    served
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// To load the project again.
    Reload,
    /// To end.
    End,
}

/// The signals that the daemon obeys.
struct Signals {
    hangup: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
        }
    }

    /// Resolves when the process is told to end.
    async fn end(&mut self) {
        while self.next().await != Asked::End {}
    }
}

/// Waits until the process is told to end; then no run begins any more.
async fn asked_to_stop(daemon: &Arc<Daemon>, signals: &mut Signals) {
    loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Reload => {
                    let daemon = Arc::clone(daemon);
                    // Loading reads files; requests are answered meanwhile.
                    drop(tokio::task::spawn_blocking(move || daemon.reload()).await);
                }
                Asked::End => break,
            },
            () = daemon.failed() => break,
        }
    }
    daemon.stop();
}

/// Lets runs go on for a while or until that is `cut_short`, then cancels them, and in the end leaves them. Returns what
/// `scheduler` does when it ends, which it does once it has begun its last run and that has ended: whether it was sound.
async fn wind_down(
    daemon: &Daemon,
    scheduler: impl Future<Output = bool>,
    within: Duration,
    cut_short: impl Future<Output = ()>,
) -> bool {
    tracing::info!("stopping; runs may go on for {within:?}");
    let over = async {
        let is_sound = scheduler.await;
        daemon.idle().await;
        is_sound
    };
    tokio::pin!(over);
    tokio::select! {
        is_sound = &mut over => return is_sound,
        () = tokio::time::sleep(within) => {}
        () = cut_short => {}
    }
    let cancelling = async || -> Infallible {
        loop {
            // Again and again, as the scheduler may have been about to begin one.
            daemon.cancel_all(Why::Ending);
            tokio::time::sleep(CANCEL_AGAIN).await;
        }
    };
    let result = tokio::select! {
        result = tokio::time::timeout(CANCEL_WITHIN, over) => result,
        never = cancelling() => match never {},
    };
    result.unwrap_or_else(|_| {
        tracing::warn!("runs are cut off, as they do not end; the next loader makes them again");
        true
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use larder_types::names::SyncName;

    use super::*;
    use crate::cancel::Cancel;
    use crate::run::Trigger;
    use crate::schedule::book::{Ending, Request, Started, Ticket};

    fn daemon(folder: &Path) -> Daemon {
        let cluster = "cluster: {url: \"http://127.0.0.1:1\", key: k}\nstate: state\n";
        std::fs::write(folder.join("larder.yml"), cluster).unwrap();
        let project = Project::load(folder, None).unwrap_or_else(|problems| panic!("{problems}"));
        Daemon::new(folder, project).unwrap()
    }

    fn begin(daemon: &Daemon) -> (SyncName, Started, Cancel) {
        let due = Timestamp::now();
        let request = Request::default();
        let ticket = Ticket { run: "r".to_owned(), cause: Trigger::Api, request, due, failures: 0, vanished: 0 };
        let (sync, started, cancel) = (SyncName::new("s").unwrap(), Started { ticket, fence: 1 }, Cancel::default());
        daemon.began(&sync, &started, &cancel);
        (sync, started, cancel)
    }

    const WITHIN: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn runs_that_do_not_end_are_left() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = daemon(folder.path());
        let (_, _, cancel) = begin(&daemon);
        let began = tokio::time::Instant::now();
        assert!(wind_down(&daemon, std::future::pending(), WITHIN, std::future::pending()).await);
        assert_eq!(began.elapsed(), WITHIN + CANCEL_WITHIN);
        assert_eq!(cancel.why(), Some(Why::Ending));
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_begins_while_the_daemon_stops_is_waited_for_and_cancelled() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = daemon(folder.path());
        // The scheduler was deciding when it was told to stop, so no run was under way yet.
        let scheduler = async {
            tokio::time::sleep(WITHIN + CANCEL_AGAIN / 2).await;
            let (sync, started, cancel) = begin(&daemon);
            cancel.cancelled().await;
            daemon.ended(&sync, &started, Ending::Stopped);
            true
        };
        let began = tokio::time::Instant::now();
        assert!(wind_down(&daemon, scheduler, WITHIN, std::future::pending()).await);
        assert_eq!(began.elapsed(), WITHIN + CANCEL_AGAIN);
        assert!(!wind_down(&daemon, async { false }, WITHIN, std::future::pending()).await, "it has panicked");
    }
}
