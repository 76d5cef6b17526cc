//! Lists of values, which only foreign programs write: they are encoded as Yjs encodes them.
//!
//! `testdata/vectors/lists.json` contains an update of Yjs 13.6.33, its whole state, and its answer
//! to a state vector.

use serde_json::Value;

use super::{bytes, document};
use crate::test;
use crate::update::UpdateKind;

#[test]
fn adjacent_values_of_one_author_are_one_struct() {
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("../../../../../testdata/vectors/lists.json")).unwrap();
    let bytes = |hex: &Value| bytes(hex.as_str().unwrap());
    for case in cases {
        let name = case[0].as_str().unwrap();
        let (state, vector, lacking) = (bytes(&case[2]), bytes(&case[3]), bytes(&case[4]));
        let mut one_by_one = document(7);
        for update in case[1].as_array().unwrap() {
            one_by_one.apply_update(&bytes(update)).unwrap();
            one_by_one.engine.check();
        }
        let mut from_state = document(8);
        from_state.apply_update(&state).unwrap();
        for document in [&one_by_one, &from_state] {
            let ours = document.encode_state();
            let sizes = (ours.len(), state.len());
            assert_eq!(sizes.0, sizes.1, "{name}: our size, that of Yjs");
            assert_eq!(ours, state, "{name}");
            assert_eq!(document.encode_diff(&vector).unwrap(), lacking, "{name}");
            assert_eq!(document.classify(&state), Ok(UpdateKind::Contained));
        }
        // A diff joins the values that the replica already has.
        let mut half = document(9);
        half.apply_update(&lacking).unwrap();
        half.apply_update(&state).unwrap();
        assert_eq!(half.encode_state(), state, "{name}");
    }
}
