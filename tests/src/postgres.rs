//! A PostgreSQL of a test's own: made by `initdb` in a scratch folder, on the loopback interface, gone when dropped.
//!
//! It runs as the user `postgres` when the test runs as root, which PostgreSQL refuses. Nothing of it stays behind even
//! if the test is killed: a shell that waits at a pipe from the test outlives it just long enough to stop the server
//! and remove its files. What it writes is not synced, so it is of no use for tests of PostgreSQL's own durability.
//!
//! `.ci/drivers` installs PostgreSQL where it is missing. The loader's own tests include this file too, so it uses
//! nothing of this crate.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

/// The superuser's password, which no message of the loader may show.
pub const PASSWORD: &str = "pa55-of-the-test-warehouse";

const USER: &str = "larder";
/// Generous: making and starting takes two seconds on a quiet machine.
const READY: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Runs the server until the pipe at its standard input closes, then stops it and removes its folder.
const KEEPER: &str = r#"
    folder=$1
    shift
    exec 3<&0
    "$@" </dev/null >"$folder/log" 2>&1 3<&- &
    server=$!
    read -r _ <&3
    kill -QUIT "$server"
    wait "$server"
    rm -rf "$folder/data" "$folder/log"
"#;

/// Settings: small, and as fast as a server that may lose everything can be.
const SETTINGS: [&str; 8] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "shared_buffers=64MB",
    "max_connections=40",
    "autovacuum=off",
];

/// A running server. Stopped, and its files removed, when dropped.
pub struct Postgres {
    programs: PathBuf,
    port: u16,
    keeper: Child,
    _folder: TempDir,
}

impl Postgres {
    /// Makes a server and waits until it answers.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start; the error holds what it printed.
    pub fn start() -> Result<Self> {
        let programs = programs()?;
        let folder = tempfile::Builder::new().prefix("larder-postgres-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let user = other_user()?;
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid))?;
        }
        let command = |program: &Path| {
            let mut command = Command::new(program);
            command.current_dir(folder.path()).env("LC_ALL", "C").env("TZ", "UTC");
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command
        };
        let data = folder.path().join("data");
        let password = folder.path().join("password");
        fs::write(&password, PASSWORD)?;
        let made = command(&programs.join("initdb"))
            .args(["--username", USER, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"])
            .arg("--pgdata")
            .arg(&data)
            .arg("--pwfile")
            .arg(&password)
            .output()
            .context("cannot start initdb")?;
        ensure!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));

        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut keeper = command(Path::new("/bin/sh"));
        keeper.args(["-c", KEEPER, "keeper"]).arg(folder.path()).arg(programs.join("postgres"));
        keeper.arg("-D").arg(&data).args(["-p", &port.to_string()]);
        for setting in SETTINGS {
            keeper.args(["-c", setting]);
        }
        let keeper = keeper.stdin(Stdio::piped()).spawn().context("cannot start a shell")?;
        let mut server = Self { programs, port, keeper, _folder: folder };
        server.wait_until_ready(&data)?;
        Ok(server)
    }

    fn wait_until_ready(&mut self, data: &Path) -> Result<()> {
        let deadline = Instant::now() + READY;
        // The server writes its state into this file.
        while !fs::read_to_string(data.join("postmaster.pid")).is_ok_and(|state| state.contains("ready")) {
            if Instant::now() > deadline || self.keeper.try_wait()?.is_some() {
                let log = data.with_file_name("log");
                bail!("PostgreSQL did not start; it printed:\n{}", fs::read_to_string(log).unwrap_or_default());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Where it is and how to log in, with the password.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("postgresql://{USER}:{PASSWORD}@127.0.0.1:{}/postgres", self.port)
    }

    /// Where it listens on the loopback interface.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs statements as the superuser and returns their rows, one a line, with `|` between columns.
    ///
    /// # Errors
    /// When one of them fails; those after it have not run.
    pub fn sql(&self, statements: &str) -> Result<String> {
        let done = Command::new(self.programs.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", USER])
            .args(["-p", &self.port.to_string(), "-d", "postgres", "-c", statements])
            .env("PGPASSWORD", PASSWORD)
            .stdin(Stdio::null())
            .output()
            .context("cannot start psql")?;
        ensure!(done.status.success(), "psql failed: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned())
    }

    /// Breaks every connection but its own, as a restart or a cut network would, and returns how many there were.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn disconnect_all(&self) -> Result<u64> {
        let broken = self.sql(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
        )?;
        Ok(broken.parse()?)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The shell reads the end of its input, and then does the rest.
        drop(self.keeper.stdin.take());
        drop(self.keeper.wait());
    }
}

/// The folder with `initdb`, `postgres` and `psql`: that of the newest version installed.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = versions.filter_map(|entry| {
        let version: f32 = entry.file_name().to_str()?.parse().ok()?;
        Some((version, entry.path().join("bin")))
    });
    let newest = debian.filter(|(_, bin)| bin.join("initdb").is_file()).max_by(|a, b| a.0.total_cmp(&b.0));
    if let Some((_, bin)) = newest {
        return Ok(bin);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).find(|folder| folder.join("initdb").is_file());
    found.context("PostgreSQL is not installed: run .ci/drivers")
}

/// The user `postgres` and its group, if this process is root.
fn other_user() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let fields: Vec<&str> = line.context("there is no user `postgres`: run .ci/drivers")?.split(':').collect();
    let number =
        |at: usize| fields.get(at).and_then(|text| text.parse().ok()).context("/etc/passwd is not as expected");
    Ok(Some((number(2)?, number(3)?)))
}
