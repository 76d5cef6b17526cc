//! The parts of a change that the server removed.

use meshagent_document::Violation;
use serde_json::Value;

use crate::failure::{self, Failure, REFUSED};

/// Violations of the schema by a change in combination with concurrent changes of others.
pub(super) struct Removed(Vec<Violation>);

impl Removed {
    /// From the server's list of objects with `pointer`, `expected` and `found`.
    pub(super) fn new(violations: &[Value]) -> Self {
        let text =
            |violation: &Value, name| violation[name].as_str().unwrap_or_default().to_owned();
        let violations = violations.iter().map(|violation| Violation {
            pointer: text(violation, "pointer"),
            expected: text(violation, "expected"),
            found: text(violation, "found"),
        });
        Self(violations.collect())
    }

    /// The error for a command that did `verb` to the document.
    pub(super) fn failure(&self, path: &str, verb: &str) -> Failure {
        let message = format!(
            "others changed {path:?} at the same time; the combined result violated the schema, so \
             the server removed parts of this {verb}:{}",
            failure::lines(&self.0)
        );
        Failure::new(message)
            .with_exit_code(REFUSED)
            .with_hint(format!("check the document, and {verb} it again"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn removed_parts_are_listed() {
        let violation = json!({ "pointer": "/doc/x", "expected": "a string", "found": "7" });
        let failure = Removed::new(&[violation]).failure("plan", "patch");
        let text = failure.to_string();
        assert!(
            text.contains("\n  /doc/x: expected a string, found 7"),
            "{text}"
        );
        assert_eq!(failure.exit_code(), Some(REFUSED));
    }
}
