//! `skerry image flash`.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Args;
use sha2::{Digest, Sha256};
use skerry_appliance::disk::{self, Disk};
use skerry_appliance::{files, gpt};

use super::{Opened, candidates, open, usage};
use crate::cli::progress::Progress;
use crate::cli::units::bytes;
use crate::cli::{VERIFICATION_FAILED, print};

/// What is read and written at once.
const STEP: usize = 4 << 20;
/// What is written before the disk is waited for: the line of progress tells what arrived there.
const SYNC: u64 = 64 << 20;
/// Largest list of checksums that is read.
const MOST_SUMS: u64 = 1 << 20;
/// Frames of zstd begin with this (RFC 8878 §3.1.1).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

#[derive(Debug, Args)]
pub(in crate::cli) struct Flash {
    /// The image: skerry_VERSION_MACHINE.raw. With SHA256SUMS beside it, it is checked first
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// The disk that is erased, or a file; without it, disks are listed
    #[arg(long, value_name = "DEVICE|FILE")]
    disk: Option<PathBuf>,
    /// Erase without asking: the serial number or the path of the disk, to show that it is the right one
    #[arg(long, value_name = "SERIAL|PATH")]
    yes_erase: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Flash {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let Some(path) = &self.disk else {
            usage(&format!("--disk says what is erased; there are:\n\n{}", candidates()));
        };
        let shown = path.display();
        let (mut image, length) = image(&self.image)?;
        // A file that is not there yet is no disk, and nothing on it is lost.
        let opened = if path.exists() { Some(open(path, false)?) } else { None };
        if let Some(opened) = &opened {
            let (same, there) = (image.metadata()?, opened.file.metadata()?);
            ensure!((same.dev(), same.ino()) != (there.dev(), there.ino()), "{shown} is the image itself");
            let room = opened.disk.as_ref().map_or(length, |disk| disk.length);
            ensure!(room >= length, "{shown} has {}, and the image needs {}", bytes(room), bytes(length));
            if opened.length > 0 {
                self.confirm(path, opened)?;
            }
        }
        let name = self.image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let listed = listed(&self.image, &name)?;
        if let Some(sum) = &listed
            && *sum != hash(&mut image, length)?
        {
            eprintln!(
                "skerry: {} has another checksum than SHA256SUMS says; nothing was erased",
                self.image.display()
            );
            return Ok(ExitCode::from(VERIFICATION_FAILED));
        }
        let mut disk = match opened {
            Some(opened) => opened.file,
            None => new(path)?,
        };
        let progress = Progress::new();
        let written = write(&mut image, &mut disk, length, progress)
            .with_context(|| format!("cannot write {shown}"))?;
        disk::forget_cache(&disk);
        let read = hash(&mut disk, length).with_context(|| format!("cannot read {shown} back"))?;
        if read != written.sum || listed.as_ref().is_some_and(|sum| *sum != read) {
            eprintln!(
                "skerry: {shown} reads otherwise than it was written: it may be worn out, or is no such size"
            );
            return Ok(ExitCode::from(VERIFICATION_FAILED));
        }
        self.tell(path, length, &written, listed.is_some())?;
        Ok(ExitCode::SUCCESS)
    }

    fn tell(&self, path: &Path, length: u64, written: &Written, listed: bool) -> anyhow::Result<()> {
        if self.json {
            let told = serde_json::json!({
                "image": self.image.display().to_string(), "disk": path.display().to_string(),
                "bytes": length, "sha256": written.sum, "listed": listed, "verified": true,
                "write_seconds": written.seconds,
            });
            print(&format!("{told:#}\n"))?;
            return Ok(());
        }
        let sums = if listed { "as SHA256SUMS says" } else { "there is no SHA256SUMS beside it" };
        print(&format!(
            "{} on {}, written and read back\nsha256 {} ({sums})\n",
            bytes(length),
            path.display(),
            written.sum
        ))?;
        Ok(())
    }

    /// Goes on when the disk was named twice: by `--disk`, and by what is printed on it or by its path again.
    fn confirm(&self, path: &Path, opened: &Opened) -> anyhow::Result<()> {
        let shown = path.display().to_string();
        let serial =
            opened.disk.as_ref().map(|disk| disk.serial.as_str()).filter(|serial| !serial.is_empty());
        let is_right = |word: &str| word == shown || Some(word) == serial;
        let what = match &opened.disk {
            None => format!("{shown} ({})", bytes(opened.length)),
            Some(Disk { length, model, serial, .. }) => {
                format!("{shown} ({}, {model}, serial number `{serial}`)", bytes(*length))
            }
        };
        let name = serial.unwrap_or(&shown);
        let word = match &self.yes_erase {
            Some(word) => word.clone(),
            None if io::stdin().is_terminal() && !self.json => {
                let mut out = io::stderr().lock();
                write!(out, "All that is on {what} will be lost.\nWrite {name} to go on: ")?;
                out.flush()?;
                let mut line = String::new();
                io::stdin().lock().take(1024).read_line(&mut line)?;
                line.trim().to_owned()
            }
            None => {
                usage(&format!("all that is on {what} would be lost: --yes-erase {name} says that it may be"))
            }
        };
        if !is_right(&word) {
            bail!("`{word}` is not {what}; nothing was erased");
        }
        Ok(())
    }
}

/// The image, opened, and its length.
fn image(path: &Path) -> anyhow::Result<(File, u64)> {
    let shown = path.display();
    let mut file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
    let length = file.seek(SeekFrom::End(0)).with_context(|| format!("cannot read {shown}"))?;
    file.rewind()?;
    let mut first = [0; 4];
    if file.read_exact(&mut first).is_ok() && first == ZSTD {
        bail!("{shown} is compressed: unpack it first, with zstd -d");
    }
    let partitions = gpt::partitions(&file, length).with_context(|| format!("cannot use {shown}"))?;
    let bootable = partitions.iter().flatten().any(|partition| partition.esp);
    ensure!(bootable, "{shown} is no image of a disk that boots: it has no EFI system partition");
    Ok((file, length))
}

