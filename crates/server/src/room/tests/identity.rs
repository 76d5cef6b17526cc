//! Client ids: `empty` means that the sender's operations are in the document, even if others used
//! its id.

use meshagent_protocol::Content;
use serde_json::{Value, json};
use yrs::updates::decoder::Decode as _;
use yrs::{
    ReadTxn as _, StateVector, Text as _, Transact as _, Update, XmlFragment as _, XmlTextPrelim,
};

use super::{Client, Editor, World, code, count, text};

const VICTIM: u64 = 1;
const PATH: &str = "grüße.document";

/// An update with one struct without content: `length` collected operations from `clock` on.
fn collected(client: u64, clock: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![1, 1];
    unsigned(&mut bytes, client);
    unsigned(&mut bytes, clock);
    bytes.push(0);
    unsigned(&mut bytes, length);
    bytes.push(0);
    bytes
}

/// An update that deletes `length` operations from `clock` on, and does nothing else.
fn deletion(client: u64, clock: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0, 1];
    unsigned(&mut bytes, client);
    bytes.push(1);
    unsigned(&mut bytes, clock);
    unsigned(&mut bytes, length);
    bytes
}

fn unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}

impl Editor {
    pub(super) fn take(&self, update: &[u8]) {
        let mut transaction = self.doc.transact_mut();
        let update = Update::decode_v1(update).unwrap();
        transaction.apply_update(update).unwrap();
    }

    pub(super) fn state(&self) -> Vec<u8> {
        let transaction = self.doc.transact();
        transaction.encode_state_as_update_v1(&StateVector::default())
    }

    /// Inserts a text into the first element.
    fn put_text(&self, text: &str) -> Vec<u8> {
        let mut transaction = self.doc.transact_mut();
        let first = self.root.get(&transaction, 0).unwrap();
        let first = first.into_xml_element().unwrap();
        first.push_back(&mut transaction, XmlTextPrelim::new(text));
        transaction.encode_update_v1()
    }

    /// Types at the end of that text.
    fn type_on(&self, text: &str) -> Vec<u8> {
        let mut transaction = self.doc.transact_mut();
        let first = self.root.get(&transaction, 0).unwrap();
        let first = first.into_xml_element().unwrap();
        let node = first.get(&transaction, 0).unwrap();
        let node = node.into_xml_text().unwrap();
        node.push(&mut transaction, text);
        transaction.encode_update_v1()
    }

    fn clock(&self) -> u64 {
        let vector = self.doc.transact().state_vector();
        u64::from(vector.get(&self.doc.client_id()))
    }
}

/// A room in which a participant has written twice with its id, and another one is about to use
/// that id.
struct Scene {
    world: World,
    victim: Client,
    other: Client,
    editor: Editor,
}

impl Scene {
    fn new() -> Self {
        Self::of(json!({ "path": PATH }), "body")
    }

    /// Like [`Self::new`], in a document of elements with this tag.
    fn of(start: Value, tag: &str) -> Self {
        let mut world = World::new();
        let (victim, other) = (world.join("victim"), world.join("other"));
        world.open(&victim, "v", start);
        world.open(&other, "o", json!({ "path": PATH }));
        let mut scene = Self {
            world,
            victim,
            other,
            editor: Editor::new(VICTIM),
        };
        for id in ["first", "second"] {
            let update = scene.editor.append(tag, id);
            assert_eq!(scene.victim_sends(&update), Content::Empty);
        }
        scene
    }

    /// Like [`Self::new`], with a text in the first element.
    fn with_text(text: &str) -> Self {
        let golden = include_str!("../../../../../testdata/vectors/documents.json");
        let golden: Value = serde_json::from_str(golden).unwrap();
        let schema = &golden["about"]["schema"];
        let mut scene = Self::of(json!({ "path": PATH, "schema": schema }), "text");
        let update = scene.editor.put_text(text);
        assert_eq!(scene.victim_sends(&update), Content::Empty);
        scene
    }

