//! The list of tools, as both SDKs read it.

use serde_json::{Value, json};

use crate::scenario::{SDKS, scenario};

const ROOM: &str = "tools";

#[test]
fn both_sdks_read_the_tools_and_their_input_schemas() {
    scenario(|s| {
        for sdk in SDKS {
            let mut client = s.client(sdk, ROOM, "reader")?;
            let toolkits = client.call("list_toolkits", &json!({}))?;
            let names: Vec<_> = toolkits.as_object().into_iter().flatten().collect();
            let names: Vec<_> = names.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names.len(), 3, "{sdk:?}: {names:?}");
            let patch = &toolkits["sync"]["patch"];
            assert_eq!(patch["required"], json!(["path", "patch"]), "{sdk:?}");
            assert_eq!(
                patch["properties"]["if_version"]["type"],
                json!(["string", "null"])
            );
            // A streamed tool has no schema.
            assert_eq!(toolkits["sync"]["open"], Value::Null, "{sdk:?}");
        }
        Ok(())
    });
}
