//! Three replicas and what is on its way between them: takes the steps of a script, lets the replicas
//! exchange what they have until none has news, and compares them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use meshagent_testing::{Logs, Sdk, TempDir};
use serde_json::Value;

use crate::change::Change;
use crate::replica::{Deletions, Foreign, Ours, Planned, Replica};
use crate::script::{self, Manner, Random, Step};
use crate::tree::{ID, TEXT, Tree, View};

pub(crate) const REPLICAS: usize = 3;

/// How often everybody gets what they lack. Yjs answers formats that others brought with deletions of
/// those that became needless, so that one round is not enough.
const ROUNDS: usize = 8;

/// How much was tried.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) changes: usize,
    pub(crate) deliveries: usize,
    /// After how many deliveries to our replica something waited in it.
    pub(crate) gaps: usize,
    /// How many scripts say nothing, since pycrdt lost count of its own operations.
    pub(crate) broken: usize,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.changes += other.changes;
        self.deliveries += other.deliveries;
        self.gaps += other.gaps;
        self.broken += other.broken;
    }
}

/// The replicas, started once and emptied for each script.
pub(crate) struct World {
    ours: Ours,
    yjs: Foreign,
    pycrdt: Foreign,
    /// The updates that are on their way to each replica.
    inboxes: [Vec<Vec<u8>>; REPLICAS],
    serial: usize,
    /// What was done, for the report of a failure.
    log: Vec<String>,
    tally: Tally,
    // The last field, so that the logs outlive the processes that write them.
    _folder: TempDir,
}

impl World {
    pub(crate) fn start() -> Result<Self> {
        let sdk = Sdk::installed()?;
        let folder = TempDir::new()?;
        let logs = Logs::new(folder.path().join("logs"))?;
        Ok(Self {
            ours: Ours::new()?,
            yjs: Foreign::yjs(&sdk, &logs)?,
            pycrdt: Foreign::pycrdt(&sdk, &logs)?,
            inboxes: Default::default(),
            serial: 0,
            log: Vec::new(),
            tally: Tally::default(),
            _folder: folder,
        })
    }

