//! The serving threads: start them, drain them.
//!
//! One thread for each core, each with its own current-thread runtime, its own listening socket and its own view of the
//! catalog. A connection never leaves the thread that accepted it.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;

use larder_replication::node::Node;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::LocalSet;

use crate::api_key::NoRandomness;
use crate::config::Limits;
use crate::core::{Core, Shared};
use crate::forward::Forwarder;
use crate::listener;
use crate::metrics::{CoreMeter, Metrics};

/// Sockets that are bound and not served yet.
pub struct Listeners {
    address: SocketAddr,
    sockets: Vec<std::net::TcpListener>,
}

impl Listeners {
    /// Binds an address for so many serving threads, before anything that takes long is begun.
    ///
    /// # Errors
    /// When the address is in use or not ours.
    pub fn bind(address: SocketAddr, threads: usize) -> io::Result<Self> {
        let (address, sockets) = listener::bind(address, threads)?;
        Ok(Self { address, sockets })
    }

    /// The address, with the port that was given for port 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Why the serving threads could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The system gave no thread or runtime.
    #[error("cannot start a serving thread")]
    Thread(#[from] io::Error),
    /// The system gave no random bytes.
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

/// The running threads. Dropping it drains them without waiting.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    ended: mpsc::Receiver<()>,
}

impl Server {
    /// Starts serving. `background` must be the runtime that the node runs on: whatever takes longer than a lookup is
    /// run there.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn start(
        listeners: Listeners,
        node: Arc<Node>,
        background: Handle,
        limits: Limits,
    ) -> Result<Self, ServeError> {
        let meters: Vec<_> = listeners.sockets.iter().map(|_| Arc::<CoreMeter>::default()).collect();
        let shared = Arc::new(Shared {
            node,
            background,
            limits,
            connections: AtomicUsize::new(0),
            meters: meters.clone(),
            batches: Arc::new(Semaphore::new(limits.batches)),
            draining: AtomicBool::new(false),
        });
        shared.node.on_forwarded(Forwarder::of(&shared.node));
        let (stop, stopped) = watch::channel(false);
        let (ending, ended) = mpsc::channel(1);
        let mut threads = Vec::with_capacity(listeners.sockets.len());
        for (number, (socket, meter)) in listeners.sockets.into_iter().zip(meters).enumerate() {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let mut seed = [0; 8];
            getrandom::fill(&mut seed).map_err(NoRandomness::from)?;
            let (shared, stopped, ending) = (Arc::clone(&shared), stopped.clone(), ending.clone());
            let serve = move || {
                let core = Rc::new(Core::new(shared, u64::from_le_bytes(seed), meter));
                LocalSet::new().block_on(&runtime, listener::run(core, socket, stopped));
                // Nobody may be listening any more, and then nobody needs to know.
                let _ = ending.try_send(());
            };
            threads.push(std::thread::Builder::new().name(format!("serve-{number}")).spawn(serve)?);
        }
        Ok(Self { address: listeners.address, shared, threads, stop, ended })
    }

    /// The address served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The metrics of the node and of this server.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics::of(&self.shared)
    }

    /// Resolves when a serving thread has ended though nobody asked it to.
    pub async fn failed(&mut self) {
        let _ = self.ended.recv().await;
    }

    /// Stops accepting, lets requests in flight end within the drain timeout, and ends the threads. Blocks meanwhile.
    pub fn drain(self) {
        self.shared.draining.store(true, Relaxed);
        self.stop.send_replace(true);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a serving thread has panicked");
            }
        }
    }
}
