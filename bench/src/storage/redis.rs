//! A Redis server that takes the same rows as hashes, to see what memory it takes for them.
//!
//! It listens on a socket file in a scratch folder alone, writes nothing to disk, and ends when this is dropped.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::customer::{Customer, CustomerKey, FIELDS};

/// Commands that are sent before their answers are read.
const PIPELINED: u64 = 500;
/// Longest wait for the server to come up, or for its table to have its final size.
const PATIENCE: Duration = Duration::from_secs(30);

/// What Redis takes.
pub(crate) struct Usage {
    pub(crate) version: String,
    /// What `used_memory` has grown by.
    pub(crate) bytes: u64,
}

/// Gives so many customers to a Redis server. `None` if there is no such program.
pub(crate) fn measure(customers: u64) -> anyhow::Result<Option<Usage>> {
    let folder = tempfile::tempdir().context("cannot make a scratch folder")?;
    let Some(mut server) = Server::start(folder.path())? else { return Ok(None) };
    let before = server.used_memory()?;
    for first in (0..customers).step_by(usize::try_from(PIPELINED)?) {
        server.fill(first..customers.min(first + PIPELINED))?;
    }
    let bytes = server.settled_memory()?.checked_sub(before).context("Redis has shrunk by taking rows")?;
    Ok(Some(Usage { version: server.info("server", "redis_version")?, bytes }))
}

struct Server {
    child: Child,
    answers: BufReader<UnixStream>,
}

impl Server {
    fn start(folder: &Path) -> anyhow::Result<Option<Self>> {
        let socket = folder.join("redis.sock");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--dir"]).arg(folder);
        command.arg("--unixsocket").arg(&socket).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("cannot start redis-server"),
        };
        match connect(&mut child, &socket) {
            Ok(stream) => Ok(Some(Self { child, answers: BufReader::new(stream) })),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// Adds customers as hashes of their fields.
    fn fill(&mut self, numbers: std::ops::Range<u64>) -> anyhow::Result<()> {
        let mut request = Vec::new();
        for number in numbers.clone() {
            let fields = Customer::new(number).fields()?;
            let values: Vec<String> = fields.iter().map(|(_, value)| value.to_text()).collect();
            let mut words = vec!["HSET".to_owned(), CustomerKey::text(number)];
            words.extend(FIELDS.iter().zip(values).flat_map(|(name, value)| [(*name).to_owned(), value]));
            put_command(&words, &mut request);
        }
        self.answers.get_mut().write_all(&request)?;
        for _ in numbers {
            let answer = self.line()?;
            ensure!(answer == format!(":{}", FIELDS.len()), "Redis has not taken a row: {answer}");
        }
        Ok(())
    }

    /// Memory in use when the table of keys is not being moved any more.
    fn settled_memory(&mut self) -> anyhow::Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        let mut before = self.used_memory()?;
        loop {
            sleep(Duration::from_millis(300));
            let now = self.used_memory()?;
            // The server's own buffers come and go by some kilobytes.
            if now.abs_diff(before) < 64 * 1024 {
                return Ok(now);
            }
            ensure!(Instant::now() < deadline, "the memory of Redis does not come to rest");
            before = now;
        }
    }

    fn used_memory(&mut self) -> anyhow::Result<u64> {
        Ok(self.info("memory", "used_memory")?.parse()?)
    }

    /// A line of the answer to INFO.
    fn info(&mut self, section: &str, name: &str) -> anyhow::Result<String> {
        let mut request = Vec::new();
        put_command(&["INFO".to_owned(), section.to_owned()], &mut request);
        self.answers.get_mut().write_all(&request)?;
        let head = self.line()?;
        let length: usize = head.strip_prefix('$').context("Redis has not answered INFO")?.parse()?;
        let mut text = vec![0; length + 2];
        self.answers.read_exact(&mut text)?;
        let text = String::from_utf8(text)?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(value.with_context(|| format!("Redis does not tell its {name}"))?.to_owned())
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn connect(child: &mut Child, socket: &Path) -> anyhow::Result<UnixStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(_) if Instant::now() < deadline => {}
            Err(error) => return Err(error).context("redis-server does not listen"),
        }
        if let Some(status) = child.try_wait()? {
            bail!("redis-server has ended by itself: {status}");
        }
        sleep(Duration::from_millis(5));
    }
}

fn end(child: &mut Child) {
    // It keeps nothing, and is waited for so that no process is left behind.
    let _ = child.kill();
    let _ = child.wait();
}

/// Appends a command as Redis reads it: an array of strings.
fn put_command(words: &[String], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_arrays_of_strings() {
        let mut out = Vec::new();
        put_command(&["INFO".to_owned(), "memory".to_owned()], &mut out);
        assert_eq!(out, b"*2\r\n$4\r\nINFO\r\n$6\r\nmemory\r\n");
    }
}
