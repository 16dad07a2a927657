//! Torrent files, read no further than a scenario needs: to send a client to other trackers, to take
//! web seeds away from it, and to know where its pieces are. Made for files that the node or
//! libtorrent wrote; the node's own codec has no part in it.

use std::collections::{BTreeMap, HashSet};

/// The bytes of one SHA-1 hash.
const HASH: usize = 20;

/// A torrent file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torrent {
    bytes: Vec<u8>,
}

impl Torrent {
    /// Takes a file's bytes. Panics unless they are one dictionary with an `info` dictionary in it.
    #[track_caller]
    pub fn read(bytes: Vec<u8>) -> Self {
        let whole = extent(&bytes) == Some(bytes.len());
        let info = field(&bytes, "info").and_then(entries);
        assert!(whole && info.is_some(), "no torrent: {}", bytes.escape_ascii());
        Self { bytes }
    }

    /// The file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The encoded `info` dictionary, of which the info-hashes are made.
    pub fn info(&self) -> &[u8] {
        field(&self.bytes, "info").expect("a torrent has an info dictionary")
    }

    /// The suggested name.
    pub fn name(&self) -> String {
        let name = field(self.info(), "name").and_then(content).expect("a torrent has a name");
        String::from_utf8_lossy(name).into_owned()
    }

    /// How long its pieces are, in bytes.
    pub fn piece_length(&self) -> u64 {
        field(self.info(), "piece length").and_then(integer).expect("a torrent has a piece length")
    }

    /// The bytes that its version 1 pieces cover, pad files included; none in a torrent of version 2
    /// alone.
    pub fn length(&self) -> Option<u64> {
        if let Some(length) = field(self.info(), "length") {
            return integer(length);
        }
        items(field(self.info(), "files")?)?.into_iter().map(|file| integer(field(file, "length")?)).sum()
    }

    /// The SHA-1 hashes of its version 1 pieces; empty in a torrent of version 2 alone.
    pub fn pieces(&self) -> Vec<[u8; HASH]> {
        let hashes = field(self.info(), "pieces").and_then(content).unwrap_or_default();
        hashes.chunks_exact(HASH).map(|hash| hash.try_into().expect("a chunk's length")).collect()
    }

    /// Its trackers (BEP 3 and 12), each once.
    pub fn trackers(&self) -> Vec<String> {
        let mut urls: Vec<String> = field(&self.bytes, "announce").and_then(text).into_iter().collect();
        for tier in field(&self.bytes, "announce-list").and_then(items).unwrap_or_default() {
            urls.extend(items(tier).unwrap_or_default().into_iter().filter_map(text));
        }
        let mut seen = HashSet::new();
        urls.retain(|url| seen.insert(url.clone()));
        urls
    }

    /// Its web seeds (BEP 19), which stand there as one string or as a list.
    pub fn web_seeds(&self) -> Vec<String> {
        let Some(seeds) = field(&self.bytes, "url-list") else {
            return Vec::new();
        };
        match items(seeds) {
            Some(list) => list.into_iter().filter_map(text).collect(),
            None => text(seeds).into_iter().collect(),
        }
    }

    /// The same torrent with these trackers and no other way to find content: no web seeds (BEP 17
    /// and 19), no DHT nodes (BEP 5).
    pub fn found_by(&self, trackers: &[String]) -> Self {
        let fields = entries(&self.bytes).expect("a torrent is a dictionary");
        let mut fields: BTreeMap<&[u8], Vec<u8>> =
            fields.into_iter().map(|(key, value)| (key, value.to_vec())).collect();
        for key in ["announce", "announce-list", "url-list", "httpseeds", "nodes"] {
            fields.remove(key.as_bytes());
        }
        if let Some(first) = trackers.first() {
            fields.insert(b"announce", string(first.as_bytes()));
            let mut tiers = vec![b'l'];
            for url in trackers {
                tiers.push(b'l');
                tiers.extend(string(url.as_bytes()));
                tiers.push(b'e');
            }
            tiers.push(b'e');
            fields.insert(b"announce-list", tiers);
        }
        let mut bytes = vec![b'd'];
        for (key, value) in fields {
            bytes.extend(string(key));
            bytes.extend(value);
        }
        bytes.push(b'e');
        Self { bytes }
    }
}

/// An encoded string.
fn string(content: &[u8]) -> Vec<u8> {
    [content.len().to_string().as_bytes(), b":", content].concat()
}

