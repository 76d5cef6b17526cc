//! The connections between clients and the server: they delay, lose and deliver packets.

use std::collections::VecDeque;

use bytes::Bytes;
use meshagent_server::simulation::SimConn;

use super::schedule::Event;
use super::{MILLISECOND, SECOND, World};
use crate::simulation::trace::Trace;

/// The number of a connection in the run.
pub(super) type LinkId = u64;

/// A connection: a pipe in each direction that preserves the order of packets.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: usize,
    /// The server's side; `None` after the server has ended the connection or is down.
    pub(super) conn: Option<SimConn>,
    /// Packets from the client that the server has not read.
    pub(super) up: VecDeque<Bytes>,
    /// How many packets of `up` are at the server's socket.
    pub(super) arrived: usize,
    /// Packets that are in flight to the client.
    pub(super) down: VecDeque<Bytes>,
    /// When the last packet of `up` arrives at the server.
    pub(super) last_up: u64,
    /// When the last packet of `down` arrives at the client.
    pub(super) last_down: u64,
    /// The time until which the client reads nothing.
    pub(super) slow_until: u64,
    /// Whether a write to the socket is scheduled.
    pub(super) is_writing: bool,
    /// Whether nothing arrives on it any longer, and no side has detected that.
    pub(super) is_silent: bool,
}

impl World {
    /// Connects a client, if the server is up.
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

    /// Breaks the connection of a client. The server detects it later.
    pub(super) fn drop_link(&mut self, index: usize) {
        let Some(id) = self.connections[index] else {
            return;
        };
        self.totals.add("connections dropped", 1);
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        // A part of what is in flight still arrives.
        link.up.truncate(self.random.index(link.up.len() + 1));
        link.arrived = link.arrived.min(link.up.len());
        link.down.clear();
        let delay = self.random.below(2 * SECOND);
        self.after(delay, Event::Notice(id));
        self.disconnect(index, id);
    }

    /// Makes the connection of a client silent: nothing arrives any longer, and each side detects
    /// that in its own time.
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

    /// Ends a connection whose token has expired. What the server had queued is lost; what it had
    /// sent still arrives.
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

    /// Takes a connection away from its client, unless the client has another one by now.
    pub(super) fn disconnect(&mut self, index: usize, id: LinkId) {
        if self.connections[index] == Some(id) {
            self.connections[index] = None;
            self.clients[index].disconnected();
        }
    }

    /// Puts a client's packets in flight.
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

    /// Hands the arrived packets to the server until it pauses reads from this connection.
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
                self.totals.add("times reads paused", 1);
                return;
            }
            link.arrived -= 1;
        }
    }

    /// Writes some of the server's messages to a socket.
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
        // Paused reads may continue now.
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            self.read_socket(id);
        }
    }

    /// Puts packets to a client in flight.
    pub(super) fn send_down(&mut self, id: LinkId, packets: Vec<Bytes>) {
        for packet in packets {
            let delay = self.network_delay();
            let Some(link) = self.links.get_mut(&id) else {
                return;
            };
            // The client is gone, or nothing reaches it.
            if self.connections[link.client] != Some(id) || link.is_silent {
                return;
            }
            link.last_down = link.last_down.max(self.now + delay);
            link.down.push_back(packet);
            let time = link.last_down;
            self.at(time, Event::Deliver(id));
        }
    }

    /// Hands the next packet to its client.
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
