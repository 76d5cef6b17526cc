//! A text as edits would leave it, for checking positions.

use std::iter;

use crate::document::edit::{EditError, TextPosition};

/// A text that is split at the position of the last edit, so that the cost of sequential edits is
/// the distance between them.
#[derive(Debug, Default)]
pub(super) struct DraftText {
    before: Place,
    characters: Vec<char>,
    // In reverse order.
    behind: Vec<char>,
}

/// The length of a text before a position.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    scalars: usize,
    units: usize,
}

impl Place {
    fn reaches(self, position: TextPosition) -> bool {
        match position {
            TextPosition::Scalars(wanted) => self.scalars >= wanted,
            TextPosition::Utf16(wanted) => self.units >= wanted,
        }
    }

    fn is(self, position: TextPosition) -> bool {
        match position {
            TextPosition::Scalars(wanted) => self.scalars == wanted,
            TextPosition::Utf16(wanted) => self.units == wanted,
        }
    }

    fn pass(&mut self, character: char) {
        self.scalars += 1;
        self.units += character.len_utf16();
    }

    fn pass_back(&mut self, character: char) {
        self.scalars -= 1;
        self.units -= character.len_utf16();
    }
}

impl DraftText {
    pub(super) fn new(text: &str) -> Self {
        Self {
            behind: text.chars().rev().collect(),
            ..Self::default()
        }
    }

    /// The length in UTF-16 units.
    pub(super) fn units(&self) -> usize {
        let behind = self.behind.iter().map(|character| character.len_utf16());
        self.before.units + behind.sum::<usize>()
    }

    pub(super) fn insert(&mut self, at: TextPosition, text: &str) -> Result<(), EditError> {
        self.seek(at)?;
        for character in text.chars() {
            self.before.pass(character);
            self.characters.push(character);
        }
        Ok(())
    }

    pub(super) fn delete(&mut self, from: TextPosition, to: TextPosition) -> Result<(), EditError> {
        self.check(from, to)?;
        let end = self.before.scalars;
        self.seek(from)?;
        let length = end - self.before.scalars;
        self.behind.truncate(self.behind.len() - length);
        Ok(())
    }

    /// Checks that a range exists, and moves the split to its end.
    pub(super) fn check(&mut self, from: TextPosition, to: TextPosition) -> Result<(), EditError> {
        self.seek(from)?;
        let start = self.before.scalars;
        self.seek(to)?;
        if start > self.before.scalars {
            return Err(super::reversed(from, to));
        }
        Ok(())
    }

    fn seek(&mut self, position: TextPosition) -> Result<(), EditError> {
        while !self.before.reaches(position)
            && let Some(character) = self.behind.pop()
        {
            self.before.pass(character);
            self.characters.push(character);
        }
        while self.before.reaches(position)
            && !self.before.is(position)
            && let Some(character) = self.characters.pop()
        {
            self.before.pass_back(character);
            self.behind.push(character);
        }
        if self.before.is(position) {
            return Ok(());
        }
        let all = iter::chain(&self.characters, &self.behind);
        let mut whole = Place::default();
        all.for_each(|&character| whole.pass(character));
        let (position, length) = match position {
            TextPosition::Scalars(position) => (position, whole.scalars),
            TextPosition::Utf16(position) => (position, whole.units),
        };
        Err(EditError::Position { position, length })
    }
}
