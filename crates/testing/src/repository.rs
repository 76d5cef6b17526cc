//! Where things lie, seen from the repository.

use std::path::Path;

/// The root of the repository that this crate was built in.
pub fn repository_root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}