    fn victim_sends(&mut self, update: &[u8]) -> Content {
        let id = self.world.update(&self.victim, "v", update);
        self.world.settle();
        self.victim.answer(id)
    }

    fn other_sends(&mut self, update: &[u8]) -> Content {
        let id = self.world.update(&self.other, "o", update);
        self.world.settle();
        self.other.answer(id)
    }

    fn victim_leaves(&mut self) {
        self.world.leave(&self.victim);
        self.world.settle();
    }

    fn victim_is_back(&mut self) {
        self.victim = self.world.join("victim");
        self.world.open(&self.victim, "v", json!({ "path": PATH }));
    }

    fn shows(&mut self, id: &str) -> usize {
        let late = self.world.join("late");
        let state = self.world.open(&late, "l", json!({ "path": PATH }));
        self.world.leave(&late);
        count(&[state], id)
    }

    /// The victim's next edit is visible, or its answer says that it is not.
    fn victim_is_not_deceived(&mut self, what: &str) {
        let update = self.editor.append("body", "grün 🌿");
        let answer = self.victim_sends(&update);
        if answer == Content::Empty {
            assert_eq!(self.shows("grün 🌿"), 1, "{what}: acknowledged and lost");
        }
    }

    /// Another replica with the victim's id and everything that the victim had.
    fn forger(&self) -> Editor {
        let forger = Editor::new(VICTIM);
        forger.take(&self.editor.state());
        forger
    }
}

/// The updates that a forger may send under the victim's id, by name.
fn forgeries(scene: &Scene) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let clock = scene.editor.clock();
    let forger = scene.forger();
    let item = forger.append("body", "forged");
    let (erased, erasing) = {
        let forger = scene.forger();
        (forger.append("body", "erased"), forger.remove(2))
    };
    vec![
        ("collected", vec![collected(VICTIM, clock, 12)]),
        ("item", vec![item]),
        ("deleted item", vec![erased, erasing]),
        ("deletion in advance", vec![deletion(VICTIM, clock, 12)]),
    ]
}

#[test]
fn nobody_writes_under_the_id_of_another_who_is_there() {
    for at in 0..4 {
        let mut scene = Scene::new();
        let (what, updates) = forgeries(&scene).swap_remove(at);
        let answer = scene.other_sends(&updates[0]);
        assert_eq!(code(&answer), Some(1005), "{what}: {answer:?}");
        assert!(text(&answer).contains("client id 1 "), "{answer:?}");
        for update in &updates[1..] {
            scene.other_sends(update);
        }
        let own = scene.editor.append("body", "third");
        assert_eq!(scene.victim_sends(&own), Content::Empty, "{what}");
        assert_eq!(scene.shows("third"), 1, "{what}");
        assert!(scene.world.metric("meshagent_update_conflicts_total") > 0);
        // The other participant continues with an id of its own.
        let own = Editor::new(2).append("body", "fourth");
        assert_eq!(scene.other_sends(&own), Content::Empty, "{what}");
    }
}

#[test]
fn what_was_forged_while_its_owner_was_away_deceives_nobody() {
    for at in 0..4 {
        for unloads in [false, true] {
            let mut scene = Scene::new();
            scene.victim_leaves();
            let (what, updates) = forgeries(&scene).swap_remove(at);
            for update in updates {
                scene.other_sends(&update);
            }
            if unloads {
                scene.world.leave(&scene.other);
                scene.world.unload();
            }
            scene.victim_is_back();
            scene.victim_is_not_deceived(&format!("{what}, unloads: {unloads}"));
        }
    }
}

