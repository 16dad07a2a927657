//! `Cache-Control` of responses and requests (RFC 9111 §5.2), read once and kept as plain values.
//!
//! The reader is forgiving where the RFC asks for it and strict where a mistake would serve
//! something too old: names are case-insensitive, arguments may be tokens or quoted strings,
//! unknown directives are skipped, seconds past 2^31 become 2^31 (§1.2.2), the first of several
//! values counts, and a number that is none (`-1`, `3.0`, `'60'`, white space beside the `=`) means
//! zero, so the response is stale (§4.2.1). Nothing is allocated unless `no-cache` or `private`
//! name fields.

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, PRAGMA};

use super::list::Members;
pub use super::targeted::targeted;

/// The largest number of seconds that is told apart, 2^31 (RFC 9111 §1.2.2).
pub const MAX_SECONDS: u64 = 1 << 31;

/// Fields that one `no-cache` or `private` may name before it counts as unqualified.
const MAX_FIELDS: usize = 64;

/// What the origin said about storing and reusing a response (RFC 9111 §5.2.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResponseDirectives {
    /// `no-store` (§5.2.2.5).
    pub no_store: bool,
    /// `no-cache` without field names: every reuse needs validation (§5.2.2.4).
    pub no_cache: bool,
    /// Fields of `no-cache="…"`: not to be reused without validation.
    pub no_cache_fields: Vec<HeaderName>,
    /// `private` without field names: not for a shared cache (§5.2.2.7).
    pub private: bool,
    /// Fields of `private="…"`: not to be stored by a shared cache.
    pub private_fields: Vec<HeaderName>,
    /// `public` (§5.2.2.9).
    pub public: bool,
    /// `must-revalidate` (§5.2.2.2).
    pub must_revalidate: bool,
    /// `proxy-revalidate` (§5.2.2.8).
    pub proxy_revalidate: bool,
    /// `must-understand` (§5.2.2.3).
    pub must_understand: bool,
    /// `no-transform` (§5.2.2.6).
    pub no_transform: bool,
    /// `immutable` (RFC 8246).
    pub immutable: bool,
    /// `max-age`, seconds (§5.2.2.1).
    pub max_age: Option<u64>,
    /// `s-maxage`, seconds (§5.2.2.10).
    pub s_maxage: Option<u64>,
    /// `stale-while-revalidate`, seconds (RFC 5861 §3).
    pub stale_while_revalidate: Option<u64>,
    /// `stale-if-error`, seconds (RFC 5861 §4).
    pub stale_if_error: Option<u64>,
}

impl ResponseDirectives {
    /// Reads every `Cache-Control` line of a response.
    pub fn parse(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        for line in headers.get_all(CACHE_CONTROL) {
            for directive in Members::new(line.as_bytes()).map(Directive::read) {
                directives.take(&directive);
            }
        }
        directives
    }

    /// Whether `max-age` or `s-maxage` gives an explicit lifetime.
    pub fn has_lifetime(&self) -> bool {
        self.max_age.is_some() || self.s_maxage.is_some()
    }

    fn take(&mut self, directive: &Directive<'_>) {
        let mut buffer = [0_u8; LONGEST_NAME];
        match directive.lowercase_name(&mut buffer) {
            b"no-store" => self.no_store = true,
            b"no-cache" => directive.fields(&mut self.no_cache, &mut self.no_cache_fields),
            b"private" => directive.fields(&mut self.private, &mut self.private_fields),
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand = true,
            b"no-transform" => self.no_transform = true,
            b"immutable" => self.immutable = true,
            b"max-age" => directive.lifetime(&mut self.max_age),
            b"s-maxage" => directive.lifetime(&mut self.s_maxage),
            b"stale-while-revalidate" => directive.lifetime(&mut self.stale_while_revalidate),
            b"stale-if-error" => directive.lifetime(&mut self.stale_if_error),
            _ => {}
        }
    }
}

/// What the client asked of caches (RFC 9111 §5.2.1). These are wishes: a number that cannot be
/// read is no wish.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    /// `no-store` (§5.2.1.5).
    pub no_store: bool,
    /// `no-cache` (§5.2.1.4), or `Pragma: no-cache` when there is no `Cache-Control` (§5.4).
    pub no_cache: bool,
    /// `max-age`, seconds (§5.2.1.1).
    pub max_age: Option<u64>,
    /// `min-fresh`, seconds (§5.2.1.3).
    pub min_fresh: Option<u64>,
    /// `max-stale`: absent, any staleness (`Some(None)`), or at most so many seconds (§5.2.1.2).
    pub max_stale: Option<Option<u64>>,
    /// `only-if-cached` (§5.2.1.7).
    pub only_if_cached: bool,
    /// `stale-if-error`, seconds (RFC 5861 §4).
    pub stale_if_error: Option<u64>,
}

