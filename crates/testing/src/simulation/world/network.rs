//! The connections between clients and server.

use std::collections::VecDeque;

use bytes::Bytes;
use meshagent_server::simulation::SimConn;

use super::schedule::Event;
use super::{MILLISECOND, SECOND, World};
use crate::simulation::trace::Trace;

/// Numbers the connections of a run.
pub(super) type LinkId = u64;

/// A connection: a pipe in each direction, in which order holds.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: usize,
    /// The server's end; gone when the server is, or has ended the connection.
    pub(super) conn: Option<SimConn>,
    pub(super) up: VecDeque<Bytes>,
    /// How many of `up` are at the server's socket.
    pub(super) arrived: usize,
    pub(super) down: VecDeque<Bytes>,
    pub(super) last_up: u64,
    pub(super) last_down: u64,
    /// Until then the client reads nothing.
    pub(super) slow_until: u64,
    pub(super) is_writing: bool,
    /// Nothing arrives on it any more, and nobody has noticed.
    pub(super) is_silent: bool,
}

impl World {
    pub(super) fn connect(&mut self, index: usize) {
        let Some(server) = &mut self.server else {
            return;
        };
        let client = &mut self.clients[index];
        let scope = client.next_scope();
        let conn = server.connect(&client.room, &client.name, scope);
        client.connected();
        self.totals.add("connections", 1);
        self.next_link += 1;
        let link = Link {
            client: index,
            conn: Some(conn),
            up: VecDeque::new(),
            arrived: 0,
            down: VecDeque::new(),
            last_up: 0,
            last_down: 0,
            slow_until: 0,
            is_writing: false,
            is_silent: false,
        };
        self.links.insert(self.next_link, link);
        self.connections[index] = Some(self.next_link);
        if self.now < self.end && self.random.one_in(12) {
            let delay = self.random.below(4 * SECOND);
            self.after(delay, Event::Expire(self.next_link));
        }
    }

    /// The connection breaks; each side finds out in its own time.
    pub(super) fn drop_link(&mut self, index: usize) {
        let Some(id) = self.connections[index] else {
            return;
        };
        self.totals.add("connections dropped", 1);
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        // Some of what is on its way still arrives.
        link.up.truncate(self.random.index(link.up.len() + 1));
        link.arrived = link.arrived.min(link.up.len());
        link.down.clear();
        let delay = self.random.below(2 * SECOND);
        self.after(delay, Event::Notice(id));
        self.disconnect(index, id);
    }

    /// The connection dies in silence: what is sent goes nowhere, until each side finds out in its own time.
    pub(super) fn silence(&mut self, index: usize) {
        let Some(id) = self.connections[index] else {
            return;
        };
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        self.totals.add("connections that died in silence", 1);
        link.is_silent = true;
        link.up.truncate(self.random.index(link.up.len() + 1));
        link.arrived = link.arrived.min(link.up.len());
        link.down.clear();
        let delay = self.random.below(3 * SECOND);
        self.after(delay, Event::Notice(id));
        let delay = self.random.below(3 * SECOND);
        self.after(delay, Event::GiveUp(index, id));
    }

    /// The server drops a connection. What it had queued is lost, what it had sent still arrives.
    pub(super) fn expire(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id).filter(|link| !link.is_silent) else {
            return;
        };
        let (Some(server), Some(conn)) = (&mut self.server, link.conn.take()) else {
            return;
        };
        self.totals.add("tokens expired", 1);
        server.disconnect(conn);
        link.up.clear();
        link.arrived = 0;
        let time = link.last_down.max(self.now);
        let delay = self.random.below(200 * MILLISECOND);
        self.at(time + delay, Event::Lost(id));
    }

    pub(super) fn disconnect(&mut self, index: usize, id: LinkId) {
        if self.connections[index] == Some(id) {
            self.connections[index] = None;
            self.clients[index].disconnected();
        }
    }

    /// A client's packets go on their way.
    pub(super) fn transmit(&mut self, index: usize, trace: &mut Trace) {
        let packets = self.clients[index].take_output();
        let Some(id) = self.connections[index] else {
            return;
        };
        for packet in packets {
            trace.step(format_args!(
                "{index} sends {:08x}",
                crc32fast::hash(&packet)
            ));
            let delay = self.network_delay();
            let Some(link) = self.links.get_mut(&id).filter(|link| !link.is_silent) else {
                return;
            };
            link.last_up = link.last_up.max(self.now + delay);
            link.up.push_back(packet);
            let time = link.last_up;
            self.at(time, Event::Arrive(id));
        }
    }

    /// The server reads what has arrived, as far as it reads from this connection.
    pub(super) fn read_socket(&mut self, id: LinkId) {
        let (Some(server), Some(link)) = (&mut self.server, self.links.get_mut(&id)) else {
            return;
        };
        let Some(conn) = link.conn else {
            return;
        };
        while link.arrived > 0
            && let Some(packet) = link.up.pop_front()
        {
            if let Err(packet) = server.receive(conn, packet) {
                link.up.push_front(packet);
                self.totals.add("times a connection was not read from", 1);
                return;
            }
            link.arrived -= 1;
        }
    }

    pub(super) fn write_socket(&mut self, id: LinkId) {
        let messages = self.random.index(8) + 1;
        let (Some(server), Some(link)) = (&mut self.server, self.links.get_mut(&id)) else {
            return;
        };
        link.is_writing = false;
        let Some(conn) = link.conn else {
            return;
        };
        if link.slow_until > self.now {
            link.is_writing = true;
            let time = link.slow_until;
            return self.at(time, Event::Write(id));
        }
        let written = server.take(conn, messages);
        if written.ended {
            server.disconnect(conn);
            link.conn = None;
            self.totals.add("connections ended by the server", 1);
        }
        self.send_down(id, written.packets);
        if written.ended {
            let time = self.links.get(&id).map_or(0, |link| link.last_down);
            let time = time.max(self.now);
            self.at(time, Event::Lost(id));
        }
        // There may be room now for what had to wait.
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            self.read_socket(id);
        }
    }

    pub(super) fn send_down(&mut self, id: LinkId, packets: Vec<Bytes>) {
        for packet in packets {
            let delay = self.network_delay();
            let Some(link) = self.links.get_mut(&id) else {
                return;
            };
            // To a client that is gone, or that nothing reaches.
            if self.connections[link.client] != Some(id) || link.is_silent {
                return;
            }
            link.last_down = link.last_down.max(self.now + delay);
            link.down.push_back(packet);
            let time = link.last_down;
            self.at(time, Event::Deliver(id));
        }
    }

    pub(super) fn deliver(&mut self, id: LinkId, trace: &mut Trace) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&id) else {
            return Ok(());
        };
        let Some(packet) = link.down.pop_front() else {
            return Ok(());
        };
        let index = link.client;
        trace.step(format_args!(
            "{index} gets {:08x}",
            crc32fast::hash(&packet)
        ));
        let (clients, mut context) = self.context();
        clients[index].receive(&packet, &mut context)?;
        self.transmit(index, trace);
        Ok(())
    }
}
