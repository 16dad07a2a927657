//! Disks: what the kernel knows of them, which of their volumes are FAT, and which may be erased.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, OFlags};

use crate::fat::{FatError, Volume};
use crate::files;
use crate::gpt::{self, TableError};
use crate::layout::Layout;

/// Label of a volume that a box takes its configuration from.
pub const LABEL: &str = "SKERRY";

/// Most bytes of a file of the kernel that are read.
const MOST: u64 = 1 << 20;
/// Block devices that are no disks of their own.
const NO_DISKS: [&str; 9] = ["loop", "ram", "zram", "dm-", "md", "nbd", "sr", "fd", "mtdblock"];

/// A disk as the kernel shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// Its name, as `sda`.
    pub name: String,
    /// Its length, bytes.
    pub length: u64,
    /// Its model; empty when it tells none.
    pub model: String,
    /// Its serial number; empty when it tells none.
    pub serial: String,
    /// It can be taken out, or is on USB.
    pub removable: bool,
    /// Why it may not be erased; empty when it may.
    pub in_use: String,
}

/// Every disk, by name.
pub fn disks(layout: &Layout) -> Vec<Disk> {
    let mounts = mounts(layout);
    let names = names(&layout.at("sys/block"));
    let disks = names.into_iter().filter(|name| !NO_DISKS.iter().any(|no| name.starts_with(no)));
    disks.map(|name| disk(layout, &name, &mounts)).filter(|disk| disk.length > 0).collect()
}

fn disk(layout: &Layout, name: &str, mounts: &BTreeMap<String, String>) -> Disk {
    let folder = layout.at("sys/block").join(name);
    let word = |path: &str| {
        let text = files::text(&folder.join(path), 4096).unwrap_or_default();
        crate::status::clean(text.trim(), 64)
    };
    let first = |paths: &[&str]| paths.iter().map(|path| word(path)).find(|word| !word.is_empty());
    // Where the disk hangs: a USB adapter tells the number that is printed on it.
    let real = folder.canonicalize().unwrap_or_else(|_| folder.clone());
    let usb = real.components().any(|part| part.as_os_str().to_string_lossy().starts_with("usb"));
    let mut above = real.ancestors().take_while(|folder| folder.starts_with(layout.at("sys"))).skip(1);
    let above = above.find_map(|folder| files::text(&folder.join("serial"), 4096));
    // SCSI's page of the serial number (SPC-4 §7.8.15) begins with a header of four bytes.
    let page = files::read(&folder.join("device/vpd_pg80"), 4096).unwrap_or_default();
    let page = page.get(4..).map(|text| String::from_utf8_lossy(text).into_owned());
    let deeper = above.or(page).map(|text| crate::status::clean(text.trim_matches(['\0', ' ']), 64));
    let serial = first(&["device/serial", "serial"]).or(deeper);
    let mut disk = Disk {
        name: name.to_owned(),
        length: word("size").parse::<u64>().unwrap_or(0).saturating_mul(512),
        model: first(&["device/model", "device/name"]).unwrap_or_default(),
        serial: serial.unwrap_or_default(),
        removable: usb || word("removable") == "1",
        in_use: String::new(),
    };
    disk.in_use = if word("ro") == "1" { "it is read-only".into() } else { in_use(layout, name, mounts) };
    disk
}

/// What keeps a disk from being erased: a mount, swap, or a device on top of it or of a partition of it.
fn in_use(layout: &Layout, name: &str, mounts: &BTreeMap<String, String>) -> String {
    let folder = layout.at("sys/block").join(name);
    let parts = names(&folder).into_iter().filter(|part| folder.join(part).join("partition").exists());
    let all: Vec<String> = parts.map(|part| format!("{name}/{part}")).chain([name.to_owned()]).collect();
    for part in &all {
        let folder = layout.at("sys/block").join(part);
        let short = part.rsplit('/').next().unwrap_or(part);
        let number = files::text(&folder.join("dev"), 64).unwrap_or_default();
        if let Some(place) = mounts.get(number.trim()).or_else(|| mounts.get(&format!("/dev/{short}"))) {
            return format!("{short} is in use: {place}");
        }
        if let Some(holder) = names(&folder.join("holders")).first() {
            return format!("{short} is in use by {holder}");
        }
    }
    String::new()
}

