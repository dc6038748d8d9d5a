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
    runtime.block_on(async {
        let failed = |source| ServeError::Listen { address, source };
        let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
        let mut signals = Signals::new()?;
        let daemon = Arc::new(Daemon::new(root, project)?);
        let scheduler = scheduler::start(&daemon)?;
        listening(listener.local_addr().map_err(failed)?);
        let http = tokio::spawn(http::serve(listener, Arc::clone(&daemon)));
        stop(&daemon, &mut signals).await;
        // Whoever asks meanwhile hears that it is stopping.
        let ended = tokio::task::spawn_blocking(move || scheduler.join());
        let is_sound = matches!(ended.await, Ok(Ok(())));
        http.abort();
        drop(tokio::task::spawn_blocking(move || daemon.observing().finish(SEND_WITHIN)).await);
        if is_sound { Ok(()) } else { Err(ServeError::Panicked) }
    })
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

/// Waits for the end and brings it about: no run begins any more, and those under way end or are cancelled.
async fn stop(daemon: &Arc<Daemon>, signals: &mut Signals) {
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
    let within = daemon.project().serve.stop_within;
    tracing::info!("stopping; runs may go on for {within:?}");
    daemon.stop();
    tokio::select! {
        () = daemon.idle() => return,
        () = tokio::time::sleep(within) => {}
        () = signals.end() => {}
    }
    daemon.cancel_all(Why::Ending);
    if tokio::time::timeout(CANCEL_WITHIN, daemon.idle()).await.is_err() {
        tracing::warn!("runs are cut off, as they do not end; the next loader makes them again");
    }
}
