//! The servers under comparison as child processes, which end with this one.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::filling::Shape;
use crate::bare::LISTENING;
use crate::connection::Connection;
use crate::random::Random;
use crate::request::Template;
use crate::target::Target;

/// How long a server may take to become ready.
const READY: Duration = Duration::from_secs(60);

/// Between two looks at whether it is.
const POLL: Duration = Duration::from_millis(20);

/// The larder-server to measure: this one, or the one beside this program.
///
/// # Errors
/// When there is none.
pub(crate) fn binary(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name("larder-server"),
    };
    ensure!(path.is_file(), "there is no larder-server at {}; --server-bin names another", path.display());
    Ok(path)
}

/// A running server, killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// A bare server runs until this closes.
    _stdin: Option<ChildStdin>,
    /// Where it listens.
    pub(crate) target: Target,
}

impl Server {
    /// Starts larder-server on an empty folder and waits until it is ready.
    pub(crate) async fn start_larder(binary: &Path, folder: &Path, api_key: &str) -> anyhow::Result<Self> {
        Self::start_configured(binary, folder, None, api_key).await
    }

    /// The same with a configuration file.
    pub(crate) async fn start_configured(
        binary: &Path,
        folder: &Path,
        config: Option<&Path>,
        api_key: &str,
    ) -> anyhow::Result<Self> {
        // Free now; the kernel hands ports out in turn, so nobody is likely to take it before the server does.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = folder.join("log");
        let child = Command::new(binary)
            .args(["start", "--listen", &address.to_string(), "--data-dir"])
            .arg(folder.join("data"))
            .args(config.into_iter().flat_map(|config| [OsStr::new("--config"), config.as_os_str()]))
            .env("LARDER_ROOT_KEY", api_key)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).context("cannot write into the scratch folder")?)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut server = Self { child, _stdin: None, target: Target::at(address) };
        if let Err(error) = server.wait_until_ready().await {
            let printed = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(error.context(format!("larder-server did not become ready; it printed:\n{printed}")));
        }
        Ok(server)
    }

    /// Starts a bare hyper server, a child of this program, whose answers have this shape.
    pub(crate) fn start_bare(shape: &Shape) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.args(["bare-hyper", "--body-bytes", &shape.body_bytes.to_string()]);
        for header in &shape.headers {
            command.args(["--header", header]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the bare server has no standard output")?;
        let mut server = Self { child, _stdin: stdin, target: Target::at(SocketAddr::from(([127, 0, 0, 1], 0))) };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("the bare server says nothing")?;
        let address =
            line.trim_end().strip_prefix(LISTENING).context("the bare server did not say where it listens")?;
        server.target = Target::at(address.parse().context("the bare server listens nowhere")?);
        Ok(server)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let template = Template::new(&self.target, "/readyz", None, None)?;
        let mut request = Vec::new();
        template.fill(&mut Random::new(0), &mut request);
        let deadline = Instant::now() + READY;
        while !self.is_ready(&request).await {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            if Instant::now() > deadline {
                bail!("/readyz did not answer 200 within {} s", READY.as_secs());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn is_ready(&self, request: &[u8]) -> bool {
        let Ok(mut connection) = Connection::open(self.target.address).await else { return false };
        connection.exchange(request).await.is_ok_and(|head| head.status == 200)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
