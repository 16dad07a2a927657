//! `CDN-Cache-Control`: directives for caches like this one (RFC 9213).
//!
//! A targeted field is a Dictionary Structured Field (RFC 8941 §3.2) and is read as one: any
//! syntax error, and an empty field, makes the whole field void (RFC 9213 §2.1). A field that
//! reads well is the only one that counts: `Cache-Control` and `Expires` are then ignored.

use http::header::{CDN_CACHE_CONTROL, HeaderMap};

use super::directives::{MAX_SECONDS, ResponseDirectives, field_list};

/// The directives of `CDN-Cache-Control`, or `None` when it is absent, empty or malformed.
///
/// Lines are read one by one, so a string that spans two of them counts as malformed.
pub fn targeted(headers: &HeaderMap) -> Option<ResponseDirectives> {
    let mut directives = None;
    for line in headers.get_all(CDN_CACHE_CONTROL) {
        let mut input = Input(line.as_bytes().trim_ascii());
        while !input.0.is_empty() {
            let (key, value) = input.member()?;
            apply(directives.get_or_insert_default(), key, &value);
            input.skip(|byte| matches!(byte, b' ' | b'\t'));
            if input.0.is_empty() {
                break;
            }
            input.expect(b',')?;
            input.skip(|byte| matches!(byte, b' ' | b'\t'));
            if input.0.is_empty() {
                return None;
            }
        }
    }
    directives
}

/// Takes one member over, the last of several with the same key (RFC 8941 §3.2).
///
/// A value of the wrong type is not consumed (RFC 9213 §2.1): it restricts where the directive
/// restricts, gives no lifetime where one was to be named, and is otherwise skipped.
fn apply(directives: &mut ResponseDirectives, key: &[u8], value: &Value<'_>) {
    let restricts = !matches!(value, Value::Boolean(false));
    let permits = matches!(value, Value::Boolean(true));
    let seconds = Some(match value {
        Value::Integer(seconds) => u64::try_from(*seconds).map_or(0, |value| value.min(MAX_SECONDS)),
        _ => 0,
    });
    match key {
        b"no-store" => directives.no_store = restricts,
        b"must-revalidate" => directives.must_revalidate = restricts,
        b"proxy-revalidate" => directives.proxy_revalidate = restricts,
        b"no-transform" => directives.no_transform = restricts,
        b"public" => directives.public = permits,
        b"immutable" => directives.immutable = permits,
        b"must-understand" => directives.must_understand = permits,
        b"max-age" => directives.max_age = seconds,
        b"s-maxage" => directives.s_maxage = seconds,
        b"stale-while-revalidate" => directives.stale_while_revalidate = seconds,
        b"stale-if-error" => directives.stale_if_error = seconds,
        b"no-cache" => fields(value, &mut directives.no_cache, &mut directives.no_cache_fields),
        b"private" => fields(value, &mut directives.private, &mut directives.private_fields),
        _ => {}
    }
}

fn fields(value: &Value<'_>, bare: &mut bool, names: &mut Vec<http::HeaderName>) {
    names.clear();
    *bare = false;
    match value {
        Value::Boolean(false) => {}
        Value::Text(list) => field_list(list, bare, names),
        _ => *bare = true,
    }
}

#[derive(Debug, PartialEq)]
enum Value<'a> {
    Boolean(bool),
    Integer(i64),
    /// A Token, or a String without its quotes.
    Text(&'a [u8]),
    /// A Decimal, a Byte Sequence or an Inner List: no cache directive has such a value.
    Other,
}

