//! One change to a tree, on a model: what replicas are told to do, and what has to come of it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::tree::Tree;

/// A change. Elements go by `$id`, of which the root has none; places in texts are Unicode scalar values.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Delete {
        id: String,
    },
    DeleteText {
        id: String,
        from: usize,
        to: usize,
    },
    FormatText {
        id: String,
        from: usize,
        to: usize,
        formats: BTreeMap<String, Value>,
    },
    Insert {
        parent: Option<String>,
        index: usize,
        element: Tree,
    },
    InsertText {
        id: String,
        at: usize,
        text: String,
        formats: Option<BTreeMap<String, Value>>,
    },
    /// Only our own replica can do it.
    Move {
        id: String,
        parent: Option<String>,
        index: usize,
    },
    Remove {
        id: Option<String>,
        name: String,
    },
    Set {
        id: Option<String>,
        name: String,
        value: Value,
    },
}

impl Change {
    /// Does it to the model. Formats are none of its business.
    pub(crate) fn apply(&self, tree: &mut Tree) -> Result<()> {
        match self {
            Self::Delete { id } => {
                tree.take(id)?;
            }
            Self::DeleteText { id, from, to } => {
                let plain = tree.find(Some(id))?.plain();
                let left = plain.chars().take(*from).chain(plain.chars().skip(*to));
                set_plain(tree, id, left.collect())?;
            }
            Self::FormatText { id, .. } => {
                tree.find(Some(id))?;
            }
            Self::Insert {
                parent,
                index,
                element,
            } => {
                let children = &mut tree.find_mut(parent.as_deref())?.children;
                children.insert(*index, element.clone());
            }
            Self::InsertText { id, at, text, .. } => {
                let plain = tree.find(Some(id))?.plain();
                let (before, after) = (plain.chars().take(*at), plain.chars().skip(*at));
                set_plain(tree, id, before.chain(text.chars()).chain(after).collect())?;
            }
            Self::Move { id, parent, index } => {
                let element = tree.take(id)?;
                let children = &mut tree.find_mut(parent.as_deref())?.children;
                children.insert(*index, element);
            }
            Self::Remove { id, name } => {
                let attributes = &mut tree.find_mut(id.as_deref())?.attributes;
                attributes.remove(name).context("it is there")?;
            }
            Self::Set { id, name, value } => {
                let attributes = &mut tree.find_mut(id.as_deref())?.attributes;
                attributes.insert(name.clone(), value.clone());
            }
        }
        Ok(())
    }
}

fn set_plain(tree: &mut Tree, id: &str, plain: String) -> Result<()> {
    tree.find_mut(Some(id))?.runs = vec![(plain, BTreeMap::new())];
    Ok(())
}
