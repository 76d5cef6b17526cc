//! The three replicas behind one interface: our own document in process, Yjs and pycrdt each in a process
//! of its own.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use meshagent_document::{
    Edit, MeshDocument, MeshSchema, Position, Target, TextPosition, UpdateKind, merge_updates,
};
use meshagent_testing::{Logs, Sdk, SdkClient, repository_root};
use serde_json::{Value, json};

use crate::change::Change;
use crate::tree::{Tree, View};

/// A change, and the document for which it was meant.
pub(crate) type Planned = (Tree, Change);

/// For each client, which of its operations are deleted: ranges without their ends.
pub(crate) type Deletions = BTreeMap<u64, Vec<(u64, u64)>>;

/// A replica. Updates are Yjs v1; those that a call returns are what the replica would send to others.
pub(crate) trait Replica {
    fn name(&self) -> &'static str;
    fn can_move(&self) -> bool;
    /// Whether a child that is inserted at index 0 comes first. yrs says nothing of what is behind it, so
    /// that it may land behind what authors with smaller ids wrote.
    fn puts_first(&self) -> bool;
    /// Whether a range of deletions works whatever is at its beginning. The yrs of pycrdt leaves out a
    /// range that begins in what it has collected already.
    fn deletes_ranges(&self) -> bool;
    fn reset(&mut self, client_id: u64) -> Result<()>;
    /// Makes these changes in one transaction.
    fn edit(&mut self, changes: &[Planned]) -> Result<Vec<Vec<u8>>>;
    fn apply(&mut self, update: &[u8]) -> Result<Vec<Vec<u8>>>;
    fn state_vector(&mut self) -> Result<Vec<u8>>;
    fn diff(&mut self, vector: &[u8]) -> Result<Vec<u8>>;
    fn state(&mut self) -> Result<Vec<u8>>;
    fn merge(&mut self, updates: &[Vec<u8>]) -> Result<Vec<u8>>;
    fn view(&mut self) -> Result<View>;
    /// What a new replica shows that gets just this.
    fn load(&mut self, update: &[u8]) -> Result<View>;
    fn undo(&mut self, redo: bool) -> Result<Vec<Vec<u8>>>;
}

/// Our own document, and one that gets only what the first one says that became visible, as readers of a
/// server do.
pub(crate) struct Ours {
    schema: MeshSchema,
    document: MeshDocument,
    follower: MeshDocument,
}

impl Ours {
    pub(crate) fn new() -> Result<Self> {
        let schema = golden_schema()?;
        Ok(Self {
            document: MeshDocument::new(schema.clone(), 1),
            follower: MeshDocument::new(schema.clone(), 1),
            schema,
        })
    }

    pub(crate) fn has_gap(&self) -> bool {
        self.document.has_gap()
    }

    /// Replaces the document by one that read what the first one would have stored.
    pub(crate) fn reload(&mut self) -> Result<()> {
        let client_id = self.document.client_id();
        let mut fresh = MeshDocument::new(self.schema.clone(), client_id);
        let applied = fresh.apply_update(&self.document.encode_state())?;
        ensure!(!applied.gap, "a whole state has a gap");
        if let Some(pending) = self.document.encode_pending() {
            let applied = fresh.apply_update(&pending)?;
            ensure!(applied.visible.is_none(), "what waited is visible at once");
        }
        ensure!(
            fresh.has_gap() == self.document.has_gap(),
            "what waits is another"
        );
        fresh.remember_edits(true, 0);
        self.document = fresh;
        Ok(())
    }

    /// Whether it says of all that it has that it has it, and shows its readers what it shows.
    pub(crate) fn check(&self, states: &[Vec<u8>]) -> Result<()> {
        ensure!(!self.document.has_gap(), "something still waits");
        for state in states {
            let kind = self.document.classify(state)?;
            ensure!(
                matches!(kind, UpdateKind::Contained | UpdateKind::Empty),
                "an equal state is {kind:?}"
            );
        }
        if let Some(difference) = view(&self.follower)?.difference(&view(&self.document)?) {
            bail!("a follower differs: {difference}");
        }
        Ok(())
    }

