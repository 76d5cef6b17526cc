//! What a replica shows, in one form for all three, and the same tree as a model on which a change is
//! tried before a replica makes it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use meshagent_document::Element;
use serde_json::{Map, Value, json};

/// The tag of elements that hold a rich text.
pub(crate) const TEXT: &str = "text";

pub(crate) const ID: &str = "$id";

/// A text and its formats.
pub(crate) type Run = (String, BTreeMap<String, Value>);

/// An element with all below it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tree {
    pub(crate) tag: String,
    pub(crate) attributes: BTreeMap<String, Value>,
    pub(crate) children: Vec<Self>,
    pub(crate) runs: Vec<Run>,
}

/// A replica's whole document.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// The root's attributes; `None` if the replica can't tell.
    pub(crate) root: Option<BTreeMap<String, Value>>,
    /// Those of them that the root type `xml.attributes` holds; `None` if the replica can't tell.
    pub(crate) beside: Option<BTreeMap<String, Value>>,
    pub(crate) children: Vec<Tree>,
}

impl View {
    /// The form in which the scripts print it.
    pub(crate) fn from_json(json: &Value) -> Result<Self> {
        Ok(Self {
            root: json["root"].as_object().map(normal_map),
            beside: json["beside"].as_object().map(normal_map),
            children: trees(&json["children"])?,
        })
    }

    /// The first place where two documents differ, as far as both can tell.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        let roots = [(&self.root, &other.root), (&self.beside, &other.beside)];
        for (mine, theirs) in roots {
            if mine.is_some() && theirs.is_some() && mine != theirs {
                return Some(format!("the root has {mine:?}, {theirs:?}"));
            }
        }
        // Roots of different libraries compare by what is below them.
        let below = |view: &Self| Tree {
            children: view.children.clone(),
            ..Tree::default()
        };
        below(self).difference(&below(other))
    }

    /// The document as one element, the root.
    pub(crate) fn to_tree(&self) -> Tree {
        let root = self.root.as_ref().or(self.beside.as_ref());
        Tree {
            attributes: root.cloned().unwrap_or_default(),
            children: self.children.clone(),
            ..Tree::default()
        }
    }
}

impl Tree {
    /// An element of our own document.
    pub(crate) fn from_element(element: Element<'_>) -> Result<Self> {
        let delta = element.text().map(|text| text.to_delta());
        let runs = delta.as_ref().and_then(Value::as_array).into_iter();
        Ok(Self {
            tag: element.tag().to_owned(),
            attributes: normal_map(&element.attributes()),
            children: {
                let children = element.children();
                children.map(Self::from_element).collect::<Result<_>>()?
            },
            runs: normal_runs(
                runs.flatten()
                    .map(|run| (&run["insert"], &run["attributes"])),
            )?,
        })
    }

    /// The form that our `Edit::Insert` takes.
    pub(crate) fn to_element_json(&self) -> Value {
        let mut content: Map<String, Value> = self.attributes.clone().into_iter().collect();
        let children = if self.tag == TEXT {
            let runs = self.runs.iter();
            let delta =
                runs.map(|(text, formats)| json!({ "insert": text, "attributes": formats }));
            json!([{ TEXT: { "delta": delta.collect::<Value>() } }])
        } else {
            self.children.iter().map(Self::to_element_json).collect()
        };
        content.insert("children".into(), children);
        json!({ self.tag.as_str(): content })
    }

