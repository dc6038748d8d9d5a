//! The side that is called: accepts connections, shakes hands, and serves them.
//!
//! Invariants: the number of connections is bounded, and so is the time until one says who calls; of one node and lane
//! there is one connection, the newest; a caller that is refused is told why, and the log tells of it once a minute.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use larder_types::ids::NodeId;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Caller;
use super::error::{Mismatch, Refused};
use super::frame::{Head, Sort};
use super::handshake::{Hello, Identity, MAGIC, Welcome, duplicate};
use super::link::STOPPED;
use super::options::Lane;
use super::serving::Serving;
use super::site::Site;
use super::tls;
use super::traffic::Traffic;
use super::wire::{End, Line, Socket, Wire, close};

/// Connections at the same time: some hundred nodes with all their lanes.
const MAX_CONNECTIONS: usize = 1024;
/// First and longest pause when the process or the system has no descriptors left.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How long a refused caller may take to read why.
const LEAVE: Duration = Duration::from_secs(1);

/// Accepts connections until the node stops.
pub(super) async fn run(site: Arc<Site>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let incoming = Arc::new(Incoming::default());
    let mut pause = PAUSE.0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = site.stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                pause = PAUSE.0;
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    if site.throttle.allows("places".to_owned()) {
                        tracing::warn!(%remote, "a connection was closed: {MAX_CONNECTIONS} are open already");
                    }
                    continue;
                };
                site.tasks.spawn(attend(Arc::clone(&site), Arc::clone(&incoming), stream, remote, place));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections of other nodes; pausing for {pause:?}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

/// Errors that concern the connection being accepted and not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Attends to one connection from its first byte to its last.
async fn attend(
    site: Arc<Site>,
    incoming: Arc<Incoming>,
    stream: TcpStream,
    remote: SocketAddr,
    _place: OwnedSemaphorePermit,
) {
    let greeted = tokio::select! {
        greeted = timeout(site.limits.connect, greet(&site, &incoming, stream)) => greeted,
        () = site.stop.cancelled() => return,
    };
    let admitted = match greeted {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(Unwelcome::Refused(refused))) => {
            if site.throttle.allows(format!("{} {}", remote.ip(), refused.mismatch)) {
                tracing::warn!(%remote, reason = %refused, "refused a connection");
            }
            return;
        }
        Ok(Err(Unwelcome::Ended(end))) => {
            tracing::debug!(%remote, reason = %end, "a connection ended before it said who calls");
            return;
        }
        Err(_) => {
            tracing::debug!(%remote, "a connection did not say who calls in time");
            return;
        }
    };
    let end = admitted.serve(&site).await;
    tracing::debug!(%remote, reason = %end, "a connection of another node ended");
    if matches!(end, End::Violation(_) | End::GivenUp(_)) && end != End::GivenUp(STOPPED) {
        let subject = format!("{} {}", remote.ip(), Mismatch::Protocol);
        if site.throttle.allows(subject) {
            tracing::warn!(%remote, reason = %end, "closed the connection of another node");
        }
    }
}

/// Why a connection is not served.
enum Unwelcome {
    Refused(Refused),
    Ended(End),
}

impl From<io::Error> for Unwelcome {
    fn from(error: io::Error) -> Self {
        Self::Ended(error.into())
    }
}

impl From<End> for Unwelcome {
    fn from(end: End) -> Self {
        Self::Ended(end)
    }
}

/// A connection that is to be served.
struct Admitted {
    line: Line,
    from: Caller,
    lane: Lane,
    /// Its place among the connections of nodes; a connection for a single call has none.
    seat: Option<Seat>,
}

impl Admitted {
    async fn serve(self, site: &Site) -> End {
        let limits = site.limits.lane(self.lane);
        let traffic = self.from.node.map_or_else(|| Arc::new(Traffic::new()), |node| site.traffic(node));
        let wire = Arc::new(Wire::new(limits, traffic, false));
        let mut serving = Serving::new(Arc::clone(&site.service), self.from, Arc::clone(&wire), limits);
        let stop = async {
            tokio::select! {
                () = site.stop.cancelled() => End::GivenUp(STOPPED),
                () = replaced(self.seat.as_ref()) => End::Closed,
            }
        };
        let end = wire.run(self.line, &mut serving, stop).await;
        serving.end().await;
        end
    }
}

