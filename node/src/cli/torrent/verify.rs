//! `skerry torrent verify`: what is on disk against every hash that a torrent has of it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use skerry_wire::metainfo::{Hashes, Info, Kind, Layout, Metainfo, PieceHasher, TreeHasher};

use super::content::{Pipe, hash};
use super::load;
use crate::cli::progress::Progress;
use crate::cli::units::bytes;
use crate::cli::{VERIFICATION_FAILED, print};

#[derive(Debug, Args)]
pub(in crate::cli) struct Verify {
    /// The torrent
    #[arg(value_name = "FILE.torrent")]
    torrent: PathBuf,
    /// The file or folder that it was made of
    path: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let torrent = load(&self.torrent)?;
        let mut progress = Progress::new();
        let report = check(&torrent, &self.path, &mut progress)?;
        let took = progress.elapsed();
        drop(progress);
        if self.json {
            print(&format!("{:#}\n", serde_json::json!(report)))?;
        } else {
            print(&told(&report, took))?;
        }
        Ok(if report.sound { ExitCode::SUCCESS } else { ExitCode::from(VERIFICATION_FAILED) })
    }
}

/// What was found.
#[derive(Debug, PartialEq, Serialize)]
struct Report {
    sound: bool,
    /// Content, bytes.
    bytes: u64,
    pieces: u32,
    /// Numbers of the pieces whose SHA-1 differs.
    bad_pieces_v1: BTreeSet<u32>,
    /// Numbers of the pieces whose Merkle root differs.
    bad_pieces_v2: BTreeSet<u32>,
    files: Vec<Bad>,
}

/// A file that is not what the torrent says.
#[derive(Debug, PartialEq, Serialize)]
struct Bad {
    path: String,
    /// Why, when it is not only a matter of hashes.
    problem: Option<String>,
    /// Numbers of its pieces that failed either hash.
    bad_pieces: BTreeSet<u32>,
}

fn check(torrent: &Metainfo, path: &Path, progress: &mut Progress) -> anyhow::Result<Report> {
    let info = torrent.info();
    let root = root(info, path);
    let padding = padding(info);
    let mut problems = vec![None; info.files().len()];
    let pieces = info.layout_v1().and_then(|_| PieceHasher::new(Kind::V1, info.piece_length()));
    let trees = info.layout_v2().and_then(|_| TreeHasher::new(Kind::V2, info.piece_length()));
    let hashes = hash(pieces, trees, info.length(), progress, |pipe| {
        for (index, file) in info.files().iter().enumerate() {
            pipe.padding(padding[index]);
            problems[index] = feed(pipe, &on_disk(info, &root, index), file.length);
            pipe.end_of_file();
        }
        pipe.padding(padding[info.files().len()]);
        Ok(())
    })?;
    Ok(compare(torrent, &hashes, problems))
}

/// The only file, or the folder that the files are in.
fn root(info: &Info, path: &Path) -> PathBuf {
    match info.files() {
        [only] if info.single_file() && path.is_dir() => path.join(&only.path[0]),
        _ => path.to_owned(),
    }
}

fn on_disk(info: &Info, root: &Path, file: usize) -> PathBuf {
    if info.single_file() { root.to_owned() } else { root.join(info.files()[file].path.join("/")) }
}

/// Bytes of v1 padding before each file, and after the last.
fn padding(info: &Info) -> Vec<u64> {
    let mut padding = vec![0; info.files().len() + 1];
    let mut next = 0;
    for span in info.layout_v1().into_iter().flat_map(|layout| layout.spans()) {
        match span.file {
            Some(file) => next = file + 1,
            None => padding[next] += span.length,
        }
    }
    padding
}

/// Sends `length` bytes for a file, zeros where it has none; what is wrong with it.
fn feed(pipe: &mut Pipe<'_>, disk: &Path, length: u64) -> Option<String> {
    let (sent, problem) = match fs::metadata(disk) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => (0, Some("is missing".to_owned())),
        Err(error) => (0, Some(format!("cannot be read: {error}"))),
        Ok(metadata) if !metadata.is_file() => (0, Some("is no file".to_owned())),
        Ok(metadata) => {
            let (sent, end) = pipe.file(disk, length);
            let problem = match end {
                Err(error) => Some(format!("cannot be read: {error}")),
                Ok(()) if metadata.len() != length || sent != length => {
                    Some(format!("has {} bytes instead of {length}", metadata.len()))
                }
                Ok(()) => None,
            };
            (sent, problem)
        }
    };
    pipe.zeros(length - sent);
    problem
}

