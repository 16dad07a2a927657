//! What a box is: its image, the slot that runs, its name and its addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::DiskEncryption;
use crate::files;
use crate::layout::Layout;

/// Longest file of the kernel that is read, bytes.
const MOST: u64 = 1 << 20;
/// Addresses that are told.
const MOST_ADDRESSES: usize = 32;

/// What os-release says of the image (os-release(5)); both are empty on a server that was not flashed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// `IMAGE_ID`.
    pub id: String,
    /// `IMAGE_VERSION`.
    pub version: String,
}

/// The image that runs.
pub fn image(layout: &Layout) -> Image {
    let text = ["etc/os-release", "usr/lib/os-release"]
        .iter()
        .find_map(|path| files::text(&layout.at(path), MOST))
        .unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
    };
    Image { id: value("IMAGE_ID"), version: value("IMAGE_VERSION") }
}

/// Label and device of the root partition below dm-verity, as `skerry_2 (vda4)`; empty where `/` is none.
pub fn slot(layout: &Layout) -> String {
    let blocks = std::fs::read_dir(layout.at("sys/class/block")).into_iter().flatten().flatten();
    let root = blocks
        .map(|block| block.path())
        .find(|block| files::text(&block.join("dm/name"), 256).is_some_and(|name| name.trim() == "root"));
    let Some(root) = root else { return String::new() };
    let slaves = std::fs::read_dir(root.join("slaves")).into_iter().flatten().flatten();
    let mut labels: Vec<String> = slaves
        .filter_map(|slave| {
            let device = slave.file_name().into_string().ok()?;
            let uevent = files::text(&layout.at("sys/class/block").join(&device).join("uevent"), 4096)?;
            let label = uevent.lines().find_map(|line| line.strip_prefix("PARTNAME="))?;
            (!label.ends_with("_verity")).then(|| format!("{label} ({device})"))
        })
        .collect();
    labels.sort();
    labels.into_iter().next().unwrap_or_default()
}

/// What keeps the data on `/var` from whoever takes the disk: the TPM where there is one, since the first
/// boot bound the key to it, else a key that the machine is given.
pub fn encryption(layout: &Layout) -> DiskEncryption {
    let mounts = files::text(&layout.at("proc/self/mountinfo"), MOST).unwrap_or_default();
    let number = mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words.get(4) == Some(&"/var")).then(|| words[2])
    });
    let Some(number) = number else { return DiskEncryption::None };
    let mapping = files::text(&layout.at("sys/dev/block").join(number).join("dm/uuid"), 256);
    if !mapping.is_some_and(|id| id.starts_with("CRYPT-")) {
        return DiskEncryption::None;
    }
    if has_tpm(layout) { DiskEncryption::Tpm2 } else { DiskEncryption::Credential }
}

/// Whether the box has a TPM.
pub fn has_tpm(layout: &Layout) -> bool {
    layout.at("sys/class/tpmrm/tpmrm0").exists()
}

/// The machine id, once the boot has settled it.
pub fn machine_id(layout: &Layout) -> Option<String> {
    let text = files::text(&layout.at("etc/machine-id"), 64)?;
    let id = text.trim();
    crate::machine_id::is_id(id).then(|| id.to_owned())
}

/// The host name.
pub fn hostname(layout: &Layout) -> String {
    let name = files::text(&layout.at("proc/sys/kernel/hostname"), 256).unwrap_or_default();
    name.trim().to_owned()
}

/// Addresses that others can reach: neither of the loopback nor of one link alone.
pub fn addresses(layout: &Layout) -> Vec<IpAddr> {
    let trie = files::text(&layout.at("proc/net/fib_trie"), MOST).unwrap_or_default();
    let inet6 = files::text(&layout.at("proc/net/if_inet6"), MOST).unwrap_or_default();
    let found: BTreeSet<IpAddr> =
        local_v4(&trie).map(IpAddr::V4).chain(global_v6(&inet6).map(IpAddr::V6)).collect();
    found.into_iter().take(MOST_ADDRESSES).collect()
}