/// Waits until a newer connection takes the seat.
async fn replaced(seat: Option<&Seat>) {
    match seat {
        Some(seat) => seat.replaced.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Learns who calls and answers.
async fn greet(site: &Site, incoming: &Arc<Incoming>, stream: TcpStream) -> Result<Admitted, Unwelcome> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(Unwelcome::Ended(End::Closed));
    }
    let speaks_tls = first[0] == tls::HANDSHAKE_RECORD;
    let (mut socket, refused): (Box<dyn Socket>, _) = match &site.tls {
        Some(tls) if speaks_tls => {
            let stream = match tls.accept(stream).await {
                Ok(stream) => stream,
                Err((error, stream)) => {
                    let _ = timeout(LEAVE, close(stream)).await;
                    return Err(Unwelcome::Refused(tls::refused(&error)));
                }
            };
            let verified = tls.verify_caller(&stream);
            (Box::new(stream), verified.err())
        }
        Some(_) => (Box::new(stream), Some(plain_caller())),
        // Its TLS will make an error of the farewell, and know that this is no matter of the way.
        None if speaks_tls => return Err(part(Line::new(Box::new(stream)), tls_caller()).await),
        None => (Box::new(stream), None),
    };
    let mut magic = [0; MAGIC.len()];
    socket.read_exact(&mut magic).await?;
    if magic != MAGIC {
        return Err(Unwelcome::Refused(stranger()));
    }
    let mut line = Line::new(socket);
    let (head, body) = line.greeting().await?;
    let own = site.identity();
    let judged = match refused {
        Some(refused) => Err(refused),
        None if head.sort == Sort::Hello => judge(own.as_ref(), site.boot, incoming, body),
        None => Err(stranger()),
    };
    let (hello, version, from, seat) = match judged {
        Ok(judged) => judged,
        Err(refused) => return Err(part(line, refused).await),
    };
    let (node, cluster) = own.map(|own| (own.node, own.cluster)).unzip();
    let welcome = Welcome { version, boot: site.boot, node, cluster };
    line.greet(Head::new(Sort::Welcome, 0), welcome.encode()).await?;
    Ok(Admitted { line, from, lane: hello.lane.unwrap_or(Lane::Data), seat })
}

/// Tells a caller why it is refused.
async fn part(line: Line, refused: Refused) -> Unwelcome {
    let head = Head { sort: Sort::Farewell, tag: refused.mismatch as u8, id: 0 };
    // Best effort: that it was refused is told to this node's log in any case.
    let _ = timeout(LEAVE, line.part(head, Bytes::from(refused.message.clone()))).await;
    Unwelcome::Refused(refused)
}

type Judged = (Hello, u16, Caller, Option<Seat>);

fn judge(own: Option<&Identity>, boot: u64, incoming: &Arc<Incoming>, hello: Bytes) -> Result<Judged, Refused> {
    let (hello, version) = Hello::decode(hello)?;
    let node = hello.judge(own, boot)?;
    let seat = match (node, hello.lane) {
        (Some(node), Some(lane)) => Some(incoming.take(node, lane, hello.boot)?),
        _ => None,
    };
    Ok((hello, version, Caller { node }, seat))
}

fn plain_caller() -> Refused {
    let message = "this node takes only connections with TLS and the caller has none: configure TLS on the caller too";
    Refused::new(Mismatch::Tls, message)
}

fn tls_caller() -> Refused {
    let message = "the caller speaks TLS and this node does not: configure TLS on this node too";
    Refused::new(Mismatch::Tls, message)
}

fn stranger() -> Refused {
    Refused::new(Mismatch::Protocol, "the caller does not speak the peer protocol: only nodes call this port")
}

/// The connections of nodes, by node and lane.
#[derive(Default)]
struct Incoming(Mutex<Seats>);

#[derive(Default)]
struct Seats {
    by_lane: HashMap<(NodeId, Lane), (u64, u64, CancellationToken)>,
    taken: u64,
}

/// The place of a connection; left when dropped.
struct Seat {
    incoming: Arc<Incoming>,
    key: (NodeId, Lane),
    number: u64,
    replaced: CancellationToken,
}

impl Incoming {
    /// Takes the place of a node's lane from an older connection. One of an older run of the node gets none: either it
    /// was under way for long, or two processes are the same node.
    fn take(self: &Arc<Self>, node: NodeId, lane: Lane, boot: u64) -> Result<Seat, Refused> {
        let mut seats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seats.by_lane.get(&(node, lane)).is_some_and(|(newer, ..)| *newer > boot) {
            return Err(duplicate(node));
        }
        seats.taken += 1;
        let (number, replaced) = (seats.taken, CancellationToken::new());
        if let Some((.., older)) = seats.by_lane.insert((node, lane), (boot, number, replaced.clone())) {
            older.cancel();
        }
        Ok(Seat { incoming: Arc::clone(self), key: (node, lane), number, replaced })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.incoming.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seats.by_lane.get(&self.key).is_some_and(|(_, number, _)| *number == self.number) {
            seats.by_lane.remove(&self.key);
        }
    }
}