/// Device numbers and paths that are mounted or swapped to, and where.
fn mounts(layout: &Layout) -> BTreeMap<String, String> {
    let mounts = files::text(&layout.at("proc/self/mountinfo"), MOST).unwrap_or_default();
    let swaps = files::text(&layout.at("proc/swaps"), MOST).unwrap_or_default();
    let mut found = BTreeMap::new();
    for line in mounts.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (Some(number), Some(place)) = (words.get(2), words.get(4)) else { continue };
        let place = format!("mounted at {}", crate::status::clean(place, 80));
        // File systems that span devices have numbers of their own, and name a device as their source.
        if let Some(source) = words.iter().position(|word| *word == "-").and_then(|at| words.get(at + 2)) {
            found.insert((*source).to_owned(), place.clone());
        }
        found.insert((*number).to_owned(), place);
    }
    for line in swaps.lines().skip(1) {
        let Some(path) = line.split_ascii_whitespace().next() else { continue };
        found.insert(path.to_owned(), "swap".to_owned());
    }
    found
}

/// Names of a folder, sorted; none when there is no such folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// What a path names that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A file that is, or will be, an image.
    File {
        /// Its length, bytes; 0 when it is not there.
        length: u64,
    },
    /// A whole disk.
    Disk(Disk),
    /// A partition of a disk.
    Partition {
        /// Its name.
        name: String,
        /// Its length, bytes.
        length: u64,
        /// The disk that it is on.
        disk: Disk,
    },
    /// A block device that is neither, as a mapping of another one.
    Other(String),
}

/// Finds out what a path names, links followed.
///
/// # Errors
/// When it is neither a file nor a block device, or cannot be looked at.
pub fn target(layout: &Layout, path: &Path) -> io::Result<Target> {
    let metadata = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Target::File { length: 0 }),
        metadata => metadata?,
    };
    if metadata.is_file() {
        return Ok(Target::File { length: metadata.len() });
    }
    if !metadata.file_type().is_block_device() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor a block device"));
    }
    let device = metadata.rdev();
    block_device(layout, rustix::fs::major(device), rustix::fs::minor(device))
}

fn block_device(layout: &Layout, major: u32, minor: u32) -> io::Result<Target> {
    let folder = layout.at(format!("sys/dev/block/{major}:{minor}")).canonicalize()?;
    let name = |folder: &Path| {
        folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let mounts = mounts(layout);
    let own = name(&folder);
    if folder.join("partition").exists() {
        let length = files::text(&folder.join("size"), 64).and_then(|text| text.trim().parse::<u64>().ok());
        let disk = disk(layout, &name(folder.parent().unwrap_or(&folder)), &mounts);
        return Ok(Target::Partition { name: own, length: length.unwrap_or(0).saturating_mul(512), disk });
    }
    if NO_DISKS.iter().any(|no| own.starts_with(no)) {
        return Ok(Target::Other(own));
    }
    Ok(Target::Disk(disk(layout, &own, &mounts)))
}

/// Opens a file or a block device for reading and writing; a device alone, so that nobody mounts it
/// meanwhile.
///
/// # Errors
/// When it cannot be opened, or the kernel uses it.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true);
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device()) {
        // Without O_CREAT it is for devices: refused while one is mounted or below another one (open(2)).
        options.custom_flags(OFlags::EXCL.bits().cast_signed());
    }
    options.open(path)
}