/// The kernel's tree of routes names an address and, below it, what it is: `/32 host LOCAL` is our own.
fn local_v4(trie: &str) -> impl Iterator<Item = Ipv4Addr> {
    let mut last = None;
    trie.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
            return None;
        }
        last.filter(|address| line == "/32 host LOCAL" && !address.is_loopback() && !address.is_link_local())
    })
}

/// Lines of 32 hex digits, index, prefix, scope (00 is global), flags and name.
fn global_v6(inet6: &str) -> impl Iterator<Item = Ipv6Addr> {
    inet6.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = words.next().filter(|digits| digits.len() == 32)?;
        let address = u128::from_str_radix(address, 16).ok()?;
        (words.nth(2)? == "00").then(|| Ipv6Addr::from_bits(address))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(layout: &Layout, path: &str, text: &str) {
        let path = layout.at(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_image_is_told_by_os_release() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        assert_eq!(image(&layout), Image::default());
        write(
            &layout,
            "usr/lib/os-release",
            "ID=debian\nIMAGE_ID=skerry\nIMAGE_VERSION=\"2\"\nIMAGE_VERSIONS=9\n",
        );
        assert_eq!(image(&layout), Image { id: "skerry".into(), version: "2".into() });
    }

    #[test]
    fn the_slot_is_the_partition_below_the_root() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        assert_eq!(slot(&layout), "");
        write(&layout, "sys/class/block/dm-0/dm/name", "skerry-var\n");
        write(&layout, "sys/class/block/dm-1/dm/name", "root\n");
        write(&layout, "sys/class/block/dm-1/slaves/vda2/x", "");
        write(&layout, "sys/class/block/dm-1/slaves/vda3/x", "");
        write(&layout, "sys/class/block/vda2/uevent", "PARTN=2\nPARTNAME=skerry_1_verity\n");
        write(&layout, "sys/class/block/vda3/uevent", "PARTN=3\nPARTNAME=skerry_1\n");
        assert_eq!(slot(&layout), "skerry_1 (vda3)");
    }

    #[test]
    fn data_is_encrypted_where_the_mapping_below_it_is() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        assert_eq!(encryption(&layout), DiskEncryption::None);
        write(
            &layout,
            "proc/self/mountinfo",
            "20 1 253:1 / / ro - erofs a ro\n24 20 253:2 / /var rw - ext4 b rw\n",
        );
        assert_eq!(encryption(&layout), DiskEncryption::None);
        write(&layout, "sys/dev/block/253:2/dm/uuid", "LVM-x\n");
        assert_eq!(encryption(&layout), DiskEncryption::None);
        write(&layout, "sys/dev/block/253:2/dm/uuid", "CRYPT-LUKS2-0-skerry-var\n");
        assert_eq!(encryption(&layout), DiskEncryption::Credential);
        write(&layout, "sys/class/tpmrm/tpmrm0/dev", "");
        assert_eq!(encryption(&layout), DiskEncryption::Tpm2);
    }

    #[test]
    fn addresses_are_those_that_others_reach() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        assert!(addresses(&layout).is_empty());
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
                    |-- 192.0.2.0\n        /24 link UNICAST\n     |-- 192.0.2.7\n        /32 host LOCAL\n\
                    |-- 192.0.2.255\n        /32 link BROADCAST\nLocal:\n     |-- 127.0.0.1\n /32 host LOCAL\n\
                    |-- 192.0.2.7\n        /32 host LOCAL\n     |-- nonsense\n        /32 host LOCAL\n";
        write(&layout, "proc/net/fib_trie", trie);
        let inet6 = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     20010db8000000000000000000000007 02 40 00 80     eth0\n\
                     fe80000000000000505400fffe123456 02 40 20 80     eth0\n\
                     xyz 02 40 00 80 eth0\n\n20010db8\n";
        write(&layout, "proc/net/if_inet6", inet6);
        let texts: Vec<String> = addresses(&layout).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["192.0.2.7", "2001:db8::7"]);
    }
}
