//! Headers of the PROXY protocol: an input is what a connection begins with, and is read as if any number of
//! bytes came at a time.
//!
//! The source is included as it is. The crate that it is of would bring a runtime and TLS.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use header::Parsed;
use libfuzzer_sys::fuzz_target;

#[path = "../../../../../node/core/src/proxy_protocol/header.rs"]
mod header;

/// Most bytes of addresses and options.
const MOST: usize = 2048;
/// Bytes before them.
const FIXED: usize = 16;

fn read(bytes: &[u8]) -> Result<Parsed, String> {
    header::parse(bytes).map_err(|error| error.to_string())
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
    }
}

/// A header of a client's TCP connection to the address and the port of a server.
fn write(client: SocketAddr, server: &[u8], port: &[u8], options: &[u8]) -> Vec<u8> {
    let ip = octets(client.ip());
    let length = 2 * ip.len() + 4 + options.len();
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    header.push(if client.is_ipv4() { 0x11 } else { 0x21 });
    header.extend((length as u16).to_be_bytes());
    header.extend(ip);
    header.extend(server);
    header.extend(client.port().to_be_bytes());
    header.extend(port);
    header.extend(options);
    header
}

/// What was read of a whole header is what it says.
fn whole(header: &[u8], client: Option<SocketAddr>) {
    let Some(client) = client else {
        return assert!(header[12] == 0x20 || !matches!(header[13], 0x11 | 0x21));
    };
    let addresses = FIXED + octets(client.ip()).len();
    let ports = 2 * addresses - FIXED;
    let (server, port) = (&header[addresses..ports], &header[ports + 2..ports + 4]);
    assert_eq!(write(client, server, port, &header[ports + 4..]), header);
}

/// A header that is written is read, whatever the client says behind it.
fn written(data: &[u8]) {
    let Some((client, rest)) = data.split_first_chunk::<18>() else { return };
    let [six @ .., high, low] = *client;
    let [a, b, c, d, ..] = six;
    for ip in [IpAddr::from([a, b, c, d]), IpAddr::from(six)] {
        let client = SocketAddr::new(ip, u16::from_be_bytes([high, low]));
        let server = octets(ip);
        let options = &rest[..rest.len().min(MOST - 2 * server.len() - 4)];
        let mut bytes = write(client, &server, &[0, 80], options);
        for more in [&rest[..0], rest] {
            bytes.extend(more);
            assert_eq!(read(&bytes), Ok(Parsed::Header(Some(client))));
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let end = read(data);
    // Where the bytes end that have been asked for.
    let mut asked = 0;
    for length in 0..=data.len() {
        let part = read(&data[..length]);
        if let Ok(Parsed::Part(missing)) = part {
            assert!(missing > 0);
            asked = asked.max(length + missing);
            assert!(asked <= FIXED + MOST);
            continue;
        }
        assert_eq!(part, end);
        if let Ok(Parsed::Header(client)) = part {
            // None of them is the client's.
            assert_eq!(asked, length);
            whole(&data[..length], client);
        }
        break;
    }
    written(data);
});
