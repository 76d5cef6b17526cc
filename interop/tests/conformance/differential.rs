//! Our engine beside Yjs, delivery by delivery: two replicas of Yjs and two of ours make random edits of all
//! kinds, and each of ours has a replica of Yjs at its side that gets the same updates in the same order.
//! After every step both know the same operations, show the same, and read the same from each other's state.
//!
//! What our engine takes up as deleted (`fit_update`) is made fit before anybody gets it, and its author is
//! told, as a server does it. A script is a seed; `docs/conformance.md` says what is compared.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use meshagent_document::{
    Element, Limits, MeshDocument, MeshSchema, UpdateKind, fit_update, merge_updates,
};
use meshagent_testing::{Logs, Sdk, SdkClient, TempDir, repository_root};
use serde_json::{Value, json};

use crate::replica;
use crate::script::{self, Random};
use crate::tree::{ID, Tree, View};

/// The replicas that edit: the first two are of Yjs, the others ours.
const PEERS: usize = 4;
const YJS: usize = 2;

/// After this many scripts the other program is started anew, whose log grows.
const SCRIPTS_PER_START: u64 = 100;

/// How often everybody gets what they lack: Yjs answers formats that others brought with deletions of those
/// that became needless.
const ROUNDS: usize = 8;

/// How long a failing script is shortened.
const SHRINK_LIMIT: Duration = Duration::from_secs(20);

/// How much was tried.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    steps: usize,
    edits: usize,
    refused: usize,
    deliveries: usize,
    gaps: usize,
    skips: usize,
    misfits: u64,
    reread: usize,
    late: usize,
    cut: usize,
    checks: usize,
}

/// Runs so many scripts from a seed on.
pub(crate) fn run(from: u64, count: u64) -> Result<String> {
    let mut all = Tally::default();
    let mut world = World::start(Tally::default())?;
    for seed in from..from + count {
        if (seed - from) % SCRIPTS_PER_START == SCRIPTS_PER_START - 1 {
            world = World::start(world.tally)?;
        }
        let steps = steps(&mut Random(seed));
        let Err(failure) = world.run(seed, &steps) else {
            continue;
        };
        let prefix = &steps[..failure.step.min(steps.len())];
        let (prefix, shortened) = shortened(seed, prefix.to_vec())?;
        bail!(
            "script {seed} fails; `cargo xtask conformance --differential --from {seed}` repeats it\n{}\n\n\
             Its first {prefix} steps are enough, shortened:\n{shortened}",
            failure.text
        );
    }
    all.clone_from(&world.tally);
    let Tally {
        steps,
        edits,
        refused,
        deliveries,
        gaps,
        skips,
        misfits,
        reread,
        late,
        cut,
        checks,
    } = all;
    Ok(format!(
        "{count} scripts from {from} on: {steps} steps, {edits} edits, {refused} of which our document refused, \
         {deliveries} deliveries to ours, after {gaps} of which something waited, {skips} merged updates with \
         holes, {misfits} operations that were taken up as deleted, {reread} \
         edits of Yjs of which others read something else than it showed; {late} times Yjs left waiting what it could have applied; {checks} comparisons, all equal, \
         {cut} of which but for characters that Yjs had cut for what it knew as collected"
    ))
}