/// Makes the next reads of a file come from the medium, as far as its bytes are written there.
pub fn forget_cache(file: &File) {
    // What the kernel keeps all the same is right, but proves nothing.
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
}

/// A FAT volume on an image or a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Number of its partition; `None` when the volume is the whole disk.
    pub number: Option<u32>,
    /// Its first byte.
    pub start: u64,
    /// Its length, bytes.
    pub length: u64,
    /// It is an EFI system partition.
    pub esp: bool,
    /// Its label, or else the name of its partition.
    pub label: String,
}

/// Why no place for a configuration was found.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The partition table cannot be used.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A volume cannot be used.
    #[error(transparent)]
    Fat(#[from] FatError),
    /// There is nowhere to put it.
    #[error(
        "neither an EFI system partition nor a FAT volume labelled SKERRY is there; what is: {0}; \
         `fatlabel DEVICE SKERRY` labels a stick"
    )]
    Nowhere(String),
}

/// Where a configuration goes on a disk or image of so many bytes: a volume that is labelled for it, else the
/// EFI system partition.
///
/// # Errors
/// When there is neither.
pub fn place(disk: &File, length: u64) -> Result<Place, PlaceError> {
    let places = places(disk, length)?;
    let found = places.iter().find(|place| place.label == LABEL).or(places.iter().find(|place| place.esp));
    found.cloned().ok_or_else(|| {
        let labels: Vec<String> = places.iter().map(|place| format!("`{}`", place.label)).collect();
        PlaceError::Nowhere(if labels.is_empty() { "no FAT at all".into() } else { labels.join(", ") })
    })
}

/// Every FAT volume of a disk or image.
fn places(disk: &File, length: u64) -> Result<Vec<Place>, PlaceError> {
    let whole = Place { number: None, start: 0, length, esp: false, label: String::new() };
    if Volume::is_likely(disk, 0)
        && let Ok(volume) = Volume::open(disk, 0, length, false)
    {
        return Ok(vec![Place { label: volume.label()?, ..whole }]);
    }
    let mut places = Vec::new();
    for partition in gpt::partitions(disk, length)?.unwrap_or_default() {
        let gpt::Partition { number, esp, start, length, name } = partition;
        if !Volume::is_likely(disk, start) {
            continue;
        }
        let label = Volume::open(disk, start, length, false)?.label()?;
        let label = if label.is_empty() { name } else { label };
        places.push(Place { number: Some(number), start, length, esp, label });
    }
    Ok(places)
}

/// A block device that may hold a FAT volume: partitions, and disks without any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its name, as `sda1`.
    pub name: String,
    /// Its device.
    pub path: PathBuf,
    /// Its length, bytes.
    pub length: u64,
    /// The name of its partition; empty when it has none.
    pub label: String,
    /// It can be taken out, or is on USB.
    pub removable: bool,
}

/// Every block device that may hold a FAT volume, those that can be taken out first.
pub fn blocks(layout: &Layout) -> Vec<Block> {
    let mut found = Vec::new();
    for disk in disks(layout) {
        let folder = layout.at("sys/block").join(&disk.name);
        let parts = names(&folder).into_iter().filter(|part| folder.join(part).join("partition").exists());
        let removable = disk.removable;
        let mut all: Vec<Block> = parts
            .map(|name| {
                let word = |file: &str| files::text(&folder.join(&name).join(file), 4096).unwrap_or_default();
                let length = word("size").trim().parse::<u64>().unwrap_or(0).saturating_mul(512);
                let uevent = word("uevent");
                let label =
                    uevent.lines().find_map(|line| line.strip_prefix("PARTNAME=")).unwrap_or_default();
                let path = layout.at("dev").join(&name);
                Block { label: label.to_owned(), name, path, length, removable }
            })
            .collect();
        if all.is_empty() {
            let path = layout.at("dev").join(&disk.name);
            all.push(Block { name: disk.name, path, length: disk.length, label: String::new(), removable });
        }
        found.append(&mut all);
    }
    found.sort_by_key(|block| !block.removable);
    found
}

