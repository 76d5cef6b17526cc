//! Schemas in memory: documents with the same schema share it, across rooms.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use meshagent_document::{MeshSchema, SchemaError, SchemaLimits};
use serde_json::Value;

/// Upper bound on the memory of a schema, parsed parts included, for each byte of its text. It
/// holds because limits keep the parts of a schema from being smaller than their names.
const COST: usize = 12;
/// The fixed cost of a schema, in bytes.
const BASE_COST: usize = 1 << 10;
/// Up to this length a schema's text is kept as JSON too, since most are short and each open sends
/// one.
const KEPT_JSON: usize = 16 << 10;

/// A schema in all its forms.
#[derive(Debug)]
pub(crate) struct Schema {
    /// The text as stored.
    pub(crate) text: String,
    json: Option<Value>,
    pub(crate) parsed: MeshSchema,
    _held: Held,
}

/// Owner of a schema's text while it is being sent.
struct Text(Arc<Schema>);

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.0.text.as_bytes()
    }
}

impl Schema {
    /// The text without a copy; the schema stays alive until it is sent.
    pub(crate) fn shared_text(self: &Arc<Self>) -> Bytes {
        Bytes::from_owner(Text(Arc::clone(self)))
    }

    /// The text as JSON.
    pub(crate) fn json(&self) -> Cow<'_, Value> {
        match &self.json {
            Some(json) => Cow::Borrowed(json),
            // It was parsed as JSON before.
            None => Cow::Owned(serde_json::from_str(&self.text).unwrap_or_default()),
        }
    }
}

/// A schema's share of the memory of all schemas, released when dropped.
#[derive(Debug)]
struct Held {
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The schemas of all documents in memory.
#[derive(Debug, Default)]
pub(crate) struct Schemas {
    known: Mutex<Known>,
    hasher: RandomState,
    held_bytes: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Known {
    /// By the hash of their texts, so that an unused schema leaves only a small entry.
    by_hash: HashMap<u64, Weak<Schema>>,
    /// The number of entries from which on unused ones are removed.
    sweep_at: usize,
}

/// Why a text is not a valid schema.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidSchema {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error(transparent)]
    TooMany(#[from] TooManySchemas),
}

/// The schemas in memory have reached their bound.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error(
    "the schemas of open documents are limited to {limit} bytes of memory; close documents with \
     large schemas, or try again later"
)]
pub(crate) struct TooManySchemas {
    limit: usize,
}

impl Schemas {
    /// Returns the schema with a stored text. Its own limits are not checked again: they may have
    /// been higher when it was stored.
    pub(crate) fn read(&self, text: &str, max_bytes: usize) -> Result<Arc<Schema>, InvalidSchema> {
        if let Some(schema) = self.find(text) {
            return Ok(schema);
        }
        let held = self.hold(text, max_bytes)?;
        let json: Value = serde_json::from_str(text)?;
        let parsed = MeshSchema::from_json_within(&json, &SchemaLimits::NONE)?;
        Ok(self.insert(text.to_owned(), json, parsed, held))
    }

    /// Returns the equal schema in memory, or else adds this one.
    pub(crate) fn share(
        &self,
        json: Value,
        parsed: MeshSchema,
        max_bytes: usize,
    ) -> Result<Arc<Schema>, TooManySchemas> {
        let text = json.to_string();
        if let Some(schema) = self.find(&text) {
            return Ok(schema);
        }
        let held = self.hold(&text, max_bytes)?;
        Ok(self.insert(text, json, parsed, held))
    }

    /// The approximate memory of all schemas, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// Reserves memory. One schema always fits, so that a low bound refuses no document.
    fn hold(&self, text: &str, max_bytes: usize) -> Result<Held, TooManySchemas> {
        let bytes = text.len().saturating_mul(COST) + BASE_COST;
        let fits = |held: usize| {
            let more = held.saturating_add(bytes);
            (held == 0 || more <= max_bytes).then_some(more)
        };
        self.held_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map_err(|_| TooManySchemas { limit: max_bytes })?;
        let total = Arc::clone(&self.held_bytes);
        Ok(Held { bytes, total })
    }

    fn insert(&self, text: String, json: Value, parsed: MeshSchema, held: Held) -> Arc<Schema> {
        const SWEEP_AT_LEAST: usize = 64;
        let hash = self.hasher.hash_one(&text);
        let schema = Arc::new(Schema {
            json: (text.len() <= KEPT_JSON).then_some(json),
            text,
            parsed,
            _held: held,
        });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.by_hash.len() >= known.sweep_at {
            known.by_hash.retain(|_, schema| schema.strong_count() > 0);
            known.sweep_at = SWEEP_AT_LEAST.max(known.by_hash.len() * 2);
        }
        known.by_hash.insert(hash, Arc::downgrade(&schema));
        schema
    }

    fn find(&self, text: &str) -> Option<Arc<Schema>> {
        let hash = self.hasher.hash_one(text);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let schema = known.by_hash.get(&hash).and_then(Weak::upgrade);
        schema.filter(|schema| schema.text == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = usize::MAX;

    fn text(tag: &str) -> String {
        let schema = MeshSchema::new(tag, vec![meshagent_document::ElementType::new(tag)]);
        schema.unwrap().to_json().to_string()
    }

    #[test]
    fn equal_schemas_are_one_as_long_as_somebody_has_it() {
        let schemas = Schemas::default();
        let first = schemas.read(&text("a"), MAX).unwrap();
        assert!(Arc::ptr_eq(&first, &schemas.read(&text("a"), MAX).unwrap()));
        assert!(!Arc::ptr_eq(
            &first,
            &schemas.read(&text("b"), MAX).unwrap()
        ));
        // Unused schemas are removed at some point.
        for number in 0..10_000 {
            schemas.read(&text(&format!("t{number}")), MAX).unwrap();
        }
        assert!(schemas.known.lock().unwrap().by_hash.len() < 200);
        assert!(Arc::ptr_eq(&first, &schemas.read(&text("a"), MAX).unwrap()));
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        let schemas = Schemas::default();
        assert!(matches!(
            schemas.read("{", MAX),
            Err(InvalidSchema::Json(_))
        ));
        assert!(matches!(
            schemas.read("{}", MAX),
            Err(InvalidSchema::Schema(_))
        ));
        assert_eq!(schemas.held_bytes(), 0);
    }

    #[test]
    fn all_of_them_together_have_a_bound() {
        let schemas = Schemas::default();
        let one = schemas.read(&text("a"), 0).unwrap();
        let bytes = schemas.held_bytes();
        let room = bytes * 2;
        let other = schemas.read(&text("b"), room).unwrap();
        assert_eq!(schemas.held_bytes(), room);
        let refused = schemas.read(&text("c"), room);
        assert!(matches!(refused, Err(InvalidSchema::TooMany(_))));
        // A schema in memory costs nothing more.
        let again = schemas.read(&text("b"), room).unwrap();
        drop((one, other));
        assert_eq!(schemas.held_bytes(), bytes);
        schemas.read(&text("c"), room).unwrap();
        drop(again);
        assert_eq!(schemas.held_bytes(), 0);
    }
}
