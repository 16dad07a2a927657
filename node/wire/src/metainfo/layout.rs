//! Which bytes of which file a piece is made of.

use std::ops::Range;

use super::{Error, MAX_LENGTH, MAX_PIECES};

/// A run of bytes in the content's address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Index of the file; `None` is padding, whose bytes are zero.
    pub file: Option<usize>,
    /// Bytes, at least one: empty files take no room.
    pub length: u64,
}

/// A part of a piece that lies in one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Index of the file; `None` is padding, whose bytes are zero.
    pub file: Option<usize>,
    /// Where it begins in the file (or padding), bytes.
    pub offset: u64,
    /// Bytes, at least one.
    pub length: u32,
}

/// The address space that a torrent's pieces number.
///
/// Seen from v1, padding is content: pieces hold it, and peers may ask for it. Seen from v2, every
/// file begins with a piece and ends with one that may be shorter; what is between is never sent.
#[derive(Debug, Clone)]
pub struct Layout {
    piece_length: u32,
    spans: Vec<Span>,
    /// Where each span begins.
    starts: Vec<u64>,
    /// Files that are not empty, ascending, each with the index of its span.
    files: Vec<(usize, usize)>,
    length: u64,
    /// Padding is in no piece.
    aligned: bool,
}

impl Layout {
    /// The v1 view: spans in the order of the file list.
    pub(super) fn v1(piece_length: u32, spans: impl IntoIterator<Item = Span>) -> Result<Self, Error> {
        let mut layout = Self::empty(piece_length, false);
        spans.into_iter().try_for_each(|span| layout.push(span))?;
        layout.checked()
    }

    /// The v2 view: each file begins on a piece boundary.
    pub(super) fn v2(piece_length: u32, lengths: impl IntoIterator<Item = u64>) -> Result<Self, Error> {
        let mut layout = Self::empty(piece_length, true);
        for (file, length) in lengths.into_iter().enumerate() {
            if length > 0 {
                layout.push(Span { file: None, length: gap(layout.length, piece_length) })?;
                layout.push(Span { file: Some(file), length })?;
            }
        }
        layout.checked()
    }

    fn empty(piece_length: u32, aligned: bool) -> Self {
        Self { piece_length, spans: Vec::new(), starts: Vec::new(), files: Vec::new(), length: 0, aligned }
    }

    fn push(&mut self, span: Span) -> Result<(), Error> {
        let length = self.length.checked_add(span.length).filter(|length| *length <= MAX_LENGTH);
        let length = length.ok_or(Error::Length)?;
        if span.length > 0 {
            self.files.extend(span.file.map(|file| (file, self.spans.len())));
            self.spans.push(span);
            self.starts.push(self.length);
            self.length = length;
        }
        Ok(())
    }

    fn checked(self) -> Result<Self, Error> {
        // Padding alone is nothing that anybody could want.
        if self.files.is_empty() {
            return Err(Error::Empty);
        }
        match self.length.div_ceil(u64::from(self.piece_length)) {
            0..=MAX_PIECES => Ok(self),
            _ => Err(Error::Pieces),
        }
    }

    /// Length of every piece that does not end early, bytes.
    pub fn full_piece_length(&self) -> u32 {
        self.piece_length
    }

    /// Length of the address space, padding included, bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The spans in order.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Number of pieces, at least one.
    pub fn piece_count(&self) -> u32 {
        self.length.div_ceil(u64::from(self.piece_length)) as u32
    }

    /// Length of a piece, bytes: what may be asked for of it. Zero beyond the last.
    pub fn piece_length(&self, piece: u32) -> u32 {
        let start = self.piece_start(piece);
        if start >= self.length {
            return 0;
        }
        let end = if self.aligned {
            let span = self.span_at(start);
            self.starts[span] + self.spans[span].length
        } else {
            self.length
        };
        (end - start).min(u64::from(self.piece_length)) as u32
    }

    /// Where a piece begins in the address space, bytes.
    pub fn piece_start(&self, piece: u32) -> u64 {
        u64::from(piece) * u64::from(self.piece_length)
    }

    /// What `length` bytes from `begin` of a piece are made of, in order. `None` when the piece has
    /// no such bytes, or none are asked for.
    pub fn blocks(&self, piece: u32, begin: u32, length: u32) -> Option<Blocks<'_>> {
        let end = begin.checked_add(length)?;
        if length == 0 || end > self.piece_length(piece) {
            return None;
        }
        let at = self.piece_start(piece) + u64::from(begin);
        Some(Blocks { layout: self, span: self.span_at(at), at, left: length })
    }

    /// The whole of a piece.
    pub fn piece(&self, piece: u32) -> Option<Blocks<'_>> {
        self.blocks(piece, 0, self.piece_length(piece))
    }

    /// Where each file that is not empty begins: its index and its place in the address space.
    pub fn file_starts(&self) -> impl Iterator<Item = (usize, u64)> {
        self.files.iter().map(|(file, span)| (*file, self.starts[*span]))
    }

    /// The pieces that hold bytes of a file; an empty range for an empty file.
    pub fn pieces_of(&self, file: usize) -> Range<u32> {
        let Ok(place) = self.files.binary_search_by_key(&file, |(file, _)| *file) else {
            return 0..0;
        };
        let span = self.files[place].1;
        let piece_length = u64::from(self.piece_length);
        let start = self.starts[span];
        let end = (start + self.spans[span].length).div_ceil(piece_length);
        (start / piece_length) as u32..end as u32
    }

    /// Index of the span that holds the byte at `at`, which is within the content.
    fn span_at(&self, at: u64) -> usize {
        self.starts.partition_point(|start| *start <= at) - 1
    }
}

