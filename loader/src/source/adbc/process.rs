//! The loader's end of a worker: it starts the process, sends the request, reads frames within time limits, and sees to
//! it that the process is gone when nobody wants it any more.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::fault::redact;
use super::request::Request;
use crate::cancel::Cancel;
use crate::source::CANCEL_POLL;

/// The hidden command by which the loader starts itself as a worker.
pub(crate) const COMMAND: &str = "source-worker";

/// How long a worker that has said its last word may take to log out.
const LOGOUT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(2);
/// Longest line of what a driver prints that is passed on in one piece, in bytes.
const MAX_LINE: u64 = 64 * 1024;

/// A worker. Dropping it ends the process and collects it.
pub(super) struct Worker {
    child: Child,
    /// Open as long as the worker is wanted: when it closes, the worker kills itself.
    input: ChildStdin,
    output: ChildStdout,
    /// How long reading may wait for the worker.
    limit: Duration,
    /// Who may tell reading not to wait any more.
    cancel: Cancel,
    /// True once a wait was longer than that.
    expired: bool,
    /// True once the worker has said that it is done.
    finished: bool,
}

impl Worker {
    /// Starts this program as a worker in a folder and sends it the request. `secrets` are kept out of the log.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(super) fn start(request: &Request, folder: &Path, secrets: Vec<String>) -> io::Result<Self> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let mut command = Command::new(program()?);
        command.arg0("larder-loader").arg(COMMAND).current_dir(folder);
        // What is typed at a terminal (Ctrl-C) is for the loader, which then ends its workers itself.
        command.process_group(0);
        let mut worker = Self::spawn(command, secrets)?;
        // A worker that is gone already has left its reason in the other pipe.
        drop(worker.input.write_all(&line));
        Ok(worker)
    }

    /// Starts a program whose output is that of a worker.
    pub(super) fn spawn(mut command: Command, secrets: Vec<String>) -> io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (input, output, printed) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(printed)) = (input, output, printed) else {
            return Err(io::Error::other("a pipe is missing"));
        };
        let limit = Duration::MAX;
        let worker = Self { child, input, output, limit, cancel: Cancel::default(), expired: false, finished: false };
        std::thread::Builder::new().name("worker log".to_owned()).spawn(move || log(printed, &secrets))?;
        Ok(worker)
    }

    /// Sets how long each wait for the worker may be from now on.
    pub(super) fn limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Sets who may end every wait.
    pub(super) fn cancelled_by(&mut self, cancel: &Cancel) {
        self.cancel = cancel.clone();
    }

    /// Whether waits have been ended.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.why().is_some()
    }

    /// Whether a wait was longer than its limit.
    pub(super) fn has_expired(&self) -> bool {
        self.expired
    }

    /// Notes that the worker has nothing more to say, so that it may log out.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    /// What ended a process that has ended without a word, in words.
    pub(super) fn death(&mut self) -> String {
        let kill = self.child.kill();
        match self.child.wait() {
            Ok(status) => format!("the driver's process ended before its time ({status})"),
            Err(error) => format!("the driver's process is lost: {}", kill.err().unwrap_or(error)),
        }
    }
}

impl Read for Worker {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let deadline = Instant::now().checked_add(self.limit);
        loop {
            let left = deadline.map_or(CANCEL_POLL, |deadline| deadline.saturating_duration_since(Instant::now()));
            let wait = Timespec::try_from(left.min(CANCEL_POLL)).map_err(io::Error::other)?;
            let mut fds = [PollFd::new(&self.output, PollFlags::IN)];
            match poll(&mut fds, Some(&wait)) {
                Ok(0) if self.is_cancelled() => return Err(io::Error::other("nobody waits for it any more")),
                Ok(0) if left.is_zero() => {
                    self.expired = true;
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return self.output.read(buffer),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.finished {
            let deadline = Instant::now() + LOGOUT;
            while Instant::now() < deadline {
                if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                    return;
                }
                std::thread::sleep(POLL);
            }
        }
        // An error means that the process is gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// This program, also if its file was replaced since it started. In the tests of this crate, which are programs of
/// their own, the one that was built beside them.
fn program() -> io::Result<PathBuf> {
    let this = std::env::current_exe()?;
    if cfg!(test) {
        let built = this.ancestors().nth(2).map(|folder| folder.join("larder-loader")).unwrap_or_default();
        let missing = || io::Error::other(format!("{} was not built", built.display()));
        return if built.is_file() { Ok(built) } else { Err(missing()) };
    }
    Ok(if cfg!(target_os = "linux") { PathBuf::from("/proc/self/exe") } else { this })
}

/// Passes on what the driver prints, to those who look closely: by the line, as a piece of one may end in a secret.
fn log(printed: impl Read, secrets: &[String]) {
    let mut printed = BufReader::new(printed);
    let mut line = Vec::new();
    while let Ok(1..) = (&mut printed).take(MAX_LINE).read_until(b'\n', &mut line) {
        let text = String::from_utf8_lossy(&line);
        tracing::debug!("driver: {}", redact(text.trim_end(), secrets));
        line.clear();
    }
}
