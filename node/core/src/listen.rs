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
    /// As many as workers were asked for.
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

    /// The sockets of one name, each cloned for every worker; empty when systemd handed none over.
    pub fn take(&mut self, name: &str, workers: usize) -> std::io::Result<Vec<Bound>> {
        let mut bound = Vec::new();
        for (_, socket) in self.0.extract_if(.., |(given, _)| given == name) {
            let sockets = (0..workers).map(|_| socket.try_clone()).collect::<Result<_, _>>()?;
            bound.push(Bound { address: socket.local_addr()?, sockets });
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
}
