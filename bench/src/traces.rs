//! Real editing histories as updates; yrs makes each on its author's replica.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use yrs::{
    Doc, GetString, Text, Transact, WriteTxn, Xml, XmlElementPrelim, XmlFragment, XmlTextPrelim,
    XmlTextRef,
};

use crate::engine;

/// The `$id` of the element that holds the text.
pub const TEXT_ID: &str = "t";

/// A history: the initial document, and one update for each step.
#[derive(Debug)]
pub struct Trace {
    /// The state of the initial document, with an empty text.
    pub start: Vec<u8>,
    /// The updates of all steps.
    pub updates: Vec<Vec<u8>>,
    /// The final text.
    pub end: String,
}

/// Reads a history of one author, with one update per character.
///
/// # Errors
/// If `testdata/traces` has no such file, or the file is not valid.
pub fn sequential(name: &str, steps: usize) -> Result<Trace> {
    let trace = read(name)?;
    let start = start();
    let author = Author::new(2, 0, &start);
    let patches = list(&trace["txns"])?.iter();
    let patches = patches.flat_map(|one| one["patches"].as_array().into_iter().flatten());
    let mut updates = Vec::new();
    for patch in patches.take(steps) {
        let mut transaction = author.doc.transact_mut();
        edit(&author.text, &mut transaction, patch)?;
        updates.push(transaction.encode_update_v1());
    }
    let end = author.text();
    if updates.len() < steps {
        ensure!(
            trace["endContent"].as_str() == Some(&end),
            "{name} ends otherwise"
        );
    }
    Ok(Trace {
        start,
        updates,
        end,
    })
}

/// Reads a history of several concurrent authors, with one update per transaction.
///
/// # Errors
/// If `testdata/traces` has no such file, or the file is not valid.
pub fn concurrent(name: &str) -> Result<Trace> {
    let trace = read(name)?;
    let transactions = list(&trace["txns"])?;
    let start = start();
    let mut authors = Vec::new();
    let agents = trace["numAgents"].as_u64();
    for agent in 0..agents.context("the trace has no number \"numAgents\"")? {
        authors.push(Author::new(agent + 2, transactions.len(), &start));
    }
    let mut updates: Vec<Vec<u8>> = Vec::with_capacity(transactions.len());
    for (index, one) in transactions.iter().enumerate() {
        let agent = one["agent"].as_u64();
        let agent = agent.context("a transaction has no number \"agent\"")?;
        let author = authors
            .get_mut(usize::try_from(agent)?)
            .with_context(|| format!("a transaction has the unknown agent {agent}"))?;
        for missing in ancestors(transactions, one, &author.seen)? {
            engine::apply(&author.doc, &updates[missing]);
            author.seen[missing] = true;
        }
        let mut transaction = author.doc.transact_mut();
        for patch in list(&one["patches"])? {
            edit(&author.text, &mut transaction, patch)?;
        }
        updates.push(transaction.encode_update_v1());
        author.seen[index] = true;
    }
    let reader = Author::new(1_000, 0, &start);
    for update in &updates {
        engine::apply(&reader.doc, update);
    }
    let end = reader.text();
    ensure!(
        trace["endContent"].as_str() == Some(&end),
        "{name} ends otherwise"
    );
    Ok(Trace {
        start,
        updates,
        end,
    })
}

/// An author's replica, with the transactions that it has seen.
struct Author {
    doc: Doc,
    text: XmlTextRef,
    seen: Vec<bool>,
}

impl Author {
    fn new(client_id: u64, transactions: usize, start: &[u8]) -> Self {
        let doc = engine::doc(client_id);
        engine::apply(&doc, start);
        let root = doc.get_or_insert_xml_fragment("xml");
        let transaction = doc.transact();
        let element = root.get(&transaction, 0);
        let element = element.and_then(yrs::XmlOut::into_xml_element);
        let text = element.and_then(|element| element.get(&transaction, 0));
        let text = text.and_then(yrs::XmlOut::into_xml_text);
        let text = text.expect("the start has a text");
        drop(transaction);
        let seen = vec![false; transactions];
        Self { doc, text, seen }
    }

    fn text(&self) -> String {
        self.text.get_string(&self.doc.transact())
    }
}

fn start() -> Vec<u8> {
    let doc = engine::doc(1);
    let mut transaction = doc.transact_mut();
    let root = transaction.get_or_insert_xml_fragment("xml");
    let element = root.push_back(&mut transaction, XmlElementPrelim::empty("text"));
    element.insert_attribute(&mut transaction, "$id", TEXT_ID);
    element.push_back(&mut transaction, XmlTextPrelim::new(""));
    transaction.encode_update_v1()
}

/// Applies a patch `[position, deleted, inserted]`, in characters of one UTF-16 unit each.
fn edit(text: &XmlTextRef, transaction: &mut yrs::TransactionMut<'_>, patch: &Value) -> Result<()> {
    let number = |index: usize| -> Result<u32> {
        let number = patch[index]
            .as_u64()
            .with_context(|| format!("expected a patch with two numbers, found {patch}"))?;
        Ok(u32::try_from(number)?)
    };
    let (at, deleted) = (number(0)?, number(1)?);
    let inserted = patch[2]
        .as_str()
        .with_context(|| format!("expected a patch with a text, found {patch}"))?;
    if deleted > 0 {
        text.remove_range(transaction, at, deleted);
    }
    if !inserted.is_empty() {
        text.insert(transaction, at, inserted);
    }
    Ok(())
}

/// Returns all unseen transactions that a transaction builds on, in order.
fn ancestors(transactions: &[Value], of: &Value, seen: &[bool]) -> Result<Vec<usize>> {
    let parents = |one: &Value| -> Result<Vec<usize>> {
        let parents = list(&one["parents"])?.iter();
        let parents = parents.map(|index| index.as_u64().context("a parent is not a number"));
        parents.map(|index| Ok(usize::try_from(index?)?)).collect()
    };
    let mut found = BTreeSet::new();
    let mut stack = parents(of)?;
    while let Some(parent) = stack.pop() {
        if !seen[parent] && found.insert(parent) {
            stack.extend(parents(&transactions[parent])?);
        }
    }
    Ok(found.into_iter().collect())
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value
        .as_array()
        .with_context(|| format!("expected a list in the trace, found {value}"))
}

fn read(name: &str) -> Result<Value> {
    let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/traces");
    let path = traces.join(format!("{name}.json.gz"));
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut json = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut json)?;
    Ok(serde_json::from_str(&json)?)
}