/// Bytes from `length` to the next piece boundary.
pub(super) fn gap(length: u64, piece_length: u32) -> u64 {
    length.next_multiple_of(u64::from(piece_length)) - length
}

/// See [`Layout::blocks`].
#[derive(Debug, Clone)]
pub struct Blocks<'a> {
    layout: &'a Layout,
    span: usize,
    at: u64,
    left: u32,
}

impl Iterator for Blocks<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        if self.left == 0 {
            return None;
        }
        let span = self.layout.spans.get(self.span)?;
        let offset = self.at - self.layout.starts[self.span];
        let length = (span.length - offset).min(u64::from(self.left)) as u32;
        self.span += 1;
        self.at += u64::from(length);
        self.left -= length;
        Some(Block { file: span.file, offset, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u32 = 16_384;

    fn file(file: usize, length: u64) -> Span {
        Span { file: Some(file), length }
    }

    fn padding(length: u64) -> Span {
        Span { file: None, length }
    }

    fn block(file: Option<usize>, offset: u64, length: u32) -> Block {
        Block { file, offset, length }
    }

    #[test]
    fn a_v1_piece_runs_through_files() {
        let layout = Layout::v1(PIECE, [file(0, 10), file(1, 0), file(2, 20_000), file(3, 5)]).unwrap();
        assert_eq!((layout.piece_count(), layout.length()), (2, 20_015));
        assert_eq!([0, 1, 2, u32::MAX].map(|piece| layout.piece_length(piece)), [PIECE, 3631, 0, 0]);
        let blocks: Vec<_> = layout.piece(0).unwrap().collect();
        assert_eq!(blocks, [block(Some(0), 0, 10), block(Some(2), 0, 16_374)]);
        let blocks: Vec<_> = layout.blocks(1, 3620, 11).unwrap().collect();
        assert_eq!(blocks, [block(Some(2), 19_994, 6), block(Some(3), 0, 5)]);
        assert_eq!([0, 1, 2, 3, 4].map(|file| layout.pieces_of(file)), [0..1, 0..0, 0..2, 1..2, 0..0]);
    }

    #[test]
    fn v1_padding_is_asked_for_and_v2_padding_is_not() {
        let v1 = Layout::v1(PIECE, [file(0, 10), padding(16_374), file(1, 16_384), file(2, 7)]).unwrap();
        let v2 = Layout::v2(PIECE, [10, 16_384, 7]).unwrap();
        assert_eq!((v1.piece_count(), v2.piece_count()), (3, 3));
        assert_eq!([0, 1, 2].map(|piece| v1.piece_length(piece)), [PIECE, PIECE, 7]);
        assert_eq!([0, 1, 2].map(|piece| v2.piece_length(piece)), [10, PIECE, 7]);
        let blocks: Vec<_> = v1.blocks(0, 8, 100).unwrap().collect();
        assert_eq!(blocks, [block(Some(0), 8, 2), block(None, 0, 98)]);
        assert!(v2.blocks(0, 8, 3).is_none());
        assert_eq!(v2.blocks(0, 8, 2).unwrap().collect::<Vec<_>>(), [block(Some(0), 8, 2)]);
        assert!(v1.file_starts().eq(v2.file_starts()));
        assert_eq!(v2.spans(), v1.spans());
    }

    #[test]
    fn only_what_is_there_is_given() {
        let layout = Layout::v1(PIECE, [file(0, 100)]).unwrap();
        for (piece, begin, length) in
            [(0, 0, 0), (0, 0, 101), (0, 100, 1), (0, u32::MAX, 2), (1, 0, 1), (u32::MAX, 0, 1)]
        {
            assert!(layout.blocks(piece, begin, length).is_none());
        }
    }

    #[test]
    fn the_address_space_is_bounded() {
        let long = |lengths: &[u64]| Layout::v1(1 << 28, lengths.iter().map(|length| file(0, *length)));
        assert!(long(&[MAX_LENGTH]).is_ok());
        assert_eq!(long(&[MAX_LENGTH, 1]).unwrap_err(), Error::Length);
        assert_eq!(long(&[MAX_LENGTH, u64::MAX]).unwrap_err(), Error::Length);
        assert_eq!(long(&[]).unwrap_err(), Error::Empty);
        assert_eq!(Layout::v1(PIECE, [padding(5), file(0, 0)]).unwrap_err(), Error::Empty);
        assert!(Layout::v1(PIECE, [padding(5), file(0, 1)]).is_ok());
        assert_eq!(Layout::v2(PIECE, [0, 0]).unwrap_err(), Error::Empty);
        assert_eq!(Layout::v2(PIECE, [1 << 49]).unwrap_err(), Error::Pieces);
        assert_eq!(Layout::v2(1 << 28, [1, MAX_LENGTH]).unwrap_err(), Error::Length);
    }
}
