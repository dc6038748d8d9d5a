//! The network between the nodes of a cluster, with faults that a test switches on and off.
//!
//! A proxy stands before each node: its address is the one that other nodes are given. Nodes call from the address that
//! they listen on, so the proxy knows who calls whom, and a fault holds for one direction of one pair.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

/// A node of a test's cluster, counted from 1 in the order of the configurations; no id of the cluster's.
pub type Place = u8;

/// The port on which nodes and proxies listen for peers, each on an address of its own.
pub const PEER_PORT: u16 = 7600;

/// Proxies have the addresses behind those of the nodes.
const PROXIES: u8 = 100;

/// A node that can be reached at all is connected to at once: both are on this machine.
const CONNECT: Duration = Duration::from_secs(5);

/// What is wrong in one direction of a pair of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The first node cannot connect to the second, and connections that it has made break.
    Cut,
    /// What the first node sends to the second does not arrive, on connections that either has made. It is not lost: it
    /// arrives after the fault, as what TCP sends again would.
    Stall,
}

/// The proxies of a cluster; they end when this is dropped.
pub struct Net {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// The first two numbers that addresses of this cluster have behind `127.`.
    subnet: (u8, u8),
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    faults: HashMap<(Place, Place), Fault>,
    connections: HashMap<u64, Connection>,
    made: u64,
    ended: bool,
}

struct Connection {
    from: Place,
    to: Place,
    ends: [TcpStream; 2],
}

/// The address of a node on the loopback network.
#[must_use]
pub fn node_ip(subnet: (u8, u8), node: Place) -> IpAddr {
    Ipv4Addr::new(127, subnet.0, subnet.1, node).into()
}

/// Where the proxy before a node listens.
#[must_use]
pub fn proxy_address(subnet: (u8, u8), node: Place) -> SocketAddr {
    (node_ip(subnet, PROXIES + node), PEER_PORT).into()
}

impl Net {
    /// A network without faults for nodes 1 to `nodes`.
    ///
    /// # Errors
    /// When the addresses cannot be listened on.
    pub fn start(subnet: (u8, u8), nodes: Place) -> Result<Self> {
        let shared = Arc::new(Shared { subnet, state: Mutex::default(), changed: Condvar::new() });
        let mut threads = Vec::new();
        for node in 1..=nodes {
            let listener = TcpListener::bind(proxy_address(subnet, node))?;
            let shared = Arc::clone(&shared);
            threads.push(std::thread::spawn(move || shared.accept(&listener, node)));
        }
        Ok(Self { shared, threads })
    }

    /// Switches a fault on from one node to another, now and for established connections too.
    pub fn fault(&self, from: Place, to: Place, fault: Fault) {
        let mut state = self.shared.state();
        state.faults.insert((from, to), fault);
        if fault == Fault::Cut {
            state.connections.values().filter(|c| (c.from, c.to) == (from, to)).for_each(Connection::close);
        }
        self.shared.changed.notify_all();
    }

    /// Switches a fault on, both ways, between all nodes of one side and all of the other.
    pub fn part(&self, one: &[Place], other: &[Place], fault: Fault) {
        for (&a, &b) in one.iter().flat_map(|a| other.iter().map(move |b| (a, b))) {
            self.fault(a, b, fault);
            self.fault(b, a, fault);
        }
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.shared.state().faults.clear();
        self.shared.changed.notify_all();
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.ended = true;
            state.faults.clear();
            state.connections.values().for_each(Connection::close);
        }
        self.shared.changed.notify_all();
        for (node, thread) in (1..).zip(std::mem::take(&mut self.threads)) {
            // So that it looks up from waiting for callers.
            drop(TcpStream::connect(proxy_address(self.shared.subnet, node)));
            drop(thread.join());
        }
    }
}

impl Connection {
    fn close(&self) {
        for end in &self.ends {
            // An error means that it is closed already.
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener, to: Place) {
        while let Ok((caller, from)) = listener.accept() {
            if self.state().ended {
                return;
            }
            let IpAddr::V4(from) = from.ip() else { continue };
            let shared = Arc::clone(self);
            std::thread::spawn(move || {
                // A caller whose callee is not there is hung up on.
                let _ = shared.connect(from.octets()[3], to, caller);
            });
        }
    }

    fn connect(self: &Arc<Self>, from: Place, to: Place, caller: TcpStream) -> Result<()> {
        if self.state().faults.get(&(from, to)) == Some(&Fault::Cut) {
            return Ok(());
        }
        let callee = TcpStream::connect_timeout(&(node_ip(self.subnet, to), PEER_PORT).into(), CONNECT)?;
        caller.set_nodelay(true)?;
        callee.set_nodelay(true)?;
        let ends = [caller.try_clone()?, callee.try_clone()?];
        let id = {
            let mut state = self.state();
            // It may have been cut while the callee was called.
            if state.ended || state.faults.get(&(from, to)) == Some(&Fault::Cut) {
                return Ok(());
            }
            state.made += 1;
            let id = state.made;
            state.connections.insert(id, Connection { from, to, ends });
            id
        };
        let (back, answers) = (Arc::clone(self), (callee.try_clone()?, caller.try_clone()?));
        std::thread::spawn(move || back.carry(id, (to, from), answers.0, answers.1));
        self.carry(id, (from, to), caller, callee);
        Ok(())
    }

    /// Carries bytes in one direction until either end closes.
    fn carry(&self, id: u64, pair: (Place, Place), mut source: TcpStream, mut target: TcpStream) {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(n @ 1..) = source.read(&mut bytes) {
            let mut state = self.state();
            while state.faults.get(&pair) == Some(&Fault::Stall) && !state.ended {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            if target.write_all(&bytes[..n]).is_err() {
                break;
            }
        }
        if let Some(connection) = self.state().connections.remove(&id) {
            connection.close();
        }
    }
}
