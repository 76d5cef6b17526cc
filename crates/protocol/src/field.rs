//! Typed access to the fields of a peer's JSON objects; each error names the field.

use serde_json::{Map, Value};

/// The fields of one JSON object. Absent and `null` are equivalent. Unknown fields are ignored,
/// since later SDKs may add some.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(crate) fn value(self, name: &'static str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn string(self, name: &'static str) -> Result<&'a str, InvalidField> {
        required(name, "a string", self.opt_string(name)?)
    }

    pub(crate) fn opt_string(self, name: &'static str) -> Result<Option<&'a str>, InvalidField> {
        self.typed(name, "a string", Value::as_str)
    }

    /// A string that is not empty and short enough to be stored and repeated.
    pub(crate) fn name(self, name: &'static str) -> Result<&'a str, InvalidField> {
        required(name, "a string", self.opt_name(name)?)
    }

    /// Like [`name`](Self::name); an empty string is equivalent to an absent one.
    pub(crate) fn opt_name(self, name: &'static str) -> Result<Option<&'a str>, InvalidField> {
        let text = self.typed(name, "a string of at most 256 bytes", |value| {
            value.as_str().filter(|text| text.len() <= MAX_NAME_BYTES)
        })?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    pub(crate) fn object(self, name: &'static str) -> Result<&'a Map<String, Value>, InvalidField> {
        required(name, "an object", self.opt_object(name)?)
    }

    pub(crate) fn opt_object(
        self,
        name: &'static str,
    ) -> Result<Option<&'a Map<String, Value>>, InvalidField> {
        self.typed(name, "an object", Value::as_object)
    }

    pub(crate) fn list(self, name: &'static str) -> Result<&'a Vec<Value>, InvalidField> {
        required(name, "a list", self.typed(name, "a list", Value::as_array)?)
    }

    pub(crate) fn opt_bool(self, name: &'static str) -> Result<Option<bool>, InvalidField> {
        self.typed(name, "true or false", Value::as_bool)
    }

    pub(crate) fn opt_i64(self, name: &'static str) -> Result<Option<i64>, InvalidField> {
        self.typed(name, "an integer", Value::as_i64)
    }

    pub(crate) fn opt_u64(self, name: &'static str) -> Result<Option<u64>, InvalidField> {
        self.typed(name, "a non-negative integer", Value::as_u64)
    }

    pub(crate) fn u64(self, name: &'static str) -> Result<u64, InvalidField> {
        let expected = "a non-negative integer";
        required(name, expected, self.opt_u64(name)?)
    }

    fn typed<T>(
        self,
        field: &'static str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, InvalidField> {
        match self.value(field) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(InvalidField::WrongType { field, expected }),
            },
        }
    }
}

/// Moves an object out of another one.
pub(crate) fn take_object(
    object: &mut Map<String, Value>,
    name: &str,
) -> Option<Map<String, Value>> {
    match object.swap_remove(name) {
        Some(Value::Object(inner)) => Some(inner),
        _ => None,
    }
}

fn required<T>(
    field: &'static str,
    expected: &'static str,
    value: Option<T>,
) -> Result<T, InvalidField> {
    value.ok_or(InvalidField::Missing { field, expected })
}

/// A missing or malformed field.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidField {
    /// A mandatory field is absent or null.
    #[error("the field `{field}` is missing: expected {expected}")]
    Missing {
        /// The name of the field.
        field: &'static str,
        /// The expected value.
        expected: &'static str,
    },
    /// The field has a wrong type, or is out of range.
    #[error("the field `{field}` must be {expected}")]
    WrongType {
        /// The name of the field.
        field: &'static str,
        /// The expected value.
        expected: &'static str,
    },
}

pub(crate) const MAX_NAME_BYTES: usize = 256;
