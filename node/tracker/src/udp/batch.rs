//! Many packets for one system call (recvmmsg(2), sendmmsg(2)).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};

/// Packets that are read, and answered, at once.
const BATCH: usize = 32;
/// Longest request that is read, bytes; what is behind it is no part of the protocol.
const MOST_REQUEST: usize = 2048;

/// Packets as they came.
pub(super) struct Incoming {
    headers: MultiHeaders<SockaddrStorage>,
    bytes: Box<[[u8; MOST_REQUEST]; BATCH]>,
    packets: Vec<(SocketAddr, usize)>,
}

impl Default for Incoming {
    fn default() -> Self {
        Self {
            headers: MultiHeaders::preallocate(BATCH, None),
            bytes: Box::new([[0; MOST_REQUEST]; BATCH]),
            packets: Vec::with_capacity(BATCH),
        }
    }
}

impl Incoming {
    /// Waits for a packet, for as long as the socket's time limit says, and takes what waits behind it. Each
    /// comes with its sender.
    pub(super) fn read(
        &mut self,
        socket: &UdpSocket,
    ) -> io::Result<impl Iterator<Item = (SocketAddr, &[u8])>> {
        let mut places = self.bytes.each_mut().map(|place| [IoSliceMut::new(place)]);
        let flags = MsgFlags::MSG_WAITFORONE;
        let read = recvmmsg(socket.as_raw_fd(), &mut self.headers, &mut places, flags, None)?;
        self.packets.clear();
        // Port 0 is nobody's, and is not answered.
        let nobody = SocketAddr::from(([0; 4], 0));
        let packets = read.map(|one| (one.address.as_ref().and_then(address).unwrap_or(nobody), one.bytes));
        self.packets.extend(packets);
        let packets = self.packets.iter().zip(&*self.bytes);
        Ok(packets.map(|((from, length), place)| (*from, &place[..*length])))
    }
}

/// Answers that are about to be sent.
pub(super) struct Outgoing {
    headers: MultiHeaders<SockaddrStorage>,
    answers: Vec<Vec<u8>>,
    addresses: Vec<Option<SockaddrStorage>>,
}

impl Default for Outgoing {
    fn default() -> Self {
        let answers = (0..BATCH).map(|_| Vec::with_capacity(MOST_REQUEST)).collect();
        Self {
            headers: MultiHeaders::preallocate(BATCH, None),
            answers,
            addresses: Vec::with_capacity(BATCH),
        }
    }
}

impl Outgoing {
    /// Where the next answer is written: it is one when it is given an address, else the place is used again.
    pub(super) fn next(&mut self) -> &mut Vec<u8> {
        &mut self.answers[self.addresses.len()]
    }

    /// Where it goes.
    pub(super) fn address(&mut self, to: SocketAddr) {
        self.addresses.push(Some(to.into()));
    }

    /// Sends all; how many could not be sent.
    pub(super) fn send(&mut self, socket: &UdpSocket) -> usize {
        let count = self.addresses.len();
        let (mut done, mut failed) = (0, 0);
        while done < count {
            let slices: [_; BATCH] = std::array::from_fn(|at| {
                [IoSlice::new(self.answers.get(done + at).map_or(&[], Vec::as_slice))]
            });
            let to = &self.addresses[done..];
            let fd = socket.as_raw_fd();
            match sendmmsg(fd, &mut self.headers, &slices, to, [], MsgFlags::empty()) {
                Ok(sent) => done += sent.count().max(1),
                // The first of them: the others are no worse for it.
                Err(_) => (done, failed) = (done + 1, failed + 1),
            }
        }
        self.addresses.clear();
        failed
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::V4((*v4).into()));
    }
    storage.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn packets_keep_their_order_their_senders_and_their_length() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let bind = || UdpSocket::bind(loopback).unwrap();
            let (server, clients) = (bind(), [bind(), bind()]);
            server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let to = server.local_addr().unwrap();
            let most = BATCH + 5;
            for number in 0..most {
                clients[number % 2].send_to(&vec![number as u8; number + 1], to).unwrap();
            }
            let (mut incoming, mut outgoing) = (Incoming::default(), Outgoing::default());
            let mut seen = 0;
            while seen < most {
                for (from, packet) in incoming.read(&server).unwrap() {
                    assert_eq!(packet, vec![seen as u8; seen + 1]);
                    assert_eq!(from, clients[seen % 2].local_addr().unwrap());
                    // Of three, one is not answered.
                    let place = outgoing.next();
                    place.clear();
                    place.extend_from_slice(packet);
                    if seen % 3 > 0 {
                        outgoing.address(from);
                    }
                    seen += 1;
                }
                assert_eq!(outgoing.send(&server), 0);
            }
            for (which, client) in clients.iter().enumerate() {
                client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                for number in (0..most).filter(|number| number % 2 == which && number % 3 > 0) {
                    let mut place = [0; 128];
                    let length = client.recv(&mut place).unwrap();
                    assert_eq!(place[..length], vec![number as u8; number + 1]);
                }
            }
        }
    }

    #[test]
    fn one_that_cannot_be_sent_holds_up_no_other() {
        let (server, client) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut outgoing = Outgoing::default();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        for to in [nowhere, client.local_addr().unwrap(), nowhere] {
            let place = outgoing.next();
            place.clear();
            place.push(7);
            outgoing.address(to);
        }
        assert_eq!(outgoing.send(&server), 2);
        assert_eq!(client.recv(&mut [0; 8]).unwrap(), 1);
    }
}
