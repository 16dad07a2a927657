//! Messages of local service discovery: what is read, is written so that it reads the same.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use skerry_wire::lsd::announce;
use skerry_wire::lsd::{Announce, Error, GROUP_V4, GROUP_V6, MOST_COOKIE, MOST_HASHES, MOST_READ, MOST_SENT};

/// The shortest line with an info-hash, bytes.
const SHORTEST: usize = "infohash:\n".len() + 40;

/// The lines of a message may end in a line feed alone: one before which there is a return says the same.
fn line_ends(message: &[u8], read: &Announce<'_>) {
    let lines: Vec<&[u8]> = message.split(|byte| *byte == b'\n').collect();
    let whole = lines.join(&b"\r\n"[..]);
    if whole.len() <= MOST_READ {
        assert_eq!(Announce::parse(&whole).as_ref(), Ok(read));
    }
}

fuzz_target!(|data: &[u8]| {
    let read = Announce::parse(data);
    assert_eq!(read == Err(Error::Length), data.len() > MOST_READ);
    let Ok(read) = read else { return };
    assert!(read.port > 0);
    assert!((1..=data.len().div_ceil(SHORTEST)).contains(&read.info_hashes.len()));
    assert!(!read.info_hashes.contains(&[0; 20]));
    line_ends(data, &read);

    // Cookies of this node are short words.
    let cookie = read.cookie.and_then(|cookie| std::str::from_utf8(cookie).ok());
    let cookie = cookie.filter(|cookie| cookie.len() <= MOST_COOKIE).unwrap_or("7f");
    for info_hashes in read.info_hashes.chunks(MOST_HASHES) {
        for group in [SocketAddr::from(GROUP_V4), SocketAddr::from(GROUP_V6)] {
            let written = announce(group, read.port, cookie, info_hashes);
            assert!(written.len() <= MOST_SENT);
            let expected = Announce {
                info_hashes: info_hashes.to_vec(),
                cookie: Some(cookie.as_bytes()),
                port: read.port,
            };
            assert_eq!(Announce::parse(&written), Ok(expected));
        }
    }
});
