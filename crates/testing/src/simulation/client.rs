//! The programs at the other end: models of the published SDKs, of a client that keeps what was not acknowledged,
//! our own client's replica, readers, and those who may not write and try.

mod ours;
mod patches;

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use bytes::Bytes;
use meshagent_document::MeshDocument;
use meshagent_protocol::{
    ApiScope, Content, Control, DocPath, ServerToClient, SyncChunk, SyncCreate, SyncDescribe,
    SyncGrant, SyncOpenStart, SyncOutput, SyncPathGrant,
};
use serde_json::{Value, json};

use self::ours::Ours;
use self::patches::Patches;
use super::board;
use super::random::Random;
use super::record::{self, Place, Record};
use super::roaming::{Clocks, Identity, Relocation, is_roaming};
use super::session::{Asked, NONSENSE_ID, Purpose, Session};
use super::trace::Totals;

/// The bytes that are attached to what a talkative participant says.
/// The name of a count.
const IMPERSONATIONS: &str = "edits under a client id of ours";
const ATTACHMENT_BYTES: usize = 700;

/// How many times a client edits in a storm; each makes an update or a few.
const STORM_EDITS: usize = 900;

/// What kind of program it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Manner {
    /// As the published SDK for Python: looks at no answer; after a reconnect it sends what was edited meanwhile,
    /// and not what was in flight.
    Python,
    /// As the published SDK for JavaScript: sends the next chunk when the last one was answered, gives the stream up
    /// after an error, and sends nothing again.
    Npm,
    /// Keeps its edits until they are acknowledged, sends them again, and fills gaps that it is told of.
    Careful,
    /// Our own client: its replica decides what is sent, and what becomes of the answers.
    Ours,
    /// Only reads, and looks at the document after every chunk.
    Witness,
    /// May only read, and writes.
    Intruder,
}

impl Manner {
    fn may_write(self) -> bool {
        matches!(self, Self::Python | Self::Npm | Self::Careful | Self::Ours)
    }

    /// Whether every update that comes in goes back.
    fn echoes(self) -> bool {
        !self.loses_nothing()
    }

    /// Whether what was not acknowledged is sent again.
    fn loses_nothing(self) -> bool {
        matches!(self, Self::Careful | Self::Ours)
    }
}

/// What a client's steps are told to, and counted in.
pub(super) struct Context<'a> {
    pub(super) now: u64,
    pub(super) record: &'a mut Record,
    pub(super) totals: &'a mut Totals,
    /// Whether documents have a small bound.
    pub(super) may_be_full: bool,
    /// Since when something holds the log of what was deleted.
    pub(super) log_held: Option<u64>,
    /// Whether some edits are large.
    pub(super) is_heavy: bool,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: String,
    pub(super) room: String,
    manner: Manner,
    /// Whether it is one of the published SDKs, and so does what programs should not do.
    is_rough: bool,
    random: Random,
    number: u64,
    replicas: u64,
    elements: u64,
    session: Option<Session>,
    documents: BTreeMap<String, Document>,
    patches: BTreeMap<String, Patches>,
    /// Whether the connection is one that may not write.
    is_read_only: bool,
    /// Edits that ended in a panic and were not counted yet.
    panicked: u64,
    now: u64,
}

/// What a program that edits panics with, where that is meant.
#[derive(Debug)]
struct Planned;

/// A document as this client has it.
#[derive(Debug, Default)]
struct Document {
    replica: Option<Holder>,
    stream: Option<Stream>,
    /// The replica has, or may have, an edit that the server will never get.
    is_off: bool,
    /// What the server has not acknowledged, of a careful client.
    kept: VecDeque<Kept>,
    /// What the replica had when the connection was lost, as a state vector.
    had: Option<Vec<u8>>,
    /// Its name, if it does not stay where it is.
    identity: Option<Identity>,
}

/// What holds a replica.
#[derive(Debug)]
enum Holder {
    Plain(Box<MeshDocument>),
    Ours(Box<Ours>),
}

impl Holder {
    fn read<R>(&self, read: impl FnOnce(&MeshDocument) -> R) -> R {
        match self {
            Self::Plain(document) => read(document),
            Self::Ours(ours) => ours.read(read),
        }
    }
}

#[derive(Debug)]
struct Kept {
    update: Vec<u8>,
    is_sent: bool,
}

#[derive(Debug)]
struct Stream {
    call: String,
    /// Whether the state has come.
    is_open: bool,
    /// Chunks that wait for the answer to the one before.
    queue: VecDeque<(Vec<u8>, Purpose)>,
    is_waiting: bool,
    /// How many operations of each client were promised when it was asked for.
    due: Clocks,
    /// The same of all documents that may be at its path.
    due_of: BTreeMap<String, Clocks>,
    since: u64,
    /// What our client was answered to its start chunk, and what came before that.
    answer: Option<Content>,
    early: Vec<Content>,
}

impl Client {
    pub(super) fn new(
        number: u64,
        manner: Manner,
        room: &str,
        paths: &[String],
        random: Random,
    ) -> Self {
        let documents = paths
            .iter()
            .map(|path| (path.clone(), Document::default()))
            .collect();
        Self {
            name: format!("{manner:?}{number}"),
            room: room.to_owned(),
            is_rough: matches!(manner, Manner::Python | Manner::Npm),
            manner,
            random,
            number,
            replicas: 0,
            elements: 0,
            session: None,
            documents,
            patches: BTreeMap::new(),
            is_read_only: false,
            panicked: 0,
            now: 0,
        }
    }