    /// The form that the scripts take.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "tag": self.tag,
            "attributes": self.attributes,
            "children": self.children.iter().map(Self::to_json).collect::<Value>(),
            "runs": self.runs,
        })
    }

    /// The `$id`; the root has none.
    pub(crate) fn id(&self) -> Option<&str> {
        self.attributes.get(ID).and_then(Value::as_str)
    }

    pub(crate) fn plain(&self) -> String {
        self.runs.iter().map(|(text, _)| text.as_str()).collect()
    }

    /// This element and all below it, in document order.
    pub(crate) fn all(&self) -> Vec<&Self> {
        let below = self.children.iter().flat_map(Self::all);
        std::iter::once(self).chain(below).collect()
    }

    fn difference(&self, other: &Self) -> Option<String> {
        let itself = |tree: &Self| Self {
            children: Vec::new(),
            ..tree.clone()
        };
        if itself(self) != itself(other) {
            return Some(format!("{:?}, {:?}", itself(self), itself(other)));
        }
        let mut pairs = self.children.iter().zip(&other.children);
        if let Some(found) = pairs.find_map(|(mine, theirs)| mine.difference(theirs)) {
            return Some(found);
        }
        let ids = |tree: &Self| {
            let ids = tree
                .children
                .iter()
                .map(|child| child.id().map(str::to_owned));
            ids.collect::<Vec<_>>()
        };
        (self.children.len() != other.children.len())
            .then(|| format!("below {:?}: {:?}, {:?}", self.id(), ids(self), ids(other)))
    }

    /// The child indices that lead to the element; `None` as an id is the root.
    pub(crate) fn path(&self, id: Option<&str>) -> Option<Vec<usize>> {
        if self.id() == id {
            return Some(Vec::new());
        }
        self.children.iter().enumerate().find_map(|(index, child)| {
            let below = child.path(id)?;
            Some(std::iter::once(index).chain(below).collect())
        })
    }

    pub(crate) fn find(&self, id: Option<&str>) -> Result<&Self> {
        let path = self.path(id).with_context(|| format!("no {id:?}"))?;
        Ok(path.iter().fold(self, |at, &index| &at.children[index]))
    }

    pub(crate) fn find_mut(&mut self, id: Option<&str>) -> Result<&mut Self> {
        let path = self.path(id).with_context(|| format!("no {id:?}"))?;
        let mut at = self;
        for index in path {
            at = &mut at.children[index];
        }
        Ok(at)
    }

    /// Takes an element out.
    pub(crate) fn take(&mut self, id: &str) -> Result<Self> {
        let mut path = self.path(Some(id)).with_context(|| format!("no {id:?}"))?;
        let last = path.pop().context("the root stays")?;
        let mut at = self;
        for index in path {
            at = &mut at.children[index];
        }
        Ok(at.children.remove(last))
    }

    /// Without formats and without the root's attributes: what one replica can tell of its own edit.
    pub(crate) fn outline(&self) -> Vec<Self> {
        let outline = |child: &Self| Self {
            runs: vec![(child.plain(), BTreeMap::new())],
            children: child.outline(),
            ..child.clone()
        };
        self.children.iter().map(outline).collect()
    }
}

fn trees(list: &Value) -> Result<Vec<Tree>> {
    let list = list.as_array().context("children are a list")?;
    list.iter()
        .map(|json| {
            let runs = json["runs"].as_array().context("runs are a list")?;
            Ok(Tree {
                tag: json["tag"].as_str().context("a tag is a text")?.to_owned(),
                attributes: normal_map(json["attributes"].as_object().context("attributes")?),
                children: trees(&json["children"])?,
                runs: normal_runs(runs.iter().map(|run| (&run[0], &run[1])))?,
            })
        })
        .collect()
}

/// Neighbours with equal formats are one run, and an empty run is none.
fn normal_runs<'a>(runs: impl Iterator<Item = (&'a Value, &'a Value)>) -> Result<Vec<Run>> {
    let mut normal: Vec<Run> = Vec::new();
    for (text, formats) in runs {
        let text = text.as_str().context("a run is a text")?;
        ensure!(!text.is_empty(), "a run is empty");
        let formats = formats.as_object().context("formats are an object")?;
        let formats = normal_map(formats);
        match normal.last_mut() {
            Some((last, same)) if *same == formats => last.push_str(text),
            _ => normal.push((text.to_owned(), formats)),
        }
    }
    Ok(normal)
}

fn normal_map(map: &Map<String, Value>) -> BTreeMap<String, Value> {
    map.iter()
        .map(|(key, value)| (key.clone(), normal(value)))
        .collect()
}

/// `3` and `3.0` are one number.
fn normal(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(normal).collect(),
        Value::Object(map) => json!(normal_map(map)),
        Value::Bool(_) | Value::Null | Value::String(_) => value.clone(),
    }
}