impl RequestDirectives {
    /// Reads every `Cache-Control` line of a request, or `Pragma` in their absence.
    pub fn parse(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        if headers.contains_key(CACHE_CONTROL) {
            for line in headers.get_all(CACHE_CONTROL) {
                for directive in Members::new(line.as_bytes()).map(Directive::read) {
                    directives.take(&directive);
                }
            }
        } else {
            directives.no_cache = headers
                .get_all(PRAGMA)
                .iter()
                .flat_map(|line| Members::new(line.as_bytes()))
                .any(|member| member.eq_ignore_ascii_case(b"no-cache"));
        }
        directives
    }

    fn take(&mut self, directive: &Directive<'_>) {
        let mut buffer = [0_u8; LONGEST_NAME];
        match directive.lowercase_name(&mut buffer) {
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache = true,
            b"only-if-cached" => self.only_if_cached = true,
            b"max-age" => self.max_age = self.max_age.or(directive.seconds()),
            b"min-fresh" => self.min_fresh = self.min_fresh.or(directive.seconds()),
            b"stale-if-error" => self.stale_if_error = self.stale_if_error.or(directive.seconds()),
            b"max-stale" if self.max_stale.is_none() => {
                self.max_stale = match directive.argument {
                    Argument::Absent => Some(None),
                    _ => directive.seconds().map(Some),
                };
            }
            _ => {}
        }
    }
}

/// Reads delta-seconds: digits only, at most [`MAX_SECONDS`].
pub(super) fn delta_seconds(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |value: u64, digit: &u8| (value * 10 + u64::from(digit - b'0')).min(MAX_SECONDS);
    Some(text.iter().fold(0, add))
}

/// Adds the field names of a list to `names`; `bare` becomes true when the list is empty, too long
/// or holds something that is no field name, so that a mistake restricts rather than permits.
pub(super) fn field_list(list: &[u8], bare: &mut bool, names: &mut Vec<HeaderName>) {
    let mut any = false;
    for member in Members::new(list) {
        any = true;
        match HeaderName::from_bytes(member) {
            Ok(name) if names.contains(&name) => {}
            Ok(name) if names.len() < MAX_FIELDS => names.push(name),
            _ => *bare = true,
        }
    }
    *bare |= !any;
}

/// Longer names are unknown: `stale-while-revalidate` has 22 letters.
const LONGEST_NAME: usize = 24;

#[derive(Debug, Clone, Copy)]
enum Argument<'a> {
    /// `name`
    Absent,
    /// `name=text` or `name="text"`, without the quotes.
    Text(&'a [u8]),
    /// White space beside the `=` or an open quote.
    Malformed,
}

#[derive(Debug, Clone, Copy)]
struct Directive<'a> {
    name: &'a [u8],
    argument: Argument<'a>,
}

impl<'a> Directive<'a> {
    fn read(member: &'a [u8]) -> Self {
        let Some(equals) = member.iter().position(|&byte| byte == b'=') else {
            return Self { name: member, argument: Argument::Absent };
        };
        let (name, text) = (&member[..equals], &member[equals + 1..]);
        let argument = if name.ends_with(b" ")
            || name.ends_with(b"\t")
            || text.starts_with(b" ")
            || text.starts_with(b"\t")
        {
            Argument::Malformed
        } else if let Some(quoted) = text.strip_prefix(b"\"") {
            quoted.strip_suffix(b"\"").map_or(Argument::Malformed, Argument::Text)
        } else {
            Argument::Text(text)
        };
        Self { name: name.trim_ascii_end(), argument }
    }

