//! Longest-prefix match: a trie of two levels. The first is a table by an address' first bits, 16 at
//! most; each of its entries points to the disjoint ranges that the prefixes cut their block into,
//! sorted, and those are searched by halves.
//!
//! Nested prefixes are laid flat when the trie is built, so that a lookup follows no chain of nodes
//! and memory is bounded by the count of prefixes alone, whatever their lengths: 8 bytes for a range
//! of IPv4 and 20 for one of IPv6, two ranges a prefix at most. It never changes; a new file makes a
//! new one.

use std::net::IpAddr;

use skerry_registry::prefix::Prefix;

/// What a range without a prefix has for a value.
const NONE: u32 = u32::MAX;
/// Bits of the first level, at most.
const FIRST_BITS: u32 = 16;

/// An address as a number.
trait Bits: Copy + Ord {
    const WIDTH: u32;
    const ZERO: Self;

    /// The first `bits` bits, 16 at most.
    fn first(self, bits: u32) -> usize;
    /// The lowest address that begins with these bits.
    fn from_first(first: usize, bits: u32) -> Self;
    /// The highest address of the prefix that begins here.
    fn last(self, length: u8) -> Self;
    /// The address behind; `None` at the end.
    fn next(self) -> Option<Self>;
}

macro_rules! bits {
    ($type:ty) => {
        impl Bits for $type {
            const WIDTH: u32 = <$type>::BITS;
            const ZERO: Self = 0;

            fn first(self, bits: u32) -> usize {
                self.checked_shr(Self::WIDTH - bits).unwrap_or(0) as usize
            }

            fn from_first(first: usize, bits: u32) -> Self {
                (first as Self).checked_shl(Self::WIDTH - bits).unwrap_or(0)
            }

            fn last(self, length: u8) -> Self {
                self | Self::MAX.checked_shr(u32::from(length)).unwrap_or(0)
            }

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
        }
    };
}

bits!(u32);
bits!(u128);

/// A prefix with its value.
struct Entry<B> {
    first: B,
    order: u32,
    value: u32,
    length: u8,
}

/// The ranges of one family.
struct Table<B> {
    /// First address of each range, ascending; the first is zero.
    starts: Vec<B>,
    values: Vec<u32>,
    /// By an address' first bits: the range that holds the lowest address with them. One more at the
    /// end, for the last range.
    index: Vec<u32>,
    bits: u32,
}

impl<B: Bits> Table<B> {
    /// The table, and how many prefixes were there with another value before.
    fn build(mut entries: Vec<Entry<B>>) -> (Self, usize) {
        // Outer prefixes before inner ones, and of the same prefix the one that came first.
        entries.sort_unstable_by_key(|entry| (entry.first, entry.length, entry.order));
        let mut table = Self { starts: vec![B::ZERO], values: vec![NONE], index: Vec::new(), bits: 0 };
        let mut conflicts = 0;
        // Prefixes that the sweep is in, outermost first: first and last address, length, value.
        let mut open: Vec<(B, B, u8, u32)> = Vec::new();
        for entry in &entries {
            while let Some(&(_, last, ..)) = open.last()
                && last < entry.first
            {
                table.close(&mut open);
            }
            if let Some(&(first, _, length, value)) = open.last()
                && (first, length) == (entry.first, entry.length)
            {
                conflicts += usize::from(value != entry.value);
                continue;
            }
            open.push((entry.first, entry.first.last(entry.length), entry.length, entry.value));
            table.cut(entry.first, entry.value);
        }
        while !open.is_empty() {
            table.close(&mut open);
        }
        drop(entries);
        table.starts.shrink_to_fit();
        table.values.shrink_to_fit();
        table.index();
        (table, conflicts)
    }

    /// Ends the innermost prefix: behind it the one around it goes on.
    fn close(&mut self, open: &mut Vec<(B, B, u8, u32)>) {
        let Some((_, last, ..)) = open.pop() else { return };
        if let Some(behind) = last.next() {
            self.cut(behind, open.last().map_or(NONE, |&(.., value)| value));
        }
    }

