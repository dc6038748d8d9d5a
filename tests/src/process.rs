//! The binaries under test as child processes.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::http::Client;

/// The root key of every node that a test starts.
pub const ROOT_KEY: &str = "root-key-of-the-black-box-tests-0123456789";

/// Generous, because a debug build on a busy machine may take long to recover; a healthy one is ready far earlier.
const READY: Duration = Duration::from_secs(60);

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(5);

/// The path of a binary of this workspace.
///
/// # Errors
/// When it was not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let built = test.parent().and_then(Path::parent).context("the test is not in a target folder")?.join(name);
    if !built.is_file() {
        bail!("{} is missing: run `cargo build --workspace --bins` first", built.display());
    }
    Ok(built)
}

/// A node as a child process; killed when dropped.
pub struct Node {
    child: Child,
    lines: Receiver<String>,
    address: SocketAddr,
    dir: PathBuf,
}

impl Node {
    /// Starts a node on a free port and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready; the error holds what it has printed.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, free_address()?, &[])
    }

    /// Starts a node on this address with further arguments and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready; the error holds what it has printed.
    pub fn start_with(dir: &Path, address: SocketAddr, arguments: &[&str]) -> Result<Self> {
        let mut node = Self::spawn(dir, address, arguments)?;
        let client = node.client();
        let deadline = Instant::now() + READY;
        while !client.get("/readyz").is_ok_and(|answer| answer.status == 200) {
            if node.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("the node did not become ready; it printed:\n{}", node.output());
            }
            std::thread::sleep(POLL);
        }
        Ok(node)
    }

    /// Starts a node and does not wait.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn spawn(dir: &Path, address: SocketAddr, arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(binary("larder-server")?)
            .args(["start", "--data-dir"])
            .arg(dir)
            .args(["--listen", &address.to_string()])
            .args(arguments)
            .env("LARDER_ROOT_KEY", ROOT_KEY)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start larder-server")?;
        let stderr = child.stderr.take().context("no stderr")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines, address, dir: dir.to_owned() })
    }

    /// A client with the root key.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.address, ROOT_KEY)
    }

    /// `http://host:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has written to stderr since the last call.
    #[must_use]
    pub fn output(&mut self) -> String {
        let mut text = String::new();
        loop {
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => text.push_str(&(line + "\n")),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return text,
            }
        }
    }

    /// Kills the process as a crash would, and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Kills the process and starts it again on the same address and data.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn crash_and_restart(mut self) -> Result<Self> {
        self.kill()?;
        Self::start_with(&self.dir.clone(), self.address, &[])
    }

    /// Asks the process to stop and waits for its end.
    ///
    /// # Errors
    /// When it does not end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait()
    }

    /// Sends the process a signal.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no pid")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Whether the process has ended by itself.
    #[must_use]
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + READY;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("the node did not end; it printed:\n{}", self.output());
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // An error means that the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A free address on the loopback interface. Free when asked; the kernel hands ports out in turn, so that another
/// process is unlikely to take it before the node does.
///
/// # Errors
/// When there is none.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Runs the loader on a project against a node and returns what it printed.
///
/// # Errors
/// When the process cannot be started.
pub fn loader(project: &Path, url: &str, arguments: &[&str]) -> Result<Output> {
    Command::new(binary("larder-loader")?)
        .args(arguments)
        .arg("--project")
        .arg(project)
        .env("LARDER_URL", url)
        .env("LARDER_KEY", ROOT_KEY)
        .stdin(Stdio::null())
        .output()
        .context("cannot start larder-loader")
}

/// Runs a binary that is expected to end by itself.
///
/// # Errors
/// When the process cannot be started.
pub fn run(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Output> {
    Command::new(binary(name)?)
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {name}"))
}
