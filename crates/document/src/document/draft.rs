//! Checks a list of edits before any is applied, each against the state that the edits before it
//! will produce.

mod text;

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use self::text::DraftText;
use super::MeshDocument;
use super::edit::{Edit, EditError, Position, Target, TextPosition};
use crate::schema::{ElementType, ID_ATTRIBUTE, TEXT_TAG, Violation};

/// The document as it would be after the edits so far.
pub(super) struct Draft<'a> {
    document: &'a MeshDocument,
    created: HashMap<String, Created>,
    deleted: HashSet<String>,
    moved: HashMap<String, Target>,
    children: HashMap<Target, isize>,
    texts: HashMap<String, DraftText>,
    // Whether each text is edited at most once, so that positions can be checked without a copy.
    is_single: bool,
}

struct Created {
    tag: String,
    parent: Target,
    text: DraftText,
    children: isize,
    depth: usize,
}

impl<'a> Draft<'a> {
    pub(super) fn new(document: &'a MeshDocument) -> Self {
        Self {
            document,
            created: HashMap::new(),
            deleted: HashSet::new(),
            moved: HashMap::new(),
            children: HashMap::new(),
            texts: HashMap::new(),
            is_single: false,
        }
    }

    /// Checks the edits, and gives every new element an `$id`.
    pub(super) fn check(
        mut self,
        edits: &[Edit],
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<Vec<Edit>, EditError> {
        self.is_single = edits.len() == 1 && !matches!(edits[0], Edit::ApplyDelta { .. });
        let mut checked = Vec::with_capacity(edits.len());
        for edit in edits {
            if let Edit::ApplyDelta { id, delta } = edit {
                // Retained characters must exist, even if nothing is done to them.
                let length = self.text(id)?.units();
                super::delta::check_reach(delta, length)?;
                for edit in super::delta::edits(id, delta)? {
                    checked.push(self.check_one(&edit, next_id)?);
                }
                continue;
            }
            checked.push(self.check_one(edit, next_id)?);
        }
        Ok(checked)
    }

    fn check_one(
        &mut self,
        edit: &Edit,
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<Edit, EditError> {
        let mut edit = edit.clone();
        match &mut edit {
            Edit::Delete { id } => {
                let parent = self.parent(id)?;
                *self.children.entry(parent).or_default() -= 1;
                self.deleted.insert(id.clone());
            }
            Edit::Insert {
                parent,
                position,
                element,
            } => {
                let around = self.element_type(parent)?;
                let violations = self.document.schema.validate_child(around, element);
                if !violations.is_empty() {
                    return Err(EditError::Invalid(violations));
                }
                self.check_position(parent, position, None)?;
                self.create(parent.clone(), element, next_id)?;
                *self.children.entry(parent.clone()).or_default() += 1;
            }
            Edit::Move {
                id,
                parent,
                position,
            } => {
                let tag = self.tag(&Target::Id(id.clone()))?;
                let from = self.parent(id)?;
                let around = self.element_type(parent)?;
                let allowed = around.child_property();
                if !allowed.is_some_and(|children| children.allows(&tag)) {
                    let expected = format_args!("a permitted child of {:?}", around.tag());
                    let violation = Violation::new("", expected, format_args!("{tag:?}"));
                    return Err(EditError::Invalid(violation.into()));
                }
                let mut above = parent.clone();
                while let Target::Id(ancestor) = above {
                    if ancestor == *id {
                        return Err(EditError::Cycle(id.clone()));
                    }
                    above = self.parent(&ancestor)?;
                }
                // Descendants move to another depth with the element.
                let from_depth = self.depth(&Target::Id(id.clone()))?;
                let to_depth = self.depth(parent)? + 1;
                if to_depth > from_depth {
                    let height = self.document.height(id);
                    self.check_depth(to_depth + height)?;
                }
                *self.children.entry(from).or_default() -= 1;
                self.check_position(parent, position, Some(id))?;
                *self.children.entry(parent.clone()).or_default() += 1;
                self.moved.insert(id.clone(), parent.clone());
            }
            Edit::RemoveAttribute { target, name } => {
                self.check_attribute(target, name, None)?;
            }
            Edit::SetAttribute {
                target,
                name,
                value,
            } => self.check_attribute(target, name, Some(value))?,
            Edit::ApplyDelta { .. } => {}
            Edit::DeleteText { id, from, to } | Edit::FormatText { id, from, to, .. }
                if self.is_single =>
            {
                self.check_place(id, *from)?;
                self.check_place(id, *to)?;
                let place = |at| self.document.text_offset(id, at);
                if place(*from) > place(*to) {
                    return Err(reversed(*from, *to));
                }
            }
            Edit::DeleteText { id, from, to } => {
                self.text(id)?.delete(*from, *to)?;
            }
            Edit::FormatText { id, from, to, .. } => {
                self.text(id)?.check(*from, *to)?;
            }
            Edit::InsertText { id, at, .. } if self.is_single => self.check_place(id, *at)?,
            Edit::InsertText { id, at, text, .. } => {
                self.text(id)?.insert(*at, text)?;
            }
        }
        Ok(edit)
    }

    /// Records a new element with its descendants, and gives an `$id` to each that has none.
    fn create(
        &mut self,
        parent: Target,
        element: &mut Value,
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<(), EditError> {
        let depth = self.depth(&parent)?;
        let mut stack = vec![(parent, element, depth)];
        while let Some((parent, element, depth)) = stack.pop() {
            let depth = depth + 1;
            let only = element
                .as_object_mut()
                .and_then(|only| only.iter_mut().next());
            let Some((tag, Value::Object(content))) = only else {
                continue;
            };
            let given = content.get(ID_ATTRIBUTE).and_then(Value::as_str);
            let id = given.map_or_else(&mut *next_id, str::to_owned);
            content.insert(ID_ATTRIBUTE.to_owned(), id.clone().into());
            if self.exists(&id) {
                return Err(EditError::Duplicate(id));
            }
            let property = self
                .document
                .schema
                .element(tag)
                .and_then(ElementType::child_property);
            let children = property.and_then(|property| content.get_mut(property.name()));
            let children = children.and_then(Value::as_array_mut);
            let text = match &children {
                Some(children) if tag == TEXT_TAG => DraftText::new(&plain_text(children)),
                _ => DraftText::default(),
            };
            let count = children.as_ref().map_or(0, |children| children.len());
            let created = Created {
                tag: tag.clone(),
                parent,
                text,
                children: isize::try_from(count).unwrap_or(isize::MAX),
                depth,
            };
            // A text adds one level.
            self.check_depth(depth + usize::from(tag == TEXT_TAG))?;
            let limit = self.document.limits.elements;
            if self.document.element_count() + self.created.len() >= limit {
                let what = "the number of elements";
                return Err(EditError::TooLarge { what, limit });
            }
            if tag != TEXT_TAG {
                let children = children.into_iter().flatten().rev();
                stack.extend(children.map(|child| (Target::Id(id.clone()), child, depth)));
            }
            self.deleted.remove(&id);
            self.created.insert(id, created);
        }
        Ok(())
    }

    fn check_depth(&self, depth: usize) -> Result<(), EditError> {
        let limit = self.document.limits.depth;
        if depth > limit {
            let what = "the depth of elements";
            return Err(EditError::TooLarge { what, limit });
        }
        Ok(())
    }

    /// The depth of an element, with itself counted.
    fn depth(&self, target: &Target) -> Result<usize, EditError> {
        let Target::Id(id) = target else {
            return Ok(0);
        };
        if let Some(created) = self.created.get(id) {
            return Ok(created.depth);
        }
        if !self.moved.is_empty() {
            let mut depth = 1;
            let mut above = self.parent_of(id)?;
            while let Target::Id(ancestor) = above {
                depth += 1;
                above = self.parent_of(&ancestor)?;
            }
            return Ok(depth);
        }
        let index = self.document.index_of(target);
        let index = index.ok_or_else(|| EditError::NotFound(id.clone()))?;
        Ok(self.document.engine.node(index).depth as usize)
    }

    fn exists(&self, id: &str) -> bool {
        self.parent(id).is_ok()
    }

    /// The parent of an existing element.
    fn parent(&self, id: &str) -> Result<Target, EditError> {
        let parent = self.parent_of(id)?;
        if !self.deleted.is_empty() {
            let mut above = parent.clone();
            while let Target::Id(ancestor) = above {
                above = self.parent_of(&ancestor)?;
            }
        }
        Ok(parent)
    }

    fn parent_of(&self, id: &str) -> Result<Target, EditError> {
        let missing = || EditError::NotFound(id.to_owned());
        if self.deleted.contains(id) {
            return Err(missing());
        }
        if let Some(parent) = self.moved.get(id) {
            return Ok(parent.clone());
        }
        if let Some(created) = self.created.get(id) {
            return Ok(created.parent.clone());
        }
        let parent = self.document.node(id).and_then(|element| element.parent());
        let parent = parent.ok_or_else(missing)?;
        Ok(match parent.id() {
            Some(id) => Target::Id(id.to_owned()),
            None => Target::Root,
        })
    }

    fn tag(&self, target: &Target) -> Result<String, EditError> {
        let id = match target {
            Target::Root => return Ok(self.document.schema.root().tag().to_owned()),
            Target::Id(id) => id,
        };
        self.parent(id)?;
        if let Some(created) = self.created.get(id) {
            return Ok(created.tag.clone());
        }
        let element = self.document.node(id);
        element
            .map(|element| element.tag().to_owned())
            .ok_or_else(|| EditError::NotFound(id.clone()))
    }

    fn element_type(&self, target: &Target) -> Result<&'a ElementType, EditError> {
        let tag = self.tag(target)?;
        self.document.schema.element(&tag).ok_or_else(|| {
            let found = format_args!("{tag:?}");
            let violation = Violation::new("", "a tag of the schema", found);
            EditError::Invalid(violation.into())
        })
    }

    fn check_attribute(
        &self,
        target: &Target,
        name: &str,
        value: Option<&Value>,
    ) -> Result<(), EditError> {
        let element = self.element_type(target)?;
        let attributes = Map::from_iter([(name.to_owned(), value.cloned().unwrap_or_default())]);
        let property = element.value_property(name);
        let is_fine = match value {
            None => property.is_some(),
            Some(value) => property.is_some_and(|property| property.allows(value)),
        };
        if is_fine {
            return Ok(());
        }
        let violations = self
            .document
            .schema
            .validate_attributes(element, &attributes);
        Err(EditError::Invalid(violations))
    }

    fn check_position(
        &self,
        parent: &Target,
        position: &Position,
        moving: Option<&str>,
    ) -> Result<(), EditError> {
        match position {
            Position::First | Position::Last => Ok(()),
            Position::After(id) | Position::Before(id) => {
                let is_there = Some(id.as_str()) != moving && self.parent(id)? == *parent;
                is_there
                    .then_some(())
                    .ok_or_else(|| EditError::NotFound(id.clone()))
            }
            &Position::Index(position) => {
                let length = self.child_count(parent);
                if position > length {
                    return Err(EditError::Position { position, length });
                }
                Ok(())
            }
        }
    }

    fn child_count(&self, parent: &Target) -> usize {
        let before = match parent {
            Target::Id(id) if self.created.contains_key(id) => self.created[id].children,
            _ => {
                let index = self.document.index_of(parent);
                let count = index.map_or(0, |index| self.document.child_count(index));
                isize::try_from(count).unwrap_or(isize::MAX)
            }
        };
        let change = self.children.get(parent).copied().unwrap_or_default();
        usize::try_from(before.saturating_add(change)).unwrap_or(0)
    }

    /// Checks a position in a text that no earlier edit has changed.
    fn check_place(&self, id: &str, at: TextPosition) -> Result<(), EditError> {
        let not_text = || EditError::NotText(id.to_owned());
        if self.tag(&Target::Id(id.to_owned()))? != TEXT_TAG {
            return Err(not_text());
        }
        let text = self.document.node(id);
        let text = text.and_then(|element| self.document.text_in(element.index));
        let text = text.ok_or_else(not_text)?;
        let (units, scalars) = self.document.engine.text_length(text);
        let (position, length) = match at {
            TextPosition::Scalars(position) => (position, scalars),
            TextPosition::Utf16(position) => (position, units),
        };
        let is_place = match at {
            TextPosition::Scalars(position) => position <= scalars as usize,
            TextPosition::Utf16(position) => {
                let engine = &self.document.engine;
                u32::try_from(position).is_ok_and(|position| engine.is_place(text, position))
            }
        };
        let length = length as usize;
        is_place
            .then_some(())
            .ok_or(EditError::Position { position, length })
    }

    fn text(&mut self, id: &str) -> Result<&mut DraftText, EditError> {
        if self.tag(&Target::Id(id.to_owned()))? != TEXT_TAG {
            return Err(EditError::NotText(id.to_owned()));
        }
        if let Some(created) = self.created.get_mut(id) {
            return Ok(&mut created.text);
        }
        if !self.texts.contains_key(id) {
            let text = self.document.node(id).and_then(|element| element.text());
            let text = text.ok_or_else(|| EditError::NotText(id.to_owned()))?;
            self.texts
                .insert(id.to_owned(), DraftText::new(&text.to_plain()));
        }
        let text = self.texts.get_mut(id);
        text.ok_or_else(|| EditError::NotFound(id.to_owned()))
    }
}

fn plain_text(children: &[Value]) -> String {
    let delta = children
        .first()
        .and_then(|child| child.get(TEXT_TAG)?.get("delta")?.as_array());
    let runs = delta.into_iter().flatten();
    let runs = runs.filter_map(|run| run.get("insert")?.as_str());
    runs.collect()
}

fn reversed(from: TextPosition, to: TextPosition) -> EditError {
    let (TextPosition::Scalars(position) | TextPosition::Utf16(position)) = from;
    let (TextPosition::Scalars(length) | TextPosition::Utf16(length)) = to;
    EditError::Position { position, length }
}