    /// From here on it is `value`. Comes in ascending order.
    fn cut(&mut self, start: B, value: u32) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.values.pop();
        }
        if self.values.last() != Some(&value) {
            self.starts.push(start);
            self.values.push(value);
        }
    }

    fn index(&mut self) {
        // Small tables need no large index.
        self.bits = self.starts.len().ilog2().min(FIRST_BITS);
        let mut at = 0;
        self.index = Vec::with_capacity((1 << self.bits) + 1);
        for first in 0..1 << self.bits {
            let lowest = B::from_first(first, self.bits);
            while self.starts.get(at + 1).is_some_and(|start| *start <= lowest) {
                at += 1;
            }
            self.index.push(at as u32);
        }
        self.index.push(self.starts.len() as u32 - 1);
    }

    fn find(&self, address: B) -> Option<u32> {
        let first = address.first(self.bits);
        let (from, to) = (self.index[first] as usize, self.index[first + 1] as usize);
        let later = self.starts[from + 1..=to].partition_point(|start| *start <= address);
        Some(self.values[from + later]).filter(|value| *value != NONE)
    }
}

/// Prefixes on their way into a [`Trie`].
#[derive(Default)]
pub struct Builder {
    v4: Vec<Entry<u32>>,
    v6: Vec<Entry<u128>>,
}

impl Builder {
    /// Adds a prefix. Of the same prefix the first value stays. `u32::MAX` is no value.
    pub fn add(&mut self, prefix: Prefix, value: u32) {
        match (prefix.address(), prefix.length()) {
            (IpAddr::V4(v4), length) => {
                let order = self.v4.len() as u32;
                self.v4.push(Entry { first: v4.to_bits(), order, value, length });
            }
            // Addresses are looked up as what they are mapped from.
            (IpAddr::V6(v6), length) if length >= 96 && v6.to_ipv4_mapped().is_some() => {
                let order = self.v4.len() as u32;
                let first = v6.to_bits() as u32;
                self.v4.push(Entry { first, order, value, length: length - 96 });
            }
            (IpAddr::V6(v6), length) => {
                let order = self.v6.len() as u32;
                self.v6.push(Entry { first: v6.to_bits(), order, value, length });
            }
        }
    }

    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The trie.
    pub fn build(self) -> Trie {
        let (v4, conflicts4) = Table::build(self.v4);
        let (v6, conflicts6) = Table::build(self.v6);
        Trie { v4, v6, conflicts: conflicts4 + conflicts6 }
    }
}

/// Prefixes of both families, each with a value.
pub struct Trie {
    v4: Table<u32>,
    v6: Table<u128>,
    conflicts: usize,
}

impl Trie {
    /// The value of the longest prefix that an address is in. IPv6 addresses that IPv4 ones are mapped
    /// to are those.
    pub fn find(&self, address: IpAddr) -> Option<u32> {
        match address.to_canonical() {
            IpAddr::V4(v4) => self.v4.find(v4.to_bits()),
            IpAddr::V6(v6) => self.v6.find(v6.to_bits()),
        }
    }

    /// How many prefixes were left out, since they had come with another value before.
    pub fn conflicts(&self) -> usize {
        self.conflicts
    }

