//! The cost of one edit, patch or event in a large document, compared with a small one.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context, Result};
use meshagent_bench::documents::{self, Shape};
use meshagent_bench::harness::{Effort, compare, per_operation, timed};
use meshagent_document::{Edit, MeshDocument, Position, Target};
use serde_json::json;

use crate::table::{Row, Section};

const GOAL: f64 = 3.0;

/// The number of elements of the small document.
const FEW: usize = 100;

/// The depth of a patch's pointer in a chain, the same in the small and the large document.
const POINTER_DEPTH: usize = 50;

/// The repetitions of an operation that is too short to be measured alone.
const LOOK_UPS: u32 = 500;

type Turn = fn(&mut Subject<'_>, Effort) -> Duration;

const OPERATIONS: [(&str, Turn, Option<f64>); 6] = [
    // A lookup is so short that most of it is cache misses, so it has no goal.
    ("find by `$id`", find, None),
    ("set an attribute", set_attribute, Some(GOAL)),
    ("insert at an index", insert_at_index, Some(GOAL)),
    ("patch: replace an attribute", patch_attribute, Some(GOAL)),
    (
        "patch: add a child, and remove it",
        patch_children,
        Some(GOAL),
    ),
    (
        "remote attribute, and its event",
        remote_attribute,
        Some(GOAL),
    ),
];

pub(crate) fn measure(effort: Effort, elements: usize) -> Result<Section> {
    let mut rows = Vec::new();
    for shape in [Shape::Wide, Shape::Chain] {
        let (many_state, few_state) = (shape.state(elements), shape.state(FEW));
        for (what, turn, goal) in OPERATIONS {
            // New documents for each operation: no operation pays for what another left behind.
            let mut many = Subject::new(shape, elements, &many_state);
            let mut few = Subject::new(shape, FEW, &few_state);
            turn(&mut many, Effort::TEST);
            turn(&mut few, Effort::TEST);
            let found = compare(
                effort,
                || turn(&mut many, effort),
                || turn(&mut few, effort),
            );
            many.check().with_context(|| format!("after {what}"))?;
            rows.push(Row::durations(
                format!("{}: {what}", shape.name()),
                found,
                goal,
            ));
        }
    }
    Ok(Section {
        title: "One operation in a large document and in a small one",
        columns: ["100,000", "100"],
        rows,
    })
}

/// A document, and a replica that sends updates to it.
struct Subject<'a> {
    shape: Shape,
    elements: usize,
    document: MeshDocument,
    state: &'a [u8],
    other: Option<MeshDocument>,
    /// The number of operations so far, so that no two operations write the same value.
    serial: u32,
}

impl<'a> Subject<'a> {
    fn new(shape: Shape, elements: usize, state: &'a [u8]) -> Self {
        Self {
            shape,
            elements,
            document: documents::open(7, state),
            state,
            other: None,
            serial: 0,
        }
    }

    /// Returns the number of the next element: the deepest one of a chain, or scattered ones.
    fn next_element(&mut self) -> usize {
        self.serial += 1;
        match self.shape {
            Shape::Chain => self.elements,
            Shape::Tree | Shape::Wide => self.serial as usize * 7_919 % self.elements + 1,
        }
    }

    /// Returns the pointer to the list of the next element, and its index there.
    fn next_pointer(&mut self) -> (String, usize) {
        let element = self.next_element();
        match self.shape {
            Shape::Chain => {
                let above = "/children/0/item".repeat(POINTER_DEPTH - 1);
                (format!("/doc{above}/children"), 0)
            }
            Shape::Tree | Shape::Wide => ("/doc/children".to_owned(), element - 1),
        }
    }

    fn check(&self) -> Result<()> {
        let count = self.document.element_count();
        anyhow::ensure!(
            count == self.elements,
            "the document has {count} elements, expected {}",
            self.elements
        );
        Ok(())
    }
}

fn find(subject: &mut Subject<'_>, effort: Effort) -> Duration {
    let turn = per_operation(effort, |_| {
        let ids: Vec<String> = (0..LOOK_UPS)
            .map(|_| documents::id(subject.next_element()))
            .collect();
        let look_up = || {
            for id in &ids {
                black_box(subject.document.node(id).expect("the element exists").tag());
            }
        };
        timed(look_up).0
    });
    turn / LOOK_UPS
}

fn set_attribute(subject: &mut Subject<'_>, effort: Effort) -> Duration {
    per_operation(effort, |_| {
        let id = documents::id(subject.next_element());
        let value = subject.serial.into();
        let edit = || {
            subject
                .document
                .set_attribute(Target::Id(id), "number", value)
        };
        let (time, update) = timed(edit);
        assert!(update.is_ok_and(|update| update.is_some()));
        time
    })
}

fn insert_at_index(subject: &mut Subject<'_>, effort: Effort) -> Duration {
    per_operation(effort, |_| {
        let element = subject.next_element();
        let id = format!("new {}", subject.serial);
        let (parent, index) = match subject.shape {
            Shape::Chain => (Target::Id(documents::id(element)), 0),
            Shape::Tree | Shape::Wide => (Target::Root, element),
        };
        let insert = Edit::Insert {
            parent,
            position: Position::Index(index),
            element: json!({"item": {"$id": &id, "name": "new"}}),
        };
        let (time, update) = timed(|| subject.document.edit(&[insert], &mut String::new));
        assert!(update.is_ok_and(|update| update.is_some()));
        subject.document.delete(&id).expect("it was inserted");
        time
    })
}

fn patch_attribute(subject: &mut Subject<'_>, effort: Effort) -> Duration {
    per_operation(effort, |_| {
        let (list, index) = subject.next_pointer();
        let path = format!("{list}/{index}/item/name");
        let patch = json!([{"op": "replace", "path": path, "value": subject.serial.to_string()}]);
        let (time, update) = timed(|| subject.document.apply_patch(&patch, &mut String::new));
        assert!(update.is_ok_and(|update| update.is_some()));
        time
    })
}

fn patch_children(subject: &mut Subject<'_>, effort: Effort) -> Duration {
    per_operation(effort, |_| {
        let (list, index) = subject.next_pointer();
        let path = format!("{list}/{index}");
        let add = json!([{"op": "add", "path": path, "value": {"item": {"name": "new"}}}]);
        let remove = json!([{"op": "remove", "path": path}]);
        let id = format!("new {}", subject.serial);
        let (time, updates) = timed(|| {
            let added = subject.document.apply_patch(&add, &mut || id.clone());
            (
                added,
                subject.document.apply_patch(&remove, &mut String::new),
            )
        });
        assert!(updates.0.is_ok() && updates.1.is_ok());
        time
    })
}

fn remote_attribute(subject: &mut Subject<'_>, effort: Effort) -> Duration {
    subject.document.watch(true);
    let state = subject.state;
    let mut other = subject
        .other
        .take()
        .unwrap_or_else(|| documents::open(8, state));
    let turn = per_operation(effort, |_| {
        let id = documents::id(subject.next_element());
        let value = subject.serial.into();
        let update = other
            .set_attribute(Target::Id(id), "number", value)
            .expect("the value matches the schema")
            .expect("the value is new");
        let (time, event) = timed(|| {
            subject
                .document
                .apply_update(&update)
                .expect("the update is valid");
            subject.document.poll_event()
        });
        assert!(event.is_some());
        time
    });
    subject.other = Some(other);
    turn
}
