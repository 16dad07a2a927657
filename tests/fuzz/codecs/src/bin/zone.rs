//! Coverage zone files, and the trie that their prefixes are looked up in: an input that begins with `{` is a
//! file, any other a list of prefixes.
//!
//! The sources are included as they are. The selector's crate would bring the runtime of policies.
#![no_main]

/// So that the sources find [`prefix`] where they look for it.
extern crate self as skerry_registry;

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use prefix::Prefix;
use trie::Builder;
use zone::{Kind, Zones};

#[allow(dead_code, reason = "more than is wanted here")]
#[path = "../../../../../node/registry/src/prefix.rs"]
mod prefix;
#[allow(dead_code, reason = "more than is wanted here")]
#[path = "../../../../../node/selector/src/trie.rs"]
mod trie;
#[allow(dead_code, reason = "more than is wanted here")]
#[path = "../../../../../node/selector/src/zone.rs"]
mod zone;

#[allow(dead_code, reason = "no file is read here")]
mod error {
    /// What reading a file may end with.
    pub enum FileError {
        Read { path: std::path::PathBuf, source: std::io::Error },
        Length { path: std::path::PathBuf, most_bytes: u64 },
        Zones { path: std::path::PathBuf, source: serde_json::Error },
    }
}

/// Addresses in and around the prefixes of the kept inputs.
const ADDRESSES: [IpAddr; 6] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 129)),
    IpAddr::V4(Ipv4Addr::BROADCAST),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

fn file(text: &[u8]) {
    for kind in [Kind::Coverage, Kind::Deep] {
        let Ok(zones) = Zones::parse(text, kind) else { continue };
        let list = zones.list();
        let mut names: Vec<&str> = list.iter().map(|zone| &*zone.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), list.len());
        assert!(names.iter().all(|name| (1..=128).contains(&name.len())));
        for place in list.iter().filter_map(|zone| zone.coordinates) {
            assert!(place.latitude.abs() <= 90.0 && place.longitude.abs() <= 180.0);
        }
        for (place, zone) in ADDRESSES.iter().filter_map(|address| zones.find(*address)) {
            assert!(zones.prefixes() > 0 && std::ptr::eq(zone, &list[place]));
        }
    }
}

/// Prefixes of six bytes: family and length, four bytes of an address, a value. The trie finds what looking
/// at all of them finds.
fn lookups(prefixes: &[u8]) {
    let (mut all, mut builder) = (Vec::new(), Builder::default());
    for &[shape, a, b, c, d, value] in prefixes.as_chunks::<6>().0.iter().take(64) {
        let four = Ipv4Addr::new(a, b, c, d);
        let word = u128::from(four.to_bits());
        let (address, length) = match shape >> 6 {
            0 => (IpAddr::V4(four), (shape & 63) % 33),
            1 => (IpAddr::V6(four.to_ipv6_mapped()), 96 + (shape & 63) % 33),
            _ => (IpAddr::V6(Ipv6Addr::from_bits(word << 96 | word)), (shape & 127) + (d & 1)),
        };
        let prefix = Prefix::of(address, length).expect("no longer than an address");
        builder.add(prefix, value.into());
        // Mapped addresses are those that they are mapped from.
        let meant = if shape >> 6 == 1 { Prefix::of(IpAddr::V4(four), length - 96) } else { Some(prefix) };
        all.push((meant.expect("no longer than an address"), u32::from(value)));
    }
    let trie = builder.build();
    for address in all.iter().flat_map(|(prefix, _)| borders(*prefix)) {
        let plain = address.to_canonical();
        let inside = all.iter().enumerate().filter(|(_, (prefix, _))| prefix.contains(plain));
        let longest = inside.max_by_key(|(place, (prefix, _))| (prefix.length(), Reverse(*place)));
        assert_eq!(trie.find(address), longest.map(|(_, (_, value))| *value), "{address}");
    }
}

/// The addresses on both sides of both ends of a prefix.
fn borders(prefix: Prefix) -> Vec<IpAddr> {
    let length = u32::from(prefix.length());
    match prefix.address() {
        IpAddr::V4(address) => {
            let first = address.to_bits();
            let last = first | u32::MAX.checked_shr(length).unwrap_or(0);
            [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
                .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
                .into()
        }
        IpAddr::V6(address) => {
            let first = address.to_bits();
            let last = first | u128::MAX.checked_shr(length).unwrap_or(0);
            [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
                .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
                .into()
        }
    }
}

fuzz_target!(|data: &[u8]| {
    match data.first() {
        Some(b'{') => file(data),
        _ => lookups(data),
    }
});
