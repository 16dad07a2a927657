//! The files of a torrent on disk: found, read, and hashed on a thread for v1 and another for v2.

use std::fs::{self, File};
use std::io::{self, Read};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use skerry_wire::metainfo::{Hashes, MAX_DEPTH, MAX_FILES, NewFile, PieceHasher, TreeHasher};

use crate::cli::progress::Progress;

/// Bytes that are read at once.
const STEP: u64 = 1 << 20;
/// Steps that wait for a hasher, at most.
const WAITING: usize = 8;

/// A file to be made a part of a torrent, and where it is.
pub(super) struct Found {
    pub(super) disk: PathBuf,
    pub(super) file: NewFile,
}

/// The name and the files of what is at `path`, in the order of their paths. Folders without files
/// leave no trace in a torrent.
pub(super) fn find(path: &Path) -> anyhow::Result<(String, Vec<Found>)> {
    let cannot = || format!("cannot read {}", path.display());
    let whole = match path.file_name() {
        Some(_) => path.to_owned(),
        None => path.canonicalize().with_context(cannot)?,
    };
    let name = whole.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{} has no name in UTF-8", path.display()))?.to_owned();
    let metadata = fs::metadata(path).with_context(cannot)?;
    let mut found = Vec::new();
    if metadata.is_dir() {
        walk(path, &mut Vec::new(), &mut found)?;
    } else {
        ensure!(metadata.is_file(), "{} is neither a file nor a folder", path.display());
        let file = NewFile { path: vec![name.clone()], length: metadata.len() };
        found.push(Found { disk: path.to_owned(), file });
    }
    Ok((name, found))
}

fn walk(folder: &Path, path: &mut Vec<String>, found: &mut Vec<Found>) -> anyhow::Result<()> {
    let cannot = || format!("cannot read {}", folder.display());
    let entries: io::Result<Vec<_>> = fs::read_dir(folder).and_then(Iterator::collect);
    let mut entries = entries.with_context(cannot)?;
    // In bytes, as a file tree is sorted.
    entries.sort_by_cached_key(fs::DirEntry::file_name);
    for entry in entries {
        let disk = entry.path();
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            bail!("the name of {} is not in UTF-8", disk.display());
        };
        path.push(name);
        ensure!(path.len() <= MAX_DEPTH, "{} is more than {MAX_DEPTH} folders deep", disk.display());
        let kind = entry.file_type().with_context(|| format!("cannot read {}", disk.display()))?;
        if kind.is_dir() {
            walk(&disk, path, found)?;
        } else if kind.is_symlink() {
            bail!("{} is a symbolic link; a torrent holds files only", disk.display());
        } else if kind.is_file() {
            ensure!(found.len() < MAX_FILES, "more than {MAX_FILES} files");
            let length = entry.metadata().with_context(|| format!("cannot read {}", disk.display()))?.len();
            found.push(Found { disk, file: NewFile { path: path.clone(), length } });
        } else {
            bail!("{} is neither a file nor a folder", disk.display());
        }
        path.pop();
    }
    Ok(())
}

#[derive(Clone)]
enum Event {
    Bytes(Bytes),
    Padding(u64),
    EndOfFile,
}

/// Leads to the hashers, and shows how far they are.
pub(super) struct Pipe<'a> {
    hashers: Vec<SyncSender<Event>>,
    progress: &'a mut Progress,
    done: u64,
    total: u64,
}

impl Pipe<'_> {
    /// Sends at most `most` bytes of a file: how many there were, and what ended it early.
    pub(super) fn file(&mut self, disk: &Path, most: u64) -> (u64, io::Result<()>) {
        let mut sent = 0;
        let mut file = match File::open(disk) {
            Ok(file) => file,
            Err(error) => return (sent, Err(error)),
        };
        loop {
            let step = STEP.min(most - sent);
            let mut bytes = Vec::with_capacity(step as usize);
            let read = (&mut file).take(step).read_to_end(&mut bytes);
            let ended = bytes.is_empty() || read.is_err();
            sent += bytes.len() as u64;
            self.bytes(bytes.into());
            if ended {
                return (sent, read.map(drop));
            }
        }
    }

    /// Sends zeros for content that is not there.
    pub(super) fn zeros(&mut self, length: u64) {
        let zeros = Bytes::from(vec![0; STEP.min(length) as usize]);
        let mut left = length;
        while left > 0 {
            let step = STEP.min(left);
            self.bytes(zeros.slice(..step as usize));
            left -= step;
        }
    }

    /// Sends padding, which is content to v1 only.
    pub(super) fn padding(&mut self, length: u64) {
        self.send(&Event::Padding(length));
    }

    pub(super) fn end_of_file(&mut self) {
        self.send(&Event::EndOfFile);
    }

    fn bytes(&mut self, bytes: Bytes) {
        self.done += bytes.len() as u64;
        self.send(&Event::Bytes(bytes));
        self.progress.show(self.done, self.total);
    }

    fn send(&self, event: &Event) {
        for hasher in &self.hashers {
            // A hasher that is gone has panicked, which is told when it is joined.
            let _ = hasher.send(event.clone());
        }
    }
}