    /// Whether it may write on this connection.
    fn may_write(&self) -> bool {
        self.manner.may_write() && !self.is_read_only
    }

    /// The rights of its next connection.
    pub(super) fn next_scope(&mut self) -> ApiScope {
        let mut scope = ApiScope::full();
        // A person's rights may be taken, and given again.
        self.is_read_only = self.manner == Manner::Ours && self.random.one_in(10);
        if !self.may_write() {
            scope.sync = Some(SyncGrant {
                paths: Some(vec![SyncPathGrant {
                    path: "*".to_owned(),
                    read_only: true,
                }]),
            });
        }
        scope
    }

    /// A connection was made; the server has not said anything yet.
    pub(super) fn connected(&mut self) {
        self.session = Some(Session::new());
    }

    /// The connection is gone, and with it what was in flight.
    pub(super) fn disconnected(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        for patches in self.patches.values_mut() {
            patches.is_unsure |= std::mem::take(&mut patches.is_waiting);
        }
        for asked in session.waiting() {
            if let Asked::Update {
                path,
                purpose: Purpose::Edit | Purpose::Garbage,
                ..
            } = asked
                && !self.manner.loses_nothing()
                && let Some(document) = self.documents.get_mut(path)
            {
                document.is_off = true;
            }
        }
        for (path, document) in &mut self.documents {
            if is_roaming(path) {
                document.leave();
            }
            if let Some(stream) = document.stream.take() {
                document.give_up(&stream);
            }
            if document.had.is_none() {
                let replica = document.replica.as_ref();
                document.had = replica.map(|one| one.read(MeshDocument::state_vector));
            }
            for kept in &mut document.kept {
                kept.is_sent = false;
            }
        }
    }

    /// The packets to send.
    pub(super) fn take_output(&mut self) -> Vec<Bytes> {
        self.session
            .as_mut()
            .map(Session::take_output)
            .unwrap_or_default()
    }

