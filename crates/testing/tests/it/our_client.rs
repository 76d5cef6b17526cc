//! Our client with answers that report that others have deleted the content of its edits.

use meshagent_client::simulation::SimDocument;
use meshagent_document::{MeshDocument, MeshSchema, Target};
use meshagent_protocol::{Content, DocPath};
use serde_json::{Value, json};

struct Server {
    document: MeshDocument,
    schema: Value,
}

impl Server {
    fn new() -> Self {
        let schema = MeshSchema::builtin("document").expect("the schema is built in");
        Self {
            schema: schema.to_json(),
            document: MeshDocument::new(schema, 99),
        }
    }

    fn begin(&self, client: &mut SimDocument) {
        let state = self.document.encode_state();
        let begun = client.begin(&Content::Empty, &self.schema, &state);
        begun.expect("the state is valid");
    }
}

fn append(client: &mut SimDocument, text: &str) {
    client.edit_with(|document| {
        let element = json!({ "body": { "text": text } });
        let mut id = || format!("id of {text}");
        let update = document.append_child(Target::Root, element, &mut id);
        update
            .expect("the element matches the schema")
            .into_iter()
            .collect()
    });
}

fn deleted(operations: u64) -> Content {
    Content::Json(json!({ "message": "…", "deleted": operations }))
}

/// The server sends the answer before the deletion.
#[test]
fn edit_is_kept_when_the_deletion_follows_the_answer() {
    let mut server = Server::new();
    let mut client = SimDocument::new(&DocPath::parse("ä").unwrap(), Vec::new(), 7).unwrap();
    server.begin(&mut client);
    append(&mut client, "eins 🌿");
    let sent = client.next_to_send().unwrap();
    server.document.apply_update(&sent.update).unwrap();
    let update = server.document.delete("id of eins 🌿");
    assert!(update.is_ok());

    let continues = client.answered(sent.number, deleted(3));
    assert!(!continues, "the client requests the full state");
    client.stream_ended();
    assert!(!client.is_fresh(), "the client keeps its edit");
    server.begin(&mut client);
    let again = client.next_to_send().unwrap();
    assert_eq!(again.update, sent.update);
    assert!(client.answered(again.number, deleted(3)));
    assert!(client.is_saved());
}

/// Another program has written under the client's id, and no deletion follows the answer.
#[test]
fn edit_that_only_the_client_shows_is_given_up() {
    let server = Server::new();
    let mut client = SimDocument::new(&DocPath::parse("ä").unwrap(), Vec::new(), 7).unwrap();
    server.begin(&mut client);
    append(&mut client, "漢字");
    for _ in 0..10 {
        let sent = client.next_to_send().unwrap();
        let continues = client.answered(sent.number, deleted(3));
        assert!(!continues);
        client.stream_ended();
        if client.is_fresh() {
            server.begin(&mut client);
            assert!(client.is_saved());
            assert_eq!(client.read(|document| document.root().child_count()), 0);
            return;
        }
        server.begin(&mut client);
    }
    panic!("the client still shows the edit");
}