fn compare(torrent: &Metainfo, hashes: &Hashes, problems: Vec<Option<String>>) -> Report {
    let info = torrent.info();
    let bad_pieces_v1 = bad_v1(info, hashes);
    let bad_pieces_v2 = bad_v2(torrent, hashes);
    let mut by_file = vec![BTreeSet::new(); info.files().len()];
    let both = [(info.layout_v1(), &bad_pieces_v1), (info.layout_v2(), &bad_pieces_v2)];
    for (layout, pieces) in both {
        for (piece, block) in pieces.iter().flat_map(|piece| {
            let blocks = layout.and_then(|layout| layout.piece(*piece)).into_iter().flatten();
            blocks.map(move |block| (*piece, block))
        }) {
            if let Some(file) = block.file {
                by_file[file].insert(piece);
            }
        }
    }
    let files = info.files().iter().zip(problems).zip(by_file);
    let files: Vec<Bad> = files
        .map(|((file, problem), bad_pieces)| Bad { path: file.path.join("/"), problem, bad_pieces })
        .filter(|file| file.problem.is_some() || !file.bad_pieces.is_empty())
        .collect();
    Report {
        sound: files.is_empty() && bad_pieces_v1.is_empty() && bad_pieces_v2.is_empty(),
        bytes: info.length(),
        pieces: info.layout_v2().or(info.layout_v1()).map_or(0, Layout::piece_count),
        bad_pieces_v1,
        bad_pieces_v2,
        files,
    }
}

fn bad_v1(info: &Info, hashes: &Hashes) -> BTreeSet<u32> {
    let numbered = (0..).zip(&hashes.pieces);
    numbered.filter(|(piece, hash)| info.piece_hash(*piece) != Some(**hash)).map(|(piece, _)| piece).collect()
}

fn bad_v2(torrent: &Metainfo, hashes: &Hashes) -> BTreeSet<u32> {
    let info = torrent.info();
    let mut bad = BTreeSet::new();
    for (index, (file, found)) in info.files().iter().zip(&hashes.files).enumerate() {
        let Some((layout, root)) = info.layout_v2().zip(file.pieces_root) else { continue };
        let pieces = layout.pieces_of(index);
        match torrent.layer(&root) {
            Some(layer) => {
                let hashes = layer.iter().zip(&found.layer);
                let differ = pieces.zip(hashes).filter(|(_, (right, found))| right != found);
                bad.extend(differ.map(|(piece, _)| piece));
            }
            None if found.pieces_root != root => bad.extend(pieces),
            None => {}
        }
    }
    bad
}

fn told(report: &Report, took: Duration) -> String {
    let mut text = String::new();
    for file in &report.files {
        let problem = file.problem.as_deref().unwrap_or("is damaged");
        text.push_str(&format!("{} {problem}", file.path));
        if !file.bad_pieces.is_empty() {
            text.push_str(&format!(": pieces {}", ranges(&file.bad_pieces)));
        }
        text.push('\n');
    }
    let bad = report.bad_pieces_v1.union(&report.bad_pieces_v2).count();
    let found = match bad {
        0 => "all of them sound".to_owned(),
        bad => format!("{bad} of them bad"),
    };
    let (pieces, read) = (report.pieces, bytes(report.bytes));
    text + &format!("{pieces} pieces, {read}, in {:.1} s: {found}\n", took.as_secs_f64())
}

