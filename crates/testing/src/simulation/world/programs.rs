//! The programs of the clients: which there are, their next actions, and their restarts.

use super::schedule::Event;
use super::{MILLISECOND, World};
use crate::simulation::client::{Client, ClientKind};
use crate::simulation::random::Random;
use crate::simulation::roaming;
use crate::simulation::trace::Trace;

impl World {
    /// Takes the next action of a client.
    pub(super) fn act(&mut self, index: usize, trace: &mut Trace) -> Result<(), String> {
        let is_ending = self.now >= self.end;
        let pause = if is_ending {
            200 * MILLISECOND
        } else {
            self.random.between(2, 120) * MILLISECOND
        };
        self.after(pause, Event::Act(index));
        if self.clients[index].is_ours() && !is_ending && self.random.one_in(40) {
            return self.restart(index);
        }
        if self.connections[index].is_none() {
            self.connect(index);
            return Ok(());
        }
        if is_ending {
            self.clients[index].finish();
        } else if self.random.one_in(60) {
            self.drop_link(index);
            return Ok(());
        } else if self.random.one_in(90) {
            self.silence(index);
        } else if self.random.one_in(50) {
            let pause = self.random.between(100, 5000) * MILLISECOND;
            let until = self.now + pause;
            if let Some(link) = self.connections[index].and_then(|id| self.links.get_mut(&id)) {
                self.totals.add("readers that pause", 1);
                link.slow_until = until;
            }
        } else {
            let (clients, mut context) = self.context();
            clients[index].act(&mut context);
        }
        self.transmit(index, trace);
        Ok(())
    }

    /// Ends the program of one of our clients and starts it again from its journals.
    pub(super) fn restart(&mut self, index: usize) -> Result<(), String> {
        self.drop_link(index);
        let (clients, mut context) = self.context();
        clients[index].restart(&mut context)
    }
}

/// Creates the clients of a run, by room. Also returns how many documents they may create.
pub(super) fn clients(random: &mut Random) -> (Vec<Client>, u64) {
    let is_crowded = random.one_in(4);
    let (rooms, most) = if is_crowded {
        (random.between(3, 4), 2)
    } else {
        (random.between(1, 2), 4)
    };
    let mut clients = Vec::new();
    let mut documents = 0;
    for room in 0..rooms {
        let mut paths: Vec<String> = (0..random.between(1, 2))
            .map(|number| format!("{number}.board"))
            .collect();
        documents += paths.len() as u64;
        if random.one_in(2) {
            documents += roaming::DOCUMENTS;
            paths.extend(roaming::paths());
        }
        let mut kinds = vec![ClientKind::Careful, ClientKind::Witness];
        for _ in 0..random.between(1, most) {
            let all = [
                ClientKind::Python,
                ClientKind::Npm,
                ClientKind::Python,
                ClientKind::Npm,
                ClientKind::Careful,
                ClientKind::Ours,
                ClientKind::Ours,
                ClientKind::Witness,
                ClientKind::Intruder,
            ];
            kinds.push(all[random.index(all.len())]);
        }
        for kind in kinds {
            let number = clients.len() as u64 + 1;
            let room = format!("room-{room}");
            clients.push(Client::new(number, kind, &room, &paths, random.fork()));
        }
    }
    (clients, documents)
}
