//! A blocking HTTP/1.1 client that sends paths and headers as given, well formed or not.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// No answer of a healthy node takes as long, whatever the machine is busy with.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Talks to one node with one API key, a connection for each request.
#[derive(Debug, Clone)]
pub struct Client {
    address: SocketAddr,
    key: String,
    timeout: Duration,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Client {
    /// A client of the node at this address.
    #[must_use]
    pub fn new(address: SocketAddr, key: &str) -> Self {
        Self { address, key: key.to_owned(), timeout: TIMEOUT }
    }

    /// The same client with another patience for connecting, and for each part of an answer to come.
    #[must_use]
    pub fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The node that it talks to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same node with another key; the empty key sends none.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// Sends a GET.
    ///
    /// # Errors
    /// When the connection fails or the answer is not HTTP.
    pub fn get(&self, path: &str) -> io::Result<Response> {
        self.send("GET", path, &[], b"")
    }

    /// Sends a body that is JSON.
    ///
    /// # Errors
    /// When the connection fails or the answer is not HTTP.
    pub fn json(&self, method: &str, path: &str, body: &Value) -> io::Result<Response> {
        self.send(method, path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    /// Sends a batch of NDJSON lines.
    ///
    /// # Errors
    /// When the connection fails or the answer is not HTTP.
    pub fn ndjson(&self, path: &str, lines: &str) -> io::Result<Response> {
        self.send("POST", path, &[("Content-Type", "application/x-ndjson")], lines.as_bytes())
    }

    /// Sends a request with these headers beside `Host`, `Authorization`, `Content-Length` and `Connection: close`.
    ///
    /// # Errors
    /// When the connection fails or the answer is not HTTP.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Response> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: larder.test\r\nConnection: close\r\n");
        if !self.key.is_empty() && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
            head.push_str(&format!("Authorization: Bearer {}\r\n", self.key));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || matches!(method, "POST" | "PUT") {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        self.raw(&bytes, method == "HEAD")
    }

    /// Sends these bytes as they are and reads one answer.
    ///
    /// # Errors
    /// When the connection fails or the answer is not HTTP.
    pub fn raw(&self, bytes: &[u8], head_only: bool) -> io::Result<Response> {
        let mut stream = TcpStream::connect_timeout(&self.address, self.timeout)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        // A server may refuse a body by its head and close, so a failed write is no reason not to read the answer.
        let written = stream.write_all(bytes);
        match read_response(&mut BufReader::new(stream), head_only) {
            Err(_) if written.is_err() => written.map(|()| unreachable!()),
            answer => answer,
        }
    }
}

impl Response {
    /// The first header with this name, given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("status {}, body is not JSON ({e}): {}", self.status, self.text()))
    }

    /// The `code` of an error answer.
    #[must_use]
    pub fn code(&self) -> String {
        self.value()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// This answer, if it has this status.
    ///
    /// # Panics
    /// When it has another: the test has failed.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

fn read_response(reader: &mut BufReader<TcpStream>, head_only: bool) -> io::Result<Response> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let status_line = read_line(reader)?;
    let status = status_line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| invalid("no status line"))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| invalid("a header without a colon"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut response = Response { status, headers, body: Vec::new() };
    if head_only || matches!(status, 204 | 304) {
        return Ok(response);
    }
    if response.header("transfer-encoding") == Some("chunked") {
        response.body = read_chunks(reader)?;
    } else if let Some(length) = response.header("content-length") {
        let length: usize = length.parse().map_err(|_| invalid("a length that is no number"))?;
        response.body = vec![0; length];
        reader.read_exact(&mut response.body)?;
    } else {
        reader.read_to_end(&mut response.body)?;
    }
    Ok(response)
}

fn read_chunks(reader: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(reader)?;
        let size = usize::from_str_radix(line.trim(), 16)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a chunk without a size"))?;
        let start = body.len();
        body.resize(start + size, 0);
        reader.read_exact(&mut body[start..])?;
        read_line(reader)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

fn read_line(reader: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = Vec::new();
    if reader.read_until(b'\n', &mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
}