fn new(path: &Path) -> anyhow::Result<File> {
    let file = File::options().read(true).write(true).create_new(true).open(path);
    file.with_context(|| format!("cannot make {}", path.display()))
}

/// What `SHA256SUMS` beside the image says of it; `None` without such a list.
fn listed(image: &Path, name: &str) -> anyhow::Result<Option<String>> {
    let list = image.with_file_name("SHA256SUMS");
    if !list.exists() {
        return Ok(None);
    }
    let shown = list.display();
    let text = files::read(&list, MOST_SUMS).with_context(|| format!("cannot read {shown}"))?;
    let text = String::from_utf8_lossy(&text);
    let sum = text.lines().find_map(|line| {
        let (sum, file) = line.split_once(' ')?;
        (file.strip_prefix(['*', ' ']) == Some(name) && sum.len() == 64).then(|| sum.to_ascii_lowercase())
    });
    let Some(sum) = sum else { bail!("{shown} does not list {name}: take it away, or another image") };
    Ok(Some(sum))
}

/// What was written.
struct Written {
    sum: String,
    seconds: f64,
}

fn write(image: &mut File, disk: &mut File, length: u64, mut progress: Progress) -> io::Result<Written> {
    let mut hash = Sha256::new();
    let mut done = 0;
    image.rewind()?;
    disk.rewind()?;
    each(image, length, |part| {
        hash.update(part);
        disk.write_all(part)?;
        done += part.len() as u64;
        if done % SYNC < part.len() as u64 {
            disk.sync_data()?;
        }
        progress.show(done, length);
        Ok(())
    })?;
    disk.sync_all()?;
    Ok(Written { sum: hex(&hash.finalize()), seconds: progress.elapsed().as_secs_f64() })
}

/// SHA-256 of the first bytes of a file or disk.
fn hash(file: &mut File, length: u64) -> io::Result<String> {
    let mut hash = Sha256::new();
    let (mut progress, mut done) = (Progress::new(), 0);
    file.rewind()?;
    each(file, length, |part| {
        hash.update(part);
        done += part.len() as u64;
        progress.show(done, length);
        Ok(())
    })?;
    Ok(hex(&hash.finalize()))
}

/// The first `length` bytes, in parts.
fn each(file: &mut File, length: u64, mut work: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut part = vec![0; STEP];
    let mut left = length;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(STEP).min(STEP);
        file.read_exact(&mut part[..wanted])?;
        work(&part[..wanted])?;
        left -= wanted as u64;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flash: Flash,
    }

    fn flash(image: &str, disk: &str, word: &str) -> Flash {
        let line = ["flash", "--image", image, "--disk", disk, "--yes-erase", word];
        Line::try_parse_from(line).unwrap().flash
    }

    fn opened(length: u64, disk: Option<Disk>) -> Opened {
        Opened { file: tempfile::tempfile().unwrap(), length, disk }
    }

    #[test]
    fn a_disk_is_named_twice() {
        let disk = Disk { name: "sdb".into(), length: 1 << 30, serial: "AB12".into(), ..Disk::default() };
        let disk = opened(1 << 30, Some(disk));
        let confirms = |word: &str| flash("a.raw", "/dev/sdb", word).confirm(Path::new("/dev/sdb"), &disk);
        assert!(confirms("AB12").is_ok() && confirms("/dev/sdb").is_ok());
        for word in ["", "ab12", "sdb", "/dev/sda", "yes"] {
            assert!(confirms(word).unwrap_err().to_string().contains("nothing was erased"), "{word}");
        }
        // A disk that tells no number is not confirmed by the lack of one.
        let silent = opened(1, Some(Disk::default()));
        assert!(flash("a.raw", "/dev/sdb", "").confirm(Path::new("/dev/sdb"), &silent).is_err());
    }

    #[test]
    fn the_list_of_checksums_names_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("skerry_1_x86-64.raw");
        let listed = || listed(&image, "skerry_1_x86-64.raw");
        assert_eq!(listed().unwrap(), None);
        let sum = "A".repeat(64);
        for (text, found) in [
            (format!("{sum} *skerry_1_x86-64.raw\n"), Some("a".repeat(64))),
            (format!("{} *other\n{sum}  skerry_1_x86-64.raw\n", "0".repeat(64)), Some("a".repeat(64))),
            (format!("{sum} *skerry_1_x86-64.raw.zst\n"), None),
            ("aa *skerry_1_x86-64.raw\n".to_owned(), None),
            (String::new(), None),
        ] {
            std::fs::write(folder.path().join("SHA256SUMS"), &text).unwrap();
            assert_eq!(listed().ok().flatten(), found, "{text}");
        }
    }

    #[test]
    fn bytes_are_written_and_read_in_parts() {
        let (mut from, mut to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let length = STEP as u64 + 12_345;
        from.write_all(&vec![7; length as usize + 99]).unwrap();
        to.set_len(3 * length).unwrap();
        let written = write(&mut from, &mut to, length, Progress::new()).unwrap();
        assert_eq!(written.sum, hash(&mut to, length).unwrap());
        assert_eq!(written.sum, hex(&Sha256::digest(vec![7; length as usize])));
        assert_eq!(to.metadata().unwrap().len(), 3 * length);
        // A file that is shorter than it was.
        assert!(hash(&mut from, 1 << 40).is_err());
    }
}
