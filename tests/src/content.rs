//! Bodies that are pseudo-random (nothing compresses them, nothing matches by chance) and known at
//! every offset, so that the tail of a 50 GB object can be produced and checked without the rest.

use std::io::Write;
use std::process::{Command, Stdio};

/// The `length` bytes at `offset` of the endless content that `seed` names.
pub fn bytes(seed: u64, offset: u64, length: usize) -> Vec<u8> {
    let skip = (offset % 8) as usize;
    let mut out = Vec::with_capacity(length + 16);
    let mut word = offset / 8;
    while out.len() < length + skip {
        out.extend_from_slice(&mix(seed, word).to_le_bytes());
        word += 1;
    }
    out.drain(..skip);
    out.truncate(length);
    out
}

/// A stateless mixer: every (seed, word) pair gives an unrelated value.
fn mix(seed: u64, word: u64) -> u64 {
    let mut value = seed
        .wrapping_add(1)
        .wrapping_mul(0xD1B5_4A32_D192_ED03)
        .wrapping_add(word.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Panics unless both are equal, naming the first byte that differs instead of printing megabytes.
#[track_caller]
pub fn assert_same(what: &str, got: &[u8], expected: &[u8]) {
    if got != expected {
        panic!(
            "{what}: {} bytes received, {} expected, first difference at byte {}",
            got.len(),
            expected.len(),
            difference(got, expected)
        );
    }
}

/// Panics unless `got` is how `expected` begins: what a client may see of an answer that was cut.
#[track_caller]
pub fn assert_prefix(what: &str, got: &[u8], expected: &[u8]) {
    if !expected.starts_with(got) {
        panic!(
            "{what}: {} bytes received of {}, first difference at byte {}",
            got.len(),
            expected.len(),
            difference(got, expected)
        );
    }
}

fn difference(got: &[u8], expected: &[u8]) -> usize {
    got.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(got.len().min(expected.len()))
}

/// The SHA-256 of `bytes` in base64, as RFC 9530 §2 writes it between colons. Computed by
/// `sha256sum`, so that the node's own hashing is not judged by the same code.
pub fn sha256_base64(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum of coreutils is installed");
    child.stdin.take().expect("stdin is piped").write_all(bytes).expect("sha256sum reads its input");
    let output = child.wait_with_output().expect("sha256sum ends");
    let hex = String::from_utf8_lossy(&output.stdout).into_owned();
    let digest: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex digits")).collect();
    base64(&digest)
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let mut bits = 0u32;
        for at in 0..3 {
            bits = (bits << 8) | u32::from(group.get(at).copied().unwrap_or(0));
        }
        for at in 0..4 {
            if at <= group.len() {
                let index = (bits >> (18 - 6 * at)) & 63;
                out.push(char::from(ALPHABET[index as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_the_same_from_every_offset() {
        let whole = bytes(7, 0, 1000);
        for offset in [0usize, 1, 7, 8, 9, 500, 999] {
            assert_eq!(bytes(7, offset as u64, 1000 - offset), whole[offset..]);
        }
        assert_ne!(bytes(8, 0, 1000), whole);
    }

    #[test]
    fn a_digest_is_written_in_base64() {
        assert_eq!(base64(b"any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw==");
        assert_eq!(sha256_base64(b""), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }
}
