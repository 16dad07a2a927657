//! Bencode (BEP 3): read without copying, written in canonical form.
//!
//! The reader takes one form of every value and no other: no leading zeros, no `-0`, keys in
//! ascending order, each once. So what it accepts encodes back to the same bytes, and a hash over
//! them means one thing. It recurses at most [`MAX_DEPTH`] deep and makes at most [`MAX_ITEMS`] values.

use std::fmt;

#[cfg(test)]
mod tests;
mod write;

pub use write::{DictWriter, Writer};

/// Lists and dictionaries within one another.
pub const MAX_DEPTH: usize = 32;

/// Values in one document: a torrent of 100,000 files has about 1.5 million.
pub const MAX_ITEMS: usize = 2 << 20;

/// Why bytes are no bencode. Offsets are in bytes from the start of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The input ended within a value.
    #[error("bencode ends too early")]
    Truncated,
    /// A byte that begins or ends no value.
    #[error("no bencode value at byte {at}")]
    Unexpected {
        /// Where.
        at: usize,
    },
    /// An integer or a length that is not in its shortest form, or does not fit 64 bits.
    #[error("bad bencode integer at byte {at}")]
    Integer {
        /// Where.
        at: usize,
    },
    /// A dictionary's keys do not ascend.
    #[error("bencode dictionary key out of order at byte {at}")]
    Unsorted {
        /// Where.
        at: usize,
    },
    /// A dictionary has a key twice.
    #[error("duplicate bencode dictionary key, dictionary at byte {at}")]
    Duplicate {
        /// Where the dictionary begins.
        at: usize,
    },
    /// More than [`MAX_DEPTH`] levels.
    #[error("bencode nested deeper than {MAX_DEPTH} levels")]
    Depth,
    /// More than [`MAX_ITEMS`] values.
    #[error("bencode of more than {MAX_ITEMS} values")]
    Items,
    /// The value is followed by something.
    #[error("bytes after the bencode value, from byte {at}")]
    Trailing {
        /// Where the value ended.
        at: usize,
    },
}

/// A value, borrowed from the bytes that it was read from.
#[derive(Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// `i7e`
    Integer(i64),
    /// `4:spam`
    Bytes(&'a [u8]),
    /// `l…e`
    List(Vec<Value<'a>>),
    /// `d…e`
    Dict(Dict<'a>),
}

impl<'a> Value<'a> {
    /// The integer, if it is one.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            _ => None,
        }
    }

    /// The byte string, if it is one.
    pub fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(value) => Some(value),
            _ => None,
        }
    }

    /// The list's values, if it is one.
    pub fn list(&self) -> Option<&[Value<'a>]> {
        match self {
            Self::List(values) => Some(values),
            _ => None,
        }
    }

    /// The dictionary, if it is one.
    pub fn dict(&self) -> Option<&Dict<'a>> {
        match self {
            Self::Dict(dict) => Some(dict),
            _ => None,
        }
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => fmt::Debug::fmt(value, formatter),
            Self::Bytes(value) => write!(formatter, "\"{}\"", value.escape_ascii()),
            Self::List(values) => fmt::Debug::fmt(values, formatter),
            Self::Dict(dict) => fmt::Debug::fmt(dict, formatter),
        }
    }
}

/// A dictionary: keys ascend, whatever order they came in.
#[derive(Clone, PartialEq, Eq)]
pub struct Dict<'a> {
    entries: Vec<Entry<'a>>,
}

#[derive(Clone, PartialEq, Eq)]
struct Entry<'a> {
    key: &'a [u8],
    /// The value's encoded bytes.
    raw: &'a [u8],
    value: Value<'a>,
}

impl<'a> Dict<'a> {
    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Option<&Value<'a>> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The encoded bytes of the value of `key`: what an info-hash is taken over.
    pub fn raw(&self, key: &[u8]) -> Option<&'a [u8]> {
        self.entry(key).map(|entry| entry.raw)
    }

    /// Keys and values, ascending by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a [u8], &Value<'a>)> {
        self.entries.iter().map(|entry| (entry.key, &entry.value))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn entry(&self, key: &[u8]) -> Option<&Entry<'a>> {
        let index = self.entries.binary_search_by(|entry| entry.key.cmp(key)).ok()?;
        self.entries.get(index)
    }
}

impl fmt::Debug for Dict<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_map()
            .entries(self.iter().map(|(key, value)| (key.escape_ascii().to_string(), value)))
            .finish()
    }
}

/// Reads one value with nothing after it.
pub fn decode(bytes: &[u8]) -> Result<Value<'_>, Error> {
    whole(Reader::new(bytes, true))
}