/// How many bytes the encoded value takes that these begin with.
fn extent(bytes: &[u8]) -> Option<usize> {
    match bytes.first()? {
        b'i' => Some(bytes.iter().position(|byte| *byte == b'e')? + 1),
        b'l' | b'd' => {
            let mut at = 1;
            while *bytes.get(at)? != b'e' {
                at += extent(&bytes[at..])?;
            }
            Some(at + 1)
        }
        _ => {
            let colon = bytes.iter().position(|byte| *byte == b':')?;
            let length: usize = std::str::from_utf8(&bytes[..colon]).ok()?.parse().ok()?;
            let end = (colon + 1).checked_add(length)?;
            (end <= bytes.len()).then_some(end)
        }
    }
}

/// The encoded values of a list, or of a dictionary's keys and values in turn.
fn inside(value: &[u8], kind: u8) -> Option<Vec<&[u8]>> {
    if *value.first()? != kind {
        return None;
    }
    let mut found = Vec::new();
    let mut rest = &value[1..];
    while *rest.first()? != b'e' {
        let (item, after) = rest.split_at(extent(rest)?);
        found.push(item);
        rest = after;
    }
    Some(found)
}

/// The encoded values of a list.
fn items(value: &[u8]) -> Option<Vec<&[u8]>> {
    inside(value, b'l')
}

/// The keys of a dictionary, each with its encoded value.
fn entries(value: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let all = inside(value, b'd')?;
    all.chunks(2).map(|pair| Some((content(pair[0])?, *pair.get(1)?))).collect()
}

/// The encoded value of a key.
fn field<'a>(dictionary: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let found = entries(dictionary)?.into_iter().find(|(key, _)| *key == name.as_bytes())?;
    Some(found.1)
}

/// What an encoded string holds.
fn content(value: &[u8]) -> Option<&[u8]> {
    if !value.first()?.is_ascii_digit() {
        return None;
    }
    let colon = value.iter().position(|byte| *byte == b':')?;
    value.get(colon + 1..)
}

/// [`content`] as text.
fn text(value: &[u8]) -> Option<String> {
    Some(String::from_utf8_lossy(content(value)?).into_owned())
}

/// An encoded integer.
fn integer(value: &[u8]) -> Option<u64> {
    let digits = value.strip_prefix(b"i")?.strip_suffix(b"e")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINGLE: &[u8] = b"d8:announce8:http://a13:announce-listll8:http://ael7:udp://bee\
        4:infod6:lengthi7e4:name1:f12:piece lengthi16384e6:pieces20:abcdefghijklmnopqrste\
        12:piece layersde8:url-list8:http://we";

    #[test]
    fn a_torrent_is_read() {
        let torrent = Torrent::read(SINGLE.to_vec());
        assert_eq!(
            (torrent.name().as_str(), torrent.length(), torrent.piece_length()),
            ("f", Some(7), 16384)
        );
        assert_eq!(torrent.pieces(), [*b"abcdefghijklmnopqrst"]);
        assert_eq!(torrent.trackers(), ["http://a", "udp://b"]);
        assert_eq!(torrent.web_seeds(), ["http://w"]);
    }

    #[test]
    fn several_files_are_counted_together() {
        let files = b"d4:infod5:filesld6:lengthi5eed6:lengthi6eee4:name1:fee";
        assert_eq!(Torrent::read(files.to_vec()).length(), Some(11));
        let second = b"d4:infod9:file treede4:name1:fee";
        assert_eq!(Torrent::read(second.to_vec()).length(), None);
    }

    #[test]
    fn a_torrent_is_sent_to_other_trackers_and_keeps_what_is_hashed() {
        let torrent = Torrent::read(SINGLE.to_vec());
        let other = torrent.found_by(&["http://c".to_owned()]);
        assert_eq!(other, Torrent::read(other.bytes().to_vec()));
        assert_eq!(other.trackers(), ["http://c"]);
        assert!(other.web_seeds().is_empty());
        assert_eq!(other.info(), torrent.info());
        assert!(field(other.bytes(), "piece layers").is_some());
        assert!(torrent.found_by(&[]).trackers().is_empty());
    }

    #[test]
    #[should_panic(expected = "no torrent")]
    fn what_is_cut_is_no_torrent() {
        Torrent::read(SINGLE[..SINGLE.len() - 1].to_vec());
    }
}
