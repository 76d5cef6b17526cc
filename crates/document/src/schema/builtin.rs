//! The schemas of well-known file extensions.
//!
//! Elements and attributes have the names that published agents use.

use super::{ChildProperty, ElementType, MeshSchema, SimpleValue, ValueProperty};

impl MeshSchema {
    /// Returns the schema of documents with this file extension (without the dot).
    pub fn builtin(extension: &str) -> Option<Self> {
        let (root, elements) = match extension {
            "document" => ("document", document()),
            "gallery" => ("gallery", gallery()),
            "presentation" => ("presentation", presentation()),
            "thread" => ("thread", thread()),
            "threadl" => ("thread_list", thread_list()),
            _ => return None,
        };
        Self::new(root, elements).ok()
    }
}

fn document() -> Vec<ElementType> {
    vec![
        element("document").property(ChildProperty::new("content", ["heading", "body", "file"])),
        strings("heading", &["text"]),
        strings("body", &["text"]),
        strings("file", &["name"]),
    ]
}

fn gallery() -> Vec<ElementType> {
    vec![
        element("gallery").property(ChildProperty::new("content", ["file"])),
        strings("file", &["path", "description"]),
    ]
}

fn presentation() -> Vec<ElementType> {
    vec![
        element("presentation").property(ChildProperty::new("slides", ["slide"])),
        strings("slide", &["title", "background"]).property(ChildProperty::new("lines", ["line"])),
        strings("line", &["line"]),
    ]
}

fn thread_list() -> Vec<ElementType> {
    vec![
        element("thread_list").property(ChildProperty::new("threads", ["thread"])),
        strings("thread", &["name", "path", "created_at", "modified_at"]),
    ]
}

fn thread() -> Vec<ElementType> {
    vec![
        strings("thread", &["name"])
            .property(ChildProperty::new("properties", ["members", "messages"]).ordered()),
        element("members").property(ChildProperty::new("items", ["member"])),
        strings("messages", &["external_thread_id"]).property(ChildProperty::new(
            "items",
            ["message", "exec", "ui", "reasoning", "event"],
        )),
        strings("member", &["name"]),
        strings("file", &["path"]),
        with_strings(
            with_numbers(strings("image", &["status"]), &["width", "height"]),
            &["id", "mime_type", "created_at", "created_by"],
        ),
        strings("reasoning", &["turn_id", "summary", "created_at"]),
        with_strings(
            with_numbers(
                strings(
                    "exec",
                    &[
                        "turn_id", "command", "result", "outcome", "stderr", "stdout",
                    ],
                ),
                &["exit_code"],
            ),
            &["pwd", "created_at"],
        ),
        with_strings(
            with_numbers(
                strings("ui", &["turn_id", "data", "renderer", "widget"]),
                &["width", "height"],
            ),
            &["created_at"],
        ),
        event(),
        strings("log", &["source", "text", "created_at"]),
        strings(
            "reaction",
            &[
                "user_name",
                "value",
                "target",
                "attachment_ref",
                "created_at",
            ],
        ),
        strings(
            "message",
            &[
                "id",
                "turn_id",
                "text",
                "created_at",
                "author_name",
                "role",
                "author_ref",
            ],
        )
        .property(ChildProperty::new(
            "attachments",
            ["file", "image", "reaction"],
        )),
    ]
}

fn event() -> ElementType {
    let event = strings(
        "event",
        &[
            "turn_id",
            "id",
            "source",
            "name",
            "kind",
            "state",
            "method",
            "item_id",
            "item_type",
            "path",
            "summary",
            "headline",
            "details",
            "preview",
        ],
    );
    let event = event.property(ChildProperty::new("logs", ["log"]));
    with_strings(event, &["data", "created_at", "updated_at"])
}

fn element(tag: &str) -> ElementType {
    ElementType::new(tag)
}

fn strings(tag: &str, names: &[&str]) -> ElementType {
    with_strings(element(tag), names)
}

fn with_strings(element: ElementType, names: &[&str]) -> ElementType {
    with(element, names, SimpleValue::String)
}

fn with_numbers(element: ElementType, names: &[&str]) -> ElementType {
    with(element, names, SimpleValue::Number)
}

fn with(element: ElementType, names: &[&str], value_type: SimpleValue) -> ElementType {
    names.iter().fold(element, |element, name| {
        element.property(ValueProperty::new(*name, value_type))
    })
}
