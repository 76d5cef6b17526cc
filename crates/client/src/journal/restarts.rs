//! Programs that end anywhere and begin again from their journal, beside a server that is lost, comes back and refuses.
//!
//! Each seed is one run. `JOURNAL_SEEDS=3000 cargo test -p meshagent-client restarts` runs as many; `JOURNAL_FROM=17
//! JOURNAL_SEEDS=1` repeats one.

use std::collections::{BTreeSet, VecDeque};
use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;

use meshagent_document::{MeshDocument, MeshSchema, Target, UpdateKind};
use serde_json::json;

use super::{Journal, Pending, RoomKey};
use crate::replica::Replica;

const STEPS: u64 = 120;

#[test]
fn no_edit_is_lost_wherever_a_program_ends() {
    let setting = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let (from, seeds) = (setting("JOURNAL_FROM", 0), setting("JOURNAL_SEEDS", 40));
    let mut seen = Seen::default();
    for seed in from..from + seeds {
        let directory = tempfile::tempdir().unwrap();
        let mut run = Run::new(seed, directory.path());
        for _ in 0..STEPS {
            run.step(&mut seen);
        }
        run.end();
    }
    // A run in which nothing happens shows nothing.
    if seeds >= 40 {
        let Seen {
            restarts,
            torn,
            refusals,
            gaps,
        } = seen;
        assert!(
            restarts > 50 && torn > 50 && refusals > 50 && gaps > 10,
            "{seen:?}"
        );
    }
}

#[derive(Debug, Default)]
struct Seen {
    restarts: u64,
    torn: u64,
    refusals: u64,
    gaps: u64,
}

/// What the server says to an update.
enum Answer {
    Stored,
    /// It lacks what comes before; it has this.
    Gap(Vec<u8>),
    Refused,
}

struct Run<'a> {
    seed: u64,
    random: Random,
    directory: &'a Path,
    server: MeshDocument,
    /// What others have edited, who are always up to date.
    other: MeshDocument,
    replica: Replica,
    journal: Option<Journal>,
    pending: Pending,
    answers: VecDeque<(u64, Answer)>,
    is_refused: bool,
    names: u64,
    clients: u64,
    /// What was inserted by an edit that had returned, and neither deleted nor refused since.
    promised: BTreeSet<String>,
}

impl<'a> Run<'a> {
    fn new(seed: u64, directory: &'a Path) -> Self {
        let document = |client| MeshDocument::new(schema(), client);
        let (journal, _) = open(directory, 3);
        let mut run = Self {
            seed,
            random: Random(seed),
            directory,
            server: document(1),
            other: document(2),
            replica: Replica::new(document(3)),
            journal: Some(journal),
            pending: pending(),
            answers: VecDeque::new(),
            is_refused: false,
            names: 0,
            clients: 3,
            promised: BTreeSet::new(),
        };
        run.pending.start_over();
        run.write();
        run
    }

    fn step(&mut self, seen: &mut Seen) {
        match self.random.below(20) {
            0..=5 => self.edit(),
            6 => self.delete(),
            7 => self.edit_elsewhere(),
            8 => self.receive(),
            9..=12 => self.send(seen),
            13..=16 => self.answer(),
            17 => self.reconnect(),
            18 => {
                self.restart();
                seen.restarts += 1;
            }
            _ => {
                self.end_within_an_edit();
                seen.torn += 1;
            }
        }
    }

    /// Writes what is to be written.
    fn write(&mut self) {
        if let Some(batch) = self.pending.take(&self.replica) {
            let journal = self.journal.as_mut().expect("the program runs");
            journal.write(&batch).unwrap();
            self.pending.wrote(&batch);
        }
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("name-{}", self.names)
    }

    fn edit(&mut self) {
        let name = self.name();
        self.replica
            .edit_with(|document| vec![append(document, &name)]);
        self.write();
        self.promised.insert(name);
    }

    fn delete(&mut self) {
        let names = names(self.replica.document());
        let Some(at) = self.random.below(names.len() as u64 + 1).checked_sub(1) else {
            return;
        };
        let name = names.into_iter().nth(usize::try_from(at).unwrap()).unwrap();
        self.replica
            .edit_with(|document| document.delete(&name).unwrap().into_iter().collect());
        self.write();
        self.promised.remove(&name);
    }

    fn edit_elsewhere(&mut self) {
        let state = self.server.encode_state();
        self.other.apply_update(&state).unwrap();
        let name = self.name();
        let update = append(&mut self.other, &name);
        self.server.apply_update(&update).unwrap();
    }

    /// Takes up what others have edited.
    fn receive(&mut self) {
        let vector = self.replica.document().state_vector();
        let update = self.server.encode_diff(&vector).unwrap();
        self.replica.received(&update).unwrap();
        self.pending.receive(&update);
        self.write();
    }

    fn send(&mut self, seen: &mut Seen) {
        // After a refusal the stream is over.
        if self.is_refused {
            return;
        }
        let Some(next) = self.replica.next_to_send() else {
            return;
        };
        let answer = match self.server.classify(&next.update).unwrap() {
            UpdateKind::New if self.random.below(8) == 0 => {
                self.is_refused = true;
                seen.refusals += 1;
                Answer::Refused
            }
            // One that was lost on its way: the server is told of what comes after it only.
            UpdateKind::New if self.random.below(16) == 0 => {
                seen.gaps += 1;
                Answer::Gap(self.server.state_vector())
            }
            UpdateKind::Gap => {
                seen.gaps += 1;
                self.server.apply_update(&next.update).unwrap();
                Answer::Gap(self.server.state_vector())
            }
            _ => {
                self.server.apply_update(&next.update).unwrap();
                Answer::Stored
            }
        };
        self.answers.push_back((next.number, answer));
    }

