//! The datagrams under the streams of one socket.
//!
//! Four things are done here that the library does not do:
//! - Datagrams longer than Ethernet's are passed over: each may be kept, and makes the stream believe that
//!   it can send such long ones too.
//! - All streams that wait for room in the socket are woken; tokio's own polling knows one waker.
//! - A peer whose window is shut is sent one packet all the same (RFC 9293 §3.8.6.1). Without that the loss
//!   of the packet that opens it again stops the stream, and one whose peer never opens it never ends.
//! - A peer can be cut off, so that streams end that nobody reads any more and whose peer does not take
//!   what was written ([`Datagrams::cut`]).

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
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
/// The smallest window that a stream is told of: it has room for any one packet.
const SMALLEST_WINDOW: u32 = 2048;
/// After an error that is nobody's datagram.
const PAUSE: Duration = Duration::from_millis(100);
/// How long somebody is cut off: longer than the longest time between two tries of a stream.
const CUT: Duration = Duration::from_secs(70);
/// How many may be at once. Who is beyond keeps its streams until they give up.
const MOST_CUT: usize = 4096;

/// One socket.
#[derive(Debug)]
pub(crate) struct Datagrams {
    socket: UdpSocket,
    address: SocketAddr,
    /// Streams that wait for room in the socket.
    waiting: Mutex<Vec<Waker>>,
    full: Notify,
    /// Who is cut off, and until when.
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

    /// Ends the streams of `peer` as soon as one of its packets is due, and keeps it away for a while.
    pub(super) fn cut(&self, peer: SocketAddr, now: Instant) {
        let mut cut = self.cut.lock();
        cut.retain(|_, until| *until > now);
        if cut.len() < MOST_CUT {
            cut.insert(peer, now + CUT);
        }
    }

    fn is_cut(&self, peer: &SocketAddr) -> bool {
        let mut cut = self.cut.lock();
        // Mostly nobody is, and then it costs no look at the clock.
        let until = if cut.is_empty() { None } else { cut.get(peer).copied() };
        let is_cut = until.is_some_and(|until| until > Instant::now());
        if until.is_some() && !is_cut {
            cut.remove(peer);
        }
        is_cut
    }

    fn poll_send(
        &self,
        context: &Context<'_>,
        peer: SocketAddr,
        send: impl FnOnce(SockRef<'_>, &SockAddr) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.is_cut(&peer) {
            return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
        }
        let send = || send(SockRef::from(&self.socket), &peer.into());
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
                    open_window(&mut buffer[..length]);
                    return Ok((length, from));
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

    async fn send(&self, packet: &[u8], peer: SocketAddr) -> io::Result<usize> {
        self.socket.send_to(packet, peer).await
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
        peer: SocketAddr,
    ) -> impl Future<Output = io::Result<usize>> + Send + Sync + 'a {
        self.0.send(packet, peer)
    }

    fn poll_send_to(
        &self,
        context: &mut Context<'_>,
        packet: &[u8],
        peer: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.0.poll_send(context, peer, |socket, to| socket.send_to(packet, to))
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
        peer: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.0.poll_send(context, peer, |socket, to| socket.send_to_vectored(parts, to))
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
        let from = sender.local_addr().unwrap();
        assert_eq!(datagrams.receive(&mut buffer).await.unwrap(), (LONGEST, from));
        assert_eq!(datagrams.receive(&mut buffer).await.unwrap(), (20, from));
    }

    #[tokio::test]
    async fn who_is_cut_off_is_sent_nothing_for_a_while() {
        let (datagrams, peer) = (datagrams().await, UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let (address, now) = (peer.local_addr().unwrap(), Instant::now());
        let link = Link(datagrams.clone());
        let send = || {
            let parts = [IoSlice::new(b"one"), IoSlice::new(b"two")];
            let mut context = Context::from_waker(Waker::noop());
            link.poll_send_to_vectored(&mut context, &parts, address)
        };
        datagrams.socket.writable().await.unwrap();
        assert!(matches!(send(), Poll::Ready(Ok(6))));
        datagrams.cut(address, now);
        assert!(matches!(send(), Poll::Ready(Err(_))));
        assert_eq!(datagrams.cut.lock().len(), 1);
        // As it is when the time is over.
        datagrams.cut.lock().insert(address, now);
        assert!(matches!(send(), Poll::Ready(Ok(6))));
        assert!(datagrams.cut.lock().is_empty());
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
