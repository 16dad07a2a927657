//! FAT volumes: sticks and EFI system partitions, read and written without the kernel's help.
//!
//! A stick is a stranger's bytes. Here they are parsed in memory-safe code of a process that may mount
//! nothing, in place of a file system driver of the kernel. What a damaged volume can cost is bounded: every
//! access is within the volume, there are only so many of them, and a panic of the parser is an error.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use fatfs::{FileSystem, FsOptions};

/// Reads of a volume that is looked into, of a few bytes each: enough for ten thousand entries of its root.
const READS: u64 = 1 << 20;
/// Reads of a volume that is written: a free cluster of the largest FAT may be found last.
const READS_TO_WRITE: u64 = 512 << 20;
/// What is read ahead; a folder and the table are read in steps of a few bytes.
const AHEAD: usize = 4096;

/// Why a volume cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FatError {
    /// It cannot be read or written, or what stands there is no FAT.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is damaged.
    #[error("the file system is damaged")]
    Damaged,
    /// A file is longer than is taken.
    #[error("{0} is longer than {1} bytes")]
    Long(String, u64),
}

/// A FAT volume on a part of a disk.
pub struct Volume {
    volume: FileSystem<Part>,
    disk: File,
}

impl Volume {
    /// Whether what stands there may be FAT, by its first sector alone.
    pub fn is_likely(disk: &File, start: u64) -> bool {
        let mut sector = [0; 512];
        disk.read_exact_at(&mut sector, start).is_ok()
            && sector[510..] == [0x55, 0xaa]
            && matches!(u16::from_le_bytes([sector[11], sector[12]]), 512 | 1024 | 2048 | 4096)
            && sector[13].is_power_of_two()
            && matches!(sector[16], 1 | 2)
    }

    /// Opens the volume of these bytes of a disk.
    ///
    /// # Errors
    /// When it is no FAT, or damaged.
    pub fn open(disk: &File, start: u64, length: u64, write: bool) -> Result<Self, FatError> {
        let reads = if write { READS_TO_WRITE } else { READS };
        let part =
            Part { disk: disk.try_clone()?, start, length, at: 0, reads, write, ahead: (0, Vec::new()) };
        let disk = disk.try_clone()?;
        let volume = guarded(|| Ok(FileSystem::new(part, FsOptions::new())?))?;
        Ok(Self { volume, disk })
    }

    /// Its label; empty when it has none.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn label(&self) -> Result<String, FatError> {
        // The entry of the root folder counts; the boot sector's copy is often out of date.
        let label = guarded(|| Ok(self.volume.read_volume_label_from_root_dir()?))?;
        let label = label.unwrap_or_else(|| self.volume.volume_label());
        let label = label.trim_end_matches(['\0', ' ']);
        Ok(if label == "NO NAME" { String::new() } else { label.to_owned() })
    }

    /// Whether there is such a file.
    pub fn has(&self, path: &str) -> bool {
        guarded(|| Ok(self.volume.root_dir().open_file(path).is_ok())).unwrap_or(false)
    }

    /// A file, as [`Volume::copy`] gives it.
    ///
    /// # Errors
    /// When it is longer, or the volume is damaged.
    pub fn read(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>, FatError> {
        let mut bytes = Vec::new();
        Ok(self.copy(path, &mut bytes, most)?.map(|_| bytes))
    }

    /// Copies a file, whose path may have folders, into `to`; gives its length, `None` when it is not there.
    ///
    /// # Errors
    /// When it is longer than `most`, `to` does not take it, or the volume is damaged.
    pub fn copy(&self, path: &str, to: &mut impl Write, most: u64) -> Result<Option<u64>, FatError> {
        guarded(|| {
            let mut file = match self.volume.root_dir().open_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                file => file?.take(most + 1),
            };
            let copied = io::copy(&mut file, to)?;
            if copied > most {
                return Err(FatError::Long(path.to_owned(), most));
            }
            Ok(Some(copied))
        })
    }

    /// Makes a folder; one that is there stays.
    ///
    /// # Errors
    /// As for [`Volume::write`].
    pub fn make_dir(&self, path: &str) -> Result<(), FatError> {
        guarded(|| Ok(self.volume.root_dir().create_dir(path).map(drop)?))
    }

    /// Writes a file, in place of one that is there.
    ///
    /// # Errors
    /// When there is no room, the medium does not take it, or the volume is damaged.
    pub fn write(&self, path: &str, bytes: &[u8]) -> Result<(), FatError> {
        guarded(|| {
            let folder = self.volume.root_dir();
            match folder.remove(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            let mut file = folder.create_file(path)?;
            file.write_all(bytes)?;
            file.flush()?;
            Ok(())
        })
    }

    /// Ends writing: when this returns, all of it is on the medium.
    ///
    /// # Errors
    /// When it is not.
    pub fn close(self) -> Result<(), FatError> {
        let Self { volume, disk } = self;
        guarded(|| Ok(volume.unmount()?))?;
        Ok(disk.sync_all()?)
    }
}

/// The parser's arithmetic is checked in debug builds alone, and a damaged volume can lead it astray.
fn guarded<T>(work: impl FnOnce() -> Result<T, FatError>) -> Result<T, FatError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(FatError::Damaged))
}