    fn answer(&mut self) {
        let Some((number, answer)) = self.answers.pop_front() else {
            return;
        };
        match answer {
            Answer::Stored => self.replica.acknowledged(number),
            Answer::Gap(vector) => {
                // Not worth a try any more is for good.
                let is_filled = self.replica.fill_gap(number, &vector).unwrap();
                assert!(is_filled, "seed {}", self.seed);
            }
            Answer::Refused => return self.start_over(number),
        }
        self.write();
    }

    fn start_over(&mut self, refused: u64) {
        self.replica.refused(refused);
        self.clients += 1;
        let mut document = MeshDocument::new(schema(), self.clients);
        document.apply_update(&self.server.encode_state()).unwrap();
        self.replica.start_over(document);
        self.pending.start_over();
        self.write();
        self.answers.clear();
        self.is_refused = false;
        // What builds on the refused edit is gone with it; what the server has stays.
        let (left, stored) = (names(self.replica.document()), names(&self.server));
        for name in &self.promised {
            assert!(
                left.contains(name) || !stored.contains(name),
                "seed {}: {name} was stored",
                self.seed
            );
        }
        self.promised.retain(|name| left.contains(name));
    }

    /// What was under way is lost, answers too; the next stream brings what was missed.
    fn reconnect(&mut self) {
        self.answers.clear();
        self.is_refused = false;
        self.replica.unsent();
        self.receive();
    }

    /// The program ends, and begins again.
    fn restart(&mut self) {
        let before = names(self.replica.document());
        let unsaved = self.replica.unsaved().count();
        self.journal = None;
        self.clients += 1;
        let (journal, recovered) = open(self.directory, self.clients);
        self.replica = recovered.unwrap_or_else(|| panic!("seed {}: a journal", self.seed));
        self.journal = Some(journal);
        self.pending = pending();
        self.pending.start_over();
        self.write();
        assert_eq!(names(self.replica.document()), before, "seed {}", self.seed);
        assert!(
            unsaved == 0 || !self.replica.is_saved(),
            "seed {}: edits are taken for saved",
            self.seed
        );
        self.answers.clear();
        self.is_refused = false;
    }

    /// The program ends while it writes an edit down, of which nobody was told.
    fn end_within_an_edit(&mut self) {
        let length = self.journal.as_ref().expect("the program runs").bytes;
        let before = self.replica.document().encode_state();
        let waiting = self.replica.document().encode_pending();
        let name = self.name();
        self.replica
            .edit_with(|document| vec![append(document, &name)]);
        self.write();
        let journal = self.journal.as_ref().expect("the program runs");
        // One that was rewritten was on the disk before it had its name.
        let kept = match journal.bytes.checked_sub(length) {
            Some(written @ 1..) => length + self.random.below(written),
            _ => journal.bytes,
        };
        let path = journal.path.clone();
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(kept).unwrap();
        // Without the edit it is as before.
        let mut document = MeshDocument::new(schema(), 0);
        document.apply_update(&before).unwrap();
        if let Some(waiting) = waiting {
            document.apply_update(&waiting).unwrap();
        }
        self.replica = Replica::new(document);
        self.restart();
    }

    /// Nothing fails any more.
    fn end(mut self) {
        self.reconnect();
        for _ in 0..10_000 {
            if self.replica.is_saved() {
                break;
            }
            let next = self.replica.next_to_send();
            let next = next.unwrap_or_else(|| panic!("seed {}: something to send", self.seed));
            self.server.apply_update(&next.update).unwrap();
            self.replica.acknowledged(next.number);
        }
        assert!(self.replica.is_saved(), "seed {}", self.seed);
        self.receive();
        let stored = names(&self.server);
        assert_eq!(names(self.replica.document()), stored, "seed {}", self.seed);
        let lost: Vec<_> = self.promised.difference(&stored).collect();
        assert!(lost.is_empty(), "seed {}: {lost:?} are lost", self.seed);
        self.restart();
        assert!(self.replica.is_saved(), "seed {}", self.seed);
    }
}

fn open(directory: &Path, client: u64) -> (Journal, Option<Replica>) {
    Journal::open(directory, &room(), "a.document", client).unwrap()
}

fn pending() -> Pending {
    Pending::new(Arc::new(room()), "a.document")
}

fn room() -> RoomKey {
    RoomKey {
        project: "project".to_owned(),
        room: "room".to_owned(),
        url: "ws://here/rooms/room".to_owned(),
    }
}

fn schema() -> MeshSchema {
    MeshSchema::builtin("document").unwrap()
}

fn append(document: &mut MeshDocument, name: &str) -> Vec<u8> {
    let element = json!({ "body": { "text": name } });
    let update = document.append_child(Target::Root, element, &mut || name.to_owned());
    update.unwrap().unwrap()
}

/// The `$id`s of all elements.
fn names(document: &MeshDocument) -> BTreeSet<String> {
    let children = document.root().children();
    children
        .filter_map(|child| child.id().map(str::to_owned))
        .collect()
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