    /// A packet came from the server.
    pub(super) fn receive(
        &mut self,
        packet: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        self.now = context.now;
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        match session.receive(packet)? {
            Some(ServerToClient::Connected { .. }) => session.is_connected = true,
            Some(ServerToClient::Response { request, content }) => {
                if let Some(asked) = session.answered(request)? {
                    self.answered(asked, &content, context)?;
                }
            }
            Some(ServerToClient::ResponseChunk {
                tool_call_id,
                chunk,
            }) => self.chunk_came(&tool_call_id, &chunk, context)?,
            Some(ServerToClient::Messaging { .. }) => context.totals.add("talk heard", 1),
            Some(ServerToClient::RoomStatus { status, .. }) if status == "messages_lost" => {
                context.totals.add("losses of talk told", 1);
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    fn answered(
        &mut self,
        asked: Asked,
        content: &Content,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        let code = match content {
            Content::Error { code, .. } => Some(code.unwrap_or_default()),
            _ => None,
        };
        match asked {
            Asked::Call | Asked::Close => Ok(()),
            Asked::Relocate {
                number,
                is_deletion,
                sent,
            } => {
                let is_held = context
                    .log_held
                    .is_some_and(|since| since <= sent && context.now < since + PATIENCE);
                if is_held && is_deletion && code.is_none() {
                    let name = &self.name;
                    return Err(format!(
                        "{name}: what is said to be deleted can still be read"
                    ));
                }
                let kind = if code.is_some() {
                    "moves and deletions refused"
                } else {
                    "moves and deletions"
                };
                context.totals.add(kind, 1);
                let roamers = &mut context.record.roamers;
                roamers.answered(number, context.now, code.is_some());
                Ok(())
            }
            Asked::Patch(sealing) => self.patch_answered(&sealing, content, context),
            Asked::Invoke { path } => {
                if code.is_some()
                    && let Some(document) = self.documents.get_mut(&path)
                {
                    context.totals.add("opens refused", 1);
                    if let Some(stream) = document.stream.take() {
                        document.give_up(&stream);
                    }
                }
                Ok(())
            }
            Asked::Start { path } => self.started(&path, content, context),
            Asked::Update {
                path,
                update,
                purpose,
                number,
                call,
                sent,
                identity,
            } => {
                let place = (self.room.clone(), path.clone());
                if code.is_none()
                    && purpose != Purpose::Echo
                    && let Some(identity) = &identity
                {
                    let roamers = &mut context.record.roamers;
                    roamers.promise(identity, &path, &update, sent)?;
                }
                let stream = self
                    .documents
                    .get(&path)
                    .and_then(|one| one.stream.as_ref());
                if is_roaming(&path) && stream.is_none_or(|stream| stream.call != call) {
                    // Its document has gone from here; what is open by now is another, or the same opened anew.
                    context.totals.add("answers after a document had gone", 1);
                    return Ok(());
                }
                match code {
                    Some(code) => self.update_refused(&place, &update, purpose, code, context)?,
                    None => self.update_taken(&place, &update, purpose, content, context)?,
                }
                if self.manner == Manner::Ours && purpose == Purpose::Edit {
                    self.answer_ours(&path, &call, number, content)?;
                }
                self.send_next(&path);
                Ok(())
            }
        }
    }

    fn update_refused(
        &mut self,
        place: &Place,
        update: &[u8],
        purpose: Purpose,
        code: i64,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        context
            .totals
            .add(&format!("updates refused with {code}"), 1);
        let is_denied = code == DENIED;
        if is_denied && (self.may_write() || purpose == Purpose::Echo) {
            return Err(format!("{}: {purpose:?} was denied", self.name));
        }
        if code == INVALID && purpose == Purpose::Edit && self.manner.loses_nothing() {
            // A document that is full, a call that the server has ended, or a parent that another program made something
            // else under our client id.
            let is_impersonated = context.totals.count(IMPERSONATIONS) > 0;
            if !context.may_be_full && !is_roaming(&place.1) && !is_impersonated {
                return Err(format!("{}: an edit was called invalid", self.name));
            }
            if self.manner == Manner::Careful
                && let Some(document) = self.documents.get_mut(&place.1)
            {
                document.is_off = true;
                document.kept.retain(|kept| kept.update != update);
            }
            return Ok(());
        }
        // This one sends nothing twice, so nothing of what was refused gets in by another way.
        let is_final = (is_denied && self.manner != Manner::Ours) || self.manner == Manner::Npm;
        if is_final && purpose == Purpose::Edit && !is_roaming(&place.1) {
            context.record.refuse(place, update);
        }
        let Some(document) = self.documents.get_mut(&place.1) else {
            return Ok(());
        };
        if purpose == Purpose::Edit {
            document.is_off |= !self.manner.loses_nothing();
            for kept in &mut document.kept {
                kept.is_sent &= kept.update != update;
            }
        }
        if self.manner == Manner::Npm
            && let Some(stream) = document.stream.take()
        {
            document.give_up(&stream);
            if let Some(session) = &mut self.session {
                session.chunk(&stream.call, Content::close(), Asked::Close);
            }
        }
        Ok(())
    }

    fn update_taken(
        &mut self,
        place: &Place,
        update: &[u8],
        purpose: Purpose,
        content: &Content,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        if purpose == Purpose::Echo {
            return match content {
                Content::Empty => Ok(()),
                // Somebody has deleted it in the meantime.
                Content::Json(notice) if notice.get("deleted").is_some() => Ok(()),
                other => Err(format!(
                    "{}: an echo was answered with {other:?}",
                    self.name
                )),
            };
        }
        context.totals.add("updates acknowledged", 1);
        if purpose == Purpose::Garbage && record::is_fitted(update) {
            context.totals.add("updates made fit for all readers", 1);
            let is_told =
                matches!(content, Content::Json(answer) if answer.get("violation_count").is_some());
            if !is_told {
                return Err(format!(
                    "{}: is not told that a part of an update is not kept: {content:?}",
                    self.name
                ));
            }
        }
        // Our client keeps what waits on the server, and takes its own word back by what it sends later.
        let is_kept = self.manner == Manner::Ours
            && matches!(content, Content::Json(answer) if answer.get("pending").is_some());
        // Of somebody who may not write it can only be something that is there already.
        if !is_roaming(&place.1) && !is_kept {
            context.record.promise(place, update)?;
        }
        let Some(document) = self.documents.get_mut(&place.1) else {
            return Ok(());
        };
        // What is garbage to its sender may be an update to others.
        document.is_off |= purpose == Purpose::Garbage;
        if let Some(at) = document.kept.iter().position(|kept| kept.update == update) {
            document.kept.remove(at);
        }
        let Content::Json(answer) = content else {
            return Ok(());
        };
        if answer.get("violation_count").is_some() {
            context.totals.add("repairs told", 1);
        }
        if answer.get("pending") == Some(&Value::Bool(true)) {
            context.totals.add("gaps told", 1);
            if self.manner == Manner::Careful
                && let Some(Holder::Plain(replica)) = &document.replica
            {
                let vector = answer["state_vector"].as_str().unwrap_or_default();
                let vector = meshagent_protocol::decode_base64(vector.as_bytes())
                    .map_err(|error| error.to_string())?;
                let missing = replica
                    .encode_diff(&vector)
                    .map_err(|error| error.to_string())?;
                context.totals.add("gaps filled", 1);
                self.send_kept(&place.1, missing);
            }
        }
        Ok(())
    }

    /// A start chunk was answered.
    fn started(
        &mut self,
        path: &str,
        content: &Content,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        let Some(document) = self.documents.get_mut(path) else {
            return Ok(());
        };
        if let Content::Error { .. } = content {
            context.totals.add("opens refused", 1);
            if let Some(stream) = document.stream.take() {
                document.give_up(&stream);
            }
            return Ok(());
        }
        let Some(stream) = &mut document.stream else {
            return Ok(());
        };
        stream.answer = Some(content.clone());
        let call = stream.call.clone();
        for chunk in std::mem::take(&mut stream.early) {
            self.chunk_came(&call, &chunk, context)?;
        }
        Ok(())
    }

    /// What our client makes of an answer.
    fn answer_ours(
        &mut self,
        path: &str,
        call: &str,
        number: u64,
        content: &Content,
    ) -> Result<(), String> {
        let Some(document) = self.documents.get_mut(path) else {
            return Ok(());
        };
        let Some(Holder::Ours(ours)) = &mut document.replica else {
            return Ok(());
        };
        // What is answered on a stream that has ended is sent again.
        if document
            .stream
            .as_ref()
            .is_none_or(|stream| stream.call != call)
        {
            return Ok(());
        }
        let goes_on = ours.answered(number, content.clone());
        let goes_on = goes_on.map_err(|error| format!("{}: {path:?}: {error}", self.name))?;
        // The document is opened again, after a while.
        if !goes_on && let Some(stream) = document.stream.take() {
            document.give_up(&stream);
            if let Some(session) = &mut self.session {
                session.chunk(&stream.call, Content::close(), Asked::Close);
            }
        }
        self.send_ours(path);
        Ok(())
    }

    /// Sends what our client's replica has to send.
    fn send_ours(&mut self, path: &str) {
        let is_full = self.random.one_in(10);
        let has_time = !self.random.one_in(3);
        loop {
            let Some(document) = self.documents.get_mut(path) else {
                return;
            };
            let is_open = document.is_open();
            let Some(Holder::Ours(ours)) = &mut document.replica else {
                return;
            };
            if has_time {
                ours.write(is_full);
            }
            if !is_open {
                return;
            }
            let Some(next) = ours.next_to_send() else {
                return;
            };
            self.send_numbered(path, next.update, Purpose::Edit, next.number);
        }
    }

    fn chunk_came(
        &mut self,
        call: &str,
        chunk: &Content,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        let found = self.documents.iter_mut().find(|(_, document)| {
            document
                .stream
                .as_ref()
                .is_some_and(|stream| stream.call == call)
        });
        // A call that this side has ended.
        let Some((path, document)) = found else {
            return Ok(());
        };
        let path = path.clone();
        if self.manner == Manner::Ours
            && let Some(stream) = document.stream.as_mut().filter(|one| one.answer.is_none())
        {
            stream.early.push(chunk.clone());
            return Ok(());
        }
        match chunk {
            Content::Error { .. } | Content::Control(Control::Close { .. }) => {
                if let Some(stream) = document.stream.take() {
                    document.give_up(&stream);
                }
                if is_roaming(&path) {
                    document.leave();
                }
                return Ok(());
            }
            _ => {}
        }
        let output = SyncOutput::parse(chunk)
            .map_err(|error| format!("{}: a chunk that is none: {error:?}", self.name))?;
        let is_first = document.stream.as_ref().is_some_and(|one| !one.is_open);
        let (schema, update) = match output {
            SyncOutput::State { schema, update, .. } if is_first => (Some(schema), update),
            SyncOutput::Sync { update, .. } if !is_first => (None, update),
            _ => return Err(format!("{}: the state comes first, and once", self.name)),
        };
        let place = (self.room.clone(), path.clone());
        if !is_roaming(&path) {
            context.record.promise(&place, &update)?;
        }
        if document.replica.is_none() {
            self.replicas += 1;
            let client_id = self.number * 1000 + self.replicas;
            if self.manner == Manner::Intruder {
                context.record.forbid(client_id);
            }
            let replica = match self.manner {
                Manner::Ours => {
                    let ours = Ours::new(&path, ours_id(self.number, self.replicas))?;
                    Holder::Ours(Box::new(ours))
                }
                Manner::Careful | Manner::Witness => {
                    Holder::Plain(Box::new(board::strict(client_id)))
                }
                _ => Holder::Plain(Box::new(board::lax(client_id))),
            };
            document.replica = Some(replica);
        }
        let (Some(replica), Some(stream)) = (&mut document.replica, &mut document.stream) else {
            return Ok(());
        };
        stream.is_open = true;
        let failed = |name: &str, error: &str| format!("{name}: {path:?}: {error}");
        let gap = match replica {
            Holder::Plain(_) if update.is_empty() => false,
            Holder::Plain(replica) => {
                let applied = replica.apply_update(&update);
                let applied = applied.map_err(|error| failed(&self.name, &error.to_string()))?;
                applied.gap
            }
            Holder::Ours(ours) => {
                let taken = match (&schema, &stream.answer) {
                    (Some(schema), Some(answer)) => {
                        ours.begin(answer, schema, &update, context.totals)
                    }
                    _ => ours.received(&update),
                };
                taken.map_err(|error| failed(&self.name, &error))?;
                // Somebody may have put other operations in the place of ours, on which those of others build.
                ours.read(MeshDocument::has_gap) && ours.is_saved()
            }
        };
        if gap && !document.is_off {
            return Err(format!(
                "{}: was sent an update of {path:?} that cannot be shown",
                self.name
            ));
        }
        if is_roaming(&path) {
            if is_first {
                let Some(name) = replica.read(board::identity) else {
                    return Err(format!("{}: {path:?} has lost its name", self.name));
                };
                stream.due = stream.due_of.remove(&name).unwrap_or_default();
                document.identity = Some((self.room.clone(), name));
            }
            if let Some(identity) = &document.identity {
                let since = if is_first { stream.since } else { 0 };
                let roamers = &mut context.record.roamers;
                roamers.promise(identity, &path, &update, since)?;
            }
        }
        if is_first {
            let clocks: Clocks = replica.read(|document| document.clocks().collect());
            let has = |(client, clock): (&u64, &u64)| clocks.get(client) >= Some(clock);
            if !stream.due.iter().all(has) {
                return Err(format!(
                    "{}: opened {path:?} and found less than was promised before",
                    self.name
                ));
            }
        }
        if self.manner == Manner::Witness {
            context.totals.add("chunks witnessed", 1);
            let violations = match replica {
                Holder::Plain(replica) => replica.violations(),
                Holder::Ours(_) => meshagent_document::Violations::default(),
            };
            if !violations.is_empty() {
                return Err(format!("{}: was shown {violations:?}", self.name));
            }
        }
        // Publishing what came is what published SDKs do; a part of the readers is quiet.
        if self.manner.echoes() && !update.is_empty() {
            self.send(&path, update, Purpose::Echo);
        }
        if is_first {
            self.after_opening(&path);
        }
        Ok(())
    }

    /// What is sent once a document is open (again).
    fn after_opening(&mut self, path: &str) {
        let Some(document) = self.documents.get_mut(path) else {
            return;
        };
        let had = document.had.take();
        match self.manner {
            Manner::Careful => self.send_all_kept(path),
            Manner::Ours => self.send_ours(path),
            Manner::Python => {
                let Some((had, Holder::Plain(replica))) = had.zip(document.replica.as_ref()) else {
                    return;
                };
                // Also what came from others meanwhile, and all deletions, which no state vector counts.
                if let Ok(difference) = replica.encode_diff(&had) {
                    self.send(path, difference, Purpose::Edit);
                }
            }
            Manner::Npm | Manner::Witness | Manner::Intruder => {}
        }
    }

    /// Does something, or nothing.
    pub(super) fn act(&mut self, context: &mut Context<'_>) {
        self.now = context.now;
        let mut paths: Vec<String> = self.documents.keys().cloned().collect();
        if paths.iter().any(|path| is_roaming(path)) {
            let roams = self.random.one_in(2);
            paths.retain(|path| is_roaming(path) == roams);
        }
        let Some(path) = self.random.pick(&paths).cloned() else {
            return;
        };
        let is_ready = self.session.as_ref().is_some_and(|one| one.is_connected);
        let document = &self.documents[&path];
        let (is_open, has_replica) = (document.is_open(), document.replica.is_some());
        if is_ready && document.stream.is_none() && !self.random.one_in(4) {
            return self.open_with(&path, context);
        }
        match self.random.below(40) {
            0 if is_open => self.close(&path),
            1 if is_ready => self.describe(&path),
            2 if is_ready => self.create(&path),
            3 if is_ready => self.talk(),
            4 if is_ready && self.manner != Manner::Witness => self.send_nonsense(),
            5..7 if is_open && self.is_rough => self.send_garbage(&path, context),
            7..9 if has_replica && self.is_rough => self.break_schema(&path, context),
            9 if is_open && self.is_rough => self.lose_an_edit(&path, context),
            10 if is_open => self.send_all_kept(&path),
            11 if is_open && self.manner == Manner::Careful => self.send_twice(&path, context),
            17..22 if is_ready && is_roaming(&path) => self.relocate(&path, context),
            13 if is_ready => self.look_around(&path),
            14..16 if is_ready => self.patch(&path, context),
            10..40 if self.manner != Manner::Witness && has_replica => self.edit(&path, context),
            _ => {}
        }
    }

    fn edit(&mut self, path: &str, context: &mut Context<'_>) {
        let updates = if context.is_heavy && self.random.one_in(3) {
            self.change(path, board::enlarge)
        } else {
            self.change(path, board::edit)
        };
        context.totals.add("edits", updates.len() as u64);
        let panicked = std::mem::take(&mut self.panicked);
        context.totals.add("edits that panicked", panicked);
        if let Some(Holder::Ours(ours)) = &self.documents[path].replica {
            let place = (self.room.clone(), path.to_owned());
            let client_id = ours.read(MeshDocument::client_id);
            context.record.ours.insert(place, client_id);
        }
        self.publish(path, updates);
    }

    fn break_schema(&mut self, path: &str, context: &mut Context<'_>) {
        let updates = self.change(path, board::break_schema);
        context
            .totals
            .add("edits against the schema", updates.len() as u64);
        self.publish(path, updates);
    }

    /// Makes more edits than a room takes at once.
    pub(super) fn storm(&mut self, context: &mut Context<'_>) {
        let open = self.documents.iter().find(|(_, one)| one.is_open());
        let Some(path) = open.map(|(path, _)| path.clone()) else {
            return;
        };
        context.totals.add("storms", 1);
        for _ in 0..STORM_EDITS {
            self.edit(&path, context);
        }
    }

    /// Sends an edit that it has sent before, as after an answer that was lost.
    fn send_twice(&mut self, path: &str, context: &mut Context<'_>) {
        let updates = self.change(path, board::edit);
        context
            .totals
            .add("updates sent twice", updates.len() as u64);
        for update in updates {
            self.send(path, update.clone(), Purpose::Edit);
            self.send_kept(path, update);
        }
    }

    fn lose_an_edit(&mut self, path: &str, context: &mut Context<'_>) {
        let mut updates = self.change(path, board::edit);
        if updates.is_empty() {
            return;
        }
        updates.remove(0);
        context.totals.add("edits never sent", 1);
        if let Some(document) = self.documents.get_mut(path) {
            document.is_off = true;
        }
        self.publish(path, updates);
    }

    fn change(
        &mut self,
        path: &str,
        change: impl FnOnce(&mut MeshDocument, &mut Random, &mut dyn FnMut() -> String) -> Vec<Vec<u8>>,
    ) -> Vec<Vec<u8>> {
        let Some(replica) = self
            .documents
            .get_mut(path)
            .and_then(|document| document.replica.as_mut())
        else {
            return Vec::new();
        };
        let (number, elements) = (self.number, &mut self.elements);
        let mut next_id = || {
            *elements += 1;
            format!("{number}-{elements}")
        };
        match replica {
            Holder::Plain(replica) => change(replica, &mut self.random, &mut next_id),
            Holder::Ours(replica) => {
                let panics = self.random.one_in(20);
                let (random, mut updates) = (&mut self.random, Vec::new());
                let edit = |document: &mut MeshDocument| {
                    updates = change(document, random, &mut next_id);
                    if panics {
                        // What was changed before is kept. This tells nobody of a panic, unlike `panic!`.
                        resume_unwind(Box::new(Planned));
                    }
                    updates.clone()
                };
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| replica.edit_with(edit))) {
                    if !panic.is::<Planned>() {
                        resume_unwind(panic);
                    }
                    self.panicked += 1;
                }
                updates
            }
        }
    }

    /// Sends edits if there is an open stream; if not, it is the manner that decides what becomes of them.
    fn publish(&mut self, path: &str, updates: Vec<Vec<u8>>) {
        if self.manner == Manner::Ours {
            // They are kept by the replica.
            return self.send_ours(path);
        }
        for update in updates {
            match self.manner {
                Manner::Careful => self.send_kept(path, update),
                _ if self.documents[path].is_open() => self.send(path, update, Purpose::Edit),
                // It follows with the difference, if the connection was lost and not the stream.
                Manner::Python if self.documents[path].had.is_some() => {}
                _ => {
                    if let Some(document) = self.documents.get_mut(path) {
                        document.is_off = true;
                    }
                }
            }
        }
    }

    fn send_kept(&mut self, path: &str, update: Vec<u8>) {
        if let Some(document) = self.documents.get_mut(path) {
            document.kept.push_back(Kept {
                update,
                is_sent: false,
            });
        }
        self.send_all_kept(path);
    }

    fn send_all_kept(&mut self, path: &str) {
        let Some(document) = self.documents.get_mut(path).filter(|one| one.is_open()) else {
            return;
        };
        let unsent = document.kept.iter_mut().filter(|kept| !kept.is_sent);
        let updates: Vec<Vec<u8>> = unsent
            .map(|kept| {
                kept.is_sent = true;
                kept.update.clone()
            })
            .collect();
        for update in updates {
            self.send(path, update, Purpose::Edit);
        }
    }

    fn send_garbage(&mut self, path: &str, context: &mut Context<'_>) {
        if self.random.one_in(4) && self.take_place(path, context) {
            return;
        }
        context.totals.add("garbage sent", 1);
        let length = self.random.index(60);
        let mut update = self.random.bytes(length);
        if self.random.one_in(12) {
            self.replicas += 1;
            update = board::hook(self.number * 1000 + self.replicas + 7_000_000);
        } else if self.random.one_in(2) {
            // Something that begins like an update of a replica that nobody else is, with a byte changed.
            self.replicas += 1;
            let mut other = board::lax(self.number * 1000 + self.replicas + 7_000_000);
            let mut updates = board::edit(&mut other, &mut self.random, &mut || "garbage".into());
            updates.extend(board::break_schema(
                &mut other,
                &mut self.random,
                &mut || "x".into(),
            ));
            update = updates.swap_remove(0);
            let at = self.random.index(update.len());
            update[at] = self.random.next().to_le_bytes()[0];
        }
        self.send(path, update, Purpose::Garbage);
    }

    /// Sends an edit under the client id of one of our clients, as a program does that was copied with its data. Where that
    /// one has an edit that is not stored yet, there is another one then.
    fn take_place(&mut self, path: &str, context: &mut Context<'_>) -> bool {
        let place = (self.room.clone(), path.to_owned());
        let Some(&client_id) = context
            .record
            .ours
            .get(&place)
            .filter(|_| !is_roaming(path))
        else {
            return false;
        };
        let Some(Holder::Plain(replica)) = &self.documents[path].replica else {
            return false;
        };
        let mut other = board::strict(client_id);
        if other.apply_update(&replica.encode_state()).is_err() {
            return false;
        }
        let id = self.new_name();
        let updates = board::edit(&mut other, &mut self.random, &mut || id.clone());
        let Some(update) = updates.into_iter().next() else {
            return false;
        };
        context.totals.add(IMPERSONATIONS, 1);
        self.send(path, update, Purpose::Garbage);
        true
    }

    /// Sends bytes that make no packet, or no message.
    fn send_nonsense(&mut self) {
        let length = self.random.index(30);
        let bytes = self.random.bytes(length);
        if let Some(session) = &mut self.session {
            // Of a message without an end; the next header packet begins a new one.
            let mut packet = NONSENSE_ID.to_be_bytes().to_vec();
            packet.extend([0, 0, 0, 1]);
            packet.extend(bytes);
            session.send_raw(packet);
        }
    }

    fn send(&mut self, path: &str, update: Vec<u8>, purpose: Purpose) {
        self.send_numbered(path, update, purpose, 0);
    }

    fn send_numbered(&mut self, path: &str, update: Vec<u8>, purpose: Purpose, number: u64) {
        let (Some(document), Some(session)) = (self.documents.get_mut(path), &mut self.session)
        else {
            return;
        };
        let identity = document.identity.clone();
        let Some(stream) = &mut document.stream else {
            return;
        };
        if self.manner == Manner::Npm && stream.is_waiting {
            stream.queue.push_back((update, purpose));
            return;
        }
        stream.is_waiting = true;
        let chunk = SyncChunk::of_update(&update);
        let asked = Asked::Update {
            path: path.to_owned(),
            update,
            purpose,
            number,
            call: stream.call.clone(),
            sent: self.now,
            identity,
        };
        session.chunk(&stream.call, chunk, asked);
    }

    /// The chunk before was answered.
    fn send_next(&mut self, path: &str) {
        let Some(stream) = self
            .documents
            .get_mut(path)
            .and_then(|document| document.stream.as_mut())
        else {
            return;
        };
        stream.is_waiting = false;
        if let Some((update, purpose)) = stream.queue.pop_front() {
            self.send(path, update, purpose);
        }
    }

    /// Opens a document. What was promised of it before, the state has to have.
    fn open_with(&mut self, path: &str, context: &Context<'_>) {
        if is_roaming(path) {
            let due_of = context.record.roamers.clocks(&self.room);
            return self.open(path, Clocks::new(), due_of);
        }
        let due = context.record.clocks(&(self.room.clone(), path.to_owned()));
        self.open(path, due, BTreeMap::new());
    }

    fn open(&mut self, path: &str, due: Clocks, due_of: BTreeMap<String, Clocks>) {
        let name = self.new_name();
        let (Some(document), Some(session)) = (self.documents.get_mut(path), &mut self.session)
        else {
            return;
        };
        let Ok(doc_path) = DocPath::parse(path) else {
            return;
        };
        let mut start = SyncOpenStart::new(doc_path);
        if is_roaming(path) {
            // What stood there before may have been another document.
            document.leave();
            start.initial_json = Some(board::named(&name));
        }
        start.merge = !self.is_rough && self.random.one_in(2);
        start.schema = Some(board::schema_json());
        match &document.replica {
            Some(Holder::Plain(replica)) => start.vector = Some(replica.state_vector()),
            Some(Holder::Ours(ours)) => ours.describe(&mut start),
            None if self.manner == Manner::Ours => start.identity = Some(String::new()),
            None => {}
        }
        let call = session.open(path);
        let asked = Asked::Start {
            path: path.to_owned(),
        };
        session.chunk(&call, start.to_content(), asked);
        document.stream = Some(Stream {
            call,
            is_open: false,
            queue: VecDeque::new(),
            is_waiting: false,
            due,
            due_of,
            since: self.now,
            answer: None,
            early: Vec::new(),
        });
    }

    fn close(&mut self, path: &str) {
        let (Some(document), Some(session)) = (self.documents.get_mut(path), &mut self.session)
        else {
            return;
        };
        if let Some(stream) = document.stream.take() {
            document.give_up(&stream);
            session.chunk(&stream.call, Content::close(), Asked::Close);
        }
        if is_roaming(path) {
            document.leave();
        }
    }

    fn describe(&mut self, path: &str) {
        if let (Some(session), Ok(path)) = (&mut self.session, DocPath::parse(path)) {
            let describe = SyncDescribe::new(path);
            session.call("sync", "describe", describe.to_content());
        }
    }

    /// A name for a document that no other has.
    fn new_name(&mut self) -> String {
        self.elements += 1;
        format!("{}-{}", self.number, self.elements)
    }

    fn create(&mut self, path: &str) {
        let json = if is_roaming(path) {
            board::named(&self.new_name())
        } else {
            json!({"board": {"items": [{"section": {"title": "made"}}]}})
        };
        if let (Some(session), Ok(path)) = (&mut self.session, DocPath::parse(path)) {
            let create = SyncCreate {
                path,
                json: Some(json),
                schema: Some(board::schema_json()),
                schema_path: None,
            };
            session.call("sync", "create", create.to_content());
        }
    }

    /// Moves or removes a document, or its folder, with edits under way before and behind it; and opens it at its new
    /// place at once.
    fn relocate(&mut self, path: &str, context: &mut Context<'_>) {
        let may_edit = self.manner != Manner::Witness;
        for _ in 0..self.random.below(3) {
            if may_edit {
                self.edit(path, context);
            }
        }
        let relocation = Relocation::of(path, &mut self.random);
        let destination = relocation.destination(path);
        let number = context.record.roamers.sent(&self.room, relocation.clone());
        if let Some(session) = &mut self.session {
            session.relocate(&relocation, number, context.now);
        }
        for _ in 0..self.random.below(4) {
            if may_edit {
                self.edit(path, context);
            }
        }
        let is_closed = |path: &String| {
            let document = self.documents.get(path);
            document.is_some_and(|document| document.stream.is_none())
        };
        if let Some(destination) = destination.filter(is_closed)
            && self.random.one_in(2)
        {
            self.open_with(&destination, context);
        }
    }

    fn look_around(&mut self, path: &str) {
        if let Some(session) = &mut self.session {
            session.call("storage", "stat", Content::Json(json!({"path": path})));
            session.call("storage", "list", Content::Json(json!({"path": ""})));
        }
    }

    fn talk(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        session.call("messaging", "enable", Content::Json(json!({})));
        let attachment = meshagent_protocol::encode_base64(&[7; ATTACHMENT_BYTES]);
        let message = json!({
            "type": "chat",
            "message_json": "{}",
            "attachment_base64": String::from_utf8_lossy(&attachment),
        });
        for _ in 0..self.random.between(1, 8) {
            session.call("messaging", "broadcast", Content::Json(message.clone()));
        }
    }

    /// The program ends, and begins again from its journals. Whoever calls this sees to the end of its connection.
    pub(super) fn restart(&mut self, context: &mut Context<'_>) -> Result<(), String> {
        for (path, document) in &mut self.documents {
            document.had = None;
            let Some(Holder::Ours(ours)) = document.replica.take() else {
                continue;
            };
            self.replicas += 1;
            let client_id = ours_id(self.number, self.replicas);
            let again = ours.restart(client_id, &mut self.random, context.totals);
            let again = again.map_err(|error| format!("{}: {path:?}: {error}", self.name))?;
            document.replica = again.map(|ours| Holder::Ours(Box::new(ours)));
        }
        Ok(())
    }

    pub(super) fn is_ours(&self) -> bool {
        self.manner == Manner::Ours
    }

    /// Works towards the end of the run: opens everything, sends what is kept.
    pub(super) fn finish(&mut self) {
        if !self.session.as_ref().is_some_and(|one| one.is_connected) {
            return;
        }
        let paths: Vec<String> = self.documents.keys().cloned().collect();
        for path in paths {
            if is_roaming(&path) {
                self.close(&path);
            } else if self.documents[&path].stream.is_none() {
                self.open(&path, Clocks::new(), BTreeMap::new());
            }
            if self.manner == Manner::Careful
                && let Some(document) = self.documents.get_mut(&path).filter(|one| one.is_off)
            {
                // One was refused for good. What builds on it would wait for ever, or find no room to wait in.
                document.kept.clear();
            }
            self.send_all_kept(&path);
            self.send_ours(&path);
        }
    }

    /// Whether everything is open, sent and answered.
    pub(super) fn is_done(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.waiting().next().is_none())
            && self.documents.iter().all(|(path, document)| {
                if is_roaming(path) {
                    document.stream.is_none()
                } else {
                    document.is_open() && document.kept.is_empty() && document.is_saved()
                }
            })
    }

