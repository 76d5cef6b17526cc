//! The reference: yrs alone, with the options under which it holds the same documents.

use yrs::updates::decoder::Decode;
use yrs::{
    ClientID, Doc, OffsetKind, Options, ReadTxn, StateVector, Transact, Update, Xml, XmlFragment,
    XmlOut,
};

/// Creates an empty document of yrs.
pub fn doc(client_id: u64) -> Doc {
    let mut options = Options::with_client_id(ClientID::new(client_id));
    options.offset_kind = OffsetKind::Utf16;
    Doc::with_options(options)
}

/// Decodes and applies one update, as one transaction.
///
/// # Panics
/// If the update is malformed: all updates here are our own.
pub fn apply(doc: &Doc, update: &[u8]) {
    let update = Update::decode_v1(update).expect("the update is valid");
    let applied = doc.transact_mut().apply_update(update);
    applied.expect("the update is valid");
}

/// Encodes a document's full state as one update.
pub fn encode_state(doc: &Doc) -> Vec<u8> {
    doc.transact().encode_diff_v1(&StateVector::default())
}

/// Walks over all elements, and returns the total bytes of their tags and `$id`s.
pub fn walk(doc: &Doc) -> usize {
    let root = doc.get_or_insert_xml_fragment("xml");
    let transaction = doc.transact();
    let mut seen = 0;
    for node in root.successors(&transaction) {
        if let XmlOut::Element(element) = node {
            seen += element.tag().len();
            let id = element.get_attribute(&transaction, "$id");
            if let Some(yrs::Out::Any(yrs::Any::String(id))) = id {
                seen += id.len();
            }
        }
    }
    seen
}
