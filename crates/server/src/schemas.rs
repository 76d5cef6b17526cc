//! Schemas in memory: documents that have the same one share it, in whichever rooms they are.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use meshagent_document::{MeshSchema, SchemaError};
use serde_json::Value;

/// A schema in all its forms.
#[derive(Debug)]
pub(crate) struct Schema {
    /// As it is in the store.
    pub(crate) text: String,
    pub(crate) json: Value,
    pub(crate) parsed: MeshSchema,
}

/// The schemas of all documents in memory.
#[derive(Debug, Default)]
pub(crate) struct Schemas {
    known: Mutex<Known>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Known {
    /// By the hash of their texts, so that what nobody has any more takes little.
    by_hash: HashMap<u64, Weak<Schema>>,
    /// From this many on those are looked for that nobody has any more.
    sweep_at: usize,
}

/// Why a text is no schema.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidSchema {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

impl Schemas {
    /// The schema that the store has as this text.
    pub(crate) fn read(&self, text: &str) -> Result<Arc<Schema>, InvalidSchema> {
        if let Some(schema) = self.find(text) {
            return Ok(schema);
        }
        let json: Value = serde_json::from_str(text)?;
        let parsed = MeshSchema::from_json(&json)?;
        let text = text.to_owned();
        Ok(self.share(Schema { text, json, parsed }))
    }

    /// The same schema that somebody has already, or else this one.
    pub(crate) fn share(&self, schema: Schema) -> Arc<Schema> {
        const SWEEP_AT_LEAST: usize = 64;
        if let Some(schema) = self.find(&schema.text) {
            return schema;
        }
        let hash = self.hasher.hash_one(&schema.text);
        let schema = Arc::new(schema);
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

    fn text(tag: &str) -> String {
        let schema = MeshSchema::new(tag, vec![meshagent_document::ElementType::new(tag)]);
        schema.unwrap().to_json().to_string()
    }

    #[test]
    fn equal_schemas_are_one_as_long_as_somebody_has_it() {
        let schemas = Schemas::default();
        let first = schemas.read(&text("a")).unwrap();
        assert!(Arc::ptr_eq(&first, &schemas.read(&text("a")).unwrap()));
        assert!(!Arc::ptr_eq(&first, &schemas.read(&text("b")).unwrap()));
        // Those that nobody has don't stay for ever.
        for number in 0..10_000 {
            schemas.read(&text(&format!("t{number}"))).unwrap();
        }
        assert!(schemas.known.lock().unwrap().by_hash.len() < 200);
        assert!(Arc::ptr_eq(&first, &schemas.read(&text("a")).unwrap()));
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        let schemas = Schemas::default();
        assert!(matches!(schemas.read("{"), Err(InvalidSchema::Json(_))));
        assert!(matches!(schemas.read("{}"), Err(InvalidSchema::Schema(_))));
    }
}
