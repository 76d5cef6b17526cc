//! The schema of a new document: from the request, from a file, by its extension, or inferred from
//! its JSON.

use meshagent_document::MeshSchema;
use meshagent_ledger::{Charge, Kind};
use meshagent_protocol::{ErrorCode, InvalidJson, parse_json, weigh_json};
use serde_json::Value;

use super::opening::{Fetched, Waiter};
use super::{Conn, Fetch, Refusal, Room, WholeFile};

/// The longest file that is read as a schema, in bytes. A schema's own bound, 1 MiB, counts it
/// without spaces and line breaks.
const MAX_SCHEMA_FILE_BYTES: usize = 4 << 20;

impl Room {
    /// Finds the schema and continues the creation.
    pub(super) fn resolve_schema(&mut self, path: &str, creator: Waiter) {
        if let Some(json) = creator.schema().cloned() {
            return self.create_with(path, creator, json, "the request's schema");
        }
        if let Some(file) = creator.schema_path().map(str::to_owned) {
            return self.fetch_schema(path, creator, file, true);
        }
        match extension(path) {
            Some(extension) => match MeshSchema::builtin(extension) {
                Some(schema) => {
                    let json = schema.to_json();
                    self.begin_creation(path, creator, schema, json);
                }
                None => {
                    self.fetch_schema(path, creator, format!(".schemas/{extension}.json"), false);
                }
            },
            None => self.infer_schema(path, creator, None),
        }
    }

    fn fetch_schema(&mut self, path: &str, creator: Waiter, file: String, explicit: bool) {
        let then = Fetched::Schema {
            path: path.to_owned(),
            creator: Box::new(creator),
            file: file.clone(),
            explicit,
        };
        let max = MAX_SCHEMA_FILE_BYTES;
        self.fetch(Fetch::File { path: file, max }, then);
    }

    /// Handles the read of a schema file; `explicit` if the request named it.
    pub(super) fn schema_fetched(
        &mut self,
        path: &str,
        creator: Waiter,
        file: &str,
        explicit: bool,
        found: WholeFile,
    ) {
        match found {
            WholeFile::Read(stored) => match self.read_schema(creator.conn(), file, &stored.data) {
                Ok((json, _charge)) => self.create_with(path, creator, json, file),
                Err(refusal) => self.creation_failed(path, creator, refusal),
            },
            WholeFile::TooLarge(bytes) => {
                let text = format!(
                    "{file}: a schema's file may have {MAX_SCHEMA_FILE_BYTES} bytes at most, and \
                     it has {bytes}"
                );
                self.creation_failed(path, creator, Refusal::invalid(text));
            }
            WholeFile::Missing if explicit => {
                let text = format!("schema_path: there is no file {file:?}; upload it first");
                self.creation_failed(path, creator, Refusal::new(ErrorCode::NotFound, text));
            }
            WholeFile::Missing => self.infer_schema(path, creator, Some(file)),
        }
    }

    /// Parses a schema file. Its memory is charged to the creator before.
    fn read_schema(
        &self,
        creator: Conn,
        file: &str,
        text: &[u8],
    ) -> Result<(Value, Charge), Refusal> {
        let not_json = |error: InvalidJson| Refusal::invalid(format!("{file}: not JSON: {error}"));
        let weight = weigh_json(text).map_err(not_json)?;
        let max = self.config.limits.max_json_bytes;
        if weight > max {
            let text =
                format!("{file}: its JSON takes up to {weight} bytes in memory, {max} are allowed");
            return Err(Refusal::invalid(text));
        }
        let charge = match self.participants.get(&creator) {
            Some(creator) => creator.account.try_charge(Kind::Parsed, weight),
            None => Ok(Charge::none()),
        };
        let charge = charge.map_err(Refusal::over)?;
        Ok((parse_json(text).map_err(not_json)?, charge))
    }

    fn infer_schema(&mut self, path: &str, creator: Waiter, file: Option<&str>) {
        let Some(json) = creator.json() else {
            let text = match file {
                Some(file) => format!(
                    "no schema for {path:?}: upload one as {file:?}, or send a schema or initial \
                     JSON"
                ),
                None => format!(
                    "no schema for {path:?}: it has no extension, so no .schemas/<extension>.json can be used; \
                     send a schema, a schema_path or initial JSON"
                ),
            };
            return self.creation_failed(path, creator, Refusal::new(ErrorCode::NotFound, text));
        };
        match MeshSchema::infer(json) {
            Ok(schema) => {
                let json = schema.to_json();
                self.begin_creation(path, creator, schema, json);
            }
            Err(error) => {
                // An error about the whole value has the empty pointer, and some errors already
                // have a hint.
                let error = error.to_string();
                let error = error.trim_start_matches(": ");
                let advice = if error.ends_with("send a schema") {
                    ""
                } else {
                    "; send a schema"
                };
                let text = format!("can't infer a schema from the initial JSON: {error}{advice}");
                self.creation_failed(path, creator, Refusal::invalid(text));
            }
        }
    }

    fn create_with(&mut self, path: &str, creator: Waiter, json: Value, source: &str) {
        match MeshSchema::from_json(&json) {
            Ok(schema) => self.begin_creation(path, creator, schema, json),
            Err(error) => self.creation_failed(
                path,
                creator,
                Refusal::invalid(format!("{source}: {error}")),
            ),
        }
    }
}

/// The extension of the last segment: `b` in `a.x/c.b`, and none if the only dot is the first
/// character.
fn extension(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let (stem, extension) = name.rsplit_once('.')?;
    (!stem.is_empty() && !extension.is_empty()).then_some(extension)
}
