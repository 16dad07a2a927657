//! The threads that serve peers: each with its own runtime and its own listening sockets.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skerry_core::lifecycle::{Lifecycle, Phase};
use tokio::task::JoinSet;

use crate::choke::ROUND;
use crate::connection;
use crate::node::Node;
use crate::utp;
use crate::wire::Wire;

/// How long peers that are sent away may take for what is on its way to them.
const GOODBYE: Duration = Duration::from_secs(5);
/// How often it is looked whether they have gone.
const LOOK: Duration = Duration::from_millis(10);

/// Runs on this thread until the node has drained. The first of the threads also gives out places.
pub(crate) fn run(
    node: Arc<Node>,
    sockets: Vec<TcpListener>,
    lifecycle: Lifecycle,
    first: bool,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut accepting = JoinSet::new();
        for socket in sockets {
            let listener = tokio::net::TcpListener::from_std(socket)?;
            accepting.spawn(accept(node.clone(), listener, lifecycle.clone()));
        }
        if first {
            accepting.spawn(rounds(node.clone()));
        }
        drained(&node, &lifecycle, accepting).await;
        Ok(())
    })
}

/// The same for uTP.
pub(crate) fn run_utp(node: Arc<Node>, sockets: Vec<UdpSocket>, lifecycle: Lifecycle) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut accepting, mut waking) = (JoinSet::new(), JoinSet::new());
        for socket in sockets {
            let listener = utp::Listener::new(socket, &node.config)?;
            waking.spawn(listener.datagrams().clone().wake());
            accepting.spawn(utp::accept(node.clone(), listener));
        }
        drained(&node, &lifecycle, accepting).await;
        // Streams say that they end when their connections have.
        tokio::time::sleep(LOOK).await;
        Ok(())
    })
}

/// Ends when the node drains and its peers have gone, or have had their time for it.
async fn drained(node: &Node, lifecycle: &Lifecycle, mut accepting: JoinSet<()>) {
    let deadline = lifecycle.draining().await.min(tokio::time::Instant::now() + GOODBYE);
    accepting.shutdown().await;
    // What is on its way is still sent; the rest is to be had elsewhere.
    while node.places.counts().0 > 0 && tokio::time::Instant::now() < deadline {
        node.places.close();
        tokio::time::sleep(LOOK).await;
    }
}

async fn rounds(node: Arc<Node>) {
    let mut keeping_up = JoinSet::new();
    keeping_up.spawn(node.clone().keep_up());
    keeping_up.spawn(node.clone().bring_back());
    keeping_up.spawn(node.clone().bound_memory());
    let mut ticks = tokio::time::interval(ROUND);
    loop {
        ticks.tick().await;
        node.places.round(Instant::now());
        node.forget();
    }
}

async fn accept(node: Arc<Node>, listener: tokio::net::TcpListener, lifecycle: Lifecycle) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let _ = stream.set_nodelay(true);
                take(&node, Wire::Tcp(stream), address);
            }
            Err(error) => {
                log::warn!("cannot accept a peer: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        if matches!(lifecycle.phase(), Phase::Draining { .. }) {
            return;
        }
    }
}

/// Takes a connection, when there is a place for it.
pub(crate) fn take(node: &Arc<Node>, wire: Wire, address: SocketAddr) {
    let Some(seat) = node.places.join(address, Instant::now()) else {
        return node.metrics.refused.with_label_values(&["full"]).inc();
    };
    node.metrics.accepted.inc();
    if matches!(wire, Wire::Utp(_)) {
        node.metrics.utp_accepted.inc();
    }
    tokio::spawn(connection::serve(node.clone(), wire, seat));
}