/// The first volume labelled [`LABEL`] that has this file, and its device.
pub fn stick(layout: &Layout, path: &str) -> Option<(Volume, String)> {
    blocks(layout).into_iter().find_map(|block| {
        let file = File::open(&block.path).ok()?;
        if !Volume::is_likely(&file, 0) {
            return None;
        }
        let volume = Volume::open(&file, 0, block.length, false).ok()?;
        let named = volume.label().is_ok_and(|label| label == LABEL) || block.label == LABEL;
        (named && volume.has(path)).then_some((volume, block.name))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::{fat, gpt};

    fn write(layout: &Layout, path: &str, text: &str) {
        let path = layout.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Adds a disk of so many blocks of 512 bytes, below a bus, with partitions of so many blocks each.
    pub(crate) fn add(layout: &Layout, bus: &str, name: &str, size: u64, partitions: &[u64]) {
        let folder = format!("sys/devices/{bus}/block/{name}");
        write(layout, &format!("{folder}/size"), &format!("{size}\n"));
        write(layout, &format!("{folder}/dev"), &format!("{name}:0\n"));
        for (number, size) in (1..).zip(partitions) {
            write(layout, &format!("{folder}/{name}{number}/partition"), &format!("{number}\n"));
            write(layout, &format!("{folder}/{name}{number}/size"), &format!("{size}\n"));
            write(layout, &format!("{folder}/{name}{number}/dev"), &format!("{name}:{number}\n"));
        }
        fs::create_dir_all(layout.at("sys/block")).unwrap();
        symlink(layout.at(&folder), layout.at("sys/block").join(name)).unwrap();
    }

    fn layout() -> (tempfile::TempDir, Layout) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path().canonicalize().unwrap());
        (root, layout)
    }

    #[test]
    fn disks_are_told_by_model_and_serial() {
        let (_root, layout) = layout();
        add(&layout, "pci0/usb1/1-1", "sda", 100, &[50]);
        write(&layout, "sys/devices/pci0/usb1/1-1/serial", "AB12\n");
        write(&layout, "sys/block/sda/device/model", "Stick \x1b[2J  \n");
        add(&layout, "pci0/ata1", "sdb", 200, &[]);
        write(&layout, "sys/block/sdb/serial", "XY\n");
        add(&layout, "virtual", "loop0", 100, &[]);
        add(&layout, "pci0/ata2", "sdc", 0, &[]);
        let found = disks(&layout);
        assert_eq!(found.len(), 2);
        let (sda, sdb) = (&found[0], &found[1]);
        assert_eq!((sda.model.as_str(), sda.serial.as_str(), sda.removable), ("Stick  [2J", "AB12", true));
        assert_eq!((sdb.serial.as_str(), sdb.removable, sdb.length), ("XY", false, 200 * 512));
        assert_eq!(sdb.in_use, "");
    }

    #[test]
    fn a_disk_in_use_says_by_what() {
        let (_root, layout) = layout();
        for name in ["sda", "sdb", "sdc", "sdd", "sde", "sdf"] {
            add(&layout, "pci0", name, 100, &[50, 50]);
        }
        write(
            &layout,
            "proc/self/mountinfo",
            "22 1 sda:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw\n\
             30 22 0:40 / /srv rw - btrfs /dev/sdb1 rw\n23 22 0:5 / /dev rw - devtmpfs udev rw\nshort\n",
        );
        write(&layout, "proc/swaps", "Filename Type Size\n/dev/sdc2 partition 100 0 -2\n");
        write(&layout, "sys/block/sdd/sdd1/holders/dm-0/x", "");
        write(&layout, "sys/block/sde/ro", "1\n");
        let found: Vec<String> = disks(&layout).into_iter().map(|disk| disk.in_use).collect();
        assert_eq!(
            found,
            [
                "sda2 is in use: mounted at /",
                "sdb1 is in use: mounted at /srv",
                "sdc2 is in use: swap",
                "sdd1 is in use by dm-0",
                "it is read-only",
                ""
            ]
        );
    }

    #[test]
    fn a_path_is_a_file_a_disk_or_a_partition() {
        let (_root, layout) = layout();
        add(&layout, "pci0", "sda", 100, &[50]);
        add(&layout, "virtual", "dm-0", 100, &[]);
        fs::create_dir_all(layout.at("sys/dev/block")).unwrap();
        for (number, folder) in
            [("8:0", "pci0/block/sda"), ("8:1", "pci0/block/sda/sda1"), ("253:0", "virtual/block/dm-0")]
        {
            symlink(layout.at("sys/devices").join(folder), layout.at("sys/dev/block").join(number)).unwrap();
        }
        assert!(matches!(block_device(&layout, 8, 0).unwrap(), Target::Disk(disk) if disk.name == "sda"));
        let partition = block_device(&layout, 8, 1).unwrap();
        let Target::Partition { name, length, disk } = &partition else { panic!("{partition:?}") };
        assert_eq!((name.as_str(), *length, disk.name.as_str()), ("sda1", 25600, "sda"));
        assert_eq!(block_device(&layout, 253, 0).unwrap(), Target::Other("dm-0".into()));
        assert!(block_device(&layout, 9, 9).is_err());
        assert_eq!(target(&layout, &layout.at("nothing")).unwrap(), Target::File { length: 0 });
        assert!(target(&layout, &layout.at("sys")).is_err());
        assert!(target(&layout, Path::new("/dev/null")).is_err());
    }

    #[test]
    fn blocks_that_can_be_taken_out_come_first() {
        let (_root, layout) = layout();
        add(&layout, "pci0/ata1", "sda", 100, &[10, 20]);
        add(&layout, "pci0/usb1/1-1", "sdb", 100, &[]);
        let found = blocks(&layout);
        let names: Vec<(&str, u64)> = found.iter().map(|block| (block.name.as_str(), block.length)).collect();
        assert_eq!(names, [("sdb", 51200), ("sda1", 5120), ("sda2", 10240)]);
        assert!(found[0].path.ends_with("dev/sdb"));
    }

    #[test]
    fn a_labelled_volume_goes_before_the_system_partition() {
        const MIB: u64 = 1 << 20;
        let image = |first: &str, second: &str| {
            let disk = tempfile::tempfile().unwrap();
            disk.set_len(8 * MIB).unwrap();
            gpt::tests::write(&disk, 512, &[(gpt::ESP, 2048, 6143, "esp"), ([9; 16], 6144, 10239, "data")]);
            fat::tests::format(&disk, MIB, 2 * MIB, first);
            fat::tests::format(&disk, 3 * MIB, 2 * MIB, second);
            disk
        };
        let found = place(&image("EFI", "SKERRY"), 8 * MIB).unwrap();
        assert_eq!((found.number, found.esp, found.start), (Some(2), false, 3 * MIB));
        let found = place(&image("EFI", "OTHER"), 8 * MIB).unwrap();
        assert_eq!((found.number, found.esp, found.label.as_str()), (Some(1), true, "EFI"));
    }

    #[test]
    fn a_stick_without_a_table_needs_the_label() {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(1 << 20).unwrap();
        assert!(place(&disk, 1 << 20).unwrap_err().to_string().contains("no FAT at all"));
        fat::tests::format(&disk, 0, 1 << 20, "HOLIDAY");
        assert!(place(&disk, 1 << 20).unwrap_err().to_string().contains("`HOLIDAY`"));
        fat::tests::format(&disk, 0, 1 << 20, "SKERRY");
        let found = place(&disk, 1 << 20).unwrap();
        assert_eq!((found.number, found.start, found.length), (None, 0, 1 << 20));
    }
}
