//! The transport, over real sockets unless a test needs the clock.

mod bounds;
mod calls;
mod frames;
mod greetings;
mod loss;
mod strangers;
mod tls;
mod wires;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use larder_types::ids::NodeId;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::frame::{Head, Packed, Sort, decode};
use super::handshake::{Hello, MAGIC, Welcome};
use super::options::LaneLimits;
use super::wire::greet;
use super::{Caller, Directory, Lane, Peers, Reply, Request, Service};
use super::{PeerError, PeerLimits, PeerOptions, PeerTls, Refusal};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);
/// The silence in tests that wait for it.
const SILENCE: Duration = Duration::from_millis(200);

/// Answers with the body.
const ECHO: u8 = 1;
/// Answers when the gate that its first byte names is opened.
const WAIT: u8 = 2;
/// Refuses.
const REFUSE: u8 = 3;
/// Answers with the caller's number.
const WHO: u8 = 4;
/// Answers with more than fits into a frame.
const HUGE: u8 = 5;
/// Panics.
const PANIC: u8 = 6;
/// Refuses with a message that is too long.
const RAMBLE: u8 = 7;
/// Echo for anybody.
const OPEN: u8 = 100;

/// What a service for tests waits for, and what it has seen.
struct Desk {
    gates: [Semaphore; 3],
    /// Requests that are being served now, and the most that were at once.
    serving: AtomicUsize,
    most: AtomicUsize,
}

impl Desk {
    fn new() -> Arc<Self> {
        let gates = std::array::from_fn(|_| Semaphore::new(0));
        Arc::new(Self { gates, serving: AtomicUsize::new(0), most: AtomicUsize::new(0) })
    }
}

/// A service cannot hand out its own `Arc`, so this is what is served.
struct Served(Arc<Desk>);

impl Service for Served {
    fn serve(&self, from: Caller, request: Request) -> BoxFuture<'static, Reply> {
        let desk = Arc::clone(&self.0);
        async move {
            match request.kind {
                ECHO | OPEN => Ok(request.body),
                WAIT => {
                    let serving = desk.serving.fetch_add(1, SeqCst) + 1;
                    desk.most.fetch_max(serving, SeqCst);
                    desk.gates[usize::from(request.body[0])].acquire().await.unwrap().forget();
                    desk.serving.fetch_sub(1, SeqCst);
                    Ok(request.body)
                }
                WHO => Ok(Bytes::from(format!("{:?}", from.node.map(|node| node.0)))),
                HUGE => Ok(Bytes::from(vec![0; super::MAX_BODY_BYTES + 1])),
                PANIC => panic!("on purpose"),
                RAMBLE => Err(Refusal { code: 8, message: "é".repeat(super::MAX_BODY_BYTES) }),
                _ => Err(Refusal { code: 7, message: "no".to_owned() }),
            }
        }
        .boxed()
    }

    fn is_open(&self, kind: u8) -> bool {
        kind == OPEN
    }
}

/// Where the nodes of a test are.
#[derive(Default)]
struct Book(Mutex<HashMap<NodeId, String>>);

impl Book {
    fn set(&self, node: u32, address: impl ToString) {
        self.0.lock().unwrap().insert(NodeId(node), address.to_string());
    }
}

impl Directory for Book {
    fn address(&self, node: NodeId) -> Option<String> {
        self.0.lock().unwrap().get(&node).cloned()
    }
}

/// How a node of a test is set up.
struct Setup {
    cluster: Option<&'static str>,
    boot: u64,
    listen: SocketAddr,
    tls: Option<PeerTls>,
    limits: PeerLimits,
}

impl Default for Setup {
    fn default() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        // A deadline for those tests alone that wait for it: a busy machine is no silent peer.
        Self { cluster: Some("A"), boot: 1, listen, tls: None, limits: limits(LONG) }
    }
}

/// Limits with so long a silence, and short pauses.
fn limits(silence: Duration) -> PeerLimits {
    let mut limits = PeerLimits {
        connect: LONG.min(silence * 5),
        backoff: (Duration::from_millis(1), Duration::from_millis(20)),
        ..PeerLimits::default()
    };
    for lane in &mut limits.lanes {
        *lane = LaneLimits { silence, ..*lane };
    }
    limits
}