    /// Runs a script from the beginning; a panic is an error like any other.
    pub(crate) fn run(&mut self, seed: u64, steps: &[Step]) -> Result<()> {
        let run = catch_unwind(AssertUnwindSafe(|| self.run_steps(seed, steps)));
        let outcome = run.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
            Err(anyhow!("a panic: {}", text.unwrap_or_default()))
        });
        if outcome.is_err() && self.is_pycrdt_broken()? {
            self.tally.broken += 1;
            return Ok(());
        }
        outcome
    }

    /// Whether pycrdt writes a state of itself that Yjs takes for another document.
    fn is_pycrdt_broken(&mut self) -> Result<bool> {
        let (state, view) = (self.pycrdt.state()?, self.pycrdt.view()?);
        let read = self.yjs.load(&state);
        Ok(read.map_or(true, |read| read.difference(&view).is_some()))
    }

    /// What the last run did.
    pub(crate) fn log(&self) -> &[String] {
        &self.log
    }

    /// How much all runs tried.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    fn run_steps(&mut self, seed: u64, steps: &[Step]) -> Result<()> {
        self.log.clear();
        self.serial = 0;
        self.inboxes = Default::default();
        let clients = client_ids(seed);
        for (index, client) in clients.into_iter().enumerate() {
            let replica = self.replica(index);
            replica.reset(client)?;
            let name = replica.name();
            self.log.push(format!("{name} is client {client}"));
        }
        for step in steps {
            self.step(step).with_context(|| format!("while {step:?}"))?;
        }
        self.deliver_all(&mut Random(seed))?;
        // All that anybody wrote has arrived by now, and nothing was asked for. The yrs of pycrdt loses some
        // deletions that come before what they delete, and has to hear of them again.
        self.compare_ours_with_yjs()
            .context("when all updates have arrived")?;
        self.exchange_until_quiet()?;
        self.compare()
    }

    fn replica(&mut self, index: usize) -> &mut dyn Replica {
        match index % REPLICAS {
            0 => &mut self.ours,
            1 => &mut self.yjs,
            _ => &mut self.pycrdt,
        }
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Edit { replica, changes } => self.edit(*replica, changes),
            &Step::Deliver {
                to,
                which,
                manner,
                echo,
            } => self.deliver(to, which, manner, echo),
            &Step::Difference { from, to } => self.difference(from, to).map(drop),
            Step::Reload => {
                self.log.push("ours is read anew".to_owned());
                self.ours.reload()
            }
            Step::Undo | Step::Redo => {
                let redo = matches!(step, Step::Redo);
                let updates = self.ours.undo(redo)?;
                if !updates.is_empty() {
                    self.log.push(format!("ours: {step:?}"));
                }
                self.send(0, &updates);
                Ok(())
            }
        }
    }

    fn edit(&mut self, index: usize, numbers: &[u64]) -> Result<()> {
        let mut serial = self.serial;
        let mut next_id = || {
            serial += 1;
            format!("e{serial}")
        };
        let replica = self.replica(index);
        let mut model = replica.view()?.to_tree();
        let mut planned: Vec<Planned> = Vec::new();
        // Whether the last change puts a child first, and nobody knows where the replica will put it.
        let mut is_first = false;
        for &number in numbers {
            let change = script::change(number, &model, replica.can_move(), &mut next_id)?;
            planned.push((model.clone(), change.clone()));
            is_first = !replica.puts_first()
                && matches!(&change, Change::Insert { parent, index: 0, .. }
                    if !model.find(parent.as_deref())?.children.is_empty());
            change.apply(&mut model)?;
            if is_first {
                break;
            }
        }
        let changes: Vec<_> = planned.iter().map(|(_, change)| change).collect();
        let line = format!("{} edits: {changes:?}", replica.name());
        let updates = replica.edit(&planned);
        let view = replica.view();
        self.serial = serial;
        self.tally.changes += planned.len();
        self.log.push(line);
        let (updates, shown) = (updates?, view?.to_tree());
        ensure!(
            is_first || shown.attributes == model.attributes && shown.outline() == model.outline(),
            "an edit has another effect than it should\nis:     {:?}\nshould: {:?}",
            (&shown.attributes, shown.outline()),
            (&model.attributes, model.outline()),
        );
        self.send(index, &updates);
        Ok(())
    }

    fn send(&mut self, from: usize, updates: &[Vec<u8>]) {
        for (to, inbox) in self.inboxes.iter_mut().enumerate() {
            if to != from {
                inbox.extend(updates.iter().cloned());
            }
        }
    }

    fn deliver(&mut self, to: usize, which: u64, manner: Manner, echo: bool) -> Result<()> {
        let mut random = Random(which);
        let inbox = &mut self.inboxes[to];
        if inbox.is_empty() {
            return Ok(());
        }
        let at = random.below(inbox.len());
        let (update, how) = match manner {
            Manner::Once => (inbox.swap_remove(at), "once".to_owned()),
            Manner::Again => (inbox[at].clone(), "once more".to_owned()),
            Manner::Merged { count, by } => {
                let mut parts = vec![inbox.swap_remove(at)];
                while parts.len() < count && !inbox.is_empty() {
                    parts.push(inbox.swap_remove(random.below(inbox.len())));
                }
                let by = self.replica(by);
                let how = format!("{} merged by {}", parts.len(), by.name());
                (by.merge(&parts).with_context(|| how.clone())?, how)
            }
        };
        let line = format!("{} gets {how}: {}", self.replica(to).name(), hex(&update));
        self.log.push(line);
        let answer = self.apply(to, &update)?;
        if echo {
            self.send(to, &answer);
        }
        Ok(())
    }

    fn deliver_all(&mut self, random: &mut Random) -> Result<()> {
        for to in 0..REPLICAS {
            while !self.inboxes[to].is_empty() {
                self.deliver(to, random.next(), Manner::Once, false)?;
            }
        }
        Ok(())
    }

    /// Brings what `to` lacks of `from`; whether it was news.
    fn difference(&mut self, from: usize, to: usize) -> Result<bool> {
        let vector = self.replica(to).state_vector()?;
        let update = self.replica(from).diff(&vector)?;
        let (from, to_name) = (self.replica(from).name(), self.replica(to).name());
        let line = format!("{to_name} gets what it lacks of {from}: {}", hex(&update));
        self.log.push(line);
        Ok(!self.apply(to, &update)?.is_empty())
    }

    fn apply(&mut self, to: usize, update: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut answer = self.replica(to).apply(update)?;
        self.tally.deliveries += 1;
        if to == 0 && self.ours.has_gap() {
            self.tally.gaps += 1;
        }
        if !self.replica(to).deletes_ranges() {
            let one_by_one = one_by_one(&self.yjs.deletions(update)?);
            answer.extend(self.replica(to).apply(&one_by_one)?);
        }
        Ok(answer)
    }

    /// What Yjs makes of these changes to a text, and what our document makes of its updates, one by one and
    /// as one state.
    pub(crate) fn edit_text_in_yjs(&mut self, text: &str, changes: &Value) -> Result<[View; 3]> {
        self.yjs.reset(2)?;
        self.ours.reset(1)?;
        let mut element = Tree {
            tag: TEXT.to_owned(),
            ..Tree::default()
        };
        element.attributes.insert(ID.to_owned(), "t".into());
        element.runs.push((text.to_owned(), BTreeMap::new()));
        let insert = Change::Insert {
            parent: None,
            index: 0,
            element,
        };
        let mut updates = self.yjs.edit(&[(Tree::default(), insert)])?;
        updates.extend(self.yjs.edit_by_units(changes)?);
        for update in &updates {
            self.ours.apply(update)?;
        }
        let state = self.yjs.state()?;
        Ok([self.yjs.view()?, self.ours.view()?, self.ours.load(&state)?])
    }

    fn exchange_until_quiet(&mut self) -> Result<()> {
        for _ in 0..ROUNDS {
            let mut news = false;
            for from in 0..REPLICAS {
                for to in (0..REPLICAS).filter(|&to| to != from) {
                    news |= self.difference(from, to)?;
                }
            }
            if !news {
                return Ok(());
            }
        }
        bail!("the replicas still have news for each other after {ROUNDS} rounds")
    }

    fn compare_ours_with_yjs(&mut self) -> Result<()> {
        ensure!(!self.ours.has_gap(), "something still waits in ours");
        // Formats aside: Yjs deletes those that became needless, which may not have arrived here yet.
        let plain = |view: View| View {
            children: view.to_tree().outline(),
            ..view
        };
        let (ours, yjs) = (plain(self.ours.view()?), plain(self.yjs.view()?));
        let difference = ours.difference(&yjs);
        ensure!(
            difference.is_none(),
            "ours and yjs differ: {}",
            difference.unwrap_or_default()
        );
        let clocks = (
            clocks(&self.ours.state_vector()?)?,
            clocks(&self.yjs.state_vector()?)?,
        );
        ensure!(
            clocks.0 == clocks.1,
            "the state vectors of ours and yjs differ: {clocks:?}"
        );
        Ok(())
    }

    fn compare(&mut self) -> Result<()> {
        let mut views: Vec<(String, View)> = Vec::new();
        let mut vectors = Vec::new();
        let mut deletions = Vec::new();
        let mut states = Vec::new();
        for index in 0..REPLICAS {
            let replica = self.replica(index);
            let name = replica.name();
            views.push((name.to_owned(), replica.view()?));
            vectors.push((name, clocks(&replica.state_vector()?)?));
            let state = replica.state()?;
            deletions.push((name, self.yjs.deletions(&state)?));
            for reader in 0..REPLICAS {
                let reader = self.replica(reader);
                let title = format!("a new {} that read the state of {name}", reader.name());
                let view = reader
                    .load(&state)
                    .with_context(|| format!("{title}: {}", hex(&state)))?;
                views.push((title, view));
            }
            states.push(state);
        }
        for (name, vector) in &vectors {
            ensure!(
                *vector == vectors[0].1,
                "state vectors differ: {name} {vector:?}, {} {:?}",
                vectors[0].0,
                vectors[0].1
            );
        }
        for (one, view) in &views {
            for (other, other_view) in &views {
                if let Some(difference) = view.difference(other_view) {
                    bail!("{one} and {other} differ: {difference}");
                }
            }
        }
        for (name, deleted) in &deletions {
            ensure!(
                *deleted == deletions[0].1,
                "deletions differ: {name} {deleted:?}, {} {:?}",
                deletions[0].0,
                deletions[0].1
            );
        }
        self.ours.check(&states)
    }
}

