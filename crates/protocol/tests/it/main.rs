//! Tests of the protocol at its boundary: bytes, vectors of the published SDKs, and the document
//! that describes it.

#![allow(
    clippy::format_collect,
    clippy::format_push_string,
    clippy::needless_pass_by_value,
    clippy::type_complexity,
    clippy::unwrap_used,
    reason = "a failing helper fails the test, and brevity beats speed here"
)]

// Each test module has `use crate::test;`, so that `#[test]` is the attribute of the target's
// test runner.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use std::prelude::v1::test;
#[cfg(target_arch = "wasm32")]
pub(crate) use wasm_bindgen_test::wasm_bindgen_test as test;

mod docs;
mod hex;
mod packets;
mod plain_chunks;
mod session;
mod tokens;
mod toolkits;
mod vectors;
mod wire;