/// A node of a test.
struct TestNode {
    peers: Peers,
    desk: Arc<Desk>,
}

async fn start(book: &Arc<Book>, node: u32, setup: Setup) -> TestNode {
    let desk = Desk::new();
    let Setup { cluster, boot, listen, tls, limits } = setup;
    let options = PeerOptions { listen, tls, boot, limits };
    let directory: Arc<dyn Directory> = Arc::<Book>::clone(book);
    let peers = Peers::start(options, directory, Arc::new(Served(Arc::clone(&desk)))).await.unwrap();
    if let Some(cluster) = cluster {
        peers.set_identity(cluster, NodeId(node));
    }
    book.set(node, peers.local_address());
    TestNode { peers, desk }
}

/// Two nodes of one cluster, 1 and 2.
async fn pair() -> (TestNode, TestNode, Arc<Book>) {
    let book = Arc::new(Book::default());
    let one = start(&book, 1, Setup::default()).await;
    let two = start(&book, 2, Setup::default()).await;
    (one, two, book)
}

impl TestNode {
    /// Calls another node with a body.
    async fn ask(&self, to: u32, kind: u8, body: impl Into<Vec<u8>>) -> Result<Bytes, PeerError> {
        self.peers.call(NodeId(to), Lane::Data, kind, Bytes::from(body.into()), LONG).await
    }

    fn address(&self) -> String {
        self.peers.local_address().to_string()
    }
}

/// A listener that is no node, or one that behaves badly.
struct Fake(TcpListener);

impl Fake {
    async fn start(book: &Book, node: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        book.set(node, listener.local_addr().unwrap());
        Self(listener)
    }

    /// Takes a connection and the caller's first words, and answers them with a frame.
    async fn greet(&self, sort: Sort, tag: u8, body: Bytes) -> TcpStream {
        let (mut stream, _) = self.0.accept().await.unwrap();
        let mut magic = [0; 8];
        stream.read_exact(&mut magic).await.unwrap();
        assert_eq!(magic, MAGIC);
        read_frame(&mut stream).await.unwrap();
        greet(&mut stream, Head { sort, tag, id: 0 }, body).await.unwrap();
        stream
    }

    /// Takes a connection as node 2 of the cluster.
    async fn welcome(&self) -> TcpStream {
        let welcome = Welcome { version: 1, boot: 1, node: Some(NodeId(2)), cluster: Some("A".into()) };
        self.greet(Sort::Welcome, 0, welcome.encode()).await
    }
}

/// A frame as it is on the wire.
fn frame(sort: Sort, body: &[u8]) -> Vec<u8> {
    let mut packed = Packed::default();
    packed.push(Head::new(sort, 1), &Bytes::copy_from_slice(body).into()).unwrap();
    packed.seal();
    packed.copy_to_bytes(packed.remaining()).to_vec()
}

/// Reads a frame as a stranger would.
async fn read_frame(stream: &mut TcpStream) -> std::io::Result<(Head, Bytes)> {
    let length = stream.read_u32_le().await?;
    let mut frame = BytesMut::zeroed(length as usize);
    stream.read_exact(&mut frame).await?;
    Ok(decode(frame).unwrap())
}

/// Calls a node as a stranger would, with these first words.
async fn knock(address: &str, hello: Bytes) -> (TcpStream, Head, Bytes) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    greet(&mut stream, Head::new(Sort::Hello, 0), hello).await.unwrap();
    let mut magic = [0; 8];
    stream.read_exact(&mut magic).await.unwrap();
    let (head, body) = read_frame(&mut stream).await.unwrap();
    (stream, head, body)
}

/// What node 3 says to node 1.
fn hello(boot: u64) -> Hello {
    let cluster = Some("A".into());
    Hello { lane: Some(Lane::Data), boot, from: Some(NodeId(3)), to: Some(NodeId(1)), cluster }
}

/// Waits until the other side closes, however it does.
async fn closed(mut stream: TcpStream) {
    let read = async { while !matches!(stream.read(&mut [0; 1024]).await, Ok(0) | Err(_)) {} };
    tokio::time::timeout(LONG, read).await.expect("the connection stays open");
}

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}
