//! Partition tables, read: GPT (UEFI 2.10 §5.3) and, of sticks, the older MBR.
//!
//! Nothing is written here: an image has its table, and systemd-repart completes it on the box.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Most bytes of a table's entries that are read; usual are 16 KiB.
const MOST_ENTRIES: u64 = 1 << 20;
/// Lengths of a block that disks have.
const BLOCKS: [u64; 2] = [512, 4096];
const SIGNATURE: &[u8] = b"EFI PART";
/// Kinds of MBR partitions that hold FAT.
const FAT_KINDS: [u8; 8] = [0x01, 0x04, 0x06, 0x0b, 0x0c, 0x0e, 0xef, 0x1c];

/// Kind of an EFI system partition, as it stands on the disk.
pub const ESP: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];

/// Why a table cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The disk cannot be read.
    #[error("cannot read the partition table: {0}")]
    Io(#[from] io::Error),
    /// There is a GPT, and it is damaged.
    #[error("the partition table is damaged: {0}")]
    Damaged(&'static str),
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1.
    pub number: u32,
    /// It is an EFI system partition.
    pub esp: bool,
    /// Its first byte.
    pub start: u64,
    /// Its length, bytes.
    pub length: u64,
    /// Its name; an MBR has none.
    pub name: String,
}

/// The partitions of a disk of so many bytes; `None` when it has no table.
///
/// # Errors
/// When the disk cannot be read or its table is damaged.
pub fn partitions(disk: &File, length: u64) -> Result<Option<Vec<Partition>>, TableError> {
    for block in BLOCKS {
        let mut header = vec![0; 512];
        if length < 2 * block + header.len() as u64 {
            continue;
        }
        disk.read_exact_at(&mut header, block)?;
        if header.starts_with(SIGNATURE) {
            return entries(disk, length, block, &header).map(Some);
        }
    }
    mbr(disk, length)
}

fn entries(disk: &File, length: u64, block: u64, header: &[u8]) -> Result<Vec<Partition>, TableError> {
    let header_length = u32_at(header, 12) as usize;
    if !(92..=header.len()).contains(&header_length) {
        return Err(TableError::Damaged("its header has a length that cannot be"));
    }
    let mut summed = header[..header_length].to_vec();
    summed[16..20].fill(0);
    if crc32fast::hash(&summed) != u32_at(header, 16) || u64_at(header, 24) != 1 {
        return Err(TableError::Damaged("its header has another checksum than it says"));
    }
    let (at, count, size) = (u64_at(header, 72), u32_at(header, 80), u64::from(u32_at(header, 84)));
    let whole = u64::from(count) * size;
    // At least 128 bytes and a multiple of 8, so that every field below is in it.
    if size < 128 || size % 8 != 0 || whole > MOST_ENTRIES {
        return Err(TableError::Damaged("its entries have a length that cannot be"));
    }
    let at = at.checked_mul(block).filter(|at| at.checked_add(whole).is_some_and(|end| end <= length));
    let at = at.ok_or(TableError::Damaged("its entries are beyond the end of the disk"))?;
    let mut bytes = vec![0; usize::try_from(whole).unwrap_or_default()];
    disk.read_exact_at(&mut bytes, at)?;
    if crc32fast::hash(&bytes) != u32_at(header, 88) {
        return Err(TableError::Damaged("its entries have another checksum than it says"));
    }
    let mut found = Vec::new();
    for (number, entry) in (1..).zip(bytes.chunks_exact(usize::try_from(size).unwrap_or(usize::MAX))) {
        if entry[..16] == [0; 16] {
            continue;
        }
        let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
        let end = last.checked_add(1).and_then(|end| end.checked_mul(block)).filter(|end| *end <= length);
        let Some(end) = end.filter(|_| first <= last) else {
            return Err(TableError::Damaged("a partition ends beyond the disk"));
        };
        let units = entry[56..128].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
        let name = String::from_utf16_lossy(&units);
        let start = first * block;
        found.push(Partition { number, esp: entry[..16] == ESP, start, length: end - start, name });
    }
    Ok(found)
}

/// The four partitions of an MBR, those of them that may hold FAT.
fn mbr(disk: &File, length: u64) -> Result<Option<Vec<Partition>>, TableError> {
    let mut sector = [0; 512];
    if length < 512 {
        return Ok(None);
    }
    disk.read_exact_at(&mut sector, 0)?;
    if sector[510..] != [0x55, 0xaa] {
        return Ok(None);
    }
    let mut found = Vec::new();
    for (number, entry) in (1..).zip(sector[446..510].chunks_exact(16)) {
        let (first, count) = (u64::from(u32_at(entry, 8)), u64::from(u32_at(entry, 12)));
        // The boot code of a disk without a table stands in the same place: what cannot be is none.
        let plausible =
            matches!(entry[0], 0 | 0x80) && first > 0 && count > 0 && (first + count) * 512 <= length;
        if plausible && FAT_KINDS.contains(&entry[4]) {
            let (start, length) = (first * 512, count * 512);
            found.push(Partition { number, esp: entry[4] == 0xef, start, length, name: String::new() });
        }
    }
    Ok(if found.is_empty() { None } else { Some(found) })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, byte| (value << 8) | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes a table of these partitions (kind, first block, last block, name) onto a disk.
    pub(crate) fn write(disk: &File, block: u64, partitions: &[([u8; 16], u64, u64, &str)]) {
        let mut entries = vec![0; 128 * 128];
        for ((kind, first, last, name), entry) in partitions.iter().zip(entries.chunks_exact_mut(128)) {
            entry[..16].copy_from_slice(kind);
            entry[16..32].fill(7);
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
            for (unit, place) in name.encode_utf16().zip(entry[56..].chunks_exact_mut(2)) {
                place.copy_from_slice(&unit.to_le_bytes());
            }
        }
        disk.write_all_at(&entries, 2 * block).unwrap();
        disk.write_all_at(&header(&entries), block).unwrap();
    }

    fn header(entries: &[u8]) -> Vec<u8> {
        let mut header = vec![0; 92];
        header[..8].copy_from_slice(SIGNATURE);
        header[12..16].copy_from_slice(&92u32.to_le_bytes());
        header[24..32].copy_from_slice(&1u64.to_le_bytes());
        header[72..80].copy_from_slice(&2u64.to_le_bytes());
        header[80..84].copy_from_slice(&128u32.to_le_bytes());
        header[84..88].copy_from_slice(&128u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc32fast::hash(entries).to_le_bytes());
        seal(&mut header);
        header
    }

    fn seal(header: &mut [u8]) {
        header[16..20].fill(0);
        let sum = crc32fast::hash(&header[..92]);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
    }

    fn disk(length: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        file
    }

    const LENGTH: u64 = 4 << 20;

    #[test]
    fn partitions_are_found_by_number_kind_and_name() {
        for block in BLOCKS {
            let disk = disk(LENGTH);
            write(&disk, block, &[([9; 16], 40, 47, "root"), (ESP, 48, 63, "skerry-esp")]);
            let found = partitions(&disk, LENGTH).unwrap().unwrap();
            assert_eq!(found.len(), 2);
            assert_eq!((found[0].number, found[0].esp, found[0].name.as_str()), (1, false, "root"));
            assert_eq!((found[1].number, found[1].esp), (2, true));
            assert_eq!((found[1].start, found[1].length), (48 * block, 16 * block));
        }
    }

    #[test]
    fn a_damaged_table_is_told_apart_from_none() {
        assert!(partitions(&disk(LENGTH), LENGTH).unwrap().is_none());
        assert!(partitions(&disk(0), 0).unwrap().is_none());
        let entries = [0; 128 * 128];
        for (at, bytes) in [
            (12, &u32::MAX.to_le_bytes()[..]),
            (12, &0u32.to_le_bytes()),
            (24, &9u64.to_le_bytes()),
            (72, &u64::MAX.to_le_bytes()),
            (72, &(LENGTH / 512).to_le_bytes()),
            (80, &u32::MAX.to_le_bytes()),
            (84, &8u32.to_le_bytes()),
            (84, &130u32.to_le_bytes()),
            (88, &[1, 2, 3, 4]),
        ] {
            let mut header = header(&entries);
            header[at..at + bytes.len()].copy_from_slice(bytes);
            seal(&mut header);
            let disk = disk(LENGTH);
            disk.write_all_at(&header, 512).unwrap();
            let found = partitions(&disk, LENGTH);
            assert!(matches!(found, Err(TableError::Damaged(_))), "{at}: {found:?}");
        }
        for (first, last) in [(9, 8), (0, u64::MAX), (40, LENGTH / 512)] {
            let disk = disk(LENGTH);
            write(&disk, 512, &[(ESP, first, last, "")]);
            assert!(matches!(partitions(&disk, LENGTH), Err(TableError::Damaged(_))), "{first} {last}");
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..2000 {
            let disk = disk(LENGTH);
            write(&disk, 512, &[(ESP, 40, 4000, "a")]);
            let mut bytes = vec![0; 20 << 10];
            disk.read_exact_at(&mut bytes, 0).unwrap();
            for _ in 0..random.usize(1..8) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            // Half of them with a checksum that is right, so that what is behind it is reached.
            if random.bool() {
                let sum = crc32fast::hash(&bytes[1024..1024 + 128 * 128]).to_le_bytes();
                bytes[512 + 88..512 + 92].copy_from_slice(&sum);
                seal(&mut bytes[512..1024]);
            }
            disk.write_all_at(&bytes, 0).unwrap();
            if let Ok(Some(found)) = partitions(&disk, LENGTH) {
                assert!(found.iter().all(|one| one.start + one.length <= LENGTH));
            }
        }
    }

    #[test]
    fn an_mbr_of_a_stick_is_read() {
        let disk = disk(LENGTH);
        let mut sector = [0; 512];
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        disk.write_all_at(&sector, 0).unwrap();
        assert!(partitions(&disk, LENGTH).unwrap().is_none());
        sector[446 + 4] = 0x0c;
        sector[446 + 8] = 64;
        sector[446 + 13] = 16;
        // Another kind, and one that ends beyond the disk.
        sector[462 + 4] = 0x83;
        sector[478 + 4] = 0x0c;
        sector[478 + 8] = 1;
        sector[478 + 15] = 255;
        disk.write_all_at(&sector, 0).unwrap();
        let found = partitions(&disk, LENGTH).unwrap().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].start, found[0].length, found[0].esp), (64 << 9, 4096 << 9, false));
    }
}
