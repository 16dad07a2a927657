//! File names from strangers.

use super::Error;

/// Longest path component, bytes: what file systems take.
pub const MAX_COMPONENT: usize = 255;

/// Most components in a path. Each is a level of bencode in a v2 file tree.
pub const MAX_DEPTH: usize = 24;

/// Longest path, bytes, with a separator after every component.
pub const MAX_PATH: usize = 4096;

/// One component, as text. What is not UTF-8 is replaced: old v1 torrents have such names.
pub(super) fn component(bytes: &[u8]) -> Result<String, Error> {
    let text = String::from_utf8_lossy(bytes);
    let reason = match &*text {
        "" => "is empty",
        "." | ".." => "does not name a file",
        text if text.len() > MAX_COMPONENT => "is too long",
        text if text.contains(['/', '\\']) => "has a separator within a component",
        text if text.contains(char::is_control) => "has control characters",
        _ => return Ok(text.into_owned()),
    };
    Err(Error::Path { path: shown(bytes), reason })
}

/// Checks what components make together.
pub(super) fn whole(path: &[String]) -> Result<(), Error> {
    let reason = if path.is_empty() {
        "is empty"
    } else if path.len() > MAX_DEPTH {
        "has too many components"
    } else if path.iter().map(|component| component.len() + 1).sum::<usize>() > MAX_PATH {
        "is too long"
    } else {
        return Ok(());
    };
    Err(Error::Path { path: shown(path.join("/").as_bytes()), reason })
}

/// Refuses paths of which one is another, or leads through it.
pub(super) fn distinct<'a>(paths: impl Iterator<Item = &'a [String]>) -> Result<(), Error> {
    let mut sorted: Vec<&[String]> = paths.collect();
    sorted.sort_unstable();
    // What begins with a path comes right after it.
    match sorted.windows(2).find(|two| two[1].starts_with(two[0])) {
        Some(two) => Err(Error::Duplicate(two[0].join("/"))),
        None => Ok(()),
    }
}

/// For an error: escaped, and no longer than a line.
fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(80)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tricks_are_refused() {
        for bad in [
            &b""[..],
            b".",
            b"..",
            b"/",
            b"a/b",
            b"..\\x",
            b"a\0",
            b"a\nb",
            b"\x7f",
            "\u{85}".as_bytes(),
            &[b'a'; 256],
            // 3 bytes each once they are replaced.
            &[0xff; 86],
        ] {
            assert!(matches!(component(bad), Err(Error::Path { .. })), "{bad:?}");
        }
        for good in ["a", "...", ".pad", "a b", "…", "-rf", "x.torrent"] {
            assert_eq!(component(good.as_bytes()).as_deref(), Ok(good));
        }
        assert_eq!(component(b"caf\xe9").as_deref(), Ok("caf\u{fffd}"));
        assert_eq!(component(&[b'a'; 255]).map(|name| name.len()), Ok(255));
    }

    #[test]
    fn whole_paths_are_bounded() {
        assert!(whole(&[]).is_err());
        assert!(whole(&vec!["a".to_owned(); MAX_DEPTH]).is_ok());
        assert!(whole(&vec!["a".to_owned(); MAX_DEPTH + 1]).is_err());
        assert!(whole(&vec!["a".repeat(255); 16]).is_ok());
        assert!(whole(&vec!["a".repeat(255); 17]).is_err());
    }

    #[test]
    fn a_file_is_no_folder_and_stands_once() {
        let path = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
        let all = |texts: &[&str]| {
            let paths: Vec<_> = texts.iter().map(|text| path(text)).collect();
            distinct(paths.iter().map(Vec::as_slice))
        };
        assert_eq!(all(&["b", "a/b", "a/c", "a.b", "A"]), Ok(()));
        assert_eq!(all(&["a/b", "c", "a/b"]), Err(Error::Duplicate("a/b".into())));
        assert_eq!(all(&["a/b/c", "a/bb", "a.b", "a/b"]), Err(Error::Duplicate("a/b".into())));
    }
}