/// The bytes of a volume within its disk.
struct Part {
    disk: File,
    start: u64,
    length: u64,
    at: u64,
    /// Reads that are left.
    reads: u64,
    write: bool,
    /// What was read last, and where it begins.
    ahead: (u64, Vec<u8>),
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads = self.reads.checked_sub(1).ok_or_else(|| io::Error::other("its folders have no end"))?;
        let left = self.length.saturating_sub(self.at);
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if wanted >= AHEAD || wanted == 0 {
            let read = self.disk.read_at(&mut buffer[..wanted], self.start + self.at.min(self.length))?;
            self.at += read as u64;
            return Ok(read);
        }
        let (from, bytes) = &self.ahead;
        if !(*from..from + bytes.len() as u64).contains(&self.at) {
            let from = self.at - self.at % AHEAD as u64;
            let mut bytes = vec![0; AHEAD.min(usize::try_from(self.length - from).unwrap_or(AHEAD))];
            self.disk.read_exact_at(&mut bytes, self.start + from)?;
            self.ahead = (from, bytes);
        }
        let (from, bytes) = &self.ahead;
        let known = &bytes[usize::try_from(self.at - from).unwrap_or(usize::MAX)..];
        let read = wanted.min(known.len());
        buffer[..read].copy_from_slice(&known[..read]);
        self.at += read as u64;
        Ok(read)
    }
}

impl Write for Part {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if !self.write {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let left = usize::try_from(self.length.saturating_sub(self.at)).unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(0);
        }
        self.ahead.1.clear();
        let written = self.disk.write_at(&buffer[..buffer.len().min(left)], self.start + self.at)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Part {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use fatfs::FormatVolumeOptions;

    use super::*;

    /// Makes a FAT volume on a part of a disk.
    pub(crate) fn format(disk: &File, start: u64, length: u64, label: &str) {
        let mut bytes = [b' '; 11];
        bytes[..label.len()].copy_from_slice(label.as_bytes());
        let ahead = (0, Vec::new());
        let disk = disk.try_clone().unwrap();
        let mut part = Part { disk, start, length, at: 0, reads: u64::MAX, write: true, ahead };
        fatfs::format_volume(&mut part, FormatVolumeOptions::new().volume_label(bytes)).unwrap();
    }

    fn disk(length: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        file
    }

    const START: u64 = 1 << 20;

    #[test]
    fn files_are_written_into_a_part_of_a_disk() {
        // FAT12, FAT16 and FAT32, by their lengths.
        for length in [1 << 20, 16 << 20, 600 << 20] {
            let disk = disk(START + length + 4096);
            format(&disk, START, length, "SKERRY");
            assert!(Volume::is_likely(&disk, START) && !Volume::is_likely(&disk, 0));
            let volume = Volume::open(&disk, START, length, true).unwrap();
            assert_eq!(volume.label().unwrap(), "SKERRY");
            assert_eq!(volume.read("skerry.toml", 10).unwrap(), None);
            volume.write("skerry.toml", &[b'a'; 100_000]).unwrap();
            volume.write("skerry.toml", b"[node]\n").unwrap();
            volume.write("skerry.fleet-url", b"https://a").unwrap();
            volume.close().unwrap();
            let volume = Volume::open(&disk, START, length, false).unwrap();
            assert!(volume.has("skerry.toml") && !volume.has("skerry.token"));
            assert_eq!(volume.read("skerry.toml", 7).unwrap().unwrap(), b"[node]\n");
            assert_eq!(volume.read("SKERRY.FLEET-URL", 100).unwrap().unwrap(), b"https://a");
            assert!(matches!(volume.read("skerry.toml", 6), Err(FatError::Long(..))));
            assert!(volume.write("a", b"b").is_err());
            let mut around = vec![1; START as usize];
            disk.read_exact_at(&mut around, 0).unwrap();
            assert!(around.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_full_volume_says_so() {
        let disk = disk(1 << 20);
        format(&disk, 0, 1 << 20, "SKERRY");
        let volume = Volume::open(&disk, 0, 1 << 20, true).unwrap();
        assert!(volume.write("a", &vec![0; 2 << 20]).is_err());
    }

    #[test]
    fn what_is_no_volume_is_refused() {
        for bytes in [vec![], vec![0; 512], vec![0xff; 4096]] {
            let disk = tempfile::tempfile().unwrap();
            disk.write_all_at(&bytes, 0).unwrap();
            assert!(!Volume::is_likely(&disk, 0));
            assert!(Volume::open(&disk, 0, bytes.len() as u64, false).is_err());
        }
    }

    #[test]
    fn a_damaged_volume_costs_neither_time_nor_a_panic() {
        let mut random = fastrand::Rng::with_seed(11);
        let length = 1 << 20;
        for _ in 0..300 {
            let disk = disk(length);
            format(&disk, 0, length, "SKERRY");
            let volume = Volume::open(&disk, 0, length, true).unwrap();
            volume.write("skerry.toml", &[b'a'; 30_000]).unwrap();
            volume.close().unwrap();
            for _ in 0..random.usize(1..20) {
                // The boot sector, the table, the root folder.
                let far = random.bool();
                let at = random.u64(..if far { 16 << 10 } else { 64 });
                disk.write_all_at(&[random.u8(..)], at).unwrap();
            }
            if let Ok(volume) = Volume::open(&disk, 0, length, false) {
                let _ = volume.label();
                if let Ok(Some(bytes)) = volume.read("skerry.toml", 64 << 10) {
                    assert!(bytes.len() <= 64 << 10);
                }
            }
        }
    }
}