    /// What is in the way of the end.
    pub(super) fn unfinished(&self) -> String {
        let waiting: Vec<_> = self.session.iter().flat_map(Session::waiting).collect();
        let documents: Vec<_> = self
            .documents
            .iter()
            .map(|(path, one)| {
                (
                    path,
                    one.is_open(),
                    one.is_off,
                    one.kept.len(),
                    one.is_saved(),
                )
            })
            .collect();
        format!(
            "{}: unanswered {waiting:?}, documents {documents:?}",
            self.name
        )
    }

    /// Whether some replica has an edit that the server will never get.
    pub(super) fn is_off(&self) -> bool {
        self.documents
            .iter()
            .any(|(path, document)| document.is_off && !is_roaming(path))
    }

    /// Throws such replicas away.
    pub(super) fn start_over(&mut self) {
        for document in self.documents.values_mut().filter(|one| one.is_off) {
            *document = Document::default();
        }
    }

    /// Every document with what this client has of it.
    pub(super) fn replicas(&self) -> impl Iterator<Item = (Place, Value)> {
        let documents = self.documents.iter();
        let promised = documents.filter(|(path, _)| !is_roaming(path));
        promised.filter_map(|(path, document)| {
            let place = (self.room.clone(), path.clone());
            let replica = document.replica.as_ref()?;
            Some((place, replica.read(|document| document.to_json(true))))
        })
    }
}

