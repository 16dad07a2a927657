//! What a successful unsafe request makes invalid (RFC 9111 §4.4).
//!
//! References in `Location` and `Content-Location` are resolved as RFC 3986 §5.2 says. Only those of
//! the same authority count, so that one site cannot empty the cache of another.

use http::header::{CONTENT_LOCATION, HeaderMap, LOCATION};
use http::{Method, StatusCode};

/// The targets, as path and query, whose stored responses (every variant) an answer makes invalid:
/// that of the request, and those that `Location` and `Content-Location` name. Empty for safe
/// methods and for answers that are neither 2xx nor 3xx.
///
/// A method that is not known to be safe counts as unsafe. `authorities` are the names this site
/// has: the client's `Host` and the origin's own, each with its port where one was given.
pub fn invalidation_targets(
    method: &Method,
    status: StatusCode,
    authorities: &[&str],
    target: &str,
    response: &HeaderMap,
) -> Vec<String> {
    if is_safe(method) || !(status.is_success() || status.is_redirection()) {
        return Vec::new();
    }
    let mut targets = vec![target.to_owned()];
    for name in [LOCATION, CONTENT_LOCATION] {
        let named = response.get(name);
        if let Some(named) = named.and_then(|named| resolve(named.as_bytes(), authorities, target))
            && !targets.contains(&named)
        {
            targets.push(named);
        }
    }
    targets
}

/// Whether a method leaves resources as they are (RFC 9110 §9.2.1, and the registry for the rest).
pub fn is_safe(method: &Method) -> bool {
    method.is_safe() || matches!(method.as_str(), "PROPFIND" | "REPORT" | "SEARCH" | "PRI")
}

/// Resolves a reference against the path and query `base` of a site known under `authorities`.
///
/// Gives path and query, without a fragment; `None` when it leaves the site or is no `http` or
/// `https` reference.
pub fn resolve(reference: &[u8], authorities: &[&str], base: &str) -> Option<String> {
    let reference = std::str::from_utf8(reference).ok()?.trim();
    let reference = reference.split('#').next().unwrap_or_default();
    let reference = match scheme_end(reference) {
        Some(end) => {
            let (scheme, rest) = (&reference[..end], &reference[end + 1..]);
            let is_http = ["http", "https"].iter().any(|name| scheme.eq_ignore_ascii_case(name));
            if !is_http || !rest.starts_with("//") {
                return None;
            }
            rest
        }
        None => reference,
    };
    let reference = match reference.strip_prefix("//") {
        Some(rest) => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, rest) = rest.split_at(end);
            if !authorities.iter().any(|known| is_same_authority(known, authority)) {
                return None;
            }
            if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") }
        }
        None => reference.to_owned(),
    };
    let (base_path, base_query) = cut_query(base);
    let (path, query) = cut_query(&reference);
    let (mut target, query) = if path.is_empty() {
        (without_dots(base_path), query.or(base_query))
    } else if path.starts_with('/') {
        (without_dots(path), query)
    } else {
        let folder = base_path.rfind('/').map_or("/", |at| &base_path[..=at]);
        (without_dots(&format!("{folder}{path}")), query)
    };
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
    Some(target)
}

/// Index of the colon after a scheme (RFC 3986 §3.1).
fn scheme_end(reference: &str) -> Option<usize> {
    let end = reference.find([':', '/', '?'])?;
    (reference[end..].starts_with(':') && end > 0).then_some(end)
}

fn cut_query(reference: &str) -> (&str, Option<&str>) {
    match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    }
}

/// Compares without letter case and without the ports that `http` and `https` imply.
fn is_same_authority(one: &str, other: &str) -> bool {
    fn bare(authority: &str) -> &str {
        let stripped = authority.strip_suffix(":80").or_else(|| authority.strip_suffix(":443"));
        stripped.unwrap_or(authority)
    }
    bare(one).eq_ignore_ascii_case(bare(other))
}

/// RFC 3986 §5.2.4, for a path that starts with a slash or is taken to.
fn without_dots(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_in_folder = true;
    for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
        ends_in_folder = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let mut clean = String::with_capacity(path.len() + 1);
    for segment in &segments {
        clean.push('/');
        clean.push_str(segment);
    }
    if ends_in_folder {
        clean.push('/');
    }
    clean
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn to(reference: &str) -> Option<String> {
        resolve(reference.as_bytes(), &["example.org", "10.0.0.1:9000"], "/a/b?c")
    }

    #[test]
    fn references_are_resolved() {
        for (reference, expected) in [
            ("/x/y", "/x/y"),
            ("/x?y#z", "/x?y"),
            ("x", "/a/x"),
            ("./x", "/a/x"),
            ("../x", "/x"),
            ("../../x/.", "/x/"),
            ("..", "/"),
            ("?q", "/a/b?q"),
            ("", "/a/b?c"),
            ("#f", "/a/b?c"),
            ("x:y/../z", "nowhere"),
            ("http://example.org/x", "/x"),
            ("HTTPS://EXAMPLE.org:443", "/"),
            ("http://example.org?q", "/?q"),
            ("//10.0.0.1:9000/x", "/x"),
            ("/x:y", "/x:y"),
            ("./x:y", "/a/x:y"),
            ("/x/?y=/../z", "/x/?y=/../z"),
        ] {
            let expected = (expected != "nowhere").then(|| expected.to_owned());
            assert_eq!(to(reference), expected, "{reference}");
        }
    }

    #[test]
    fn other_sites_are_out_of_reach() {
        for reference in [
            "http://example.com/x",
            "//example.com/x",
            "http://user@example.org/x",
            "http://example.org:8080/x",
            "ftp://example.org/x",
            "http:/x",
            "data:,x",
            "//",
        ] {
            assert_eq!(to(reference), None, "{reference}");
        }
        assert_eq!(resolve(b"/\xff", &[], "/"), None);
    }

    fn targets(method: &str, status: u16, fields: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for &(name, value) in fields {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let status = StatusCode::from_u16(status).unwrap();
        invalidation_targets(&method, status, &["example.org"], "/a", &headers)
    }

    #[test]
    fn unsafe_methods_invalidate_when_they_succeed() {
        for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"] {
            assert_eq!(targets(method, 200, &[]), ["/a"]);
            assert_eq!(targets(method, 302, &[]), ["/a"]);
            assert!(targets(method, 404, &[]).is_empty());
            assert!(targets(method, 500, &[]).is_empty());
        }
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND"] {
            assert!(targets(method, 200, &[]).is_empty());
        }
    }

    #[test]
    fn named_locations_are_invalidated_too() {
        let fields = [("location", "/b"), ("content-location", "http://example.org/c")];
        assert_eq!(targets("POST", 201, &fields), ["/a", "/b", "/c"]);
        let same = [("location", "/a"), ("content-location", "http://other.example/c")];
        assert_eq!(targets("POST", 201, &same), ["/a"]);
    }
}
