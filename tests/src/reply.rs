//! What a scripted origin answers: an ordinary response, or one of the ways to get it wrong.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::watch;

use crate::content;
use crate::origin::RawRequest;

/// A point that an origin does not pass before the scenario opens it.
#[derive(Clone, Debug)]
pub struct Gate {
    open: Arc<watch::Sender<bool>>,
}

impl Gate {
    /// A gate that is closed, and stays so for ever when nobody opens it.
    pub fn closed() -> Self {
        Self { open: Arc::new(watch::Sender::new(false)) }
    }

    /// Lets everybody through, now and later.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    pub(crate) async fn passed(&self) {
        let mut seen = self.open.subscribe();
        loop {
            let open = *seen.borrow_and_update();
            if open || seen.changed().await.is_err() {
                return;
            }
        }
    }
}

/// The content of a reply.
#[derive(Clone, Debug)]
enum Body {
    Bytes(Bytes),
    Generated { seed: u64, length: u64 },
}

/// How the end of the content is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length,
    Claimed(u64),
    Chunked,
    UntilClose,
}

/// One answer of the origin, and how it is sent. Positions are in bytes of content sent.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
    ranges: bool,
    validates: bool,
    pub(crate) framing: Framing,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) raw: Option<Bytes>,
    pub(crate) hold_head: Option<Gate>,
    pub(crate) hold_body: Option<(u64, Gate)>,
    pub(crate) cut_after: Option<u64>,
    pub(crate) drip: Option<(u64, Duration)>,
    pub(crate) closes: bool,
}

impl Reply {
    /// 200 with this content and a `Content-Length`; nothing about freshness or validators.
    pub fn ok(body: impl Into<Bytes>) -> Self {
        Self::new(200, Body::Bytes(body.into()))
    }

    /// This status, with the status itself as content.
    pub fn status(status: u16) -> Self {
        Self::new(status, Body::Bytes(format!("status {status}\n").into()))
    }

    /// 200 with `length` bytes of [`content::bytes`] that are made as they are sent.
    pub fn generated(seed: u64, length: u64) -> Self {
        Self::new(200, Body::Generated { seed, length })
    }

    /// Exactly these bytes, then the end of the connection.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        let mut reply = Self::ok(Bytes::new());
        reply.raw = Some(bytes.into());
        reply
    }

    fn new(status: u16, body: Body) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body,
            ranges: false,
            validates: false,
            framing: Framing::Length,
            trailers: Vec::new(),
            raw: None,
            hold_head: None,
            hold_body: None,
            cut_after: None,
            drip: None,
            closes: false,
        }
    }

    /// Adds a field line.
    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds `Cache-Control`.
    pub fn cache_control(self, value: &str) -> Self {
        self.header("Cache-Control", value)
    }

    /// Fresh for an hour.
    pub fn fresh(self) -> Self {
        self.cache_control("max-age=3600")
    }

    /// Adds a strong `ETag`; the quotes are added here.
    pub fn etag(self, tag: &str) -> Self {
        self.header("ETag", format!("\"{tag}\""))
    }

    /// Answers a `Range` of one part with 206 (or 416), honouring `If-Range`.
    pub fn ranges(mut self) -> Self {
        self.ranges = true;
        self.header("Accept-Ranges", "bytes")
    }

    /// Answers 304 when the request's validators match the `ETag` or `Last-Modified` given.
    pub fn validates(mut self) -> Self {
        self.validates = true;
        self
    }

    /// Sends the content in chunks, without a `Content-Length`.
    pub fn chunked(mut self) -> Self {
        self.framing = Framing::Chunked;
        self
    }

    /// Sends the content in chunks and this field after them.
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self.chunked().header("Trailer", name)
    }

    /// Ends the content by closing the connection.
    pub fn until_close(mut self) -> Self {
        self.framing = Framing::UntilClose;
        self.closes = true;
        self
    }

    /// Lies: a `Content-Length` of so many bytes, whatever is sent.
    pub fn claims(mut self, length: u64) -> Self {
        self.framing = Framing::Claimed(length);
        self
    }

    /// Sends nothing before the gate opens.
    pub fn hold_head(mut self, gate: &Gate) -> Self {
        self.hold_head = Some(gate.clone());
        self
    }

    /// Stops after `position` bytes of content until the gate opens.
    pub fn hold_after(mut self, position: u64, gate: &Gate) -> Self {
        self.hold_body = Some((position, gate.clone()));
        self
    }

    /// Closes the connection after `position` bytes of content.
    pub fn cut_after(mut self, position: u64) -> Self {
        self.cut_after = Some(position);
        self
    }

    /// Sends `bytes` at a time, a pause of `every` after each.
    pub fn drip(mut self, bytes: u64, every: Duration) -> Self {
        self.drip = Some((bytes, every));
        self
    }

    /// Closes the connection after the answer without having said so.
    pub fn then_close(mut self) -> Self {
        self.closes = true;
        self
    }

    fn length(&self) -> u64 {
        match &self.body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Generated { length, .. } => *length,
        }
    }

    /// `count` bytes of the content from `from` on.
    pub(crate) fn piece(&self, from: u64, count: u64) -> Bytes {
        match &self.body {
            Body::Bytes(bytes) => bytes.slice(from as usize..(from + count) as usize),
            Body::Generated { seed, .. } => Bytes::from(content::bytes(*seed, from, count as usize)),
        }
    }

    fn own(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Whether the request's conditions hold for what the requester has (RFC 9110 §13.2.2).
    fn not_modified(&self, request: &RawRequest) -> bool {
        if !self.validates {
            return false;
        }
        match (request.header("if-none-match"), self.own("etag")) {
            (Some(asked), Some(own)) => asked.split(',').any(|tag| tag.trim() == own),
            (Some(_), None) => false,
            (None, _) => {
                let asked = request.header("if-modified-since");
                asked.is_some() && asked == self.own("last-modified")
            }
        }
    }

    /// Which part of the content this request gets.
    fn part(&self, request: &RawRequest) -> Part {
        let Some(range) = request.header("range") else {
            return Part::Whole;
        };
        if !self.ranges || self.status != 200 || request.method != "GET" {
            return Part::Whole;
        }
        if let Some(validator) = request.header("if-range")
            && self.own("etag") != Some(validator)
            && self.own("last-modified") != Some(validator)
        {
            return Part::Whole;
        }
        part(range, self.length())
    }

    /// The head of the answer to `request`, and from where on how many bytes of content follow.
    pub(crate) fn resolve(&self, request: &RawRequest) -> (Vec<u8>, u64, u64) {
        let whole = self.length();
        let mut more = Vec::new();
        let (status, from, count) = if self.not_modified(request) {
            (304, 0, 0)
        } else {
            match self.part(request) {
                Part::Whole => (self.status, 0, whole),
                Part::Of(first, last) => {
                    more.push(format!("Content-Range: bytes {first}-{last}/{whole}"));
                    (206, first, last - first + 1)
                }
                Part::None => {
                    more.push(format!("Content-Range: bytes */{whole}"));
                    (416, 0, 0)
                }
            }
        };
        let bodiless = status == 304 || status == 204;
        match self.framing {
            _ if bodiless => {}
            Framing::Length => more.push(format!("Content-Length: {count}")),
            Framing::Claimed(length) => more.push(format!("Content-Length: {length}")),
            Framing::Chunked => more.push("Transfer-Encoding: chunked".to_owned()),
            Framing::UntilClose => more.push("Connection: close".to_owned()),
        }
        if self.own("date").is_none() {
            more.push(format!("Date: {}", http_date(SystemTime::now())));
        }
        let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        for line in more {
            head.push_str(&line);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        let count = if bodiless || request.method == "HEAD" { 0 } else { count };
        (head.into_bytes(), from, count)
    }
}

/// What a `Range` of one part asks for (RFC 9110 §14.1.2).
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Whole,
    /// The first and the last position.
    Of(u64, u64),
    None,
}

