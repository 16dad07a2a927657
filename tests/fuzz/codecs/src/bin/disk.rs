//! What a disk or a stick begins with; the rest of it is zeros. Its partition table is read as it stands and
//! with the checksums that it should have, and the FAT volumes in its partitions or in place of them.
//!
//! The sources are included as they are. The appliance's crate would bring what a command line needs.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use fat::Volume;
use gpt::Partition;
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};

#[allow(dead_code, reason = "nothing is written here")]
#[path = "../../../../../node/appliance/src/fat.rs"]
mod fat;
#[allow(dead_code, reason = "more than is wanted here")]
#[path = "../../../../../node/appliance/src/gpt.rs"]
mod gpt;

/// Length of the disk, bytes.
const LENGTH: u64 = 4 << 20;
/// Partitions that are looked into, from the first.
const SOME: usize = 2;
/// Most bytes of a file that are read.
const MOST: u64 = 4 << 10;

static DISK: LazyLock<File> =
    LazyLock::new(|| memfd_create("disk", MemfdFlags::CLOEXEC).expect("memory for a file").into());

fn volume(disk: &File, start: u64, length: u64) {
    if !Volume::is_likely(disk, start) {
        return;
    }
    let Ok(volume) = Volume::open(disk, start, length, false) else { return };
    if let Ok(label) = volume.label() {
        assert!(label.chars().count() <= 11 && !label.ends_with(['\0', ' ']), "{label:?}");
    }
    for path in ["skerry.toml", "EFI/BOOT/BOOTX64.EFI"] {
        if let Ok(Some(bytes)) = volume.read(path, MOST) {
            assert!(bytes.len() as u64 <= MOST);
        }
    }
}

fn partitions(disk: &File, length: u64) -> Vec<Partition> {
    let found = gpt::partitions(disk, length).ok().flatten().unwrap_or_default();
    assert!(found.is_sorted_by(|one, next| one.number < next.number));
    for partition in &found {
        let end = partition.start.checked_add(partition.length);
        assert!(partition.number > 0 && partition.length > 0, "{partition:?}");
        assert!(end.is_some_and(|end| end <= length), "{partition:?}");
    }
    found
}

fn look(image: &[u8]) {
    let disk = &*DISK;
    let put = |length| disk.set_len(length).expect("memory for the image");
    put(0);
    disk.write_all_at(image, 0).expect("memory for the image");
    // A disk that ends with the image, and one that goes on.
    partitions(disk, image.len() as u64);
    put(LENGTH);
    for partition in partitions(disk, LENGTH).iter().take(SOME) {
        volume(disk, partition.start, partition.length);
    }
    volume(disk, 0, LENGTH);
}

/// So many bytes of the disk.
fn part(image: &[u8], at: usize, length: usize) -> Vec<u8> {
    let mut part: Vec<u8> = image.iter().skip(at).take(length).copied().collect();
    part.resize(length, 0);
    part
}

/// Gives a GPT the checksums that it should have: they would keep the fuzzer from whatever is behind them.
fn seal(image: &mut [u8]) {
    let is_table =
        |block: &usize| image.get(*block..block + 92).is_some_and(|header| header.starts_with(b"EFI PART"));
    let Some(block) = [512, 4096].into_iter().find(is_table) else { return };
    let field = |at: usize| {
        let bytes = part(image, block + at, 4);
        bytes.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte))
    };
    let (header_length, at, count, size) = (field(12), field(72), field(80), field(84));
    // What is longer is refused unread.
    let entries = part(image, at * block, (count * size).min(1 << 20));
    image[block + 88..block + 92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
    let mut header = part(image, block, header_length.clamp(92, 512));
    header[16..20].fill(0);
    image[block + 16..block + 20].copy_from_slice(&crc32fast::hash(&header).to_le_bytes());
}

fuzz_target!(
    init: {
        // A panic of the parser of FAT is an error of the volume, and not the end.
        let end = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic.location().is_some_and(|at| at.file().contains("/fatfs-")) {
                end(panic);
            }
        }));
    },
    |data: &[u8]| {
        if data.len() as u64 > LENGTH {
            return;
        }
        look(data);
        let mut sealed = data.to_vec();
        seal(&mut sealed);
        if sealed != data {
            look(&sealed);
        }
    }
);
