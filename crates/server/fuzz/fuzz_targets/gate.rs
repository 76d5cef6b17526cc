//! Fuzzes the gate with arbitrary bytes as updates of a document: each update is answered once,
//! readers never see a document that breaks the schema, and the store keeps what was shown.
#![no_main]

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use meshagent_document::{MeshDocument, MeshSchema, UpdateKind};
use meshagent_protocol::{
    ApiScope, ClientToServer, Content, Control, Envelope, ErrorCode, Invoke, MessageId,
    PacketLimits, PacketReader, ServerToClient, SyncChunk, SyncGrant, SyncOpenStart,
    SyncPathGrant,
};
use meshagent_server::Config;
use meshagent_server::simulation::{SimConn, SimServer};
use meshagent_store::{MemoryStore, Store as _, Timestamp};

const PATH: &str = "a.thread";

fuzz_target!(|bytes: &[u8]| {
    let mut config = Config::default();
    // Small, so that runs reach the limits.
    config.snapshot_every = 3;
    config.limits.max_pending_bytes = 600;
    config.limits.max_document_bytes = 8 << 10;
    config.limits.max_document_elements = 40;
    config.limits.max_document_depth = 6;
    let store = Arc::new(MemoryStore::new());
    let mut world = World {
        server: start(&config, &store),
        members: Vec::new(),
    };
    for name in ["writer", "guest", "witness"] {
        world.join(name);
    }
    for (sender, update) in updates(bytes) {
        let member = &mut world.members[sender];
        // An empty update adds nothing and is accepted.
        let is_new = !update.is_empty()
            && !matches!(
                member.replica.classify(update),
                Ok(UpdateKind::Empty | UpdateKind::Contained)
            );
        let answer = world.update(sender, update);
        if sender == GUEST && is_new {
            let Content::Error { code, .. } = answer else {
                panic!("a write of somebody who may not is answered by {answer:?}");
            };
            let codes = [ErrorCode::PermissionDenied, ErrorCode::InvalidRequest];
            assert!(
                codes.iter().any(|one| Some(one.number()) == code),
                "{code:?}"
            );
        }
    }

    // All participants have seen what is stored, and what the next server shows.
    let seen = world.members[WITNESS].replica.to_json(true);
    assert_eq!(world.members[GUEST].replica.to_json(true), seen);
    let mut kept = replica();
    let room = SimServer::room_id("room");
    if let Some(stored) = store.load(&room, PATH).expect("a store in memory") {
        let snapshot = stored.snapshot.iter().map(|bytes| &bytes[..]);
        let later = stored.updates.iter().map(|update| &update.update[..]);
        for update in snapshot.chain(later) {
            kept.apply_update(update).expect("what is kept can be read");
        }
    }
    assert!(kept.violations().is_empty());
    assert_eq!(kept.to_json(true), seen);
    let mut next = World {
        server: start(&config, &store),
        members: Vec::new(),
    };
    next.join("late");
    assert_eq!(next.members[0].replica.to_json(true), seen);
});

const GUEST: usize = 1;
const WITNESS: usize = 2;