/// The document's first element has a text. At its end, the victim and a forger write different
/// characters of the same length under the same operation ids.
#[test]
fn forged_text_of_the_same_length_is_not_taken_for_ones_own() {
    for (forged, own) in [
        ("🌿", "🍀"),
        ("a🌿b", "a🍀b"),
        ("漢字🌿", "漢字🌱"),
        ("ab", "aß"),
        ("\u{fffd}\u{fffd}", "🍀"),
        ("🌿", "\u{fffd}\u{fffd}"),
        ("🌿漢🌿x", "🌿漢🍀x"),
        // The same first half, and the same second half.
        ("\u{1f33f}", "\u{1f340}"),
        ("\u{1f340}", "\u{1fb40}"),
        ("漢字🌿🌿", "漢字🌿\u{fffd}\u{fffd}"),
    ] {
        let mut scene = Scene::with_text("grün 綠 🌲 ");
        scene.victim_leaves();
        let forger = scene.forger();
        assert_eq!(scene.other_sends(&forger.type_on(forged)), Content::Empty);
        scene.victim_is_back();
        let update = scene.editor.type_on(own);
        let answer = scene.victim_sends(&update);
        assert_ne!(answer, Content::Empty, "{forged:?} and {own:?}");
        // To the forger's state, the answer is that of an echo.
        assert_eq!(scene.other_sends(&forger.state()), Content::Empty);
    }
}

#[test]
fn a_conflict_names_the_operation_and_changes_nothing() {
    let mut scene = Scene::new();
    scene.victim_leaves();
    let forger = scene.forger();
    let forged = forger.append("body", "forged");
    assert_eq!(scene.other_sends(&forged), Content::Empty);
    scene.victim_is_back();
    let clock = scene.editor.clock();
    let update = scene.editor.append("body", "own");
    let commits = scene.world.store.commits();
    let answer = scene.victim_sends(&update);
    assert_eq!(code(&answer), Some(1005), "{answer:?}");
    let text = text(&answer);
    assert!(
        text.contains(&format!("operation {} of client 1", clock + 1)),
        "{text}"
    );
    assert_eq!(scene.world.store.commits(), commits);
    assert_eq!((scene.shows("forged"), scene.shows("own")), (1, 0));
    // A new replica can write.
    let fresh = Editor::new(7);
    let update = fresh.append("body", "again");
    assert_eq!(scene.victim_sends(&update), Content::Empty);
    assert_eq!(scene.shows("again"), 1);
}

#[test]
fn whole_states_in_other_bytes_are_echoes() {
    let mut scene = Scene::new();
    let (one, two) = (scene.editor.append("body", "🌿"), Editor::new(2));
    scene.victim_sends(&one);
    two.take(&scene.editor.state());
    let update = two.append("body", "two");
    scene.other_sends(&update);
    // The other participant deletes what the victim still shows, so their states have different
    // parts of it.
    let deletes = two.remove(0);
    scene.other_sends(&deletes);
    let echo = scene.editor.state();
    let answer = scene.victim_sends(&echo);
    let Content::Json(answer) = answer else {
        panic!("an echo of what was deleted in the meantime says so: {answer:?}");
    };
    assert_eq!(answer["deleted"], 2, "{answer}");
    scene.editor.take(&two.state());
    for state in [scene.editor.state(), two.state()] {
        assert_eq!(scene.other_sends(&state), Content::Empty);
        assert_eq!(scene.victim_sends(&state), Content::Empty);
    }
    assert_eq!(scene.world.metric("meshagent_update_conflicts_total"), 0);
}

#[test]
fn the_same_participant_may_go_on_over_another_connection() {
    let mut scene = Scene::new();
    // The server has not noticed yet that the first connection is gone.
    let again = scene.world.join("victim");
    scene.world.open(&again, "v", json!({ "path": PATH }));
    let update = scene.editor.append("body", "third");
    let id = scene.world.update(&again, "v", &update);
    scene.world.settle();
    assert_eq!(again.answer(id), Content::Empty);
    assert_eq!(scene.shows("third"), 1);
}

