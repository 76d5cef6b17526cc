//! A list as a table of pieces in chunks, so that thousands of operations on one list stay cheap.

use std::ops::Range;

use super::overlay::Node;

/// Larger chunks are split in half.
const MAX_PIECES: usize = 256;

#[derive(Debug)]
pub(in crate::document) enum Piece {
    One(Node),
    /// Unchanged children of the document, as an index range.
    Run(Range<usize>),
}

#[derive(Debug, Default)]
pub(in crate::document) struct Pieces {
    // Invariant: neither chunks nor runs are empty.
    chunks: Vec<Chunk>,
    length: usize,
}

#[derive(Debug)]
struct Chunk {
    length: usize,
    pieces: Vec<Piece>,
}

impl Pieces {
    /// The number of items.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    pub(in crate::document) fn iter(&self) -> impl Iterator<Item = &Piece> {
        self.chunks.iter().flat_map(|chunk| &chunk.pieces)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Piece> {
        self.chunks.iter_mut().flat_map(|chunk| &mut chunk.pieces)
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = Piece> {
        self.chunks.into_iter().flat_map(|chunk| chunk.pieces)
    }

    fn push(&mut self, piece: Piece) {
        let length = piece.length();
        if length == 0 {
            return;
        }
        self.length += length;
        match self.chunks.last_mut() {
            Some(chunk) if chunk.pieces.len() < MAX_PIECES => {
                chunk.length += length;
                chunk.pieces.push(piece);
            }
            _ => {
                let pieces = vec![piece];
                self.chunks.push(Chunk { length, pieces });
            }
        }
    }

    /// Inserts an item; the index is at most the length.
    pub(super) fn insert(&mut self, index: usize, item: Node) {
        if index >= self.length {
            self.push(Piece::One(item));
            return;
        }
        let (at, rest) = self.chunk(index);
        let chunk = &mut self.chunks[at];
        let (place, within) = chunk.piece(rest);
        let place = chunk.split(place, within);
        chunk.pieces.insert(place, Piece::One(item));
        chunk.length += 1;
        self.length += 1;
        self.halve(at);
    }

    /// A single item; if it is in a run, `load` creates it from its index in the document.
    pub(super) fn get_mut(
        &mut self,
        index: usize,
        load: impl FnOnce(usize) -> Option<Node>,
    ) -> Option<&mut Node> {
        let (at, place) = self.single(index, load)?;
        match self.chunks[at].pieces.get_mut(place)? {
            Piece::One(item) => Some(item),
            Piece::Run(_) => None,
        }
    }

    pub(super) fn remove(
        &mut self,
        index: usize,
        load: impl FnOnce(usize) -> Option<Node>,
    ) -> Option<Node> {
        let (at, place) = self.single(index, load)?;
        let chunk = &mut self.chunks[at];
        chunk.length -= 1;
        self.length -= 1;
        let removed = chunk.pieces.remove(place);
        if chunk.pieces.is_empty() {
            self.chunks.remove(at);
        }
        match removed {
            Piece::One(item) => Some(item),
            Piece::Run(_) => None,
        }
    }

    /// Isolates an item from its run; returns its chunk and its piece there.
    fn single(
        &mut self,
        index: usize,
        load: impl FnOnce(usize) -> Option<Node>,
    ) -> Option<(usize, usize)> {
        if index >= self.length {
            return None;
        }
        let (at, rest) = self.chunk(index);
        let chunk = &mut self.chunks[at];
        let (place, within) = chunk.piece(rest);
        let Piece::Run(run) = &chunk.pieces[place] else {
            return Some((at, place));
        };
        let item = load(run.start + within)?;
        let place = chunk.split(place, within);
        // Splits behind the item.
        chunk.split(place, 1);
        chunk.pieces[place] = Piece::One(item);
        let middle = self.halve(at);
        match place.checked_sub(middle) {
            Some(place) => Some((at + 1, place)),
            None => Some((at, place)),
        }
    }

    /// The chunk that contains an item, and the item's index there.
    fn chunk(&self, index: usize) -> (usize, usize) {
        let mut rest = index;
        let at = self.chunks.iter().position(|chunk| {
            let is_here = rest < chunk.length;
            if !is_here {
                rest -= chunk.length;
            }
            is_here
        });
        (at.unwrap_or_default(), rest)
    }

    /// Splits a chunk in half if it is too large; returns the number of pieces that stay.
    fn halve(&mut self, at: usize) -> usize {
        let chunk = &mut self.chunks[at];
        if chunk.pieces.len() <= MAX_PIECES {
            return chunk.pieces.len();
        }
        let middle = chunk.pieces.len() / 2;
        let pieces = chunk.pieces.split_off(middle);
        let length = pieces.iter().map(Piece::length).sum();
        chunk.length -= length;
        self.chunks.insert(at + 1, Chunk { length, pieces });
        middle
    }
}

impl FromIterator<Piece> for Pieces {
    fn from_iter<I: IntoIterator<Item = Piece>>(pieces: I) -> Self {
        let mut all = Self::default();
        pieces.into_iter().for_each(|piece| all.push(piece));
        all
    }
}

impl Chunk {
    /// The piece that contains an item, and the item's index there.
    fn piece(&self, index: usize) -> (usize, usize) {
        let mut rest = index;
        let place = self.pieces.iter().position(|piece| {
            let is_here = rest < piece.length();
            if !is_here {
                rest -= piece.length();
            }
            is_here
        });
        (place.unwrap_or_default(), rest)
    }

    /// Splits a run; returns the piece after the split.
    fn split(&mut self, place: usize, within: usize) -> usize {
        let Some(Piece::Run(run)) = self.pieces.get_mut(place) else {
            return place;
        };
        if within == 0 || within >= run.len() {
            return place;
        }
        let behind = run.start + within..run.end;
        run.end = behind.start;
        self.pieces.insert(place + 1, Piece::Run(behind));
        place + 1
    }
}

impl Piece {
    fn length(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Run(run) => run.len(),
        }
    }
}
