//! Cutting comma-separated field values into members without copying (RFC 9110 §5.6.1).
//!
//! Quoted strings stay whole, white space around members is dropped and empty members are skipped,
//! as §5.6.1.2 asks of recipients.

/// The non-empty members of one field line, in order.
#[derive(Debug, Clone)]
pub(super) struct Members<'a> {
    rest: &'a [u8],
    escapes: bool,
}

impl<'a> Members<'a> {
    /// Members of a list that may hold quoted strings with backslash escapes.
    pub(super) fn new(line: &'a [u8]) -> Self {
        Self { rest: line, escapes: true }
    }

    /// Members of a list of entity-tags, where a backslash is an ordinary character (RFC 9110
    /// §8.8.3).
    pub(super) fn of_tags(line: &'a [u8]) -> Self {
        Self { rest: line, escapes: false }
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.rest.is_empty() {
            let (member, rest) = self.rest.split_at(member_end(self.rest, self.escapes));
            self.rest = rest.get(1..).unwrap_or_default();
            let member = member.trim_ascii();
            if !member.is_empty() {
                return Some(member);
            }
        }
        None
    }
}

/// Index of the first comma outside quotes, or the length.
fn member_end(bytes: &[u8], escapes: bool) -> usize {
    let mut quoted = false;
    let mut escaped = false;
    for (at, &byte) in bytes.iter().enumerate() {
        if escaped {
            escaped = false;
            continue;
        }
        match byte {
            b'\\' if quoted && escapes => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(line: &str) -> Vec<&str> {
        Members::new(line.as_bytes()).map(|member| std::str::from_utf8(member).unwrap()).collect()
    }

    #[test]
    fn commas_inside_quotes_do_not_cut() {
        assert_eq!(members(r#"a="b, c", d"#), [r#"a="b, c""#, "d"]);
        assert_eq!(members(r#"a="b\", c", d"#), [r#"a="b\", c""#, "d"]);
    }

    #[test]
    fn empty_members_and_white_space_are_dropped() {
        assert_eq!(members(" ,, a ,\tb,"), ["a", "b"]);
        assert!(members(" , ").is_empty());
    }

    #[test]
    fn an_open_quote_runs_to_the_end() {
        assert_eq!(members(r#"a="b, c"#), [r#"a="b, c"#]);
    }

    #[test]
    fn a_backslash_is_plain_in_entity_tags() {
        let tags: Vec<_> = Members::of_tags(br#"W\"a", "b\", "c""#).collect();
        assert_eq!(tags, [&br#"W\"a""#[..], br#""b\""#, br#""c""#]);
    }
}
