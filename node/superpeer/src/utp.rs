//! uTP (BEP 29): the peer wire in datagrams, on the UDP ports of `superpeer.listen`.
//!
//! The streams are those of `librqbit-utp`, with CUBIC in place of LEDBAT: they take their share of a
//! line as TCP does, and do not give way to it. Every address has one socket, and one thread serves all
//! of them, so that TCP's threads know nothing of it. What the library leaves open is settled around
//! it: what a datagram may be, who waits for room in the socket, and how a stream ends whose peer takes
//! nothing (`datagrams`); readiness, which its streams do not tell (`stream`); and how many may be there
//! that have not proved their address (`unproven`).

mod datagrams;
mod stream;
mod unproven;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use librqbit_utp::{SocketOpts, UtpSocket, UtpSocketUdp};
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::SuperPeerConfig;
use crate::error::SuperPeerError;
use crate::node::Node;
use crate::server;
use crate::wire::Wire;

pub(crate) use datagrams::Datagrams;
pub(crate) use stream::Utp;
use unproven::{Turn, Unproven};

/// The longest packet that is tried, bytes of IP: what PPPoE lines carry. From IPv6's 1280 every stream finds
/// its way up to it, and over IPv4 from 1260, which is 32 more than QUIC wants of a line (RFC 9000 §14): the
/// library takes all peers for those of IPv6 (`datagrams`), and does not know that the header is shorter.
const MTU: usize = 1492;
/// By how much it is, bytes.
const SHORTER: usize = 20;
/// Bytes of one peer that wait to be read: requests are all that it has to say.
const INCOMING: usize = 32 * 1024;
/// Bytes that wait for one peer's acknowledgement: at first, and at most once it has proved to be fast. The
/// library loses its place with more than 1024 packets on their way, and these are fewer of the smallest.
const OUTGOING: usize = 16 * 1024;
const MOST_OUTGOING: usize = 256 * 1024;
/// How often a packet is sent again before its peer is given up, some 25 seconds.
const RETRANSMISSIONS: usize = 6;
/// Beyond the idle timeout, after which the connection ends: the library is not to be first.
const SPARE: Duration = Duration::from_secs(60);
/// How long a stream may take to prove that its peer is where it says.
const PROOF: Duration = Duration::from_secs(5);
/// What is asked of the system for datagrams that wait; it may give less.
const BUFFER: usize = 4 << 20;

/// The library's clock, a type that has a name in its socket's type alone.
trait Timed {
    type Clock;
}

impl<T, C> Timed for UtpSocket<T, C> {
    type Clock = C;
}

type Clock = <UtpSocketUdp as Timed>::Clock;

/// Binds `address` for [`SuperPeer::run_utp`](crate::SuperPeer::run_utp).
///
/// # Errors
/// When the system does not give the address.
pub fn bind(address: SocketAddr) -> Result<UdpSocket, SuperPeerError> {
    socket(address).map_err(|source| SuperPeerError::Bind { address, source })
}

fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // Packets are never fragmented, and the routers' word on how long they may be is not taken: with it, a
    // probe of the library's that is sent again can end its stream. Where that cannot be set, packets that
    // are too long go out in parts.
    let _ = match address {
        SocketAddr::V4(_) => sockopt::set_ip_mtu_discover(&socket, sockopt::Ipv4PathMtuDiscovery::PROBE),
        SocketAddr::V6(_) => sockopt::set_ipv6_mtu_discover(&socket, sockopt::Ipv6PathMtuDiscovery::PROBE),
    };
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Beyond the system's limit it gives its most and says so; that is no reason not to serve.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// One address, listened on.
pub(crate) struct Listener {
    socket: Arc<UtpSocket<datagrams::Link, Clock>>,
    datagrams: Arc<Datagrams>,
}