/// A failing script: how many steps from the beginning fail, and which of them alone do so as well.
fn shortened(seed: u64, mut steps: Vec<Step>) -> Result<(usize, String)> {
    let deadline = Instant::now() + SHRINK_LIMIT;
    let mut world = World::start(Tally::default())?;
    let mut fails = |steps: &[Step]| -> Result<bool> {
        if world.run(seed, steps).is_ok() {
            return Ok(false);
        }
        world = World::start(Tally::default())?;
        Ok(true)
    };
    // What fails in the final exchange may do so after fewer steps.
    let mut at = steps.len() / 2;
    while at > 0 && Instant::now() < deadline {
        if steps.len() > at && fails(&steps[..steps.len() - at])? {
            steps.truncate(steps.len() - at);
        } else {
            at /= 2;
        }
    }
    let prefix = steps.len();
    let mut chunk = steps.len().div_ceil(2);
    while chunk > 0 && Instant::now() < deadline {
        let mut at = 0;
        while at < steps.len() && Instant::now() < deadline {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + chunk).min(steps.len()));
            if fails(&fewer)? {
                steps = fewer;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    let text = match world.run(seed, &steps) {
        Ok(()) => "it fails only now and then".to_owned(),
        Err(failure) => failure.text,
    };
    Ok((prefix, format!("{}\n{text}", world.log.join("\n"))))
}

/// One step; what its numbers mean shows when it is taken, so that others can be left out.
#[derive(Clone, Debug)]
enum Step {
    /// Changes in one transaction.
    Edit {
        peer: usize,
        numbers: Vec<u64>,
    },
    /// Some of what is on its way to a replica arrives, in any order.
    Deliver {
        to: usize,
        picks: Vec<u64>,
        manner: Manner,
    },
    /// A replica gets what it lacks of another one by state vector.
    Difference {
        from: usize,
        to: usize,
    },
    Reload {
        peer: usize,
    },
    Undo {
        peer: usize,
        redo: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Manner {
    Once,
    /// It comes again later.
    Again,
    /// As one update, with holes where something in between is missing.
    Merged {
        by_yjs: bool,
        /// Without what the replica has already.
        is_cut: bool,
    },
}

fn steps(random: &mut Random) -> Vec<Step> {
    let count = 12 + random.below(36);
    // Some scripts deliver seldom, so that much is concurrent.
    let delivery = [20, 40, 55][random.below(3)];
    let step = |random: &mut Random| match random.below(100) {
        0..6 => Step::Undo {
            peer: random.below(PEERS),
            redo: random.below(3) == 0,
        },
        6..9 => Step::Reload {
            peer: random.below(PEERS),
        },
        9..14 => {
            let from = random.below(PEERS);
            let to = (from + 1 + random.below(PEERS - 1)) % PEERS;
            Step::Difference { from, to }
        }
        at if at < 14 + delivery => Step::Deliver {
            to: random.below(PEERS),
            picks: {
                let count = 1 + random.below(4);
                (0..count).map(|_| random.next()).collect()
            },
            manner: match random.below(6) {
                0 => Manner::Again,
                1 | 2 => Manner::Merged {
                    by_yjs: random.below(2) == 0,
                    is_cut: random.below(2) == 0,
                },
                _ => Manner::Once,
            },
        },
        _ => Step::Edit {
            peer: random.below(PEERS),
            numbers: {
                let count = [1, 1, 2, 3, 6][random.below(5)];
                (0..count).map(|_| random.next()).collect()
            },
        },
    };
    (0..count).map(|_| step(random)).collect()
}

struct Failure {
    /// After how many steps it failed.
    step: usize,
    text: String,
}

/// A replica of ours; that of Yjs which gets the same has the same number.
struct Ours {
    document: MeshDocument,
    /// Gets what the first one says that became visible, and nothing else.
    follower: MeshDocument,
    /// Whether it got operations with content that it knows as deleted. Yjs cuts what stands beside such an
    /// operation even if it knows it as collected, and a character that is cut in half is U+FFFD twice. We don't:
    /// the author of a state in which it is collected has deleted what it stood in.
    may_be_cut: bool,
}

struct World {
    schema: MeshSchema,
    yjs: SdkClient,
    ours: Vec<Ours>,
    inboxes: [Vec<Vec<u8>>; PEERS],
    serial: usize,
    log: Vec<String>,
    tally: Tally,
    // The last field, so that the logs outlive the processes that write them.
    _folder: TempDir,
}

impl World {
    fn start(tally: Tally) -> Result<Self> {
        let sdk = Sdk::installed()?;
        let folder = TempDir::new()?;
        let logs = Logs::new(folder.path().join("logs"))?;
        let mut command = sdk.command("node");
        command.arg(repository_root().join("interop/node/differential.cjs"));
        Ok(Self {
            schema: replica::golden_schema()?,
            yjs: SdkClient::start(command, &logs, "yjs")?,
            ours: Vec::new(),
            inboxes: Default::default(),
            serial: 0,
            log: Vec::new(),
            tally,
            _folder: folder,
        })
    }

    /// A panic is an error like any other.
    fn run(&mut self, seed: u64, steps: &[Step]) -> Result<(), Failure> {
        let mut done = 0;
        let run = catch_unwind(AssertUnwindSafe(|| self.run_steps(seed, steps, &mut done)));
        let outcome = run.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
            Err(anyhow!("a panic: {}", text.unwrap_or_default()))
        });
        outcome.map_err(|error| Failure {
            step: done,
            text: format!("{error:#}"),
        })
    }

    fn run_steps(&mut self, seed: u64, steps: &[Step], done: &mut usize) -> Result<()> {
        self.log.clear();
        self.serial = 0;
        self.inboxes = Default::default();
        let mut random = Random(seed ^ 0x5eed);
        let mut clients = BTreeSet::new();
        while clients.len() < PEERS {
            // All lengths: which comes first is a matter of the ids.
            let bits = [53, 53, 32, 16][random.below(4)];
            clients.insert((random.next() >> (64 - bits)).max(1));
        }
        if random.below(4) == 0 {
            clients.pop_last();
            clients.insert((1 << 53) - 1);
        }
        let mut clients: Vec<u64> = clients.into_iter().collect();
        for at in (1..clients.len()).rev() {
            clients.swap(at, random.below(at + 1));
        }
        let replicas = clients.iter().map(|&client| {
            let gc = random.below(3) != 0;
            json!({ "client": client, "gc": gc })
        });
        let replicas: Value = replicas.collect();
        self.log.push(format!("replicas {replicas}"));
        self.call("reset", &json!({ "replicas": replicas }))?;
        let schema = &self.schema;
        let ours = clients[YJS..].iter().map(|&client| {
            let mut document = MeshDocument::new(schema.clone(), client);
            document.remember_edits(true, 0);
            Ours {
                document,
                follower: MeshDocument::new(schema.clone(), 1),
                may_be_cut: false,
            }
        });
        self.ours = ours.collect();
        for (number, step) in steps.iter().enumerate() {
            *done = number + 1;
            self.tally.steps += 1;
            self.step(step)
                .with_context(|| format!("step {number}: {step:?}"))?;
        }
        self.exchange(&mut random).context("the final exchange")
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Edit { peer, numbers } => self.edit(*peer, numbers),
            Step::Deliver { to, picks, manner } => self.deliver(*to, picks, *manner),
            Step::Difference { from, to } => {
                let update = self.difference(*from, *to)?;
                self.apply(*to, &[update])
            }
            Step::Reload { peer } => self.reload(*peer),
            Step::Undo { peer, redo } => self.undo(*peer, *redo),
        }
    }

    fn edit(&mut self, peer: usize, numbers: &[u64]) -> Result<()> {
        self.tally.edits += 1;
        if peer < YJS {
            let numbers: Value = numbers.iter().map(|one| format!("{one:016x}")).collect();
            let arguments = json!({ "replica": peer, "numbers": numbers });
            let reply = self.call("edit", &arguments)?;
            return self.made_by_yjs(peer, &reply);
        }
        let document = &mut self.ours[peer - YJS].document;
        let (mut edits, tree) = (Vec::new(), editable(document.root()));
        for &number in numbers {
            let mut next_id = || {
                self.serial += 1;
                format!("o{}-{}", self.serial, number & 0xfff)
            };
            let change = script::change(number, &tree, true, &mut next_id);
            let edit = change.and_then(|change| replica::edit(&tree, &change));
            edits.extend(edit.ok());
        }
        let (vector, state) = (document.state_vector(), document.encode_state());
        let outcome = document.edit(&edits, &mut String::new);
        if outcome.is_err() {
            self.tally.refused += 1;
            ensure!(
                document.state_vector() == vector && document.encode_state() == state,
                "an edit that was refused changed the document: {edits:?}"
            );
        }
        self.log.push(format!("{peer} edits {edits:?}"));
        self.sent_by_ours(peer, outcome.ok().flatten())
    }

    fn undo(&mut self, peer: usize, redo: bool) -> Result<()> {
        if peer < YJS {
            let arguments = json!({ "replica": peer, "redo": redo });
            let reply = self.call("undo", &arguments)?;
            return self.made_by_yjs(peer, &reply);
        }
        let document = &mut self.ours[peer - YJS].document;
        let update = if redo {
            document.redo()
        } else {
            document.undo()
        };
        self.sent_by_ours(peer, update)
    }

    /// A local change in Yjs. If others read another document from it than it shows, it starts anew from that:
    /// it has told nobody of the difference.
    fn made_by_yjs(&mut self, peer: usize, reply: &Value) -> Result<()> {
        if !reply["state"].is_null() {
            let state = decode(&reply["state"])?;
            let state = fit_update(&state, &Limits::default())?.update;
            let arguments = json!({ "replica": peer, "update": encode(&state) });
            self.call("reload", &arguments)?;
            self.tally.reread += 1;
        }
        self.sent_by_yjs(peer, &reply["updates"])
    }

    /// What a replica of Yjs has sent goes to the others as a server would send it on; the author is told what
    /// became of it.
    fn sent_by_yjs(&mut self, peer: usize, sent: &Value) -> Result<()> {
        for one in sent.as_array().context("a list of updates")? {
            let update = decode(&one[0])?;
            let expected = one[1].as_u64().context("how many don't fit")?;
            let fitted = fit_update(&update, &Limits::default())?;
            let removed = fitted.removed.total() as u64;
            ensure!(
                removed == expected,
                "{removed} operations don't fit, not {expected}: {}",
                hex(&update)
            );
            self.tally.misfits += removed;
            self.log
                .push(format!("yjs {peer} sends {}", hex(&fitted.update)));
            self.broadcast(peer, &fitted.update);
            if fitted.halves > 0 {
                // It has them as they were.
                self.reload_yjs(peer)?;
            }
            if removed > 0 {
                // The deletions; its own operations are there.
                let arguments = json!({ "replica": peer, "updates": [encode(&fitted.update)] });
                let more = self.call("apply", &arguments)?;
                self.sent_by_yjs(peer, &more)?;
            }
        }
        Ok(())
    }

    fn sent_by_ours(&mut self, peer: usize, update: Option<Vec<u8>>) -> Result<()> {
        let Some(update) = update else {
            return self.check(peer);
        };
        self.log.push(format!("ours {peer} sends {}", hex(&update)));
        let fitted = fit_update(&update, &Limits::default())?;
        ensure!(
            fitted.removed.is_empty() && fitted.halves == 0 && fitted.update == update,
            "our own update does not fit"
        );
        self.follow(peer, &update)?;
        self.broadcast(peer, &update);
        let arguments = json!({ "replica": peer, "updates": [encode(&update)] });
        let sent = self.call("apply", &arguments)?;
        self.answered(peer, &sent)?;
        self.check(peer)
    }

    /// What the replica of Yjs beside ours sends in answer, which is deletions of needless formats.
    fn answered(&mut self, peer: usize, sent: &Value) -> Result<()> {
        for one in sent.as_array().context("a list of updates")? {
            let update = decode(&one[0])?;
            let update = fit_update(&update, &Limits::default())?.update;
            let document = &mut self.ours[peer - YJS].document;
            // It sends back the deletions that it gets, as well.
            if document.classify(&update)? == UpdateKind::Contained {
                continue;
            }
            let applied = document.apply_update(&update)?;
            if let Some(visible) = &applied.visible {
                self.follow(peer, visible)?;
            }
            self.log
                .push(format!("yjs {peer} answers {}", hex(&update)));
            self.broadcast(peer, &update);
        }
        Ok(())
    }

    fn follow(&mut self, peer: usize, update: &[u8]) -> Result<()> {
        let applied = self.ours[peer - YJS].follower.apply_update(update)?;
        ensure!(!applied.gap, "what became visible has a gap");
        Ok(())
    }

    fn broadcast(&mut self, from: usize, update: &[u8]) {
        for to in (0..PEERS).filter(|&to| to != from) {
            self.inboxes[to].push(update.to_vec());
        }
    }

    fn deliver(&mut self, to: usize, picks: &[u64], manner: Manner) -> Result<()> {
        let mut updates = Vec::new();
        for &pick in picks {
            let inbox = &mut self.inboxes[to];
            if inbox.is_empty() {
                break;
            }
            let update = inbox.swap_remove(Random(pick).below(inbox.len()));
            updates.push(update);
        }
        match manner {
            _ if updates.is_empty() => return Ok(()),
            Manner::Once => {}
            Manner::Again => self.inboxes[to].extend(updates.clone()),
            Manner::Merged { by_yjs, is_cut } => {
                let mut merged = if by_yjs {
                    let list: Value = updates.iter().map(|update| encode(update)).collect();
                    decode(&self.call("merge", &json!({ "updates": list }))?)?
                } else {
                    let list: Vec<&[u8]> = updates.iter().map(Vec::as_slice).collect();
                    merge_updates(&list)?
                };
                if is_cut {
                    let vector = self.vector(to)?;
                    let arguments = json!({ "update": encode(&merged), "vector": encode(&vector) });
                    merged = decode(&self.call("diff_update", &arguments)?)?;
                }
                self.tally.skips += usize::from(updates.len() > 1);
                updates = vec![merged];
            }
        }
        self.apply(to, &updates)
    }

    fn apply(&mut self, to: usize, updates: &[Vec<u8>]) -> Result<()> {
        for update in updates {
            self.log.push(format!("{to} gets {}", hex(update)));
        }
        let list: Value = updates.iter().map(|update| encode(update)).collect();
        let arguments = json!({ "replica": to, "updates": list });
        let sent = self.call("apply", &arguments)?;
        if to < YJS {
            return self.sent_by_yjs(to, &sent);
        }
        // Else it was compared after it had changed last.
        let mut is_news = sent.as_array().is_some_and(|sent| !sent.is_empty());
        for update in updates {
            let ours = &mut self.ours[to - YJS];
            let document = &mut ours.document;
            let inspected = document.inspect(update)?;
            let applied = document.apply_update(update)?;
            let is_contained = matches!(inspected.kind, UpdateKind::Contained | UpdateKind::Empty);
            ensure!(
                !is_contained || applied.visible.is_none() && !applied.gap,
                "an update that was contained became visible"
            );
            ensure!(
                inspected.kind != UpdateKind::Conflict,
                "an honest update conflicts at {:?}",
                inspected.conflict
            );
            is_news |= !is_contained;
            ours.may_be_cut |= inspected.erased > 0;
            self.tally.deliveries += 1;
            self.tally.gaps += usize::from(document.has_gap());
            if let Some(visible) = &applied.visible {
                self.follow(to, visible)?;
            }
        }
        self.answered(to, &sent)?;
        if is_news { self.check(to) } else { Ok(()) }
    }

    /// Replaces a replica of Yjs by one that reads its state, with what waits.
    fn reload_yjs(&mut self, peer: usize) -> Result<()> {
        let state = decode(&self.call("state", &json!({ "replica": peer }))?)?;
        // Without collection, what was taken up as deleted is in the state still.
        let state = fit_update(&state, &Limits::default())?.update;
        let arguments = json!({ "replica": peer, "update": encode(&state) });
        self.call("reload", &arguments)?;
        Ok(())
    }

    fn reload(&mut self, peer: usize) -> Result<()> {
        self.reload_yjs(peer)?;
        if peer < YJS {
            return Ok(());
        }
        let schema = self.schema.clone();
        let ours = &mut self.ours[peer - YJS];
        let mut fresh = MeshDocument::new(schema, ours.document.client_id());
        let applied = fresh.apply_update(&ours.document.encode_state())?;
        ensure!(!applied.gap, "a whole state has a gap");
        if let Some(pending) = ours.document.encode_pending() {
            let applied = fresh.apply_update(&pending)?;
            ensure!(applied.visible.is_none(), "what waited is visible at once");
        }
        fresh.remember_edits(true, 0);
        ours.document = fresh;
        self.check(peer)
    }

    fn vector(&mut self, peer: usize) -> Result<Vec<u8>> {
        match peer.checked_sub(YJS) {
            Some(ours) => Ok(self.ours[ours].document.state_vector()),
            None => decode(&self.call("vector", &json!({ "replica": peer }))?),
        }
    }

    fn difference(&mut self, from: usize, to: usize) -> Result<Vec<u8>> {
        let vector = self.vector(to)?;
        if let Some(ours) = from.checked_sub(YJS) {
            return Ok(self.ours[ours].document.encode_diff(&vector)?);
        }
        let arguments = json!({ "replica": from, "vector": encode(&vector) });
        let update = decode(&self.call("diff", &arguments)?)?;
        Ok(fit_update(&update, &Limits::default())?.update)
    }

    /// Compares a replica of ours with that of Yjs beside it.
    fn check(&mut self, peer: usize) -> Result<()> {
        self.check_again(peer, false)
    }

    fn check_again(&mut self, peer: usize, is_late: bool) -> Result<()> {
        self.tally.checks += 1;
        let document = &self.ours[peer - YJS].document;
        let (state, vector) = (document.encode_state(), document.state_vector());
        let pending = document.encode_pending();
        let merged = self.call("vector_of", &json!({ "update": encode(&state) }))?;
        ensure!(
            clocks(&decode(&merged)?)? == clocks(&vector)?,
            "Yjs reads another state vector from our state"
        );
        // Our replica from the state of Yjs is the third.
        let before = self.call("state", &json!({ "replica": peer }))?;
        let before = fit_update(&decode(&before)?, &Limits::default())?.update;
        let mut read = MeshDocument::new(self.schema.clone(), 1);
        read.apply_update(&before)
            .context("reading the state of Yjs")?;
        let mut states = vec![encode(&state), encode(&read.encode_state())];
        if let Some(pending) = pending {
            states.push(encode(&merge_updates(&[&state, &pending])?));
        }
        let may_be_cut = self.ours[peer - YJS].may_be_cut;
        let arguments = json!({ "replica": peer, "states": states, "cut": may_be_cut });
        let reply = self.call("check", &arguments)?;
        self.tally.cut += usize::from(reply["is_cut"] == json!(true));
        let theirs = reply["vector"].as_array().context("a state vector")?;
        let theirs: BTreeMap<u64, u64> = theirs
            .iter()
            .filter_map(|one| Some((one[0].as_u64()?, one[1].as_u64()?)))
            .collect();
        let document = &self.ours[peer - YJS].document;
        let mine: BTreeMap<u64, u64> = document.clocks().collect();
        let is_behind = mine != theirs && {
            let known = |client: &u64| mine.get(client).copied().unwrap_or_default();
            theirs.iter().all(|(client, &clock)| clock <= known(client))
        };
        if is_behind && reply["waits"] == json!(true) && !is_late {
            // Yjs tries what waits again only when the first gap of a client is filled, though other parts of what
            // waits need less. When it reads its own state it sees that.
            self.tally.late += 1;
            self.reload_yjs(peer)?;
            return self.check_again(peer, true);
        }
        ensure!(
            mine == theirs,
            "the state vectors differ: ours {mine:?}, Yjs {theirs:?}"
        );
        ensure!(
            read.clocks().collect::<BTreeMap<_, _>>() == mine,
            "we read another state vector from the state of Yjs"
        );
        ensure!(
            document.has_gap() || !reply["waits"].as_bool().unwrap_or_default(),
            "something waits in Yjs and not in ours"
        );
        if let Some(difference) = reply["difference"].as_str() {
            bail!("Yjs and what it reads from our state differ at {difference}");
        }
        let mut shown = View::from_json(&reply["shown"])?;
        if may_be_cut {
            shown.children.iter_mut().for_each(cut);
        }
        for (what, document) in [
            ("ours", document),
            ("ours, from the state of Yjs", &read),
            (
                "who gets what became visible",
                &self.ours[peer - YJS].follower,
            ),
        ] {
            let mut view = replica::view(document)?;
            view.root.iter_mut().for_each(flatten);
            view.children.iter_mut().for_each(flatten_tree);
            if may_be_cut {
                view.children.iter_mut().for_each(cut);
            }
            if let Some(difference) = view.difference(&shown) {
                bail!("{what} and Yjs show: {difference}");
            }
        }
        Ok(())
    }

    /// Everything arrives; then all show the same.
    fn exchange(&mut self, random: &mut Random) -> Result<()> {
        while let Some(to) = (0..PEERS).find(|&to| !self.inboxes[to].is_empty()) {
            self.deliver(to, &[random.next(), random.next()], Manner::Once)?;
        }
        for _ in 0..ROUNDS {
            for from in 0..PEERS {
                for to in (0..PEERS).filter(|&to| to != from) {
                    let update = self.difference(from, to)?;
                    self.apply(to, &[update])?;
                }
            }
            for to in 0..PEERS {
                while !self.inboxes[to].is_empty() {
                    self.deliver(to, &[random.next()], Manner::Once)?;
                }
            }
            if self.inboxes.iter().all(Vec::is_empty) && self.call("compare", &json!({}))?.is_null()
            {
                let waits = self.ours.iter().position(|ours| ours.document.has_gap());
                ensure!(waits.is_none(), "something still waits in ours {waits:?}");
                return (YJS..PEERS).try_for_each(|peer| self.check(peer));
            }
        }
        bail!("{}", self.call("compare", &json!({}))?)
    }

    fn call(&mut self, op: &str, arguments: &Value) -> Result<Value> {
        self.yjs.call(op, arguments)
    }
}

