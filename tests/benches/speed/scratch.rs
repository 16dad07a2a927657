//! The scratch folder: origin files of random bytes, the certificate, and room for the servers.
//!
//! Everything in it is made for one run and removed at the end of it.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::process::capture;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The sizes of the files, in bytes.
pub(crate) const SIZES: [u64; 4] = [KIB, 64 * KIB, MIB, 16 * MIB];

/// How long ago the origin's files seem to have changed: an origin that names no lifetime gets a
/// tenth of that (RFC 9111, section 4.2.2), so every cached file stays fresh for the whole run.
const AGE: Duration = Duration::from_secs(300 * 24 * 3600);

/// One file of the origin.
#[derive(Clone)]
pub(crate) struct Object {
    /// The path to ask for.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) size: u64,
}

/// The scratch folder of one run.
pub(crate) struct Scratch {
    dir: TempDir,
    /// Whether the folder is on a disk; in a memory file system nothing is ever cold.
    pub(crate) on_disk: bool,
}

impl Scratch {
    /// Makes the folder, the certificate and the hot files.
    ///
    /// `SKERRY_BENCH_DIR` says where; otherwise it is the system's folder for temporary files.
    pub(crate) fn new() -> Result<Scratch> {
        let base = std::env::var_os("SKERRY_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        fs::create_dir_all(&base).with_context(|| format!("cannot create {}", base.display()))?;
        let dir = tempfile::Builder::new()
            .prefix("skerry-bench-")
            .tempdir_in(base.canonicalize()?)
            .with_context(|| format!("cannot create a folder in {}", base.display()))?;
        let path = dir.path().to_str().unwrap_or_default();
        // It goes into two configuration files and a URL: better refused here than quoted thrice.
        ensure!(
            !path.is_empty() && path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c)),
            "the scratch folder {} has unusual characters in its name: set SKERRY_BENCH_DIR",
            dir.path().display()
        );
        let system = capture("stat", &["-f", "-c", "%T", path])?;
        let on_disk = !matches!(system.trim(), "tmpfs" | "ramfs");

        let scratch = Scratch { dir, on_disk };
        scratch.certify()?;
        for object in scratch.hot() {
            scratch.write(&object)?;
        }
        Ok(scratch)
    }

    /// A path in the folder.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The folder that every server serves.
    pub(crate) fn origin(&self) -> PathBuf {
        self.at("origin")
    }

    /// The certificate in PEM, its own issuer.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.at("certificate.pem")
    }

    /// The certificate's key in PEM.
    pub(crate) fn key(&self) -> PathBuf {
        self.at("key.pem")
    }

    /// The files that are asked for again and again, one of each size.
    pub(crate) fn hot(&self) -> Vec<Object> {
        SIZES.iter().map(|&size| Object { path: format!("/hot/{size}.bin"), size }).collect()
    }

    /// Writes the files that are asked for once in a round: one set for each size.
    pub(crate) fn cold(&self, quick: bool) -> Result<Vec<Vec<Object>>> {
        let counts: [u64; 4] = if quick { [1024, 512, 128, 16] } else { [4096, 2048, 512, 64] };
        let total: u64 = SIZES.iter().zip(counts).map(|(size, count)| size * count).sum();
        // Once at the origin, once in the node's store, and what the store writes besides.
        self.ensure_space(total * 3)?;
        let mut sets = Vec::new();
        for (&size, count) in SIZES.iter().zip(counts) {
            let set: Vec<Object> = (0..count)
                .map(|number| Object { path: format!("/cold/{size}/{number}.bin"), size })
                .collect();
            for object in &set {
                crate::process::check()?;
                self.write(object)?;
            }
            sets.push(set);
        }
        Ok(sets)
    }

    /// The bytes of a file, to compare an answer with.
    pub(crate) fn contents(&self, object: &Object) -> Result<Vec<u8>> {
        let path = self.file(object);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn file(&self, object: &Object) -> PathBuf {
        self.origin().join(object.path.trim_start_matches('/'))
    }

    fn write(&self, object: &Object) -> Result<()> {
        let path = self.file(object);
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)?;
        let write = || -> std::io::Result<()> {
            let mut file = BufWriter::new(fs::File::create(&path)?);
            let mut block = vec![0_u8; object.size.min(MIB) as usize];
            let mut left = object.size;
            while left > 0 {
                fastrand::fill(&mut block);
                let piece = left.min(block.len() as u64);
                file.write_all(&block[..piece as usize])?;
                left -= piece;
            }
            file.flush()?;
            file.get_ref().set_modified(SystemTime::now() - AGE)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    fn certify(&self) -> Result<()> {
        let names = ["127.0.0.1", "localhost", crate::client::HOST].map(String::from);
        let made = rcgen::generate_simple_self_signed(names)?;
        fs::write(self.certificate(), made.cert.pem())?;
        fs::write(self.key(), made.signing_key.serialize_pem())?;
        Ok(())
    }

    fn ensure_space(&self, needed: u64) -> Result<()> {
        let folder = self.dir.path().display().to_string();
        let text = capture("df", &["-B1", "--output=avail", &folder])?;
        let free = text
            .lines()
            .last()
            .and_then(|line| line.trim().parse::<u64>().ok())
            .with_context(|| format!("df said {text:?}"))?;
        ensure!(
            free >= needed,
            "{} MiB are free in {folder} and the cold files need {}: set SKERRY_BENCH_DIR",
            free / MIB,
            needed / MIB
        );
        Ok(())
    }
}

/// A size in the largest unit that leaves no fraction.
pub(crate) fn name_size(bytes: u64) -> String {
    if bytes.is_multiple_of(MIB) { format!("{} MiB", bytes / MIB) } else { format!("{} KiB", bytes / KIB) }
}