/// `1, 3-5`.
fn ranges(numbers: &BTreeSet<u32>) -> String {
    let numbers: Vec<u32> = numbers.iter().copied().collect();
    let runs = numbers.chunk_by(|one, two| *two == one + 1);
    let run = |run: &[u32]| match run {
        [only] => only.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    };
    runs.map(run).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use skerry_wire::metainfo::{Builder, Hasher};

    use super::*;
    use crate::cli::torrent::content::find;

    const PIECE: u32 = 16_384;

    fn content(seed: u32, length: usize) -> Vec<u8> {
        (seed..).map(|n| (n.wrapping_mul(0x9e37_79b1) >> 13) as u8).take(length).collect()
    }

    /// A folder `p` with files, and its torrent.
    fn pack(kind: Kind) -> (tempfile::TempDir, PathBuf, Metainfo) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        fs::create_dir_all(path.join("a")).unwrap();
        fs::write(path.join("a/one"), content(1, 40_000)).unwrap();
        fs::write(path.join("empty"), "").unwrap();
        fs::write(path.join("two"), content(2, 20_000)).unwrap();
        let torrent = made(kind, &path);
        (folder, path, torrent)
    }

    fn made(kind: Kind, path: &Path) -> Metainfo {
        let (name, found) = find(path).unwrap();
        let mut hasher = Hasher::new(kind, PIECE);
        for found in &found {
            hasher.update(&fs::read(&found.disk).unwrap());
            hasher.end_file();
        }
        let files = found.into_iter().map(|found| found.file).collect();
        Builder::new(kind, name, PIECE, files).build(&hasher.finish()).unwrap()
    }

    fn checked(torrent: &Metainfo, path: &Path) -> Report {
        check(torrent, path, &mut Progress::new()).unwrap()
    }

    #[test]
    fn what_a_torrent_was_made_of_is_sound() {
        for kind in [Kind::V1, Kind::V2, Kind::Hybrid] {
            let (_folder, path, torrent) = pack(kind);
            let report = checked(&torrent, &path);
            assert!(report.sound && report.files.is_empty(), "{kind:?}: {report:?}");
            let text = told(&report, Duration::ZERO);
            assert!(text.ends_with("58.6 KiB, in 0.0 s: all of them sound\n"), "{text}");
        }
    }

    #[test]
    fn one_file_is_found_by_its_name_or_its_folder() {
        let (_folder, path, _) = pack(Kind::Hybrid);
        let one = path.join("a/one");
        for kind in [Kind::V1, Kind::V2, Kind::Hybrid] {
            let torrent = made(kind, &one);
            assert!(checked(&torrent, &one).sound && checked(&torrent, &path.join("a")).sound);
            assert!(!checked(&torrent, &path.join("two")).sound);
        }
    }

    #[test]
    fn a_flipped_bit_is_found_by_both_hashes() {
        let (_folder, path, torrent) = pack(Kind::Hybrid);
        let mut bytes = content(1, 40_000);
        bytes[20_000] ^= 1;
        fs::write(path.join("a/one"), bytes).unwrap();
        let report = checked(&torrent, &path);
        let bad = BTreeSet::from([1]);
        assert_eq!((&report.bad_pieces_v1, &report.bad_pieces_v2), (&bad, &bad));
        let file = Bad { path: "a/one".into(), problem: None, bad_pieces: bad };
        assert_eq!((report.sound, report.pieces, &report.files), (false, 5, &vec![file]));
        let text = told(&report, Duration::ZERO);
        assert!(text.starts_with("a/one is damaged: pieces 1\n5 pieces, "), "{text}");
        assert!(text.ends_with("1 of them bad\n"), "{text}");
    }

    #[test]
    fn a_v1_piece_of_two_files_is_told_of_both() {
        let (_folder, path, torrent) = pack(Kind::V1);
        let mut bytes = content(1, 40_000);
        bytes[39_999] ^= 1;
        fs::write(path.join("a/one"), bytes).unwrap();
        let report = checked(&torrent, &path);
        let files: Vec<_> = report.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!((files, report.bad_pieces_v1), (vec!["a/one", "two"], BTreeSet::from([2])));
    }

    #[test]
    fn missing_short_and_long_files_are_told_apart() {
        let (_folder, path, torrent) = pack(Kind::Hybrid);
        fs::write(path.join("a/one"), content(1, 30_000)).unwrap();
        fs::write(path.join("two"), content(2, 20_001)).unwrap();
        fs::remove_file(path.join("empty")).unwrap();
        let text = told(&checked(&torrent, &path), Duration::ZERO);
        assert!(text.starts_with("a/one has 30000 bytes instead of 40000: pieces 1-2\n"), "{text}");
        assert!(text.contains("\nempty is missing\n"), "{text}");
        assert!(text.contains("\ntwo has 20001 bytes instead of 20000\n"), "{text}");

        fs::remove_dir_all(&path).unwrap();
        let report = checked(&torrent, &path);
        assert_eq!(report.bad_pieces_v2, BTreeSet::from([0, 1, 2, 3, 4]));
        assert_eq!(report.files.len(), 3);
    }

    #[test]
    fn numbers_in_a_row_are_a_range() {
        assert_eq!(ranges(&BTreeSet::from([1, 3, 4, 5, 9])), "1, 3-5, 9");
        assert_eq!(ranges(&BTreeSet::new()), "");
    }
}
