//! `skerry torrent show`.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};
use skerry_wire::magnet::Magnet;
use skerry_wire::metainfo::{File, Layout, Metainfo};

use super::load;
use crate::cli::print;
use crate::cli::units::bytes;

#[derive(Debug, Args)]
pub(in crate::cli) struct Show {
    /// A torrent file or a magnet link
    #[arg(value_name = "FILE|MAGNET")]
    what: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let link = self.what.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("magnet:"));
        let (told, text) = if link {
            let magnet: Magnet = self.what.parse()?;
            (magnet_json(&magnet), table(&magnet_rows(&magnet)))
        } else {
            let torrent = load(Path::new(&self.what))?;
            (torrent_json(&torrent), summary(&torrent) + &files(&torrent))
        };
        if self.json {
            print(&format!("{told:#}\n"))?;
        } else {
            print(&text)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

type Row = (&'static str, String);

/// A torrent, without its files.
pub(super) fn summary(torrent: &Metainfo) -> String {
    let info = torrent.info();
    let mut rows: Vec<Row> = vec![("name", info.name().to_owned())];
    rows.extend(info.hash_v1().map(|hash| ("v1", hash.to_string())));
    rows.extend(info.hash_v2().map(|hash| ("v2", hash.to_string())));
    let files = match info.files().len() {
        1 => "1 file".to_owned(),
        many => format!("{many} files"),
    };
    rows.push(("content", format!("{} in {files} ({} bytes)", bytes(info.length()), info.length())));
    rows.push(("pieces", format!("{} of {}", pieces(torrent), bytes(info.piece_length().into()))));
    if info.private() {
        rows.push(("private", "yes: peers come from the trackers only".to_owned()));
    }
    rows.extend(torrent.trackers.iter().map(|tier| ("tracker", tier.join(" or "))));
    rows.extend(torrent.web_seeds.iter().map(|url| ("web seed", url.clone())));
    rows.extend(torrent.comment.iter().map(|text| ("comment", plain(text))));
    rows.extend(torrent.created_by.iter().map(|text| ("made by", plain(text))));
    rows.extend(torrent.creation_date.and_then(date).map(|date| ("made at", date)));
    rows.push(("magnet", torrent.magnet().to_string()));
    table(&rows)
}

/// A torrent in JSON.
pub(super) fn torrent_json(torrent: &Metainfo) -> Value {
    let info = torrent.info();
    let files: Vec<Value> = info
        .files()
        .iter()
        .map(|file| json!({ "path": file.path, "length": file.length, "pieces_root": file.pieces_root }))
        .collect();
    json!({
        "name": info.name(),
        "info_hash_v1": info.hash_v1(),
        "info_hash_v2": info.hash_v2(),
        "length": info.length(),
        "piece_length": info.piece_length(),
        "pieces": pieces(torrent),
        "private": info.private(),
        "single_file": info.single_file(),
        "files": files,
        "trackers": torrent.trackers,
        "web_seeds": torrent.web_seeds,
        "comment": torrent.comment,
        "created_by": torrent.created_by,
        "creation_date": torrent.creation_date,
        "magnet": torrent.magnet().to_string(),
    })
}

fn pieces(torrent: &Metainfo) -> u32 {
    let info = torrent.info();
    let layout = info.layout_v2().or(info.layout_v1());
    layout.map_or(0, Layout::piece_count)
}

fn files(torrent: &Metainfo) -> String {
    let line = |file: &File| format!("{:>12}  {}\n", bytes(file.length), file.path.join("/"));
    "\n".to_owned() + &torrent.info().files().iter().map(line).collect::<String>()
}

fn magnet_rows(magnet: &Magnet) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    rows.extend(magnet.name.iter().map(|name| ("name", name.clone())));
    rows.extend(magnet.v1.map(|hash| ("v1", hash.to_string())));
    rows.extend(magnet.v2.map(|hash| ("v2", hash.to_string())));
    rows.extend(magnet.trackers.iter().map(|url| ("tracker", url.clone())));
    rows.extend(magnet.web_seeds.iter().map(|url| ("web seed", url.clone())));
    rows.extend(magnet.peers.iter().map(|peer| ("peer", peer.clone())));
    rows
}

fn magnet_json(magnet: &Magnet) -> Value {
    json!({
        "name": magnet.name,
        "info_hash_v1": magnet.v1,
        "info_hash_v2": magnet.v2,
        "trackers": magnet.trackers,
        "web_seeds": magnet.web_seeds,
        "peers": magnet.peers,
    })
}

fn table(rows: &[Row]) -> String {
    rows.iter().map(|(name, value)| format!("{name:<9} {value}\n")).collect()
}

/// A stranger's words on one line, and no commands to the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn date(seconds: i64) -> Option<String> {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))?;
    // Four digits for the year are all that the format has.
    (seconds < 253_402_300_800).then(|| humantime::format_rfc3339_seconds(time).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_s_words_and_dates_are_harmless() {
        assert_eq!(plain("a\n\x1b[2Jb"), "a  [2Jb");
        assert_eq!(date(1_700_000_000).as_deref(), Some("2023-11-14T22:13:20Z"));
        assert_eq!([date(-1), date(i64::MAX), date(i64::MIN)], [None, None, None]);
    }

    #[test]
    fn a_link_is_told_row_by_row() {
        let hash = "631a31dd0a46257d5078c0dee4e66e26f73e42ac";
        let magnet: Magnet = format!("magnet:?xt=urn:btih:{hash}&dn=x&tr=http://t/").parse().unwrap();
        assert_eq!(
            table(&magnet_rows(&magnet)),
            format!("name      x\nv1        {hash}\ntracker   http://t/\n")
        );
        assert_eq!(magnet_json(&magnet)["info_hash_v1"], hash);
    }
}
