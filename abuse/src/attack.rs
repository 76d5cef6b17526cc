//! What an attack is, and the catalogue of all.

use std::pin::Pin;

use anyhow::Result;

use crate::attacks::{calls, documents, edits, files, http, json, messages, sockets};
use crate::stage::Stage;

/// What the attacker found out, in a few words: was it refused, accepted, cut off?
pub(crate) type Said = Result<String>;

/// An attack under way.
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Said> + 'a>>;

/// One way to hurt the server. It prepares what it needs, calls [`Stage::begin`], attacks, and says what became of it;
/// what it leaves open is closed when it returns.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// Whether it is part of the short form.
    pub(crate) in_short: bool,
    /// Bytes that the documents it works with may take in memory, beside the bound of all attacks.
    pub(crate) documents: u64,
    /// Why its delays are shown and not held against their goals.
    pub(crate) shown_only: Option<&'static str>,
    pub(crate) run: for<'a> fn(&'a Stage<'a>) -> Running<'a>,
}

impl Attack {
    pub(crate) const fn new(
        name: &'static str,
        what: &'static str,
        run: for<'a> fn(&'a Stage<'a>) -> Running<'a>,
    ) -> Self {
        Self {
            name,
            what,
            in_short: false,
            documents: 0,
            shown_only: None,
            run,
        }
    }

    /// Among the few that run with all other checks.
    pub(crate) const fn in_short(mut self) -> Self {
        self.in_short = true;
        self
    }

    /// Works with documents that may take so many megabytes.
    pub(crate) const fn with_documents(mut self, megabytes: u64) -> Self {
        self.documents = megabytes << 20;
        self
    }

    /// Its delays are not held against their goals yet.
    pub(crate) const fn shown_only(mut self, why: &'static str) -> Self {
        self.shown_only = Some(why);
        self
    }
}

/// All attacks, in the order of the table.
pub(crate) fn catalogue() -> Vec<Attack> {
    [
        json::ATTACKS,
        edits::ATTACKS,
        documents::ATTACKS,
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