/// Who comes first among concurrent edits hangs on the ids, so each order of them comes up. They have 32
/// bits: pycrdt takes longer ones for others.
fn client_ids(seed: u64) -> [u64; REPLICAS] {
    let mut random = Random(seed ^ 0x5eed);
    let mut client_id = || {
        let bits = [32, 16][random.below(2)];
        (random.next() >> (64 - bits)).max(1)
    };
    std::array::from_fn(|_| client_id())
}

/// The clocks of a v1 state vector.
pub(crate) fn clocks(vector: &[u8]) -> Result<BTreeMap<u64, u64>> {
    let mut bytes = vector.iter();
    let mut number = || -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = *bytes.next().context("a state vector is cut short")?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        bail!("a number in a state vector is too long")
    };
    let count = number()?;
    (0..count).map(|_| Ok((number()?, number()?))).collect()
}

/// The v1 update that deletes this, as `Foreign::deletions` tells it, in ranges of one operation each.
fn one_by_one(deletions: &Deletions) -> Vec<u8> {
    let mut update = vec![0];
    write(&mut update, deletions.len() as u64);
    for (client, ranges) in deletions {
        write(&mut update, *client);
        let clocks = ranges.iter().flat_map(|&(start, end)| start..end);
        write(&mut update, clocks.clone().count() as u64);
        for clock in clocks {
            write(&mut update, clock);
            write(&mut update, 1);
        }
    }
    update
}

fn write(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