    /// Memory that it takes, bytes.
    pub fn bytes(&self) -> usize {
        let index = 4 * (self.v4.index.len() + self.v6.index.len());
        8 * self.v4.starts.len() + 20 * self.v6.starts.len() + index
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn trie(prefixes: &[(&str, u32)]) -> Trie {
        let mut builder = Builder::default();
        for (prefix, value) in prefixes {
            builder.add(prefix.parse().unwrap(), *value);
        }
        builder.build()
    }

    fn find(trie: &Trie, address: &str) -> Option<u32> {
        trie.find(address.parse().unwrap())
    }

    #[test]
    fn the_longest_prefix_counts() {
        let trie = trie(&[("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.2.0/24", 3), ("10.1.2.3/32", 4)]);
        for (address, value) in [
            ("10.0.0.0", Some(1)),
            ("10.1.0.0", Some(2)),
            ("10.1.2.2", Some(3)),
            ("10.1.2.3", Some(4)),
            ("10.1.2.4", Some(3)),
            ("10.1.3.0", Some(2)),
            ("10.2.0.0", Some(1)),
            ("10.255.255.255", Some(1)),
            ("9.255.255.255", None),
            ("11.0.0.0", None),
            ("::", None),
        ] {
            assert_eq!(find(&trie, address), value, "{address}");
        }
    }

    #[test]
    fn both_ends_of_the_address_space_count() {
        let trie = trie(&[("0.0.0.0/1", 1), ("255.255.255.255/32", 2), ("::/0", 3), ("ffff::/16", 4)]);
        assert_eq!(find(&trie, "0.0.0.0"), Some(1));
        assert_eq!(find(&trie, "128.0.0.0"), None);
        assert_eq!(find(&trie, "255.255.255.255"), Some(2));
        assert_eq!(find(&trie, "fffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), Some(3));
        assert_eq!(find(&trie, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), Some(4));
        assert_eq!(Builder::default().build().find("::1".parse().unwrap()), None);
    }

    #[test]
    fn mapped_addresses_are_those_they_are_mapped_from() {
        let trie = trie(&[("192.0.2.0/24", 1), ("::ffff:198.51.100.0/120", 2)]);
        assert_eq!(find(&trie, "::ffff:192.0.2.9"), Some(1));
        assert_eq!(find(&trie, "198.51.100.9"), Some(2));
    }

    #[test]
    fn of_the_same_prefix_the_first_stays() {
        let trie = trie(&[("10.0.0.0/8", 1), ("10.0.0.0/8", 2), ("10.0.0.0/8", 1), ("10.0.0.0/9", 3)]);
        assert_eq!(find(&trie, "10.128.0.0"), Some(1));
        assert_eq!(find(&trie, "10.0.0.0"), Some(3));
        assert_eq!(trie.conflicts(), 1);
    }

    /// The longest prefix by looking at all; the first of equals.
    fn naive(prefixes: &[(Prefix, u32)], address: IpAddr) -> Option<u32> {
        let inside = prefixes.iter().enumerate().filter(|(_, (prefix, _))| prefix.contains(address));
        let longest = inside.max_by_key(|(place, (prefix, _))| (prefix.length(), std::cmp::Reverse(*place)));
        longest.map(|(_, (_, value))| *value)
    }

    fn address(random: &mut fastrand::Rng, crowded: bool) -> IpAddr {
        // Crowded: few distinct bits at either end, so that prefixes nest and share borders.
        if random.bool() {
            let few = (random.u32(..8) << 29) | random.u32(..16);
            let bits = if crowded { few } else { random.u32(..) };
            IpAddr::V4(Ipv4Addr::from_bits(bits))
        } else {
            let few = (u128::from(random.u8(..8)) << 125) | (u128::from(random.u8(..16)) << 60);
            IpAddr::V6(Ipv6Addr::from_bits(if crowded { few } else { random.u128(..) }))
        }
    }

    #[test]
    fn it_finds_what_looking_at_all_finds() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let crowded = seed % 2 == 0;
            let mut prefixes = Vec::new();
            let mut builder = Builder::default();
            for value in 0..random.u32(0..400) {
                let address = address(&mut random, crowded);
                let longest = if address.is_ipv4() { 32 } else { 128 };
                let prefix = Prefix::of(address, random.u8(0..=longest)).unwrap();
                prefixes.push((prefix, value % 50));
                builder.add(prefix, value % 50);
            }
            let trie = builder.build();
            let borders: Vec<IpAddr> = prefixes.iter().flat_map(|(prefix, _)| around(*prefix)).collect();
            let others: Vec<IpAddr> = (0..500).map(|_| address(&mut random, crowded)).collect();
            for address in borders.into_iter().chain(others) {
                // Mapped addresses are of the other family by design.
                if address.to_canonical() == address {
                    assert_eq!(trie.find(address), naive(&prefixes, address), "seed {seed}, {address}");
                }
            }
        }
    }

    /// The addresses on both sides of both borders of a prefix.
    fn around(prefix: Prefix) -> Vec<IpAddr> {
        match prefix.address() {
            IpAddr::V4(v4) => {
                let (first, last) = (v4.to_bits(), v4.to_bits().last(prefix.length()));
                let all = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
                all.map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))).into()
            }
            IpAddr::V6(v6) => {
                let (first, last) = (v6.to_bits(), v6.to_bits().last(prefix.length()));
                let all = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
                all.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))).into()
            }
        }
    }
}
