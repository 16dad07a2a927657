//! The interfaces of the local network, and their sockets.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use skerry_wire::lsd::{GROUP_V4, GROUP_V6};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::net::UdpSocket;

/// Where the kernel lists interfaces.
const FOLDER: &str = "/sys/class/net";
/// Interfaces that are used, at most.
const MOST: usize = 64;
/// Messages stay on the link. Both groups reach further, where routers pass them on; who is beyond one is
/// no neighbour.
const HOPS: u32 = 1;

/// Flags of an interface (`if.h`).
const UP: u32 = 1;
const LOOPBACK: u32 = 1 << 3;
const POINT_TO_POINT: u32 = 1 << 4;
const MULTICAST: u32 = 1 << 12;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Interface {
    /// As the operator knows it.
    pub(crate) name: String,
    /// Another one when it goes and comes back.
    pub(crate) index: u32,
}

/// The interfaces that are up: those that are named, or all that have neighbours of their own.
pub(crate) fn interfaces(named: &[String]) -> Vec<Interface> {
    let folder = Path::new(FOLDER);
    let names: Vec<String> = match named {
        [] => {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
        }
        named => named.to_vec(),
    };
    let used = names.into_iter().filter_map(|name| {
        let read = |file: &str| std::fs::read_to_string(folder.join(&name).join(file)).ok();
        let is_named = !named.is_empty();
        // A port of a bridge, or a part of a bond: the whole is an interface, too.
        let is_part = folder.join(&name).join("master").exists();
        let is_used = is_used(read("flags")?.trim(), is_named)? && (is_named || !is_part);
        let index = read("ifindex")?.trim().parse().ok()?;
        is_used.then_some(Interface { name, index })
    });
    used.take(MOST).collect()
}

/// Whether an interface with these flags is used; `None` when they are none.
fn is_used(flags: &str, is_named: bool) -> Option<bool> {
    let flags = u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok()?;
    let has_neighbours = flags & MULTICAST != 0 && flags & (LOOPBACK | POINT_TO_POINT) == 0;
    Some(flags & UP != 0 && (is_named || has_neighbours))
}

/// A socket of one interface and one group, for both directions. It is bound to the group's own address, so
/// that nobody can send to it from where the group does not reach.
pub(crate) fn open(interface: &Interface, v6: bool) -> io::Result<UdpSocket> {
    let group: SocketAddr = if v6 { GROUP_V6.into() } else { GROUP_V4.into() };
    let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(interface.name.as_bytes()))?;
    // Clients on this machine have the same port.
    socket.set_reuse_address(true)?;
    if v6 {
        socket.set_only_v6(true)?;
        socket.set_multicast_hops_v6(HOPS)?;
        socket.set_multicast_loop_v6(true)?;
        socket.set_multicast_if_v6(interface.index)?;
        socket.bind(&group.into())?;
        socket.join_multicast_v6(GROUP_V6.ip(), interface.index)?;
    } else {
        socket.set_multicast_ttl_v4(HOPS)?;
        socket.set_multicast_loop_v4(true)?;
        socket.bind(&group.into())?;
        socket.join_multicast_v4_n(GROUP_V4.ip(), &InterfaceIndexOrAddress::Index(interface.index))?;
    }
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_with_neighbours_are_used() {
        // eth0, lo, ppp0, eth1 that is down, an interface without multicast.
        for (flags, all, named) in [
            ("0x1003", true, true),
            ("0x9", false, true),
            ("0x10d1", false, true),
            ("0x1002", false, false),
            ("0x83", false, true),
        ] {
            assert_eq!(is_used(flags, false), Some(all), "{flags}");
            assert_eq!(is_used(flags, true), Some(named), "{flags}");
        }
        assert_eq!((is_used("", true), is_used("1003", true), is_used("0xz", true)), (None, None, None));
    }

    #[test]
    fn loopback_is_used_when_it_is_named_and_what_is_not_there_is_not() {
        assert!(!interfaces(&[]).iter().any(|interface| interface.name == "lo"));
        let named = interfaces(&["lo".to_owned(), "no-such".to_owned()]);
        assert_eq!(named.iter().map(|interface| interface.name.as_str()).collect::<Vec<_>>(), ["lo"]);
    }
}
