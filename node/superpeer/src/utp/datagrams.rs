//! The datagrams under the streams of one socket.
//!
//! Five things are done here that the library does not do:
//! - Datagrams longer than Ethernet's are passed over: each may be kept, and makes the stream believe that
//!   it can send such long ones too.
//! - All streams that wait for room in the socket are woken; tokio's own polling knows one waker.
//! - A peer whose window is shut is sent one packet all the same (RFC 9293 §3.8.6.1). Without that the loss
//!   of the packet that opens it again stops the stream, and one whose peer never opens it never ends.
//! - A stream can be cut off, so that one ends that nobody reads any more and whose peer does not take
//!   what was written ([`Datagrams::cut`]).
//! - Streams of one address can be told apart. The library does not tell a stream's connection id, so it is
//!   made a part of the address that the library has for its peer ([`of_stream`]). Nothing is kept for that,
//!   whatever ids come.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use librqbit_dualstack_sockets::PollSendToVectored;
use librqbit_utp::Transport;
use parking_lot::Mutex;
use socket2::{SockAddr, SockRef};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::Notify;

/// The longest datagram that is read, bytes: what Ethernet carries over IPv4.
const LONGEST: usize = 1472;
/// Length of the header, bytes, and where the window is in it.
const HEADER: usize = 20;
const WINDOW: std::ops::Range<usize> = 12..16;
/// The type of the packet that opens a stream.
const SYN: u8 = 4;
/// The smallest window that a stream is told of: it has room for any one packet.
const SMALLEST_WINDOW: u32 = 2048;
/// After an error that is nobody's datagram.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a cut waits for its stream's next packet: longer than the longest time between two tries.
const CUT: Duration = Duration::from_secs(70);
/// How many may wait at once. What is beyond stays until it gives up.
const MOST_CUT: usize = 4096;

/// One socket.
#[derive(Debug)]
pub(crate) struct Datagrams {
    socket: UdpSocket,
    address: SocketAddr,
    /// Streams that wait for room in the socket.
    waiting: Mutex<Vec<Waker>>,
    full: Notify,
    /// Streams that are cut off with their next packet, and until when that may be.
    cut: Mutex<HashMap<SocketAddr, Instant>>,
}

impl Datagrams {
    /// Those of `socket`.
    pub(super) fn new(socket: UdpSocket) -> io::Result<Arc<Self>> {
        let address = socket.local_addr()?;
        let (waiting, full, cut) = Default::default();
        Ok(Arc::new(Self { socket, address, waiting, full, cut }))
    }

