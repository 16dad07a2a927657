//! The digest of a whole representation (RFC 9530).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;

/// The field that tells it.
const REPR_DIGEST: &str = "repr-digest";
/// The field that asks for it.
pub const WANT_REPR_DIGEST: &str = "want-repr-digest";
/// The value of [`WANT_REPR_DIGEST`] that asks for SHA-256.
pub const WANTED: &str = "sha-256=10";

/// The SHA-256 of the representation that a header speaks of, when it tells it (RFC 9530 §3).
pub fn sha256(headers: &HeaderMap) -> Option<[u8; 32]> {
    let lines = headers.get_all(REPR_DIGEST).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).find_map(|member| {
        let (digest, _) = member.trim().strip_prefix("sha-256=:")?.split_once(':')?;
        STANDARD.decode(digest).ok()?.try_into().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &[&str]) -> Option<[u8; 32]> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(REPR_DIGEST, line.parse().unwrap());
        }
        sha256(&headers)
    }

    #[test]
    fn the_digest_is_found_among_others_and_only_if_it_is_whole() {
        let zeros = Some([0; 32]);
        let right = "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:";
        assert_eq!(told(&[right]), zeros);
        assert_eq!(told(&["unixsum=30637, sha-512=:AAAA:", right]), zeros);
        assert_eq!(
            told(&["sha-512=:AAAA:, sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:;x"]),
            zeros
        );
        let cut = &right[..right.len() - 1];
        for wrong in ["", "sha-256", "sha-256=:AAAA:", "sha-256=AAAA", "sha-256=:?:", "id-sha-256=::", cut] {
            assert_eq!(told(&[wrong]), None, "{wrong}");
        }
    }
}
