//! Receivers of notices and events: an HTTP server and a mail server that keep what they get.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// What has come and not been taken.
struct Inbox<T> {
    items: Mutex<VecDeque<T>>,
    has_come: Condvar,
}

impl<T> Inbox<T> {
    fn new() -> Arc<Self> {
        Arc::new(Self { items: Mutex::default(), has_come: Condvar::new() })
    }

    fn put(&self, item: T) {
        self.items.lock().unwrap().push_back(item);
        self.has_come.notify_all();
    }

    fn take(&self) -> T {
        let items = self.items.lock().unwrap();
        let (mut items, _) = self.has_come.wait_timeout_while(items, PATIENCE, |items| items.is_empty()).unwrap();
        items.pop_front().expect("nothing came")
    }

    fn take_all(&self) -> Vec<T> {
        self.items.lock().unwrap().drain(..).collect()
    }
}

/// A request as it came.
pub(super) struct Request {
    head: String,
    pub(super) body: String,
}

impl Request {
    pub(super) fn head(&self) -> &str {
        &self.head
    }

    pub(super) fn header(&self, name: &str) -> &str {
        let of = |line: &'_ str| line.split_once(": ").filter(|(found, _)| found.eq_ignore_ascii_case(name)).is_some();
        let line = self.head.lines().find(|line| of(line)).unwrap_or_else(|| panic!("no {name} in {}", self.head));
        line.split_once(": ").unwrap().1
    }
}

/// An HTTP server that answers with one status.
pub(super) struct HttpSink {
    port: u16,
    status: Arc<AtomicU16>,
    inbox: Arc<Inbox<Request>>,
}

impl HttpSink {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (status, inbox) = (Arc::new(AtomicU16::new(200)), Inbox::new());
        let (answer, keep) = (status.clone(), inbox.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Some(request) = read_request(&stream) else { continue };
                let status = answer.load(Ordering::SeqCst);
                keep.put(request);
                let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                drop((&stream).write_all(answer.as_bytes()));
            }
        });
        Self { port, status, inbox }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    pub(super) fn answer_with(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    pub(super) fn take(&self) -> Request {
        self.inbox.take()
    }

    pub(super) fn take_all(&self) -> Vec<Request> {
        self.inbox.take_all()
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { head, body: String::from_utf8(body).ok()? })
}

/// A mail as it came.
pub(super) struct ReceivedMail {
    pub(super) recipients: Vec<String>,
    /// Headers and body.
    pub(super) text: String,
}

/// A mail server that takes everything.
pub(super) struct SmtpSink {
    pub(super) port: u16,
    inbox: Arc<Inbox<ReceivedMail>>,
}

impl SmtpSink {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let inbox = Inbox::new();
        let keep = inbox.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Some(mail) = receive(&stream) {
                    keep.put(mail);
                }
            }
        });
        Self { port, inbox }
    }

    pub(super) fn take(&self) -> ReceivedMail {
        self.inbox.take()
    }
}

/// The server's side of a delivery (RFC 5321), up to the end of the mail's text.
fn receive(stream: &TcpStream) -> Option<ReceivedMail> {
    let say = |line: &str| (&*stream).write_all(format!("{line}\r\n").as_bytes()).ok();
    let mut reader = BufReader::new(stream);
    let mut recipients = Vec::new();
    say("220 sink")?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end();
        match line.split([' ', ':']).next()?.to_uppercase().as_str() {
            "DATA" => break,
            "RCPT" => recipients.push(line.split_once('<')?.1.split_once('>')?.0.to_owned()),
            "" => return None,
            _ => {}
        }
        say("250 ok")?;
    }
    say("354 go on")?;
    let mut text = String::new();
    while !text.ends_with("\r\n.\r\n") {
        if reader.read_line(&mut text).ok()? == 0 {
            return None;
        }
    }
    say("250 taken")?;
    Some(ReceivedMail { recipients, text })
}
