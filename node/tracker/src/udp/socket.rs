//! UDP sockets and the threads on them: one of each for every worker. Packets that wait are read with one
//! system call, and their answers sent with one.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use skerry_core::lifecycle::{Lifecycle, Phase};
use socket2::{Domain, Protocol, Socket, Type};

use super::Server;
use super::batch::{Incoming, Outgoing};
use crate::TrackerError;

/// How long a thread sleeps when nothing comes, and how often it looks at the node's phase when packets do.
const LOOK: Duration = Duration::from_millis(250);
/// After an error that is nobody's packet.
const PAUSE: Duration = Duration::from_millis(100);
/// What is asked of the system for packets that wait, so that a burst is not lost; it may give less.
const BUFFER: usize = 4 << 20;

/// Binds `address` once for every worker (`SO_REUSEPORT`). Port 0 takes a free one.
///
/// A first bind without `SO_REUSEPORT` makes sure that no other process already shares the port.
///
/// # Errors
/// When the system does not give the address.
pub fn bind_udp(address: SocketAddr, workers: usize) -> Result<Vec<UdpSocket>, TrackerError> {
    let fail = |source| TrackerError::Bind { address, source };
    let probe = socket(address, false).map_err(fail)?;
    let address = probe.local_addr().map_err(fail)?;
    drop(probe);
    (0..workers).map(|_| socket(address, true)).collect::<Result<_, _>>().map_err(fail)
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    // Beyond the system's limit it gives its most and says so; that is no reason not to serve.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.set_read_timeout(Some(LOOK))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Answers what comes to a socket until the node drains.
///
/// # Errors
/// When the socket fails for good.
pub fn serve(socket: &UdpSocket, mut server: Server, lifecycle: &Lifecycle) -> io::Result<()> {
    let mut incoming = Incoming::default();
    let mut outgoing = Outgoing::default();
    // When the first packets came after the phase was looked at; none, and it is to be looked at again.
    let mut looked = None;
    let mut complained = false;
    loop {
        if looked.is_none() && matches!(lifecycle.phase(), Phase::Draining { .. }) {
            return Ok(());
        }
        match incoming.read(socket) {
            Ok(packets) => {
                let now = server.tracker.now();
                looked = looked.or(Some(now)).filter(|at| now.saturating_sub(*at) < LOOK);
                for (from, packet) in packets {
                    let answer = outgoing.next();
                    if server.answer(packet, from, now, answer) {
                        outgoing.address(from);
                    }
                }
                (0..outgoing.send(socket)).for_each(|_| server.unsent());
            }
            Err(error) => {
                looked = None;
                match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => {}
                    // What the network said of an answer to somebody else.
                    ErrorKind::Interrupted | ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable => {}
                    // Out of memory, or the interface is down: it may be better in a moment.
                    _ => {
                        if !std::mem::replace(&mut complained, true) {
                            log::warn!("cannot read what is announced over UDP: {error}");
                        }
                        std::thread::sleep(PAUSE);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use skerry_wire::tracker::udp::{Request, Response};

    use super::*;
    use crate::tracker::tests::tracker;
    use crate::udp::ConnectionIds;

    #[test]
    fn workers_share_a_port_until_the_drain() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let sockets = bind_udp(loopback.parse().unwrap(), 2).unwrap();
            let address = sockets[0].local_addr().unwrap();
            assert_eq!(sockets[1].local_addr().unwrap(), address);
            let (tracker, ids, lifecycle) =
                (tracker(|_| {}), Arc::<ConnectionIds>::default(), Lifecycle::default());
            let serving = sockets.into_iter().map(|socket| {
                let (server, lifecycle) = (Server::new(tracker.clone(), ids.clone()), lifecycle.clone());
                std::thread::spawn(move || serve(&socket, server, &lifecycle))
            });
            let serving: Vec<_> = serving.collect();
            let client = UdpSocket::bind((address.ip(), 0)).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut packet = Vec::new();
            Request::Connect { transaction: 7 }.write(&mut packet);
            client.send_to(&packet, address).unwrap();
            let mut answer = [0; 64];
            let (length, from) = client.recv_from(&mut answer).unwrap();
            assert_eq!(from, address);
            assert!(matches!(
                Response::parse(&answer[..length]),
                Ok(Response::Connect { transaction: 7, .. })
            ));
            lifecycle.drain(Duration::ZERO);
            // A packet now and then does not keep it from being seen.
            let drained = Instant::now();
            while serving.iter().any(|thread| !thread.is_finished()) {
                assert!(drained.elapsed() < Duration::from_secs(60), "it goes on");
                client.send_to(&packet, address).unwrap();
                std::thread::sleep(LOOK / 5);
            }
            serving.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
        }
    }

    #[test]
    fn a_port_in_use_names_the_address_and_the_key() {
        let first = bind_udp(SocketAddr::from(([127, 0, 0, 1], 0)), 2).unwrap();
        let address = first[0].local_addr().unwrap();
        let error = bind_udp(address, 1).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("`tracker.listen`"), "{error}");
    }
}