/// Several parts, other units and what does not parse are all answered with the whole.
fn part(range: &str, length: u64) -> Part {
    let Some((first, last)) = range
        .trim()
        .strip_prefix("bytes=")
        .filter(|parts| !parts.contains(','))
        .and_then(|parts| parts.split_once('-'))
    else {
        return Part::Whole;
    };
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if last < first => Part::Whole,
        (Ok(first), last) if first < length && (last.is_ok() || range.ends_with('-')) => {
            Part::Of(first, last.map_or(length - 1, |last| last.min(length - 1)))
        }
        (Ok(_), _) => Part::None,
        (Err(_), Ok(suffix)) if suffix > 0 && length > 0 => Part::Of(length - suffix.min(length), length - 1),
        (Err(_), Ok(_)) => Part::None,
        (Err(_), Err(_)) => Part::Whole,
    }
}

/// `time` as an HTTP date (RFC 9110 §5.6.7), to the second.
pub fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [(&str, u64); 12] = [
        ("Jan", 31),
        ("Feb", 28),
        ("Mar", 31),
        ("Apr", 30),
        ("May", 31),
        ("Jun", 30),
        ("Jul", 31),
        ("Aug", 31),
        ("Sep", 30),
        ("Oct", 31),
        ("Nov", 30),
        ("Dec", 31),
    ];
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    let name = DAYS[(days % 7) as usize];
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut left = days;
    let mut year = 1970;
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = "Jan";
    for (name, length) in MONTHS {
        month = name;
        let length = length + u64::from(name == "Feb" && leap(year));
        if left < length {
            break;
        }
        left -= length;
    }
    format!(
        "{name}, {:02} {month} {year} {:02}:{:02}:{:02} GMT",
        left + 1,
        clock / 3600,
        clock / 60 % 60,
        clock % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_http_wants_it() {
        let at = |seconds| http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(at(1_735_689_599), "Tue, 31 Dec 2024 23:59:59 GMT");
    }

    #[test]
    fn a_range_of_one_part_is_understood() {
        assert_eq!(part("bytes=0-9", 100), Part::Of(0, 9));
        assert_eq!(part("bytes=90-", 100), Part::Of(90, 99));
        assert_eq!(part("bytes=90-200", 100), Part::Of(90, 99));
        assert_eq!(part("bytes=-10", 100), Part::Of(90, 99));
        assert_eq!(part("bytes=-200", 100), Part::Of(0, 99));
        assert_eq!(part("bytes=100-", 100), Part::None);
        assert_eq!(part("bytes=0-1,5-6", 100), Part::Whole);
        assert_eq!(part("lines=0-1", 100), Part::Whole);
    }
}
