//! What the server took out of a change.

use meshagent_document::Violation;
use serde_json::Value;

use crate::failure::{self, Failure, REFUSED};

/// What the schema forbids of a change, together with what others had written meanwhile.
pub(super) struct Removed(Vec<Violation>);

impl Removed {
    /// As the server lists it: objects with `pointer`, `expected` and `found`.
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

    /// `verb` is how the document was changed.
    pub(super) fn failure(&self, path: &str, verb: &str) -> Failure {
        let what = format!(
            "others changed {path:?} at the same time; together with that the schema does not allow all of the {verb}, \
             and the server removed what it forbids:{}",
            failure::lines(&self.0)
        );
        Failure::new(what)
            .with_exit_code(REFUSED)
            .with_hint(format!("look at the document, and {verb} it again"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_server_removed_is_listed() {
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