    /// The name in lower case, empty when it is longer than any that is known.
    fn lowercase_name<'b>(&self, buffer: &'b mut [u8; LONGEST_NAME]) -> &'b [u8] {
        let Some(name) = buffer.get_mut(..self.name.len()) else { return b"" };
        name.copy_from_slice(self.name);
        name.make_ascii_lowercase();
        name
    }

    fn seconds(&self) -> Option<u64> {
        match self.argument {
            Argument::Text(text) => delta_seconds(text),
            Argument::Absent | Argument::Malformed => None,
        }
    }

    /// Fills `slot` unless an earlier directive did (RFC 9111 §4.2.1); what is no number is zero.
    fn lifetime(&self, slot: &mut Option<u64>) {
        slot.get_or_insert(self.seconds().unwrap_or(0));
    }

    fn fields(&self, bare: &mut bool, names: &mut Vec<HeaderName>) {
        match self.argument {
            Argument::Text(list) => field_list(list, bare, names),
            Argument::Absent | Argument::Malformed => *bare = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn lines(name: HeaderName, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    fn response(text: &[&str]) -> ResponseDirectives {
        ResponseDirectives::parse(&lines(CACHE_CONTROL, text))
    }

    fn request(text: &[&str]) -> RequestDirectives {
        RequestDirectives::parse(&lines(CACHE_CONTROL, text))
    }

    #[test]
    fn flags_are_read_in_any_case_and_from_every_line() {
        let read = response(&["No-StOrE, PUBLIC", "must-revalidate,,immutable"]);
        assert!(read.no_store && read.public && read.must_revalidate && read.immutable);
        assert!(!read.no_cache && !read.private && read.max_age.is_none());
        assert_eq!(response(&["nothing-to-see-here"]), ResponseDirectives::default());
    }

    #[test]
    fn seconds_are_digits_bare_or_quoted() {
        assert_eq!(response(&["MaX-aGe=3600"]).max_age, Some(3600));
        assert_eq!(response(&["max-age=\"3600\""]).max_age, Some(3600));
        assert_eq!(response(&["max-age=003600"]).max_age, Some(3600));
        assert_eq!(response(&["foobar, s-maxage=7"]).s_maxage, Some(7));
    }

    #[test]
    fn overflow_is_the_largest_value() {
        assert_eq!(response(&["max-age=2147483647"]).max_age, Some(MAX_SECONDS - 1));
        for text in ["max-age=2147483648", "max-age=99999999999", &format!("max-age={:0>99}", "9".repeat(90))]
        {
            assert_eq!(response(&[text]).max_age, Some(MAX_SECONDS), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_is_stale() {
        for text in [
            "max-age=-3600",
            "max-age=3600.0",
            "max-age='3600'",
            "max-age=a3600",
            "max-age=3600a",
            "max-age =3600",
            "max-age= 3600",
            "max-age=",
            "max-age",
            "max-age=\"3600",
        ] {
            assert_eq!(response(&[text]).max_age, Some(0), "{text}");
        }
    }

    #[test]
    fn a_directive_inside_a_quoted_string_is_text() {
        assert_eq!(response(&["extension=\"max-age=3600\", max-age=1"]).max_age, Some(1));
        assert_eq!(response(&["max-age=1, extension=\"a, max-age=3600\""]).max_age, Some(1));
    }

    #[test]
    fn the_first_value_counts() {
        assert_eq!(response(&["max-age=1800, max-age=1"]).max_age, Some(1800));
        assert_eq!(response(&["max-age=1", "max-age=1800"]).max_age, Some(1));
    }

    #[test]
    fn field_lists_qualify_no_cache_and_private() {
        let read = response(&["no-cache=\"A, set-cookie\", private=x-user"]);
        assert!(!read.no_cache && !read.private);
        assert_eq!(read.no_cache_fields, ["a", "set-cookie"]);
        assert_eq!(read.private_fields, ["x-user"]);
    }

    #[test]
    fn a_field_list_that_makes_no_sense_restricts() {
        assert!(response(&["no-cache=\"\""]).no_cache);
        assert!(response(&["no-cache=\"a b\""]).no_cache);
        assert!(response(&["private=\"a"]).private);
        assert!(response(&["no-cache=a, no-cache"]).no_cache);
        let names: Vec<_> = (0..100).map(|at| format!("f{at}")).collect();
        let many = response(&[&format!("no-cache=\"{}\"", names.join(","))]);
        assert!(many.no_cache);
        assert_eq!(many.no_cache_fields.len(), MAX_FIELDS);
    }

    #[test]
    fn request_wishes_are_read() {
        let read = request(&["max-age=0, min-fresh=5", "max-stale=10, only-if-cached"]);
        assert_eq!((read.max_age, read.min_fresh), (Some(0), Some(5)));
        assert_eq!(read.max_stale, Some(Some(10)));
        assert!(read.only_if_cached && !read.no_cache);
        assert_eq!(request(&["max-stale"]).max_stale, Some(None));
        assert_eq!(request(&["max-stale=x"]).max_stale, None);
        assert_eq!(request(&["max-age=x"]).max_age, None);
    }

    #[test]
    fn pragma_speaks_only_where_cache_control_does_not() {
        assert!(RequestDirectives::parse(&lines(PRAGMA, &["foo, No-Cache"])).no_cache);
        assert!(!RequestDirectives::parse(&lines(PRAGMA, &["foo"])).no_cache);
        let mut both = lines(PRAGMA, &["no-cache"]);
        both.insert(CACHE_CONTROL, HeaderValue::from_static("max-stale"));
        assert!(!RequestDirectives::parse(&both).no_cache);
    }
}