/// The updates in the bytes, each with its sender: one byte, a length in two bytes, and the update.
fn updates(mut bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    std::iter::from_fn(move || {
        let (&sender, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (update, rest) = rest.split_at(length);
        bytes = rest;
        Some((usize::from(sender & 1), update))
    })
}

fn start(config: &Config, store: &Arc<MemoryStore>) -> SimServer {
    let now = Timestamp(1_900_000_000_000);
    SimServer::new(config.clone(), Arc::<MemoryStore>::clone(store), 1, now)
}

fn replica() -> MeshDocument {
    MeshDocument::new(MeshSchema::builtin("thread").expect("it is built in"), 1)
}

struct World {
    server: SimServer,
    members: Vec<Member>,
}

struct Member {
    conn: SimConn,
    reader: PacketReader,
    replica: MeshDocument,
    is_reader: bool,
    /// The id of the last request.
    last: u64,
    answers: Vec<Content>,
}

impl World {
    /// Adds a participant that opens the document.
    fn join(&mut self, name: &str) {
        let mut scope = ApiScope::full();
        scope.sync = Some(SyncGrant {
            paths: Some(vec![SyncPathGrant {
                path: PATH.to_owned(),
                read_only: name == "guest",
            }]),
        });
        self.members.push(Member {
            conn: self.server.connect("room", name, scope),
            reader: PacketReader::new(PacketLimits::default()),
            replica: replica(),
            is_reader: name != "writer",
            last: 0,
            answers: Vec::new(),
        });
        let member = self.members.len() - 1;
        let open = ClientToServer::Invoke(Invoke {
            toolkit: "sync".to_owned(),
            tool: "open".to_owned(),
            arguments: Content::Control(Control::Open),
            tool_call_id: Some("open".to_owned()),
            participant_id: None,
            on_behalf_of_id: None,
        });
        self.ask(member, open);
        let path = PATH.parse().expect("it is a path");
        let answer = self.chunk(member, SyncOpenStart::new(path).to_content());
        assert_eq!(answer, Content::Empty);
    }

    fn update(&mut self, sender: usize, update: &[u8]) -> Content {
        self.chunk(sender, SyncChunk::of_update(update))
    }

    fn chunk(&mut self, sender: usize, chunk: Content) -> Content {
        let tool_call_id = "open".to_owned();
        self.ask(
            sender,
            ClientToServer::RequestChunk {
                tool_call_id,
                chunk,
            },
        )
    }

    /// Sends a request, runs the server until it is idle, and returns the one answer.
    fn ask(&mut self, sender: usize, message: ClientToServer) -> Content {
        let member = &mut self.members[sender];
        member.last += 1;
        let envelope = Envelope {
            id: MessageId::from(member.last),
            trace: None,
            message,
        };
        let mut packets = Vec::new();
        envelope.encode(&mut packets);
        for packet in packets {
            self.server
                .receive(member.conn, packet)
                .expect("it is idle");
        }
        self.settle();
        let answers = std::mem::take(&mut self.members[sender].answers);
        let [answer] = <[Content; 1]>::try_from(answers).expect("one answer to one request");
        assert!(self.members.iter().all(|member| member.answers.is_empty()));
        answer
    }

    fn settle(&mut self) {
        loop {
            let mut is_idle = true;
            while self.server.lane() > 0 {
                self.server.advance_lane(0);
            }
            while self.server.reads() > 0 {
                self.server.advance_read(0);
                is_idle = false;
            }
            if self.server.has_batches() {
                self.server.begin_commit();
                self.server.end_commit();
                is_idle = false;
            }
            for member in &mut self.members {
                let written = self.server.take(member.conn, usize::MAX);
                assert!(!written.ended);
                for packet in written.packets {
                    is_idle = false;
                    member.receive(&packet);
                }
            }
            if is_idle {
                return;
            }
        }
    }
}

impl Member {
    fn receive(&mut self, packet: &[u8]) {
        let read = self.reader.handle_packet(packet);
        let Some(message) = read.expect("the server's packets are in order") else {
            return;
        };
        match ServerToClient::parse(&message).expect("the server's messages can be read") {
            Some(ServerToClient::Response { request, content }) => {
                assert_eq!(request, MessageId::from(self.last));
                self.answers.push(content);
            }
            Some(ServerToClient::ResponseChunk { chunk, .. }) => {
                let Content::Binary { data, .. } = chunk else {
                    panic!("the stream ended with {chunk:?}");
                };
                let update = STANDARD.decode(&data).expect("it is base64");
                if !update.is_empty() {
                    self.replica
                        .apply_update(&update)
                        .expect("what is shown can be read");
                }
                // A writer does not receive its own updates, so its replica here is incomplete.
                if self.is_reader {
                    assert!(self.replica.violations().is_empty());
                    assert!(!self.replica.has_gap());
                }
            }
            _ => {}
        }
    }
}