    fn shown(&mut self, update: Option<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        if let Some(update) = &update {
            let applied = self.follower.apply_update(update)?;
            ensure!(!applied.gap, "what became visible has a gap");
        }
        Ok(update.into_iter().collect())
    }
}

/// The schema of the golden documents.
pub(crate) fn golden_schema() -> Result<MeshSchema> {
    let path = repository_root().join("testdata/vectors/documents.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    Ok(MeshSchema::from_json(&golden["about"]["schema"])?)
}

impl Replica for Ours {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn can_move(&self) -> bool {
        true
    }

    fn puts_first(&self) -> bool {
        true
    }

    fn deletes_ranges(&self) -> bool {
        true
    }

    fn reset(&mut self, client_id: u64) -> Result<()> {
        self.document = MeshDocument::new(self.schema.clone(), client_id);
        self.document.remember_edits(true, 0);
        self.follower = MeshDocument::new(self.schema.clone(), 1);
        Ok(())
    }

    fn edit(&mut self, changes: &[Planned]) -> Result<Vec<Vec<u8>>> {
        let edits = changes.iter().map(|(before, change)| edit(before, change));
        let edits: Vec<Edit> = edits.collect::<Result<_>>()?;
        let update = self.document.edit(&edits, &mut String::new);
        self.shown(update.with_context(|| format!("{edits:?}"))?)
    }

    fn apply(&mut self, update: &[u8]) -> Result<Vec<Vec<u8>>> {
        let applied = self.document.apply_update(update)?;
        ensure!(
            !applied.gap || self.document.has_gap(),
            "a gap that is nowhere"
        );
        self.shown(applied.visible)
    }

    fn state_vector(&mut self) -> Result<Vec<u8>> {
        Ok(self.document.state_vector())
    }

    fn diff(&mut self, vector: &[u8]) -> Result<Vec<u8>> {
        Ok(self.document.encode_diff(vector)?)
    }

    fn state(&mut self) -> Result<Vec<u8>> {
        Ok(self.document.encode_state())
    }

    fn merge(&mut self, updates: &[Vec<u8>]) -> Result<Vec<u8>> {
        let updates: Vec<&[u8]> = updates.iter().map(Vec::as_slice).collect();
        Ok(merge_updates(&updates)?)
    }

    fn view(&mut self) -> Result<View> {
        view(&self.document)
    }

    fn load(&mut self, update: &[u8]) -> Result<View> {
        let mut fresh = MeshDocument::new(self.schema.clone(), 1);
        let applied = fresh.apply_update(update)?;
        ensure!(!applied.gap, "a whole state has a gap");
        view(&fresh)
    }

    fn undo(&mut self, redo: bool) -> Result<Vec<Vec<u8>>> {
        let update = if redo {
            self.document.redo()
        } else {
            self.document.undo()
        };
        self.shown(update)
    }
}

/// What our document shows.
pub(crate) fn view(document: &MeshDocument) -> Result<View> {
    let root = Tree::from_element(document.root())?;
    Ok(View {
        root: Some(root.attributes),
        beside: None,
        children: root.children,
    })
}

/// The change as an edit, which says the same place now in this way, now in that.
pub(crate) fn edit(before: &Tree, change: &Change) -> Result<Edit> {
    let target = |id: &Option<String>| id.clone().map_or(Target::Root, Target::Id);
    let position = |parent: &Option<String>, index: usize, moving: Option<&str>| {
        let children = before.find(parent.as_deref())?.children.iter();
        // An element has no id after Yjs has removed the attribute. Its place has only a number.
        let ids: Vec<Option<&str>> = children
            .map(Tree::id)
            .filter(|&id| id.is_none() || id != moving)
            .collect();
        let neighbour = |at: Option<usize>| ids.get(at?).copied().flatten().map(str::to_owned);
        let by_index = Position::Index(index);
        Ok::<_, anyhow::Error>(match (index, (index + ids.len()) % 3) {
            (_, 0) => by_index,
            (0, 1) => Position::First,
            (_, 1) => neighbour(index.checked_sub(1)).map_or(by_index, Position::After),
            _ if index == ids.len() => Position::Last,
            _ => neighbour(Some(index)).map_or(by_index, Position::Before),
        })
    };
    let place = |id: &str, scalars: usize| {
        let plain = before.find(Some(id))?.plain();
        Ok::<_, anyhow::Error>(if scalars.is_multiple_of(2) {
            TextPosition::Scalars(scalars)
        } else {
            TextPosition::Utf16(Unit::Utf16.offset(&plain, scalars))
        })
    };
    let map = |formats: &BTreeMap<String, Value>| formats.clone().into_iter().collect();
    Ok(match change {
        Change::Delete { id } => Edit::Delete { id: id.clone() },
        Change::DeleteText { id, from, to } => Edit::DeleteText {
            id: id.clone(),
            from: place(id, *from)?,
            to: place(id, *to)?,
        },
        Change::FormatText {
            id,
            from,
            to,
            formats,
        } => Edit::FormatText {
            id: id.clone(),
            from: place(id, *from)?,
            to: place(id, *to)?,
            attributes: map(formats),
        },
        Change::Insert {
            parent,
            index,
            element,
        } => Edit::Insert {
            parent: target(parent),
            position: position(parent, *index, None)?,
            element: element.to_element_json(),
        },
        Change::InsertText {
            id,
            at,
            text,
            formats,
        } => Edit::InsertText {
            id: id.clone(),
            at: place(id, *at)?,
            text: text.clone(),
            attributes: formats.as_ref().map(map),
        },
        Change::Move { id, parent, index } => Edit::Move {
            id: id.clone(),
            parent: target(parent),
            position: position(parent, *index, Some(id))?,
        },
        Change::Remove { id, name } => Edit::RemoveAttribute {
            target: target(id),
            name: name.clone(),
        },
        Change::Set { id, name, value } => Edit::SetAttribute {
            target: target(id),
            name: name.clone(),
            value: value.clone(),
        },
    })
}

/// How a library counts places in a text.
#[derive(Clone, Copy, Debug)]
enum Unit {
    Utf16,
    Utf8,
}

impl Unit {
    fn offset(self, text: &str, scalars: usize) -> usize {
        let before = text.chars().take(scalars);
        match self {
            Self::Utf16 => before.map(char::len_utf16).sum(),
            Self::Utf8 => before.map(char::len_utf8).sum(),
        }
    }
}

/// A replica in another process, which a script of ours drives.
pub(crate) struct Foreign {
    name: &'static str,
    unit: Unit,
    client: SdkClient,
}

impl Foreign {
    pub(crate) fn yjs(sdk: &Sdk, logs: &Logs) -> Result<Self> {
        let mut command = sdk.command("node");
        command.arg(repository_root().join("interop/node/replica.cjs"));
        Ok(Self {
            name: "yjs",
            unit: Unit::Utf16,
            client: SdkClient::start(command, logs, "yjs")?,
        })
    }

    pub(crate) fn pycrdt(sdk: &Sdk, logs: &Logs) -> Result<Self> {
        let mut command = sdk.command(sdk.python());
        command.arg(repository_root().join("interop/python/replica.py"));
        Ok(Self {
            name: "pycrdt",
            unit: Unit::Utf8,
            client: SdkClient::start(command, logs, "pycrdt")?,
        })
    }

    /// What an update deletes; only Yjs knows.
    pub(crate) fn deletions(&mut self, update: &[u8]) -> Result<Deletions> {
        let arguments = json!({ "update": encode(update) });
        let reply = self.client.call("deletions", &arguments)?;
        Ok(serde_json::from_value(reply)?)
    }

    /// Makes changes that are told as the scripts take them, with places that no `Change` can name.
    pub(crate) fn edit_by_units(&mut self, changes: &Value) -> Result<Vec<Vec<u8>>> {
        self.updates("edit", &json!({ "changes": changes }))
    }

    fn is_yrs(&self) -> bool {
        self.name == "pycrdt"
    }

    fn updates(&mut self, op: &str, arguments: &Value) -> Result<Vec<Vec<u8>>> {
        let reply = self.client.call(op, arguments)?;
        let list = reply.as_array().context("a list of updates")?;
        list.iter().map(decode).collect()
    }

    fn bytes(&mut self, op: &str, arguments: &Value) -> Result<Vec<u8>> {
        decode(&self.client.call(op, arguments)?)
    }

    fn change(&self, before: &Tree, change: &Change) -> Result<Value> {
        let path = |id: Option<&str>| before.path(id).context("an element that is there");
        let place = |id: &str, scalars: usize| {
            let plain = before.find(Some(id))?.plain();
            Ok::<_, anyhow::Error>(self.unit.offset(&plain, scalars))
        };
        Ok(match change {
            Change::Delete { id } => json!({ "do": "delete", "path": path(Some(id))? }),
            Change::DeleteText { id, from, to } => json!({
                "do": "delete_text", "path": path(Some(id))?,
                "from": place(id, *from)?, "to": place(id, *to)?,
            }),
            Change::FormatText {
                id,
                from,
                to,
                formats,
            } => json!({
                "do": "format_text", "path": path(Some(id))?,
                "from": place(id, *from)?, "to": place(id, *to)?, "attributes": formats,
            }),
            Change::Insert {
                parent,
                index,
                element,
            } => json!({
                "do": "insert", "path": path(parent.as_deref())?, "index": index,
                "element": element.to_json(),
            }),
            Change::InsertText {
                id,
                at,
                text,
                formats,
            } => json!({
                "do": "insert_text", "path": path(Some(id))?, "at": place(id, *at)?, "text": text,
                "attributes": formats,
            }),
            Change::Move { .. } => bail!("{} has no moves", self.name),
            Change::Remove { id, name } => {
                json!({ "do": "remove", "path": path(id.as_deref())?, "name": name })
            }
            Change::Set { id, name, value } => {
                json!({ "do": "set", "path": path(id.as_deref())?, "name": name, "value": value })
            }
        })
    }
}

impl Replica for Foreign {
    fn name(&self) -> &'static str {
        self.name
    }

    fn can_move(&self) -> bool {
        false
    }

    fn puts_first(&self) -> bool {
        !self.is_yrs()
    }

    fn deletes_ranges(&self) -> bool {
        !self.is_yrs()
    }

    fn reset(&mut self, client_id: u64) -> Result<()> {
        self.client.call("reset", &json!({ "client": client_id }))?;
        Ok(())
    }

    fn edit(&mut self, changes: &[Planned]) -> Result<Vec<Vec<u8>>> {
        let changes = changes.iter();
        let changes = changes.map(|(before, change)| self.change(before, change));
        let changes: Value = changes.collect::<Result<_>>()?;
        self.updates("edit", &json!({ "changes": changes }))
    }

    fn apply(&mut self, update: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.updates("apply", &json!({ "update": encode(update) }))
    }

    fn state_vector(&mut self) -> Result<Vec<u8>> {
        self.bytes("state_vector", &json!({}))
    }

    fn diff(&mut self, vector: &[u8]) -> Result<Vec<u8>> {
        self.bytes("diff", &json!({ "vector": encode(vector) }))
    }

    fn state(&mut self) -> Result<Vec<u8>> {
        self.bytes("state", &json!({}))
    }

    fn merge(&mut self, updates: &[Vec<u8>]) -> Result<Vec<u8>> {
        let updates: Value = updates.iter().map(|update| encode(update)).collect();
        self.bytes("merge", &json!({ "updates": updates }))
    }

    fn view(&mut self) -> Result<View> {
        View::from_json(&self.client.call("view", &json!({}))?)
    }

    fn load(&mut self, update: &[u8]) -> Result<View> {
        let arguments = json!({ "update": encode(update) });
        View::from_json(&self.client.call("load", &arguments)?)
    }

    fn undo(&mut self, _redo: bool) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }
}

fn encode(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

fn decode(value: &Value) -> Result<Vec<u8>> {
    let text = value.as_str().context("base64 text")?;
    Ok(BASE64_STANDARD.decode(text)?)
}
