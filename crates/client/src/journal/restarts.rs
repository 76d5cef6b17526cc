//! Tests of restarts: programs end at any point and start again from their journal. Meanwhile the
//! server is lost, returns and refuses, the disk is sometimes full, and files are damaged between
//! two programs.
//!
//! Journaled edits are sent, acknowledged edits are never lost, and damage is either reported or
//! costs no promised edit.
//!
//! Each seed is one run. `JOURNAL_SEEDS=3000 cargo test -p meshagent-client restarts` runs 3,000;
//! `JOURNAL_FROM=17 JOURNAL_SEEDS=1` repeats one.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use meshagent_document::{MeshDocument, MeshSchema, Target, UpdateKind};
use serde_json::json;

use super::kept::remove_reported;
use super::{Journal, JournalError, Pending, RoomKey};
use crate::replica::Replica;

mod renamed;

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
    // The runs must have reached all of these states to prove anything.
    if seeds >= 40 {
        let Seen {
            restarts,
            torn,
            refusals,
            conflicts,
            gaps,
            full,
            cut,
            flipped,
            garbage,
            unwritten,
        } = seen;
        assert!(
            restarts > 50 && torn > 20 && refusals > 20 && gaps > 10 && full > 20,
            "{seen:?}"
        );
        assert!(
            cut > 5 && flipped > 20 && garbage > 20 && unwritten > 20 && conflicts > 20,
            "{seen:?}"
        );
    }
}

#[derive(Debug, Default)]
struct Seen {
    restarts: u64,
    torn: u64,
    refusals: u64,
    conflicts: u64,
    gaps: u64,
    full: u64,
    cut: u64,
    flipped: u64,
    garbage: u64,
    unwritten: u64,
}

/// The server's answer to an update.
enum Answer {
    Stored,
    /// The server lacks earlier operations; this is its state vector.
    Gap(Vec<u8>),
    Refused,
}

