//! Arbitrary JSON as a schema: an error, or a schema that prints the JSON it was parsed from.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshagent_document::MeshSchema;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    if let Ok(schema) = MeshSchema::from_json(&json) {
        assert_eq!(MeshSchema::from_json(&schema.to_json()), Ok(schema.clone()));
        let _ = schema.to_json_schema();
        schema.validate(&json);
    }
    if let Ok(schema) = MeshSchema::infer(&json) {
        assert!(schema.validate(&json).is_empty());
    }
});
