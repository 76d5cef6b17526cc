//! Paths inside the repository.

use std::path::Path;

/// The root of the repository in which this crate was built.
pub fn repository_root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}