struct Run<'a> {
    seed: u64,
    random: Random,
    directory: &'a Path,
    server: MeshDocument,
    /// The document of other participants, which is always up to date.
    other: MeshDocument,
    replica: Replica,
    journal: Option<Journal>,
    pending: Pending,
    answers: VecDeque<(u64, Answer)>,
    is_refused: bool,
    /// Whether edits were sent that the journal has under other names, because the disk was full.
    may_double: bool,
    /// Whether the server refuses or loses updates that it could store.
    is_moody: bool,
    names: u64,
    clients: u64,
    /// Inserted names, with the numbers of edits that are neither journaled nor acknowledged yet.
    edited: Vec<(u64, String)>,
    /// Names that were journaled, and neither deleted nor refused since.
    journaled: BTreeSet<String>,
    /// Names that were journaled or acknowledged, and neither deleted nor refused since.
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
            may_double: false,
            is_moody: true,
            names: 0,
            clients: 3,
            edited: Vec::new(),
            journaled: BTreeSet::new(),
            promised: BTreeSet::new(),
        };
        run.pending.start_over();
        run.write();
        run
    }

    fn step(&mut self, seen: &mut Seen) {
        match self.random.below(25) {
            0..=5 => self.edit(),
            6 => self.delete(),
            7 => self.edit_elsewhere(),
            8 => self.receive(),
            9..=12 => self.send(seen),
            13..=16 => self.answer(),
            17 => self.reconnect(),
            18 => {
                self.restart(seen);
                seen.restarts += 1;
            }
            19 => self.damage(seen),
            20 => {
                // For some time there is only this much space left.
                let more = self.random.below(300);
                let journal = self.journal.as_mut().expect("the program runs");
                journal.quota = match journal.quota {
                    None => Some(journal.bytes + more),
                    Some(_) => None,
                };
            }
            21..=22 => {
                self.write_now(seen);
            }
            23 if self.random.below(3) == 0 => self.take_place(),
            _ => self.end_within_an_edit(seen),
        }
        // The writer's thread may be late.
        if self.random.below(3) > 0 {
            self.write_now(seen);
        }
    }

    fn write(&mut self) {
        self.write_now(&mut Seen::default());
    }

    /// Writes the next batch. Returns whether the journal is complete.
    fn write_now(&mut self, seen: &mut Seen) -> bool {
        let Some(batch) = self.pending.take(&self.replica) else {
            return true;
        };
        let journal = self.journal.as_mut().expect("the program runs");
        match journal.write(&batch) {
            Ok(()) => self.pending.wrote(&batch),
            Err(error) => {
                seen.full += 1;
                let is_broken = journal.is_broken();
                self.pending.failed(&batch, is_broken, error.to_string());
                return false;
            }
        }
        let written = self.pending.written();
        let journaled = self.edited.extract_if(.., |(number, _)| *number <= written);
        for (_, name) in journaled {
            self.journaled.insert(name.clone());
            self.promised.insert(name);
        }
        true
    }

    /// Promises the edits that the server has acknowledged.
    fn saved(&mut self) {
        let saved = self.replica.saved_number();
        let acknowledged = self.edited.iter().filter(|(number, _)| *number <= saved);
        let names: Vec<_> = acknowledged.map(|(_, name)| name.clone()).collect();
        self.promised.extend(names);
    }

    fn forget(&mut self, name: &str) {
        self.edited.retain(|(_, one)| one != name);
        self.journaled.remove(name);
        self.promised.remove(name);
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("name-{}", self.names)
    }

    fn edit(&mut self) {
        let name = self.name();
        self.replica
            .edit_with(|document| vec![append(document, &name)]);
        self.edited.push((self.replica.last_number(), name));
    }

    fn delete(&mut self) {
        let names = names(self.replica.document());
        let Some(at) = self.random.below(names.len() as u64 + 1).checked_sub(1) else {
            return;
        };
        let name = names.into_iter().nth(usize::try_from(at).unwrap()).unwrap();
        self.replica
            .edit_with(|document| document.delete(&name).unwrap().into_iter().collect());
        self.forget(&name);
    }

    fn edit_elsewhere(&mut self) {
        let state = self.server.encode_state();
        self.other.apply_update(&state).unwrap();
        let name = self.name();
        let update = append(&mut self.other, &name);
        self.server.apply_update(&update).unwrap();
    }

    /// Another program writes under this client id, at the clock of the next edit.
    fn take_place(&mut self) {
        let client = self.replica.document().client_id();
        let mut thief = MeshDocument::new(schema(), client);
        thief.apply_update(&self.server.encode_state()).unwrap();
        let name = self.name();
        let update = append(&mut thief, &name);
        self.server.apply_update(&update).unwrap();
    }

    /// Applies the edits of other participants.
    fn receive(&mut self) {
        let vector = self.replica.document().state_vector();
        let update = self.server.encode_diff(&vector).unwrap();
        self.replica.received(&update).unwrap();
        if self.replica.document().is_client_id_shared() {
            self.clients += 1;
            self.replica.document_mut().set_client_id(self.clients);
        }
        self.pending.receive(&update);
    }

    fn send(&mut self, seen: &mut Seen) {
        // A refusal ends the stream.
        if self.is_refused || self.pending.holds_edits() {
            return;
        }
        let Some(next) = self.replica.next_to_send() else {
            return;
        };
        self.may_double |= self.pending.failure().is_some();
        let answer = match self.server.classify(&next.update).unwrap() {
            UpdateKind::New if self.is_moody && self.random.below(8) == 0 => {
                self.is_refused = true;
                seen.refusals += 1;
                Answer::Refused
            }
            UpdateKind::Conflict => {
                self.is_refused = true;
                seen.conflicts += 1;
                Answer::Refused
            }
            // The update is lost on the way: only later ones reach the server.
            UpdateKind::New if self.is_moody && self.random.below(16) == 0 => {
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
        if !matches!(answer, Answer::Refused) {
            self.pending.answered(&self.replica, number);
        }
        match answer {
            Answer::Stored => self.replica.acknowledged(number),
            Answer::Gap(vector) => {
                // A gap that the client no longer fills would be permanent.
                let is_filled = self.replica.fill_gap(number, &vector).unwrap();
                assert!(is_filled, "seed {}", self.seed);
            }
            Answer::Refused => {
                self.is_refused = false;
                if !self.replica.refused(number) {
                    return self.start_over();
                }
            }
        }
        self.saved();
    }

    fn start_over(&mut self) {
        let edited = names(self.replica.document());
        self.clients += 1;
        let mut document = MeshDocument::new(schema(), self.clients);
        document.apply_update(&self.server.encode_state()).unwrap();
        let lost = self.replica.start_over(document);
        self.pending.rename(&self.replica);
        self.answers.clear();
        self.is_refused = false;
        // No edit here depends on a refused one, so only the reported edits are lost; the server's
        // content stays.
        let (left, stored) = (names(self.replica.document()), names(&self.server));
        let told: Vec<String> = lost
            .iter()
            .map(|one| String::from_utf8_lossy(&one.update).into_owned())
            .collect();
        for name in edited.difference(&left) {
            let is_told = told.iter().any(|update| update.contains(name));
            assert!(is_told, "seed {}: {name} is gone", self.seed);
        }
        for name in &self.promised {
            assert!(
                left.contains(name) || !stored.contains(name),
                "seed {}: {name} was stored",
                self.seed
            );
        }
        self.promised.retain(|name| left.contains(name));
        self.journaled.retain(|name| left.contains(name));
        self.edited.retain(|(_, name)| left.contains(name));
    }

    /// Updates and answers in flight are lost. The next stream brings the missed updates.
    fn reconnect(&mut self) {
        self.answers.clear();
        self.is_refused = false;
        self.replica.unsent();
        self.receive();
    }

    /// The program ends, and starts again.
    fn restart(&mut self, seen: &mut Seen) {
        let before = names(self.replica.document());
        let unsaved = self.replica.unsaved().count();
        // The program may be killed before the last write.
        let is_written = self.random.below(2) == 0 && self.write_now(seen);
        seen.unwritten += u64::from(!is_written);
        self.end_program();
        self.begin_program();
        if is_written {
            let after = names(self.replica.document());
            assert_eq!(after, before, "seed {}", self.seed);
            assert!(
                unsaved == 0 || !self.replica.is_saved(),
                "seed {}: edits are taken for saved",
                self.seed
            );
        }
    }

    fn end_program(&mut self) {
        self.journal = None;
        self.answers.clear();
        self.is_refused = false;
        // Edits that were neither journaled nor acknowledged may be lost.
        self.edited.clear();
    }

    fn begin_program(&mut self) {
        self.clients += 1;
        let (journal, recovered) = open(self.directory, self.clients);
        let replica = recovered.unwrap_or_else(|| panic!("seed {}: a journal", self.seed));
        self.go_on(journal, replica);
    }

    fn go_on(&mut self, journal: Journal, replica: Replica) {
        self.replica = replica;
        self.journal = Some(journal);
        self.pending = pending();
        self.pending.start_over();
        self.write();
        let there = names(self.replica.document());
        let lost: Vec<_> = self.journaled.difference(&there).collect();
        assert!(
            lost.is_empty(),
            "seed {}: {lost:?} were journaled",
            self.seed
        );
    }

    /// The program ends, and its file is damaged before it starts again.
    fn damage(&mut self, seen: &mut Seen) {
        self.write_now(seen);
        let journal = self.journal.as_ref().expect("the program runs");
        let path = journal.path.clone();
        self.end_program();
        let good = fs::read(&path).unwrap();
        let length = good.len() as u64;
        let mut bad = good.clone();
        let is_cut = match self.random.below(3) {
            0 => {
                // Most of the file was written together with the head.
                let from = length - length.min(1 + self.random.below(1_000));
                let kept = from + self.random.below(length - from);
                bad.truncate(usize::try_from(kept).unwrap());
                true
            }
            1 => {
                let at = usize::try_from(self.random.below(length)).unwrap();
                bad[at] ^= 1 << self.random.below(8);
                seen.flipped += 1;
                false
            }
            _ => {
                let zeros = self.random.below(2) == 0;
                for _ in 0..=self.random.below(40) {
                    let byte = u8::try_from(self.random.below(256)).unwrap();
                    bad.push(if zeros { 0 } else { byte });
                }
                seen.garbage += 1;
                false
            }
        };
        let is_longer = bad.len() > good.len();
        fs::write(&path, &bad).unwrap();
        self.clients += 1;
        let opened = Journal::open(self.directory, &room(), "a.document", self.clients);
        let (seed, damaged) = (self.seed, bad.len());
        match opened {
            // A cut at a record's end can't be detected. The server's content comes from the
            // server.
            Ok((journal, Some(replica))) if is_cut => {
                seen.cut += 1;
                let (there, stored) = (names(replica.document()), names(&self.server));
                self.journaled.retain(|name| there.contains(name));
                self.promised
                    .retain(|name| there.contains(name) || stored.contains(name));
                self.go_on(journal, replica);
            }
            Ok((journal, Some(replica))) if is_longer => self.go_on(journal, replica),
            Ok((_, found)) => {
                assert!(
                    damaged == 0 && found.is_none(),
                    "seed {seed}: damage is not told"
                );
                fs::write(&path, &good).unwrap();
                self.begin_program();
            }
            Err(error) => {
                if let JournalError::Damaged { kept, .. } = &error {
                    assert_eq!(fs::read(kept).unwrap(), bad, "seed {seed}");
                    remove_reported(kept);
                    let (_, found) = open(self.directory, 0);
                    assert!(found.is_none(), "seed {seed}: it opens from the server");
                    fs::remove_file(kept).unwrap();
                } else {
                    // Only a damaged version byte can't be distinguished from a later version.
                    assert!(bad[7] != good[7], "seed {seed}: {error}");
                }
                fs::write(&path, &good).unwrap();
                self.begin_program();
            }
        }
    }

    /// The program ends while it writes an edit that was not yet reported as journaled.
    fn end_within_an_edit(&mut self, seen: &mut Seen) {
        if !self.write_now(seen) {
            return;
        }
        let journal = self.journal.as_ref().expect("the program runs");
        let (path, good) = (journal.path.clone(), fs::read(&journal.path).unwrap());
        let before = names(self.replica.document());
        let name = self.name();
        self.replica
            .edit_with(|document| vec![append(document, &name)]);
        let is_written = self.write_now(seen);
        self.end_program();
        let bad = fs::read(&path).unwrap();
        let is_appended = is_written && bad.starts_with(&good);
        if is_appended {
            let cut = self.random.below((bad.len() - good.len()) as u64);
            let kept = good.len() + usize::try_from(cut).unwrap();
            fs::write(&path, &bad[..kept]).unwrap();
            seen.torn += 1;
        }
        self.begin_program();
        if is_appended {
            // Without the edit, everything is as before.
            let after = names(self.replica.document());
            assert_eq!(after, before, "seed {}", self.seed);
        }
    }

    /// An edit that was made again must not be there beside the original.
    fn check_once(&self) {
        let ids = ids(&self.server);
        let names: BTreeSet<&String> = ids.iter().collect();
        let are_once = ids.len() == names.len();
        assert!(are_once || self.may_double, "seed {}: {ids:?}", self.seed);
    }

    /// Ends the run without further failures, and checks it.
    fn end(mut self) {
        self.journal.as_mut().expect("the program runs").quota = None;
        assert!(self.write_now(&mut Seen::default()), "seed {}", self.seed);
        self.reconnect();
        self.is_moody = false;
        for _ in 0..10_000 {
            if self.replica.is_saved() {
                break;
            }
            self.send(&mut Seen::default());
            self.answer();
            self.write();
        }
        self.saved();
        assert!(self.replica.is_saved(), "seed {}", self.seed);
        self.receive();
        self.check_once();
        let stored = names(&self.server);
        assert_eq!(names(self.replica.document()), stored, "seed {}", self.seed);
        let lost: Vec<_> = self.promised.difference(&stored).collect();
        assert!(lost.is_empty(), "seed {}: {lost:?} are lost", self.seed);
        self.write();
        self.end_program();
        self.begin_program();
        assert!(self.replica.is_saved(), "seed {}", self.seed);
        let there = names(self.replica.document());
        assert_eq!(there, stored, "seed {}", self.seed);
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

/// The names of all elements.
fn names(document: &MeshDocument) -> BTreeSet<String> {
    ids(document).into_iter().collect()
}

fn ids(document: &MeshDocument) -> Vec<String> {
    let children = document.root().children();
    children
        .filter_map(|child| child.attribute("text")?.as_str().map(str::to_owned))
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
