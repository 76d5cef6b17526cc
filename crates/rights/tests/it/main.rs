//! Tests of rights at their boundary: grants as JSON, and questions about paths.

#![allow(
    clippy::needless_pass_by_value,
    clippy::unwrap_used,
    reason = "a failing helper fails the test, and brevity beats speed here"
)]

// Each test module has `use crate::test;`, so that `#[test]` is the attribute of the target's
// test runner.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use std::prelude::v1::test;
#[cfg(target_arch = "wasm32")]
pub(crate) use wasm_bindgen_test::wasm_bindgen_test as test;

mod grants;
mod paths;
mod sight;
