//! The type of an attack, and the catalogue of all attacks.

use std::pin::Pin;

use anyhow::Result;

use crate::attacks::{calls, documents, edits, files, http, json, memory, messages, sockets};
use crate::stage::Stage;

/// The result of an attack in a few words: refused, accepted, or disconnected.
pub(crate) type AttackResult = Result<String>;

/// The future of a running attack.
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = AttackResult> + 'a>>;

/// One way to harm the server.
///
/// The function prepares its data, calls [`Stage::begin`], attacks, and returns the result. The
/// connections that it leaves open are closed when it returns.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    /// Whether the attack is part of the short form.
    pub(crate) in_short: bool,
    /// Bytes that the attack's documents may take in memory, in addition to the general bound.
    pub(crate) documents: u64,
    pub(crate) run: for<'a> fn(&'a Stage<'a>) -> Running<'a>,
}

impl Attack {
    pub(crate) const fn new(
        name: &'static str,
        description: &'static str,
        run: for<'a> fn(&'a Stage<'a>) -> Running<'a>,
    ) -> Self {
        Self {
            name,
            description,
            in_short: false,
            documents: 0,
            run,
        }
    }

    /// Adds the attack to the short form, which CI runs.
    pub(crate) const fn in_short(mut self) -> Self {
        self.in_short = true;
        self
    }

    /// Lets the attack's documents take this many megabytes.
    pub(crate) const fn with_documents(mut self, megabytes: u64) -> Self {
        self.documents = megabytes << 20;
        self
    }
}

/// Returns all attacks, in the order of the table.
pub(crate) fn catalogue() -> Vec<Attack> {
    [
        json::ATTACKS,
        edits::ATTACKS,
        documents::ATTACKS,
        memory::ATTACKS,
        messages::ATTACKS,
        files::ATTACKS,
        calls::ATTACKS,
        sockets::ATTACKS,
        http::ATTACKS,
    ]
    .into_iter()
    .flat_map(|attacks| attacks())
    .collect()
}
