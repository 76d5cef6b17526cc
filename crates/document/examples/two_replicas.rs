//! Two replicas of one document: concurrent edits, checked by a schema, converge.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use meshagent_document::{
    ChildProperty, Edit, ElementType, MeshDocument, MeshSchema, Position, SimpleValue, Target,
    ValueProperty,
};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schema = MeshSchema::new(
        "plan",
        vec![
            ElementType::new("plan")
                .property(ValueProperty::new("title", SimpleValue::String))
                .property(ChildProperty::new("steps", ["step"])),
            ElementType::new("step")
                .property(ValueProperty::new("text", SimpleValue::String))
                .property(ValueProperty::new("done", SimpleValue::Boolean)),
        ],
    )?;
    let mut number = 0;
    let mut next_id = move || {
        number += 1;
        format!("step-{number}")
    };

    // Client ids must be unique among replicas.
    let mut ours = MeshDocument::new(schema.clone(), 1);
    ours.insert_json(
        &json!({"plan": {"title": "Move house", "steps": [{"step": {"text": "pack", "done": false}}]}}),
        &mut next_id,
    )?;
    let mut theirs = MeshDocument::new(schema, 2);
    theirs.watch(true);
    theirs.apply_update(&ours.encode_state())?;
    while theirs.poll_event().is_some() {}

    // Concurrently: an edit here, a patch there.
    let insert = Edit::Insert {
        parent: Target::Root,
        position: Position::Last,
        element: json!({"step": {"text": "rent a van"}}),
    };
    let from_us = ours.edit(&[insert], &mut next_id)?;
    let patch = json!([{"op": "replace", "path": "/plan/steps/0/step/done", "value": true}]);
    let from_them = theirs.apply_patch(&patch, &mut String::new)?;
    theirs.apply_update(&from_us.unwrap_or_default())?;
    ours.apply_update(&from_them.unwrap_or_default())?;
    assert_eq!(ours.to_json(true), theirs.to_json(true));

    while let Some(event) = theirs.poll_event() {
        println!("{:?}: {:?}", event.origin, event.changes);
    }
    println!("{}", serde_json::to_string_pretty(&ours.to_json(true))?);

    // An edit that the schema does not allow is an error with its location.
    let wrong = ours.set_attribute(Target::Id("step-1".into()), "done", json!("maybe"));
    println!(
        "refused: {}",
        wrong.expect_err("\"maybe\" is not a boolean")
    );
    Ok(())
}
