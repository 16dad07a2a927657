//! Bencode written.

/// Appends values to a buffer.
///
/// ```
/// let mut writer = skerry_wire::bencode::Writer::new();
/// writer.dict(|dict| {
///     dict.key(b"interval").integer(1800);
///     dict.key(b"peers").list(|list| list.bytes(b"abcdef"));
/// });
/// assert_eq!(writer.finish(), b"d8:intervali1800e5:peersl6:abcdefee");
/// ```
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends to what is in `out`.
    pub fn append(out: Vec<u8>) -> Self {
        Self { out }
    }

    /// Appends an integer.
    pub fn integer(&mut self, value: i64) {
        self.out.push(b'i');
        self.decimal(value);
        self.out.push(b'e');
    }

    /// Appends a byte string.
    pub fn bytes(&mut self, value: &[u8]) {
        self.decimal(value.len());
        self.out.push(b':');
        self.out.extend_from_slice(value);
    }

    /// Appends a value that is encoded already.
    pub fn raw(&mut self, encoded: &[u8]) {
        self.out.extend_from_slice(encoded);
    }

    /// Appends a list: `fill` writes its values.
    pub fn list(&mut self, fill: impl FnOnce(&mut Self)) {
        self.out.push(b'l');
        fill(self);
        self.out.push(b'e');
    }

    /// Appends a dictionary: `fill` writes its keys, ascending, and a value after each.
    pub fn dict(&mut self, fill: impl FnOnce(&mut DictWriter<'_>)) {
        self.out.push(b'd');
        fill(&mut DictWriter { writer: self, last: None });
        self.out.push(b'e');
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    fn decimal(&mut self, value: impl ToString) {
        self.out.extend_from_slice(value.to_string().as_bytes());
    }
}

/// Writes the keys of one dictionary.
#[derive(Debug)]
pub struct DictWriter<'w> {
    writer: &'w mut Writer,
    /// Where the last key stands in the buffer.
    last: Option<(usize, usize)>,
}

impl DictWriter<'_> {
    /// Appends a key, after all keys before it in order; write its value next.
    pub fn key(&mut self, key: &[u8]) -> &mut Writer {
        debug_assert!(
            self.last.is_none_or(|(from, to)| self.writer.out[from..to] < *key),
            "key {} out of order",
            key.escape_ascii()
        );
        self.writer.bytes(key);
        let end = self.writer.out.len();
        self.last = Some((end - key.len(), end));
        self.writer
    }
}
