//! Listening sockets: one for every worker and address, or those that systemd hands over.

use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::Error;

const BACKLOG: i32 = 4096;

/// The sockets of one address, one for every worker.
#[derive(Debug)]
pub struct Bound {
    /// The address with its real port.
    pub address: SocketAddr,
    /// One for every worker at least; those beyond are theirs too, in turn.
    pub sockets: Vec<TcpListener>,
}

/// Binds `address` once for every worker (`SO_REUSEPORT`). Port 0 takes a free one.
///
/// A first bind without `SO_REUSEPORT` makes sure that no other process already shares the port.
pub fn bind(address: SocketAddr, workers: usize, key: &'static str) -> Result<Bound, Error> {
    let fail = |source| Error::Bind { address, key, source };
    let probe = socket(address, false).map_err(fail)?;
    let address = probe.local_addr().map_err(fail)?;
    drop(probe);
    let sockets = (0..workers).map(|_| socket(address, true)).collect::<Result<_, _>>().map_err(fail)?;
    Ok(Bound { address, sockets })
}

fn socket(address: SocketAddr, shared: bool) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Sockets that systemd opened for this process, by `FileDescriptorName=`.
#[derive(Debug, Default)]
pub struct Activated(Vec<(String, TcpListener)>);

impl Activated {
    /// Takes them from the environment (`LISTEN_FDS`, `LISTEN_FDNAMES`; sd_listen_fds(3)).
    pub fn from_environment() -> std::io::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut handed = listenfd::ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..handed.len() {
            let name = names.next().unwrap_or_default().to_owned();
            if let Some(socket) = handed.take_tcp_listener(index)? {
                socket.set_nonblocking(true)?;
                sockets.push((name, socket));
            }
        }
        Ok(Self(sockets))
    }

    /// The sockets of one name, by address; empty when systemd handed none over.
    ///
    /// Of an address there may be several (`ReusePort=`). The kernel gives each its part of the connections, so
    /// none of them may be left without a worker; where there are too few, workers share them.
    pub fn take(&mut self, name: &str, workers: usize) -> std::io::Result<Vec<Bound>> {
        let mut bound: Vec<Bound> = Vec::new();
        for (_, socket) in self.0.extract_if(.., |(given, _)| given == name) {
            let address = socket.local_addr()?;
            match bound.iter_mut().find(|bound| bound.address == address) {
                Some(bound) => bound.sockets.push(socket),
                None => bound.push(Bound { address, sockets: vec![socket] }),
            }
        }
        for Bound { sockets, .. } in &mut bound {
            let missing = workers.saturating_sub(sockets.len());
            let shared: Result<Vec<_>, _> =
                sockets.iter().cycle().take(missing).map(TcpListener::try_clone).collect();
            sockets.extend(shared?);
        }
        Ok(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_names_the_address_and_the_key() {
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 2, "public.listen").unwrap();
        assert_eq!(first.sockets.len(), 2);
        let error = bind(first.address, 1, "public.listen").unwrap_err().to_string();
        assert!(error.contains(&first.address.to_string()) && error.contains("`public.listen`"), "{error}");
    }

    #[test]
    fn every_socket_of_systemd_has_a_worker_and_every_worker_one() {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        for (given, workers, expected) in [(1, 3, 3), (2, 3, 3), (3, 3, 3), (4, 3, 4)] {
            let made = bind(free, given, "public.listen").unwrap();
            let other = bind(free, 1, "public.tls_listen").unwrap();
            let named = made.sockets.into_iter().chain(other.sockets).map(|socket| ("public".into(), socket));
            let mut activated = Activated(named.collect());
            assert!(activated.take("tls", workers).unwrap().is_empty());
            let bound = activated.take("public", workers).unwrap();
            let found: Vec<_> = bound.iter().map(|bound| (bound.address, bound.sockets.len())).collect();
            assert_eq!(found, [(made.address, expected), (other.address, workers)]);
            assert!(activated.take("public", workers).unwrap().is_empty());
        }
    }
}