impl Listener {
    /// Listens on a bound socket; in a runtime, which then serves its streams.
    pub(crate) fn new(socket: UdpSocket, config: &SuperPeerConfig) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let datagrams = Datagrams::new(tokio::net::UdpSocket::from_std(socket)?)?;
        let mtu = if address.is_ipv4() { MTU + SHORTER } else { MTU };
        let limits = SocketOpts {
            link_mtu: NonZeroUsize::new(mtu),
            vsock_rx_bufsize_bytes: NonZeroUsize::new(INCOMING),
            vsock_tx_bufsize_bytes_initial: NonZeroUsize::new(OUTGOING),
            vsock_tx_bufsize_bytes_max: NonZeroUsize::new(MOST_OUTGOING),
            max_retransmissions: NonZeroUsize::new(RETRANSMISSIONS),
            remote_inactivity_timeout: Some(Duration::from_secs(config.idle_timeout_seconds) + SPARE),
            // With the unproven, and as many that are on their way out.
            max_live_vsocks: NonZeroUsize::new(config.max_connections + 2 * unproven::MOST),
            ..SocketOpts::default()
        };
        let link = datagrams::Link(datagrams.clone());
        let socket = UtpSocket::new_with_opts(link, Clock::default(), limits)
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self { socket, datagrams })
    }

    /// What its packets go through.
    pub(crate) fn datagrams(&self) -> &Arc<Datagrams> {
        &self.datagrams
    }

    /// The next stream, of which nothing has come yet.
    async fn accept(&self) -> Result<Utp, librqbit_utp::Error> {
        let stream = self.socket.accept().await?;
        Ok(Utp::new(stream, self.datagrams.clone()))
    }
}

/// Takes streams for as long as it is polled.
pub(crate) async fn accept(node: Arc<Node>, listener: Listener) {
    let unproven = Arc::<Unproven>::default();
    loop {
        match listener.accept().await {
            Ok(utp) => {
                let turn = unproven.enter(utp.address().ip());
                tokio::spawn(prove(node.clone(), utp, turn));
            }
            Err(error) => return log::error!("no peer can come over uTP any more: {error}"),
        }
    }
}

/// Takes a stream when its peer has proved its address by saying something.
async fn prove(node: Arc<Node>, mut utp: Utp, mut turn: Turn) {
    let speaks = tokio::select! {
        speaks = tokio::time::timeout(PROOF, utp.speaks()) => speaks.ok(),
        () = turn.goes() => None,
    };
    drop(turn);
    match speaks {
        // The library checks that a word answers its own, and not that an end does.
        Some(Ok(true)) => {
            let address = utp.address();
            server::take(&node, Wire::Utp(Box::new(utp)), address);
        }
        Some(_) => {}
        // Else its peer is told of the end for a second, and it is one of those that the library counts.
        None => utp.cut(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use librqbit_utp::UtpStream;

    use super::*;

    /// Streams from one address, as the node has them and as their peer does.
    pub(crate) async fn pairs(count: usize) -> (Vec<(Utp, UtpStream)>, Listener) {
        let bound = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = bound.local_addr().unwrap();
        let listener = Listener::new(bound, &SuperPeerConfig::default()).unwrap();
        let client = UtpSocketUdp::new_udp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let mut pairs = Vec::new();
        for _ in 0..count {
            let (ours, theirs) = tokio::join!(listener.accept(), client.connect(address));
            pairs.push((ours.unwrap(), theirs.unwrap()));
            assert_eq!(pairs[pairs.len() - 1].0.address(), client.bind_addr());
        }
        (pairs, listener)
    }

    /// One of them.
    pub(crate) async fn pair() -> (Utp, UtpStream, Listener) {
        let (mut pairs, listener) = pairs(1).await;
        let (ours, theirs) = pairs.remove(0);
        (ours, theirs, listener)
    }

    #[test]
    fn a_port_in_use_names_the_address_and_the_key() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let first = bind(loopback.parse().unwrap()).unwrap();
            let address = first.local_addr().unwrap();
            let error = bind(address).unwrap_err().to_string();
            assert!(error.contains(&address.to_string()) && error.contains("`superpeer.utp`"), "{error}");
        }
    }
}
