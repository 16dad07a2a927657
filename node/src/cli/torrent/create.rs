//! `skerry torrent create`: a file or a folder hashed, and described for every kind of client.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::json;
use skerry_wire::metainfo::{
    Builder, Kind, MAX_PIECE_LENGTH, Metainfo, PieceHasher, TreeHasher, piece_length_for,
};

use super::content::{find, hash};
use super::show;
use crate::VERSION;
use crate::cli::print;
use crate::cli::progress::Progress;

#[derive(Debug, Args)]
pub(in crate::cli) struct Create {
    /// The file or folder
    path: PathBuf,
    /// Where to write the torrent [default: the name of PATH, with .torrent]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    version: Version,
    /// Length of a piece: a power of two from 16384 [default: such that there are 1000 to 2000]
    #[arg(long, value_name = "BYTES", value_parser = piece_length)]
    piece_length: Option<u32>,
    /// A tracker; of several, the first that answers is asked
    #[arg(long = "tracker", value_name = "URL", value_parser = tracker)]
    trackers: Vec<String>,
    /// Where the content can be had over HTTP
    #[arg(long = "web-seed", value_name = "URL", value_parser = web_seed)]
    web_seeds: Vec<String>,
    /// Peers come from the trackers only: no DHT, no exchange between peers
    #[arg(long)]
    private: bool,
    /// Words for people
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct Version {
    /// For version 1 clients only
    #[arg(long)]
    v1: bool,
    /// For version 2 clients only
    #[arg(long)]
    v2: bool,
    /// For both [default]
    #[arg(long)]
    hybrid: bool,
}

impl Version {
    fn kind(&self) -> Kind {
        // At most one of them is given.
        match (self.v1, self.v2, self.hybrid) {
            (true, ..) => Kind::V1,
            (_, true, _) => Kind::V2,
            _ => Kind::Hybrid,
        }
    }
}

impl Create {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let torrent = self.make()?;
        let beside = || PathBuf::from(format!("{}.torrent", torrent.info().name()));
        let path = self.output.clone().unwrap_or_else(beside);
        write(&path, &torrent.to_bytes())?;
        let file = path.display().to_string();
        if self.json {
            let mut told = show::torrent_json(&torrent);
            told["file"] = json!(file);
            print(&format!("{told:#}\n"))?;
        } else {
            print(&format!("{file}\n\n{}", show::summary(&torrent)))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn make(&self) -> anyhow::Result<Metainfo> {
        let (name, found) = find(&self.path)?;
        let total: u64 = found.iter().map(|found| found.file.length).sum();
        ensure!(total > 0, "{} holds nothing: a torrent needs at least one byte", self.path.display());
        let piece_length = self.piece_length.unwrap_or_else(|| piece_length_for(total));
        let kind = self.version.kind();

        let files = found.iter().map(|found| found.file.clone()).collect();
        let mut builder = Builder::new(kind, name, piece_length, files);
        builder.trackers = self.trackers.iter().map(|url| vec![url.clone()]).collect();
        builder.web_seeds = self.web_seeds.clone();
        builder.private = self.private;
        builder.comment = self.comment.clone();
        builder.created_by = Some(format!("skerry {VERSION}"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        builder.creation_date = now.ok().and_then(|now| i64::try_from(now.as_secs()).ok());
        let cannot = || format!("no torrent can be made of {}", self.path.display());
        builder.check().with_context(cannot)?;

        let (pieces, trees) = (PieceHasher::new(kind, piece_length), TreeHasher::new(kind, piece_length));
        let hashes = hash(pieces, trees, total, &mut Progress::new(), |pipe| {
            for found in &found {
                let (disk, length) = (&found.disk, found.file.length);
                // One byte more is asked for, so that growth is seen.
                let (sent, end) = pipe.file(disk, length.saturating_add(1));
                end.with_context(|| format!("cannot read {}", disk.display()))?;
                ensure!(sent == length, "{} changed while it was read", disk.display());
                pipe.end_of_file();
            }
            Ok(())
        })?;
        builder.build(&hashes).with_context(cannot)
    }
}

/// Writes a file that is whole or as it was before.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn piece_length(text: &str) -> Result<u32, String> {
    let fits = |length: &u32| length.is_power_of_two() && (16_384..=MAX_PIECE_LENGTH).contains(length);
    let length = text.parse().ok().filter(fits);
    length.ok_or_else(|| format!("a power of two from 16384 to {MAX_PIECE_LENGTH} is needed"))
}

fn tracker(text: &str) -> Result<String, String> {
    url(text, &["http://", "https://", "udp://"])
}

fn web_seed(text: &str) -> Result<String, String> {
    url(text, &["http://", "https://"])
}

fn url(text: &str, schemes: &[&str]) -> Result<String, String> {
    let host = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    let right =
        host.is_some_and(|rest| !rest.is_empty() && !text.contains(|c: char| c.is_control() || c == ' '));
    if right {
        Ok(text.to_owned())
    } else {
        Err(format!("a URL is needed that begins with {}", schemes.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked_before_anything_is_read() {
        assert_eq!(piece_length("16384"), Ok(16_384));
        for wrong in ["0", "8192", "20000", "536870912", "-1", "x", ""] {
            assert!(piece_length(wrong).is_err(), "{wrong}");
        }
        assert!(tracker("udp://t.example:6969").is_ok());
        assert!(web_seed("https://a/b").is_ok());
        for wrong in ["udp://a", "http://", "http://a b", "a", ""] {
            assert!(web_seed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_that_is_there_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.torrent");
        write(&path, b"old").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::create_dir(folder.path().join("d")).unwrap();
        assert!(write(&folder.path().join("d"), b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