/// Has `feed` send the content, `total` bytes, to the hashers; what they found.
pub(super) fn hash(
    pieces: Option<PieceHasher>,
    trees: Option<TreeHasher>,
    total: u64,
    progress: &mut Progress,
    feed: impl FnOnce(&mut Pipe<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<Hashes> {
    let mut pipe = Pipe { hashers: Vec::new(), progress, done: 0, total };
    thread::scope(|scope| {
        let mut events = || {
            let (sender, receiver) = sync_channel(WAITING);
            pipe.hashers.push(sender);
            receiver
        };
        let pieces = pieces.map(|hasher| (hasher, events()));
        let trees = trees.map(|hasher| (hasher, events()));
        let pieces = pieces.map(|(hasher, events)| scope.spawn(|| hash_pieces(hasher, events)));
        let trees = trees.map(|(hasher, events)| scope.spawn(|| hash_trees(hasher, events)));
        let fed = feed(&mut pipe);
        // The hashers end when nothing can be sent any more.
        drop(pipe);
        let pieces = pieces.map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        let trees = trees.map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        fed?;
        let pieces = pieces.map(PieceHasher::finish).unwrap_or_default();
        let files = trees.map(TreeHasher::finish).unwrap_or_default();
        Ok(Hashes { pieces, files })
    })
}

fn hash_pieces(mut hasher: PieceHasher, events: Receiver<Event>) -> PieceHasher {
    for event in events {
        match event {
            Event::Bytes(bytes) => hasher.update(&bytes),
            Event::Padding(length) => hasher.padding(length),
            Event::EndOfFile => hasher.end_file(),
        }
    }
    hasher
}

fn hash_trees(mut hasher: TreeHasher, events: Receiver<Event>) -> TreeHasher {
    for event in events {
        match event {
            Event::Bytes(bytes) => hasher.update(&bytes),
            Event::Padding(_) => {}
            Event::EndOfFile => hasher.end_file(),
        }
    }
    hasher
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_come_in_the_order_of_their_paths() {
        let folder = tempfile::tempdir().unwrap();
        for folders in ["p/a", "p/empty", "p/z/y"] {
            fs::create_dir_all(folder.path().join(folders)).unwrap();
        }
        for file in ["p/z/y/1", "p/a.txt", "p/a/b", "p/B", "p/a/a"] {
            fs::write(folder.path().join(file), file).unwrap();
        }
        let (name, found) = find(&folder.path().join("p")).unwrap();
        let paths: Vec<_> = found.iter().map(|found| found.file.path.join("/")).collect();
        assert_eq!(name, "p");
        assert_eq!(paths, ["B", "a/a", "a/b", "a.txt", "z/y/1"]);
        assert!(found.is_sorted_by(|one, two| one.file.path < two.file.path));
        assert_eq!(found[4].file.length, 7);
        assert_eq!(find(&folder.path().join("p/a/..")).unwrap().0, "p");

        let (name, found) = find(&folder.path().join("p/a.txt")).unwrap();
        assert_eq!((name.as_str(), found.len()), ("a.txt", 1));
        assert_eq!(found[0].file.path, ["a.txt"]);
    }

    #[test]
    fn links_are_refused_and_named() {
        let folder = tempfile::tempdir().unwrap();
        symlink("/", folder.path().join("out")).unwrap();
        let error = find(folder.path()).map(drop).unwrap_err().to_string();
        assert!(error.contains("out is a symbolic link"), "{error}");
        assert!(find(&folder.path().join("none")).is_err());
        assert!(find(Path::new("/dev/null")).is_err());
    }
}