#[test]
fn an_offline_peers_operations_may_be_carried() {
    let mut scene = Scene::new();
    scene.victim_leaves();
    let (third, fourth) = (
        scene.editor.append("body", "third"),
        scene.editor.append("body", "fourth"),
    );
    assert_eq!(scene.other_sends(&third), Content::Empty);
    // The owner is back, and repeats what was relayed.
    scene.victim_is_back();
    let whole = scene.editor.state();
    assert_eq!(scene.victim_sends(&whole), Content::Empty);
    assert_eq!(scene.other_sends(&fourth), Content::Empty, "an echo");
    let fifth = scene.editor.append("body", "fifth");
    assert_eq!(scene.victim_sends(&fifth), Content::Empty);
    assert_eq!(scene.shows("fifth"), 1);
}

/// This is the case after a restore: the server lacks what all its clients have.
#[test]
fn what_the_server_lost_may_come_from_anybody() {
    let mut world = World::new();
    let (alice, bob) = (world.join("alice"), world.join("bob"));
    world.open(&alice, "a", json!({ "path": PATH }));
    world.open(&bob, "b", json!({ "path": PATH }));
    let (editor, other) = (Editor::new(1), Editor::new(2));
    for id in ["one", "two", "three"] {
        editor.append("body", id);
    }
    other.take(&editor.state());
    other.append("body", "bob's");
    // Alice continues to write; her updates stay pending.
    for id in ["four", "five", "six"] {
        let update = editor.append("body", id);
        let id = world.update(&alice, "a", &update);
        world.settle();
        assert!(matches!(alice.answer(id), Content::Json(_)));
    }
    let whole = world.update(&bob, "b", &other.state());
    world.settle();
    assert_eq!(bob.answer(whole), Content::Empty);
    let next = world.update(&alice, "a", &editor.append("body", "seven"));
    world.settle();
    assert_eq!(alice.answer(next), Content::Empty);
    let late = world.join("late");
    let state = world.open(&late, "l", json!({ "path": PATH }));
    for id in [
        "one", "two", "three", "bob's", "four", "five", "six", "seven",
    ] {
        assert_eq!(count(std::slice::from_ref(&state), id), 1, "{id}");
    }
    assert_eq!(world.metric("meshagent_update_conflicts_total"), 0);
}

#[test]
fn lengths_that_no_editor_makes_are_refused() {
    let mut scene = Scene::new();
    scene.victim_leaves();
    let long = 1 << 30;
    for (what, update) in [
        ("collected", collected(VICTIM, scene.editor.clock(), long)),
        ("deleted in advance", deletion(VICTIM, 0, long)),
        ("of somebody new", collected(9, 0, long)),
        ("far away", collected(9, long, 1)),
        ("beyond 31 bits", collected(9, (1 << 31) - 2, 12)),
        ("beyond 53 bits", collected((1 << 53) - 1, (1 << 53) - 1, 1)),
    ] {
        let answer = scene.other_sends(&update);
        assert_eq!(code(&answer), Some(1002), "{what}: {answer:?}");
    }
    let refused = "meshagent_updates_total{outcome=\"refused\"}";
    assert_eq!(scene.world.metric(refused), 6);
}

/// Like Yjs sends it: the author types one half of a character, then the other, and then sends the
/// whole state again.
#[test]
fn halves_of_characters_are_neither_deleted_nor_a_conflict() {
    let mut scene = Scene::with_text("綠 ");
    let in_memory = scene.forger();
    for _half in 0..2 {
        let update = scene.editor.type_on("\u{fffd}");
        assert_eq!(scene.victim_sends(&update), Content::Empty);
    }
    in_memory.type_on("😀");
    let answer = scene.victim_sends(&in_memory.state());
    let Content::Json(answer) = answer else {
        panic!("what is kept otherwise is told: {answer:?}");
    };
    assert_eq!(answer["halves"], 2, "{answer}");
    assert_eq!(answer.get("deleted"), None, "{answer}");
    for name in ["erased_operations", "update_conflicts"] {
        assert_eq!(scene.world.metric(&format!("meshagent_{name}_total")), 0);
    }
}
