//! Size limits of a schema, and the lookup of its parts by name.

use std::fmt;
use std::io;

use serde_json::Value;

use super::SchemaError;
use super::violation::quoted;

/// The limits of one schema. Start from [`SchemaLimits::default`] and change single fields.
///
/// A schema beyond a limit is rejected with a [`SchemaError`] that names the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SchemaLimits {
    /// Bytes of the JSON form, without whitespace. Default: 1 MiB.
    pub bytes: usize,
    /// Element types. Default: 10,000.
    pub elements: usize,
    /// Properties of one type. Default: 1,000.
    pub properties: usize,
    /// Bytes of a tag or property name. Default: 256.
    pub name_bytes: usize,
    /// Values of one `enum`. Default: 1,000.
    pub enum_values: usize,
}

impl SchemaLimits {
    /// No limits, for schemas that were accepted before.
    pub const NONE: Self = Self {
        bytes: usize::MAX,
        elements: usize::MAX,
        properties: usize::MAX,
        name_bytes: usize::MAX,
        enum_values: usize::MAX,
    };

    pub(super) fn check_bytes(&self, json: &Value) -> Result<(), SchemaError> {
        let mut counted = Counted(self.bytes);
        match serde_json::to_writer(&mut counted, json) {
            Ok(()) => Ok(()),
            Err(_) => Err(beyond("", "bytes of JSON", self.bytes)),
        }
    }

    pub(super) fn check_elements(&self, count: usize) -> Result<(), SchemaError> {
        let error = || beyond("/$defs", "types of elements", self.elements);
        (count <= self.elements).then_some(()).ok_or_else(error)
    }

    pub(super) fn check_properties(&self, pointer: &str, count: usize) -> Result<(), SchemaError> {
        let error = || beyond(pointer, "properties of one element", self.properties);
        (count <= self.properties).then_some(()).ok_or_else(error)
    }

    pub(super) fn check_name(&self, pointer: &str, name: &str) -> Result<(), SchemaError> {
        if name.len() <= self.name_bytes {
            return Ok(());
        }
        let limit = self.name_bytes;
        Err(SchemaError::at(
            pointer,
            format!(
                "the name {} has {} bytes, {limit} are allowed; use a shorter one",
                quoted(name),
                name.len(),
            ),
        ))
    }

    pub(super) fn check_enum(&self, pointer: &str, count: usize) -> Result<(), SchemaError> {
        let error = || beyond(pointer, "values of one enumeration", self.enum_values);
        (count <= self.enum_values).then_some(()).ok_or_else(error)
    }
}

impl Default for SchemaLimits {
    fn default() -> Self {
        Self {
            bytes: 1 << 20,
            elements: 10_000,
            properties: 1_000,
            name_bytes: 256,
            enum_values: 1_000,
        }
    }
}

fn beyond(pointer: &str, what: impl fmt::Display, limit: usize) -> SchemaError {
    SchemaError::at(
        pointer,
        format!("the schema is too large: {what} are limited to {limit}; make it smaller"),
    )
}

/// A writer that only counts: it fails once its budget of bytes is spent.
struct Counted(usize);

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.0.checked_sub(bytes.len());
        self.0 = left.ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Positions of a list's items by name. Short lists are searched linearly, long ones by bisection.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ByName {
    // The positions sorted by name; empty for short lists and lists that still grow.
    sorted: Box<[u32]>,
}

impl ByName {
    /// The number of items from which a list is long.
    const LONG: usize = 12;

    pub(super) fn new<T>(items: &[T], name: impl Fn(&T) -> &str) -> Self {
        if items.len() < Self::LONG {
            return Self::default();
        }
        let mut sorted: Vec<u32> = (0..).take(items.len()).collect();
        sorted.sort_by(|&a, &b| name(&items[a as usize]).cmp(name(&items[b as usize])));
        Self {
            sorted: sorted.into(),
        }
    }

    pub(super) fn find<'a, T>(
        &self,
        items: &'a [T],
        wanted: &str,
        name: impl Fn(&T) -> &str,
    ) -> Option<&'a T> {
        self.place_of(items, wanted, name).map(|at| &items[at])
    }

    pub(super) fn place_of<T>(
        &self,
        items: &[T],
        wanted: &str,
        name: impl Fn(&T) -> &str,
    ) -> Option<usize> {
        if self.sorted.len() != items.len() {
            return items.iter().position(|item| name(item) == wanted);
        }
        let sorted = &self.sorted;
        let at = sorted.binary_search_by(|&at| name(&items[at as usize]).cmp(wanted));
        at.ok().map(|at| sorted[at] as usize)
    }
}