/// What is left to read of one line. Every reader returns `None` at a syntax error.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// `key`, `key=item` or `key=(inner list)`, each with parameters, which are dropped.
    fn member(&mut self) -> Option<(&'a [u8], Value<'a>)> {
        let key = self.key()?;
        let value = if self.accept(b'=') {
            if self.accept(b'(') { self.inner_list()? } else { self.bare_item()? }
        } else {
            Value::Boolean(true)
        };
        self.parameters()?;
        Some((key, value))
    }

    fn key(&mut self) -> Option<&'a [u8]> {
        if !matches!(self.0.first()?, b'a'..=b'z' | b'*') {
            return None;
        }
        Some(self.skip(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*')))
    }

    fn parameters(&mut self) -> Option<()> {
        while self.accept(b';') {
            self.skip(|byte| byte == b' ');
            self.key()?;
            if self.accept(b'=') {
                self.bare_item()?;
            }
        }
        Some(())
    }

    /// The rest of an Inner List after its opening parenthesis.
    fn inner_list(&mut self) -> Option<Value<'a>> {
        loop {
            self.skip(|byte| byte == b' ');
            if self.accept(b')') {
                return Some(Value::Other);
            }
            self.bare_item()?;
            self.parameters()?;
            if !matches!(self.0.first()?, b' ' | b')') {
                return None;
            }
        }
    }

    fn bare_item(&mut self) -> Option<Value<'a>> {
        match *self.0.first()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.string(),
            b'*' | b'a'..=b'z' | b'A'..=b'Z' => Some(Value::Text(self.skip(is_token_byte))),
            b':' => {
                self.expect(b':')?;
                self.skip(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
                self.expect(b':')?;
                Some(Value::Other)
            }
            b'?' => {
                self.expect(b'?')?;
                if self.accept(b'1') {
                    return Some(Value::Boolean(true));
                }
                self.expect(b'0')?;
                Some(Value::Boolean(false))
            }
            _ => None,
        }
    }

    /// An Integer of at most 15 digits or a Decimal of at most 12 and 3 (RFC 8941 §3.3.1, §3.3.2).
    fn number(&mut self) -> Option<Value<'a>> {
        let negative = self.accept(b'-');
        let whole = self.skip(|byte| byte.is_ascii_digit());
        if self.accept(b'.') {
            let fraction = self.skip(|byte| byte.is_ascii_digit());
            return ((1..=12).contains(&whole.len()) && (1..=3).contains(&fraction.len()))
                .then_some(Value::Other);
        }
        if !(1..=15).contains(&whole.len()) {
            return None;
        }
        let value = whole.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
        Some(Value::Integer(if negative { -value } else { value }))
    }

    fn string(&mut self) -> Option<Value<'a>> {
        self.expect(b'"')?;
        let text = self.0;
        let mut at = 0;
        loop {
            match *text.get(at)? {
                b'"' => break,
                b'\\' => {
                    if !matches!(text.get(at + 1)?, b'"' | b'\\') {
                        return None;
                    }
                    at += 2;
                }
                b' '..=b'~' => at += 1,
                _ => return None,
            }
        }
        self.0 = &text[at + 1..];
        Some(Value::Text(&text[..at]))
    }

    /// Takes bytes for as long as they please.
    fn skip(&mut self, pleases: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.0.iter().position(|&byte| !pleases(byte)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    fn accept(&mut self, byte: u8) -> bool {
        let found = self.0.first() == Some(&byte);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.accept(byte).then_some(())
    }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(lines: &[&str]) -> Option<ResponseDirectives> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CDN_CACHE_CONTROL, HeaderValue::from_str(line).unwrap());
        }
        targeted(&headers)
    }

    #[test]
    fn a_dictionary_of_directives_is_read() {
        let directives = read(&["foobar, max-age=3600;x=\"1\", no-cache=\"a, b\"", "private"]).unwrap();
        assert_eq!(directives.max_age, Some(3600));
        assert_eq!(directives.no_cache_fields, ["a", "b"]);
        assert!(directives.private && !directives.no_cache);
    }

    #[test]
    fn absent_and_empty_fields_are_void() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[""]), None);
        assert_eq!(read(&["  ", ""]), None);
    }

    #[test]
    fn one_error_makes_the_field_void() {
        for text in [
            "max-age=10000, &&&&&",
            "max-age =100",
            "max-age= 100",
            "MaX-aGe=3600",
            "max-age=3600,",
            ", max-age=3600",
            "max-age=3600 public",
            "max-age=1234567890123456",
            "max-age=-",
            "max-age=1.2345",
            "max-age=\"3600",
            "max-age=?2",
            "max-age=(1 2",
            "max-age=3600;",
            "max-age=:=",
            "max-age=\u{e9}",
        ] {
            assert_eq!(read(&[text]), None, "{text}");
        }
    }

    #[test]
    fn large_numbers_are_clamped() {
        assert_eq!(read(&["max-age=99999999999"]).unwrap().max_age, Some(MAX_SECONDS));
        assert_eq!(read(&["max-age=2147483648"]).unwrap().max_age, Some(MAX_SECONDS));
    }

    #[test]
    fn a_value_of_the_wrong_type_gives_no_lifetime() {
        for text in ["max-age=\"10000\"", "max-age=10.0", "max-age=-5", "max-age", "max-age=(1)"] {
            assert_eq!(read(&[text]).unwrap().max_age, Some(0), "{text}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_never_permits() {
        let directives = read(&["no-store=1, public=1, private=:aGk=:"]).unwrap();
        assert!(directives.no_store && directives.private && !directives.public);
    }

    #[test]
    fn the_last_of_several_members_counts() {
        assert_eq!(read(&["max-age=1, max-age=2"]).unwrap().max_age, Some(2));
        let directives = read(&["no-store, no-store=?0, no-cache=\"a\", no-cache=?0"]).unwrap();
        assert_eq!(directives, ResponseDirectives::default());
    }
}
