//! Violations of a schema: the first hundred locations, each text capped, the rest counted.
//!
//! A peer controls the number of locations and the length of names, but must not control the cost
//! of a report: locations beyond the hundredth are not built, and a text stops growing at its cap.

use std::fmt::{self, Write as _};
use std::ops::Deref;

use thiserror::Error;

/// The number of listed locations; further ones are only counted.
const LISTED: usize = 100;

/// The maximal bytes of a text, the final ellipsis included.
const TEXT_BYTES: usize = 512;

const ELLIPSIS: &str = "…";

/// A location where content violates the schema. Each text has at most 512 bytes; a truncated text
/// ends with `…`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{}: expected {expected}, found {found}",
    if .pointer.is_empty() { "document" } else { .pointer }
)]
pub struct Violation {
    /// JSON pointer (RFC 6901) to the location.
    pub pointer: String,
    /// What the schema permits there.
    pub expected: String,
    /// What the content has there.
    pub found: String,
}

impl Violation {
    pub(crate) fn new(
        pointer: impl fmt::Display,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Self {
            pointer: capped(pointer),
            expected: capped(expected),
            found: capped(found),
        }
    }
}

/// The violations of a schema. It dereferences to a slice of the first hundred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    listed: Vec<Violation>,
    // Invariant: at least the number of listed ones.
    total: usize,
}

impl Violations {
    /// The number of violations, unlisted ones included.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Whether there are no violations.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The number of violations that can still be listed.
    pub(crate) fn room(&self) -> usize {
        LISTED - self.listed.len()
    }

    /// Counts a violation, and builds it if it will be listed.
    pub(crate) fn report(&mut self, violation: impl FnOnce() -> Violation) {
        if self.room() > 0 {
            self.listed.push(violation());
        }
        self.total += 1;
    }

    /// Counts a violation without listing it.
    pub(crate) fn count(&mut self) {
        self.total += 1;
    }

    /// Appends other violations.
    pub fn append(&mut self, more: Self) {
        self.extend_below("", more);
    }

    /// Appends violations whose pointers are relative to `pointer`.
    pub(crate) fn extend_below(&mut self, pointer: &str, more: Self) {
        self.total += more.total;
        let more = more.listed.into_iter().take(self.room());
        self.listed.extend(more.map(|violation| Violation {
            pointer: capped(format_args!("{pointer}{}", violation.pointer)),
            ..violation
        }));
    }

    /// Removes listed violations that don't satisfy the predicate.
    pub(crate) fn retain(&mut self, keep: impl FnMut(&Violation) -> bool) {
        let before = self.listed.len();
        self.listed.retain(keep);
        self.total -= before - self.listed.len();
    }
}

impl Deref for Violations {
    type Target = [Violation];

    fn deref(&self) -> &[Violation] {
        &self.listed
    }
}

impl From<Violation> for Violations {
    fn from(violation: Violation) -> Self {
        Self {
            listed: vec![violation],
            total: 1,
        }
    }
}

impl IntoIterator for Violations {
    type Item = Violation;
    type IntoIter = std::vec::IntoIter<Violation>;

    fn into_iter(self) -> Self::IntoIter {
        self.listed.into_iter()
    }
}

impl<'a> IntoIterator for &'a Violations {
    type Item = &'a Violation;
    type IntoIter = std::slice::Iter<'a, Violation>;

    fn into_iter(self) -> Self::IntoIter {
        self.listed.iter()
    }
}

impl<const N: usize> PartialEq<[Violation; N]> for Violations {
    fn eq(&self, other: &[Violation; N]) -> bool {
        self.listed == other && self.total == N
    }
}

/// All violations on one line.
impl fmt::Display for Violations {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.listed.iter().enumerate() {
            let before = if index > 0 { "; " } else { "" };
            write!(formatter, "{before}{violation}")?;
        }
        match self.total - self.listed.len() {
            0 => Ok(()),
            more => write!(formatter, "; and {more} more"),
        }
    }
}

/// A text with a cap: it keeps what fits and makes its writer fail beyond it.
#[derive(Debug, Default)]
struct Capped {
    text: String,
    is_cut: bool,
}

impl fmt::Write for Capped {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        if self.is_cut {
            return Err(fmt::Error);
        }
        if self.text.len() + more.len() <= TEXT_BYTES {
            self.text.push_str(more);
            return Ok(());
        }
        self.is_cut = true;
        let room = TEXT_BYTES - ELLIPSIS.len();
        if self.text.len() <= room {
            let end = more.floor_char_boundary(room - self.text.len());
            self.text.push_str(&more[..end]);
        } else {
            self.text.truncate(self.text.floor_char_boundary(room));
        }
        self.text.push_str(ELLIPSIS);
        Err(fmt::Error)
    }
}

/// Formats a value up to the cap; nothing beyond it is formatted.
pub(crate) fn capped(text: impl fmt::Display) -> String {
    let mut capped = Capped::default();
    // An error only means that the cap was reached.
    let _ = write!(capped, "{text}");
    capped.text
}

/// A name in quotes, up to the cap.
pub(crate) fn quoted(name: &str) -> String {
    capped(format_args!("{name:?}"))
}

/// A list of names, as `a, b, c`.
pub(crate) struct Names<'a, T>(pub(crate) &'a [T], pub(crate) fn(&T) -> &str);

impl<T> fmt::Display for Names<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(items, name) = self;
        for (index, item) in items.iter().enumerate() {
            let before = if index > 0 { ", " } else { "" };
            write!(formatter, "{before}{}", name(item))?;
        }
        Ok(())
    }
}

/// Appends a reference token to a JSON pointer, unless the pointer already exceeds the cap of
/// a text.
pub(crate) fn push_segment(pointer: &mut String, segment: &str) {
    if pointer.len() > TEXT_BYTES {
        return;
    }
    pointer.push('/');
    for character in segment.chars() {
        if pointer.len() > TEXT_BYTES {
            break;
        }
        match character {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test;

    #[test]
    fn texts_are_truncated_at_character_boundaries() {
        for (short, length) in [("a", 508), ("a", 509), ("a", 510), ("é", 509), ("😀", 507)] {
            let exact = short.to_owned() + &"b".repeat(TEXT_BYTES - short.len());
            assert_eq!(capped(&exact), exact);
            let long = "b".repeat(length) + &short.repeat(9);
            for text in [capped(&long), capped(format_args!("{long}{long}"))] {
                assert!(
                    text.len() <= TEXT_BYTES && text.len() > TEXT_BYTES - 8,
                    "{text}"
                );
                let kept = text.strip_suffix(ELLIPSIS).unwrap();
                assert!(long.starts_with(kept), "{text}");
            }
        }
        assert_eq!(capped("{}"), "{}");
    }

    #[test]
    fn violations_beyond_the_cap_are_counted_and_not_built() {
        let mut violations = Violations::default();
        let mut built = 0;
        for _ in 0..1_000 {
            violations.report(|| {
                built += 1;
                Violation::new("/a", "x".repeat(1 << 20), "b")
            });
        }
        assert_eq!(
            (built, violations.len(), violations.total()),
            (100, 100, 1_000)
        );
        let mut around = Violations::default();
        around.extend_below("/doc", violations);
        assert_eq!((around.len(), around.total()), (100, 1_000));
        assert_eq!(around[0].pointer, "/doc/a");
        assert_eq!(around[0].expected.len(), TEXT_BYTES);
        let text = around.to_string();
        assert!(text.ends_with("; and 900 more") && text.len() < 100 * 2 * TEXT_BYTES);
    }
}
