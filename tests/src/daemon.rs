//! The loader's daemon as a child process.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::http::Client;
use crate::process::{ROOT_KEY, binary};
use crate::wait::wait_for;

/// A token of every daemon's project that may trigger.
pub const TOKEN: &str = "token-of-the-black-box-tests";
/// One that may only read.
pub const READ_TOKEN: &str = "token-that-may-only-read";

/// What the `larder.yml` of a daemon's project says beside the cluster.
pub const SERVE: &str = "serve:\n  max_concurrent_runs: 8\n  stop_within: 30s\n  tokens:\n    \
                         - {name: caller, token: token-of-the-black-box-tests, scope: trigger}\n    \
                         - {name: reader, token: token-that-may-only-read}\n";

/// Generous, as [`crate::process::Node`] is.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    address: SocketAddr,
    printed: Arc<Mutex<String>>,
}

impl Daemon {
    /// Starts a daemon on a project and waits until it listens.
    ///
    /// # Errors
    /// When it does not; the error holds what it has printed.
    pub fn start(project: &Path, url: &str) -> Result<Self> {
        let mut child = Command::new(binary("larder-loader")?)
            .args(["serve", "--listen", "127.0.0.1:0", "--project"])
            .arg(project)
            .env("LARDER_URL", url)
            .env("LARDER_KEY", ROOT_KEY)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start larder-loader")?;
        let printed = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().context("no stderr")?;
        let keep = Arc::clone(&printed);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                keep.lock().unwrap_or_else(PoisonError::into_inner).push_str(&(line + "\n"));
            }
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no stdout")?).read_line(&mut line)?;
        let mut daemon = Self { child, address: ([127, 0, 0, 1], 0).into(), printed };
        let address = line.strip_prefix("listening on http://").and_then(|rest| rest.split(',').next());
        match address.and_then(|text| text.parse().ok()) {
            Some(address) => daemon.address = address,
            None => bail!("the daemon does not listen; it printed {line:?} and\n{}", daemon.output()),
        }
        Ok(daemon)
    }

    /// A client with the token that may trigger.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.address, TOKEN)
    }

    /// What it has logged so far.
    #[must_use]
    pub fn output(&self) -> String {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has logged something.
    #[track_caller]
    pub fn expect(&self, words: &str) {
        wait_for(words, PATIENCE, || if self.output().contains(words) { Ok(()) } else { Err(self.output()) });
    }

    /// Asks for a run and returns its id.
    ///
    /// # Errors
    /// When the request fails.
    #[track_caller]
    pub fn trigger(&self, sync: &str, body: &Value) -> Result<String> {
        let answer = self.client().json("POST", &format!("/v1/syncs/{sync}/trigger"), body)?.expect(202).value();
        Ok(answer["id"].as_str().context("no id")?.to_owned())
    }

    /// Waits until a run is in this state, and returns it.
    #[track_caller]
    pub fn wait_run(&self, id: &str, state: &str) -> Value {
        let client = self.client();
        wait_for(&format!("run {id} to be {state}"), PATIENCE, || {
            let run = client.get(&format!("/v1/runs/{id}")).map_err(|error| error.to_string())?;
            let value = run.value();
            if run.status == 200 && value["state"] == state { Ok(value) } else { Err(value.to_string()) }
        })
    }

    /// The runs of a sync, the newest first.
    ///
    /// # Errors
    /// When the request fails.
    #[track_caller]
    pub fn runs(&self, sync: &str) -> Result<Vec<Value>> {
        let answer = self.client().get(&format!("/v1/syncs/{sync}/runs?limit=1000"))?.expect(200).value();
        Ok(answer["runs"].as_array().context("no runs")?.clone())
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

    /// Sends the process a signal.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no pid")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("the daemon did not end; it printed:\n{}", self.output());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // An error means that the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