/// The part of the tree that the script's edits know: elements with an `$id`.
fn editable(element: Element<'_>) -> Tree {
    let mut tree = Tree {
        tag: element.tag().to_owned(),
        attributes: element.attributes().into_iter().collect(),
        ..Tree::default()
    };
    if element.is_root() {
        tree.tag.clear();
        tree.attributes.remove(ID);
    }
    let children = element.children().filter(|child| child.id().is_some());
    tree.children = children.map(editable).collect();
    if let Some(text) = element.text() {
        tree.runs.push((text.to_plain(), BTreeMap::new()));
    }
    tree
}

/// Of values that are nested deep stays how deep, as the script prints them.
fn flatten(values: &mut BTreeMap<String, Value>) {
    for value in values.values_mut() {
        let depth = depth_of(value);
        if depth > 16 {
            *value = format!("{depth} levels").into();
        }
    }
}

fn flatten_tree(tree: &mut Tree) {
    flatten(&mut tree.attributes);
    tree.runs
        .iter_mut()
        .for_each(|(_, formats)| flatten(formats));
    tree.children.iter_mut().for_each(flatten_tree);
}

/// Characters of two units as their halves.
fn cut(tree: &mut Tree) {
    for (text, _) in &mut tree.runs {
        *text = text.replace(|one: char| one.len_utf16() == 2, "\u{fffd}\u{fffd}");
    }
    tree.children.iter_mut().for_each(cut);
}

fn depth_of(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth_of).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth_of).max().unwrap_or(0),
        _ => 0,
    }
}

/// The clocks of a v1 state vector.
fn clocks(vector: &[u8]) -> Result<BTreeMap<u64, u64>> {
    let clocks = crate::world::clocks(vector)?;
    Ok(clocks.into_iter().filter(|&(_, clock)| clock > 0).collect())
}

fn encode(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

fn decode(value: &Value) -> Result<Vec<u8>> {
    let text = value.as_str().context("base64 text")?;
    Ok(BASE64_STANDARD.decode(text)?)
}

fn hex(bytes: &[u8]) -> String {
    crate::world::hex(bytes)
}
