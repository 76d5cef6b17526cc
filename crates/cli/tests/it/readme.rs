//! The program in the README is the example that is compiled.

use std::fs;
use std::path::Path;

#[test]
fn readme_has_the_rust_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let example = fs::read_to_string(root.join("crates/client/examples/readme.rs")).unwrap();
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let (_, section) = readme.split_once("\n### From Rust\n").unwrap();
    let (_, code) = section.split_once("```rust\n").unwrap();
    let (code, _) = code.split_once("```\n").unwrap();
    // The example begins with its description and an attribute.
    let start = example.find("use std::error::Error;").unwrap();
    assert_eq!(code, &example[start..]);
    assert!(section.contains("[`crates/client/examples/readme.rs`]"));
}
