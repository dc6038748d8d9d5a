//! Listening sockets, one for each core, and the loop that accepts from one of them.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::connection;
use crate::core::Core;

/// Connections that the kernel holds while a core is busy.
const BACKLOG: i32 = 1024;
/// First and longest pause when the process or the system has no descriptors left.
pub(crate) const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Said to a connection beyond the limit, as far as its socket takes it at once.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 190\r\n\r\n\
{\"type\":\"/docs/errors#overloaded\",\"title\":\"The server has too much to do\",\"status\":503,\"code\":\"overloaded\",\
\"message\":\"too many connections are open\",\"details\":{},\"request_id\":\"not-assigned\"}";

/// Binds one socket for each core to the same address; the kernel spreads connections over them.
///
/// # Errors
/// When the address is in use or not ours.
pub(crate) fn bind(address: SocketAddr, cores: usize) -> io::Result<(SocketAddr, Vec<std::net::TcpListener>)> {
    // Sockets that share a port do not notice another process that shares it too, so ask first with one that does not.
    let address = socket(address, false)?.local_addr()?.as_socket().unwrap_or(address);
    let listen = |_| {
        let socket = socket(address, true)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    Ok((address, (0..cores).map(listen).collect::<io::Result<_>>()?))
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Lets a restarted server have its port back while old connections linger.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Accepts connections and serves each on this core until told to stop; then lets requests in flight end, within the
/// drain timeout.
pub(crate) async fn run(core: Rc<Core>, listener: std::net::TcpListener, mut stop: watch::Receiver<bool>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a listening socket cannot be used");
            return;
        }
    };
    let mut connections = JoinSet::new();
    let mut pause = PAUSE.0;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    pause = PAUSE.0;
                    admit(&core, stream, &mut connections);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections; pausing for {pause:?}");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            },
            Some(_) = connections.join_next() => {}
            // Also when the sender is gone: then nobody is left who could say stop.
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    drop(listener);
    core.draining.set(true);
    core.drain.notify_waiters();
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(core.limits().drain_timeout, all).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections cut off: they did not end in time");
    }
}

fn admit(core: &Rc<Core>, stream: TcpStream, connections: &mut JoinSet<()>) {
    let slot = Slot::take(core);
    if slot.is_full {
        // Best effort: an answer is kinder than a reset, but must not wait for the client.
        let _ = stream.try_write(FULL);
        return;
    }
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let core = Rc::clone(core);
    connections.spawn_local(async move {
        connection::serve(core, stream).await;
        drop(slot);
    });
}

/// A place among the connections; given back when dropped.
struct Slot {
    core: Rc<Core>,
    is_full: bool,
}

impl Slot {
    fn take(core: &Rc<Core>) -> Self {
        let before = core.shared.connections.fetch_add(1, Relaxed);
        Self { core: Rc::clone(core), is_full: before >= core.limits().connections }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.core.shared.connections.fetch_sub(1, Relaxed);
    }
}

/// Errors that concern the connection being accepted and not the listener.
pub(crate) fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use larder_types::error::{ErrorBody, ErrorCode};

    use super::*;

    #[test]
    fn an_address_is_bound_once_for_all_cores() {
        let (address, listeners) = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 3).unwrap();
        assert_ne!(address.port(), 0);
        assert_eq!(listeners.len(), 3);
        assert_eq!(bind(address, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listeners);
        bind(address, 1).unwrap();
    }

    #[test]
    fn the_answer_to_one_connection_too_many_is_whole() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{}", body.len());
        let body: ErrorBody = serde_json::from_str(body).unwrap();
        assert_eq!(body.code, ErrorCode::Overloaded.as_str());
        assert_eq!(body.title, ErrorCode::Overloaded.title());
    }
}