    /// Wakes streams when there is room in the socket again, for as long as it is polled.
    pub(crate) async fn wake(self: Arc<Self>) {
        loop {
            self.full.notified().await;
            if self.socket.writable().await.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
            let waiting = std::mem::take(&mut *self.waiting.lock());
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// Ends `stream`, an address of [`of_stream`], as soon as one of its packets is due.
    pub(super) fn cut(&self, stream: SocketAddr, now: Instant) {
        let mut cut = self.cut.lock();
        cut.retain(|_, until| *until > now);
        if cut.len() < MOST_CUT {
            cut.insert(stream, now + CUT);
        }
    }

    /// Whether a stream is to end now. The library ends it at the first packet that cannot be sent.
    fn ends(&self, stream: &SocketAddr) -> bool {
        let mut cut = self.cut.lock();
        // Mostly there is none, and then it costs no look at the clock.
        !cut.is_empty() && cut.remove(stream).is_some_and(|until| until > Instant::now())
    }

    fn poll_send(
        &self,
        context: &Context<'_>,
        stream: SocketAddr,
        send: impl FnOnce(SockRef<'_>, &SockAddr) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.ends(&stream) {
            return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
        }
        let send = || send(SockRef::from(&self.socket), &of_peer(stream).into());
        match self.socket.try_io(Interest::WRITABLE, send) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut waiting = self.waiting.lock();
                if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                    waiting.push(context.waker().clone());
                }
                self.full.notify_one();
                Poll::Pending
            }
            sent => Poll::Ready(sent),
        }
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            match self.socket.recv_from(buffer).await {
                Ok((length, from)) if length <= LONGEST => {
                    let packet = &mut buffer[..length];
                    open_window(packet);
                    return Ok((length, of_stream(from, packet)));
                }
                Ok(_) => {}
                // An error that is returned would be the end of every stream.
                Err(error) => {
                    log::debug!("a datagram of a peer cannot be read: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn send(&self, packet: &[u8], stream: SocketAddr) -> io::Result<usize> {
        self.socket.send_to(packet, of_peer(stream)).await
    }
}

/// The address that the library has for the peer that a packet came from: with the id that the peer's packets
/// of this stream have in place of an IPv6 address's flow label, which nothing else here uses. What is too
/// short for a packet keeps its address, and the library passes it over.
pub(super) fn of_stream(from: SocketAddr, packet: &[u8]) -> SocketAddr {
    let [kind, _, high, low, ..] = *packet else { return from };
    let id = u16::from_be_bytes([high, low]);
    // The first one has the id of the packets that answer it, which is one less.
    let id = if kind >> 4 == SYN { id.wrapping_add(1) } else { id };
    let (ip, scope) = match from {
        SocketAddr::V4(from) => (from.ip().to_ipv6_mapped(), 0),
        SocketAddr::V6(from) => (*from.ip(), from.scope_id()),
    };
    SocketAddrV6::new(ip, from.port(), id.into(), scope).into()
}

/// Where the peer of a stream is, by the address that the library has for it.
pub(super) fn of_peer(stream: SocketAddr) -> SocketAddr {
    match stream {
        SocketAddr::V6(mut stream) => {
            stream.set_flowinfo(0);
            match stream.ip().to_ipv4_mapped() {
                Some(ip) => (ip, stream.port()).into(),
                None => stream.into(),
            }
        }
        SocketAddr::V4(_) => stream,
    }
}

/// Makes room for one packet in the window that a packet tells of.
fn open_window(packet: &mut [u8]) {
    if packet.len() < HEADER {
        return;
    }
    if let Some(window) = packet.get_mut(WINDOW).and_then(|field| field.first_chunk_mut::<4>())
        && u32::from_be_bytes(*window) < SMALLEST_WINDOW
    {
        *window = SMALLEST_WINDOW.to_be_bytes();
    }
}

/// The socket as the library has it.
pub(super) struct Link(pub(super) Arc<Datagrams>);

impl Transport for Link {
    fn recv_from<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> impl Future<Output = io::Result<(usize, SocketAddr)>> + Send + Sync + 'a {
        self.0.receive(buffer)
    }

    fn send_to<'a>(
        &'a self,
        packet: &'a [u8],
        stream: SocketAddr,
    ) -> impl Future<Output = io::Result<usize>> + Send + Sync + 'a {
        self.0.send(packet, stream)
    }

    fn poll_send_to(
        &self,
        context: &mut Context<'_>,
        packet: &[u8],
        stream: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.0.poll_send(context, stream, |socket, to| socket.send_to(packet, to))
    }

    fn bind_addr(&self) -> SocketAddr {
        self.0.address
    }
}

