//! The threads that serve peers: each with its own runtime and its own listening sockets.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use skerry_core::lifecycle::{Lifecycle, Phase};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::choke::ROUND;
use crate::connection;
use crate::node::Node;

/// How long peers that are sent away may take for what is on its way to them.
const GOODBYE: Duration = Duration::from_secs(5);

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
        let deadline = lifecycle.draining().await.min(tokio::time::Instant::now() + GOODBYE);
        accepting.shutdown().await;
        // What is on its way is still sent; the rest is to be had elsewhere.
        while node.places.counts().0 > 0 && tokio::time::Instant::now() < deadline {
            node.places.close();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    })
}

async fn rounds(node: Arc<Node>) {
    let mut keeping_up = JoinSet::new();
    keeping_up.spawn(node.clone().keep_up());
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
            Ok((stream, address)) => take(&node, stream, address),
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

fn take(node: &Arc<Node>, stream: TcpStream, address: std::net::SocketAddr) {
    let Some(seat) = node.places.join(address, Instant::now()) else {
        return node.metrics.refused.with_label_values(&["full"]).inc();
    };
    node.metrics.accepted.inc();
    let _ = stream.set_nodelay(true);
    tokio::spawn(connection::serve(node.clone(), stream, seat));
}
