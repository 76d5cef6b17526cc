//! The programs of the clients: their next actions, and their restarts.

use super::schedule::Event;
use super::{MILLISECOND, World};
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