/// So many microseconds a deletion's answer waits until nothing of it can be read any more, at least.
const PATIENCE: u64 = 2_000_000;

const DENIED: i64 = 1001;
const INVALID: i64 = 1002;

/// The first of the client ids that one document of our client takes.
fn ours_id(client: u64, replica: u64) -> u64 {
    (client << 24) + (replica << 8)
}

impl Document {
    /// What is at its path by now may be another document. Our client asks whether it is.
    fn leave(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.give_up(&stream);
        }
        let replica = self.replica.take();
        *self = Self {
            replica: replica.filter(|replica| matches!(replica, Holder::Ours(_))),
            ..Self::default()
        };
    }

    fn is_open(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.is_open)
    }

    /// Whether our client has nothing left to send.
    fn is_saved(&self) -> bool {
        match &self.replica {
            Some(Holder::Ours(ours)) => ours.is_saved(),
            _ => true,
        }
    }

    /// The stream is gone: what waited for its turn will never be sent.
    fn give_up(&mut self, stream: &Stream) {
        if let Some(Holder::Ours(ours)) = &mut self.replica {
            ours.stream_ended();
        }
        self.is_off |= stream
            .queue
            .iter()
            .any(|(_, purpose)| *purpose == Purpose::Edit);
        for kept in &mut self.kept {
            kept.is_sent = false;
        }
    }
}
