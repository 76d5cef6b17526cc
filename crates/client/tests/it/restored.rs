//! Replicas whose server was restored from an older copy.

use meshagent_client::{LostEdit, Replica};
use meshagent_document::{MeshDocument, MeshSchema, Target};
use serde_json::json;

fn document(client_id: u64) -> MeshDocument {
    MeshDocument::new(MeshSchema::builtin("document").unwrap(), client_id)
}

fn append(replica: &mut Replica, text: &str) {
    let element = json!({ "body": { "text": text } });
    replica
        .edit(|d| d.append_child(Target::Root, element))
        .unwrap();
}

fn texts(document: &MeshDocument) -> Vec<String> {
    let children = document.root().children();
    let texts = children.filter_map(|child| child.attribute("text"));
    texts
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

/// Sends everything, and acknowledges it.
fn send(replica: &mut Replica, server: &mut MeshDocument) {
    while let Some(next) = replica.next_to_send() {
        assert!(!server.apply_update(&next.update).unwrap().gap);
        replica.acknowledged(next.number);
    }
}

/// A replica with an acknowledged edit that the restored server lacks, with a refused edit, and
/// with one that waits. And the restored server.
fn refused() -> (Replica, MeshDocument) {
    let mut replica = Replica::new(document(1));
    let mut server = document(2);
    append(&mut replica, "früh");
    send(&mut replica, &mut server);
    let copy = server.encode_state();
    append(&mut replica, "spät 🌿");
    send(&mut replica, &mut server);
    append(&mut replica, "verweigert");
    let next = replica.next_to_send().unwrap();
    append(&mut replica, "danach 茶");
    assert!(!replica.refused(next.number));
    let mut restored = document(3);
    restored.apply_update(&copy).unwrap();
    (replica, restored)
}

fn start_over(replica: &mut Replica, server: &MeshDocument, client_id: u64) -> Vec<LostEdit> {
    let mut fresh = document(client_id);
    fresh.apply_update(&server.encode_state()).unwrap();
    replica.start_over(fresh)
}

#[test]
fn what_a_restored_server_lacks_is_sent_although_an_edit_was_refused() {
    let (mut replica, mut server) = refused();
    let lost = start_over(&mut replica, &server, 4);
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].changes[0]["inserted"]["body"]["text"], "verweigert");
    let expected = ["früh", "spät 🌿", "danach 茶"];
    assert_eq!(texts(replica.document()), expected);
    assert!(!replica.is_saved());
    send(&mut replica, &mut server);
    assert!(replica.is_saved());
    assert_eq!(texts(&server), expected);
}

#[test]
fn what_a_restored_server_does_not_take_again_is_lost_with_its_content() {
    let (mut replica, server) = refused();
    start_over(&mut replica, &server, 4);
    let fill = replica.next_to_send().unwrap();
    assert!(!replica.refused(fill.number));
    let lost = start_over(&mut replica, &server, 5);
    let mut told = document(6);
    told.apply_update(&server.encode_state()).unwrap();
    for edit in &lost {
        told.apply_update(&edit.update).unwrap();
    }
    assert_eq!(texts(&told), ["früh", "spät 🌿"]);
    assert_eq!(texts(replica.document()), ["früh", "danach 茶"]);
}

#[test]
fn what_waited_to_fill_a_gap_is_sent_although_the_stream_starts_over() {
    let (mut replica, mut server) = refused();
    start_over(&mut replica, &server, 4);
    // The connection breaks before the server has it, and the next stream starts over, too.
    replica.next_to_send().unwrap();
    assert!(start_over(&mut replica, &server, 5).is_empty());
    send(&mut replica, &mut server);
    assert_eq!(texts(&server), ["früh", "spät 🌿", "danach 茶"]);
}
