//! Magnet links, and info-hashes as text: what is read, is written so that it reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skerry_wire::InfoHash;
use skerry_wire::magnet::{MAX_MAGNET, Magnet};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(hash) = text.parse::<InfoHash>() {
        assert_eq!(hash.to_string(), text.to_ascii_lowercase());
    }
    let Ok(magnet) = text.parse::<Magnet>() else { return };
    assert!(magnet.hashes().next().is_some());
    let link = magnet.to_string();
    assert!(link.bytes().all(|byte| byte.is_ascii_graphic()), "{link}");
    // Escapes may make it longer than any link that is read.
    if link.len() <= MAX_MAGNET {
        assert_eq!(link.parse::<Magnet>(), Ok(magnet));
    }
});