/// As [`decode`], but takes dictionaries whose keys are out of order, as some clients send them.
pub fn decode_lenient(bytes: &[u8]) -> Result<Value<'_>, Error> {
    whole(Reader::new(bytes, false))
}

/// Reads the value that `bytes` begin with, and tells its length in bytes.
pub fn decode_prefix(bytes: &[u8]) -> Result<(Value<'_>, usize), Error> {
    let mut reader = Reader::new(bytes, true);
    let value = reader.value(0)?;
    Ok((value, reader.at))
}

fn whole(mut reader: Reader<'_>) -> Result<Value<'_>, Error> {
    let value = reader.value(0)?;
    if reader.at < reader.bytes.len() {
        return Err(Error::Trailing { at: reader.at });
    }
    Ok(value)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    items: usize,
    /// Refuse keys that are out of order.
    ordered: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], ordered: bool) -> Self {
        Self { bytes, at: 0, items: 0, ordered }
    }

    /// `depth`: lists and dictionaries around this value.
    fn value(&mut self, depth: usize) -> Result<Value<'a>, Error> {
        self.items += 1;
        if self.items > MAX_ITEMS {
            return Err(Error::Items);
        }
        match self.peek()? {
            b'i' => {
                self.at += 1;
                self.integer().map(Value::Integer)
            }
            b'0'..=b'9' => self.string().map(Value::Bytes),
            b'l' | b'd' if depth == MAX_DEPTH => Err(Error::Depth),
            b'l' => self.list(depth + 1).map(Value::List),
            b'd' => self.dict(depth + 1).map(Value::Dict),
            _ => Err(Error::Unexpected { at: self.at }),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Value<'a>>, Error> {
        self.at += 1;
        let mut values = Vec::new();
        while !self.end()? {
            values.push(self.value(depth)?);
        }
        Ok(values)
    }

    fn dict(&mut self, depth: usize) -> Result<Dict<'a>, Error> {
        let begin = self.at;
        self.at += 1;
        let mut entries: Vec<Entry<'a>> = Vec::new();
        let mut ascending = true;
        while !self.end()? {
            let at = self.at;
            let key = self.string()?;
            if let Some(last) = entries.last().filter(|last| last.key >= key) {
                if last.key == key {
                    return Err(Error::Duplicate { at: begin });
                }
                if self.ordered {
                    return Err(Error::Unsorted { at });
                }
                ascending = false;
            }
            let from = self.at;
            let value = self.value(depth)?;
            entries.push(Entry { key, raw: &self.bytes[from..self.at], value });
        }
        if !ascending {
            entries.sort_unstable_by_key(|entry| entry.key);
            if entries.windows(2).any(|two| two[0].key == two[1].key) {
                return Err(Error::Duplicate { at: begin });
            }
        }
        Ok(Dict { entries })
    }

    /// Takes the `e` of a list or dictionary, if it is next.
    fn end(&mut self) -> Result<bool, Error> {
        let end = self.peek()? == b'e';
        self.at += usize::from(end);
        Ok(end)
    }

    fn string(&mut self) -> Result<&'a [u8], Error> {
        let at = self.at;
        if !self.peek()?.is_ascii_digit() {
            return Err(Error::Unexpected { at });
        }
        let length = self.digits(b':')?;
        let length = usize::try_from(length).map_err(|_| Error::Integer { at })?;
        let rest = &self.bytes[self.at..];
        let string = rest.get(..length).ok_or(Error::Truncated)?;
        self.at += length;
        Ok(string)
    }

    /// The rest of an integer, after its `i`.
    fn integer(&mut self) -> Result<i64, Error> {
        let at = self.at;
        let negative = self.peek()? == b'-';
        self.at += usize::from(negative);
        let magnitude = self.digits(b'e')?;
        let value = if negative {
            0i64.checked_sub_unsigned(magnitude).filter(|value| *value != 0)
        } else {
            i64::try_from(magnitude).ok()
        };
        value.ok_or(Error::Integer { at })
    }

    /// Decimal digits in their shortest form, and the byte that ends them.
    fn digits(&mut self, end: u8) -> Result<u64, Error> {
        let at = self.at;
        let mut value: u64 = 0;
        loop {
            let byte = self.peek()?;
            self.at += 1;
            let read = self.at - 1 - at;
            match byte {
                b'0'..=b'9' if read == 0 || value > 0 => {
                    let digit = u64::from(byte - b'0');
                    let longer = value.checked_mul(10).and_then(|value| value.checked_add(digit));
                    value = longer.ok_or(Error::Integer { at })?;
                }
                _ if byte == end && read > 0 => return Ok(value),
                _ => return Err(Error::Integer { at }),
            }
        }
    }

    fn peek(&self) -> Result<u8, Error> {
        self.bytes.get(self.at).copied().ok_or(Error::Truncated)
    }
}
