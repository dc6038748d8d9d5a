//! A Redis server to compare with: it takes rows as hashes, by pipelined `HSET`s.
//!
//! It listens on a socket file in a scratch folder alone, and ends when this is dropped.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// Commands that callers should send before their answers are read: more gain nothing.
pub(crate) const PIPELINED: usize = 500;
/// Longest wait for the server to come up, or for its table to have its final size.
const PATIENCE: Duration = Duration::from_secs(30);

/// What Redis keeps on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Nothing.
    None,
    /// Every command, on the disk before it is answered, as an append-only file with `appendfsync always`.
    EveryCommand,
}

/// A running server with a connection to it.
pub(crate) struct Server {
    child: Child,
    answers: BufReader<UnixStream>,
}

impl Server {
    /// Starts one on an empty folder. `None` if there is no such program.
    ///
    /// # Errors
    /// When it does not start, or does not listen.
    pub(crate) fn start(folder: &Path, durability: Durability) -> anyhow::Result<Option<Self>> {
        let socket = folder.join("redis.sock");
        let log = match durability {
            Durability::None => ["--appendonly", "no"].as_slice(),
            Durability::EveryCommand => &["--appendonly", "yes", "--appendfsync", "always"],
        };
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", ""]).args(log).arg("--dir").arg(folder);
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

    /// Writes the hashes of some keys, all before the first answer is read. Each has as many fields as `fields` names.
    ///
    /// # Errors
    /// When Redis does not take one whole.
    pub(crate) fn hset<V: AsRef<str>>(
        &mut self,
        fields: &[&str],
        rows: impl Iterator<Item = (String, Vec<V>)>,
    ) -> anyhow::Result<()> {
        let mut request = Vec::new();
        let mut sent = 0;
        for (key, values) in rows {
            ensure!(values.len() == fields.len(), "a row has {} values for {} fields", values.len(), fields.len());
            put_head(2 + 2 * fields.len(), &mut request);
            put_word("HSET", &mut request);
            put_word(&key, &mut request);
            for (field, value) in fields.iter().zip(&values) {
                put_word(field, &mut request);
                put_word(value.as_ref(), &mut request);
            }
            sent += 1;
        }
        self.answers.get_mut().write_all(&request)?;
        for _ in 0..sent {
            let answer = self.line()?;
            ensure!(answer == format!(":{}", fields.len()), "Redis has not taken a row: {answer}");
        }
        Ok(())
    }

    /// Its version.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn version(&mut self) -> anyhow::Result<String> {
        self.info("server", "redis_version")
    }

    /// The number of its keys.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn keys(&mut self) -> anyhow::Result<u64> {
        let mut request = Vec::new();
        put_command(&["DBSIZE"], &mut request);
        self.answers.get_mut().write_all(&request)?;
        let answer = self.line()?;
        Ok(answer.strip_prefix(':').context("Redis has not answered DBSIZE")?.parse()?)
    }

    /// Bytes in use when the table of keys is not being moved any more.
    ///
    /// # Errors
    /// When they do not come to rest.
    pub(crate) fn settled_memory(&mut self) -> anyhow::Result<u64> {
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

    /// Bytes in use.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub(crate) fn used_memory(&mut self) -> anyhow::Result<u64> {
        Ok(self.info("memory", "used_memory")?.parse()?)
    }

    /// A line of the answer to INFO.
    fn info(&mut self, section: &str, name: &str) -> anyhow::Result<String> {
        let mut request = Vec::new();
        put_command(&["INFO", section], &mut request);
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
fn put_command(words: &[&str], out: &mut Vec<u8>) {
    put_head(words.len(), out);
    words.iter().for_each(|word| put_word(word, out));
}

fn put_head(words: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{words}\r\n").as_bytes());
}

fn put_word(word: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
    out.extend_from_slice(word.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_arrays_of_strings() {
        let mut out = Vec::new();
        put_command(&["INFO", "memory"], &mut out);
        assert_eq!(out, b"*2\r\n$4\r\nINFO\r\n$6\r\nmemory\r\n");
    }
}