impl PollSendToVectored for Link {
    fn poll_send_to_vectored(
        &self,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
        stream: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.0.poll_send(context, stream, |socket, to| socket.send_to_vectored(parts, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn datagrams() -> Arc<Datagrams> {
        Datagrams::new(UdpSocket::bind("127.0.0.1:0").await.unwrap()).unwrap()
    }

    #[test]
    fn a_window_that_is_shut_has_room_for_one_packet() {
        let told = |window: u32| {
            let mut packet = [0x21; 30];
            packet[WINDOW].copy_from_slice(&window.to_be_bytes());
            open_window(&mut packet);
            assert!(packet[..12].iter().chain(&packet[16..]).all(|byte| *byte == 0x21));
            u32::from_be_bytes(packet[WINDOW].try_into().unwrap())
        };
        assert_eq!([0, 1, 2047, 2048, 1 << 20].map(told), [2048, 2048, 2048, 2048, 1 << 20]);
        for length in 0..HEADER {
            let mut packet = vec![0; length];
            open_window(&mut packet);
            assert!(packet.iter().all(|byte| *byte == 0), "what is no packet stays as it is");
        }
    }

    #[tokio::test]
    async fn long_datagrams_are_passed_over() {
        let (datagrams, sender) = (datagrams().await, UdpSocket::bind("127.0.0.1:0").await.unwrap());
        for length in [LONGEST + 1, 9000, LONGEST, 20] {
            sender.send_to(&vec![1; length], datagrams.address).await.unwrap();
        }
        let mut buffer = [0; 16_384];
        for length in [LONGEST, 20] {
            let (received, from) = datagrams.receive(&mut buffer).await.unwrap();
            assert_eq!((received, of_peer(from)), (length, sender.local_addr().unwrap()));
        }
    }

    /// A packet of a type and an id, as a peer sends it.
    fn packet(kind: u8, id: u16) -> Vec<u8> {
        let [high, low] = id.to_be_bytes();
        [[kind << 4 | 1, 0, high, low].as_slice(), &[0; HEADER - 4]].concat()
    }

    #[test]
    fn a_stream_has_one_address_and_its_peer_another() {
        for peer in ["192.0.2.1:6881", "[2001:db8::1]:6881", "[fe80::1%7]:6881"] {
            let peer: SocketAddr = peer.parse().unwrap();
            for first in [0, 7, 0x7fff, u16::MAX] {
                let stream = of_stream(peer, &packet(SYN, first));
                // Data, the end, an acknowledgement, a reset.
                for kind in 0..SYN {
                    assert_eq!(of_stream(peer, &packet(kind, first.wrapping_add(1))), stream);
                    assert_ne!(of_stream(peer, &packet(kind, first)), stream);
                }
                assert_ne!(of_stream(peer, &packet(SYN, first.wrapping_add(1))), stream);
                assert_eq!(of_peer(stream), peer);
            }
            for length in 0..4 {
                assert_eq!(of_stream(peer, &packet(SYN, 1)[..length]), peer);
            }
            assert_eq!(of_peer(peer), peer);
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_cut_off_is_told_so_once() {
        let (datagrams, peer) = (datagrams().await, UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let (address, now) = (peer.local_addr().unwrap(), Instant::now());
        let link = Link(datagrams.clone());
        let [one, other] = [1, 2].map(|id| of_stream(address, &packet(0, id)));
        let send = |stream| {
            let parts = [IoSlice::new(b"one"), IoSlice::new(b"two")];
            let mut context = Context::from_waker(Waker::noop());
            link.poll_send_to_vectored(&mut context, &parts, stream)
        };
        datagrams.socket.writable().await.unwrap();
        datagrams.cut(one, now);
        assert!(matches!(send(other), Poll::Ready(Ok(6))), "another stream of the same address");
        assert!(matches!(send(one), Poll::Ready(Err(_))));
        assert!(datagrams.cut.lock().is_empty());
        // It may still say that it ends, and its id may be used again.
        assert!(matches!(send(one), Poll::Ready(Ok(6))));
        // As it is when the time is over.
        datagrams.cut.lock().insert(one, now);
        assert!(matches!(send(one), Poll::Ready(Ok(6))));
        assert!(datagrams.cut.lock().is_empty());
    }

    #[tokio::test]
    async fn only_so_many_cuts_wait() {
        let (datagrams, now) = (datagrams().await, Instant::now());
        let of = |id| of_stream(([192, 0, 2, 1], 6881).into(), &packet(0, id));
        (0..MOST_CUT as u16 + 9).for_each(|id| datagrams.cut(of(id), now));
        assert_eq!(datagrams.cut.lock().len(), MOST_CUT);
        datagrams.cut(of(u16::MAX), now + CUT);
        assert_eq!(datagrams.cut.lock().len(), 1);
    }

    #[tokio::test]
    async fn all_who_wait_for_room_are_woken() {
        let datagrams = datagrams().await;
        let waits = |_| {
            let datagrams = datagrams.clone();
            let mut is_first = true;
            std::future::poll_fn(move |context| {
                if !std::mem::take(&mut is_first) {
                    return Poll::Ready(());
                }
                let full =
                    datagrams.poll_send(context, datagrams.address, |_, _| Err(ErrorKind::WouldBlock.into()));
                full.map(|_| ())
            })
        };
        datagrams.socket.writable().await.unwrap();
        let waiting: Vec<_> = (0..3).map(|number| tokio::spawn(waits(number))).collect();
        while datagrams.waiting.lock().len() < 3 {
            tokio::task::yield_now().await;
        }
        let waking = tokio::spawn(datagrams.clone().wake());
        // It was not full at all: whatever happens to the socket next shows that.
        let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        other.send_to(b"x", datagrams.address).unwrap();
        for one in waiting {
            tokio::time::timeout(Duration::from_secs(10), one).await.unwrap().unwrap();
        }
        waking.abort();
    }
}
