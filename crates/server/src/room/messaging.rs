//! Toolkit `messaging`: the participants, their attributes, and messages between them.

use std::sync::Arc;

use bytes::Bytes;
use meshagent_ledger::{Account, Kind, Speaker};
use meshagent_protocol::messaging::{self as wire, Forwarded};
use meshagent_protocol::{Content, ErrorCode, MessagingGrant, ServerToClient, SharedMessage, Tool};
use serde_json::{Map, Value};

use super::waiting::Waiting;
use super::{Conn, Participant, Refusal, Request, Room};
use crate::outbox::Outgoing;
use crate::usage::{share, share_news};

/// The bytes of attributes that a participant may set about itself. A change beyond this is
/// ignored.
const MAX_ATTRIBUTES_BYTES: usize = 16 << 10;
/// The bytes of a participant in an answer to `enable`, in addition to its attributes.
const PARTICIPANT_BYTES: usize = 128;
/// An answer of fewer bytes does not wait for memory.
const SMALL_BYTES: usize = 64 << 10;

/// The attribute that the token sets: the participant's `name`.
pub(super) const TOKEN_ATTRIBUTE: &str = "name";

impl Room {
    pub(super) fn messaging(&mut self, request: Request, tool: Tool, arguments: &Content) {
        let Some(participant) = self.participants.get(&request.conn) else {
            return;
        };
        let Some(grant) = participant.scope.messaging.clone() else {
            return self.refuse(request, Refusal::denied("the token has no messaging grant"));
        };
        match tool {
            Tool::MessagingSend => self.send_message(request, &grant, arguments),
            Tool::MessagingBroadcast => self.broadcast(request, &grant, arguments),
            Tool::MessagingDisable => self.disable(request),
            // `enable`: no other tool reaches this.
            _ => self.enable_when_there_is_room(request),
        }
    }

    /// The approximate bytes of an answer to `enable`, which has the attributes of all
    /// participants.
    pub(super) fn introductions_bytes(&self) -> usize {
        self.attributes_bytes + self.participants.len() * PARTICIPANT_BYTES
    }

    /// Answers with the attributes of all others. This may be large, so the answer waits until the
    /// previous one is read, and until others' answers leave memory for it.
    pub(super) fn enable_when_there_is_room(&mut self, request: Request) {
        let Some(participant) = self.participants.get(&request.conn) else {
            return;
        };
        let bytes = self.introductions_bytes();
        let in_use = self.usage.shared_bytes();
        let max = self.config.limits.max_shared_bytes;
        let has_memory = bytes < SMALL_BYTES || in_use == 0 || in_use.saturating_add(bytes) <= max;
        if !has_memory || !participant.outbox.accepts_broadcast(false) {
            let wanted = (!has_memory).then(|| self.usage.ledger().want());
            let charge = self.waiting_charge(request.conn);
            self.waiting.push_back(Waiting::Enable {
                request,
                _charge: charge,
                _wanted: wanted,
            });
            return;
        }
        self.made_bytes = self.made_bytes.saturating_add(bytes);
        let grant = participant.scope.messaging.as_ref();
        let may_list = grant.is_some_and(|grant| grant.list);
        let others = self
            .participants
            .iter()
            .filter(|(conn, other)| may_list && other.messaging && **conn != request.conn);
        let others = others.map(|(_, other)| (&*other.id, &*other.role, &other.attributes));
        let head = wire::enabled_head(&participant.id, others);
        let charge = participant.account.charge_anyway(Kind::Shared, head.len());
        self.respond(request, Content::Empty);
        let Some(participant) = self.participants.get_mut(&request.conn) else {
            return;
        };
        participant.outbox.push_item(Outgoing::Shared {
            request: None,
            message: SharedMessage::messaging(share(head, charge), Bytes::new()),
        });
        if std::mem::replace(&mut participant.messaging, true) {
            return;
        }
        let (news, account) = (introduction(participant), Arc::clone(&participant.account));
        self.tell_of(request.conn, &account, &wire::participant_enabled(&news));
    }

    /// Ends messaging for the participant. Its waiting `enable`s never take effect.
    fn disable(&mut self, request: Request) {
        self.end_waiting_enables(request.conn);
        self.respond(request, Content::Empty);
        let Some(participant) = self.participants.get_mut(&request.conn) else {
            return;
        };
        if std::mem::replace(&mut participant.messaging, false) {
            let news = wire::participant_disabled(&participant.id);
            let account = Arc::clone(&participant.account);
            self.tell_of(request.conn, &account, &news);
        }
    }

    fn send_message(&self, request: Request, grant: &MessagingGrant, arguments: &Content) {
        if !grant.send {
            return self.refuse(
                request,
                Refusal::denied("the token's messaging grant does not allow to send"),
            );
        }
        let (to, message) = match Forwarded::parse(arguments) {
            Ok((Some(to), message)) => (to, message),
            Ok((None, _)) => {
                let text = "the field `to_participant_id` is missing: expected a string";
                return self.refuse(request, Refusal::invalid(text));
            }
            Err(error) => return self.refuse(request, Refusal::request(&error)),
        };
        let others = self.participants.values();
        let found = others
            .filter(|participant| participant.messaging)
            .find(|participant| participant.id == to);
        let Some(recipient) = found else {
            let text = format!("no participant {to:?} has messaging enabled here");
            return self.refuse(request, Refusal::new(ErrorCode::NotFound, text));
        };
        let message = match self.encode_once(request, &message) {
            Ok(message) => message,
            Err(refusal) => return self.refuse(request, refusal),
        };
        let speaker = self.speaker(request.conn);
        if recipient.outbox.push_from_others(speaker, &message) {
            self.respond(request, Content::Empty);
        } else {
            let text = "the participant does not read what it gets; try again later";
            self.refuse(request, Refusal::new(ErrorCode::OperationFailed, text));
        }
    }

    fn broadcast(&self, request: Request, grant: &MessagingGrant, arguments: &Content) {
        if !grant.broadcast {
            return self.refuse(
                request,
                Refusal::denied("the token's messaging grant does not allow to broadcast"),
            );
        }
        let message = Forwarded::parse(arguments)
            .map_err(|error| Refusal::request(&error))
            .and_then(|(_, message)| self.encode_once(request, &message));
        match message {
            Ok(message) => {
                self.share_with_others(request.conn, &message);
                self.respond(request, Content::Empty);
            }
            Err(refusal) => self.refuse(request, refusal),
        }
    }

    /// Encodes a message once for all recipients. The sender is charged until the last of them has
    /// read it.
    fn encode_once(
        &self,
        request: Request,
        message: &Forwarded<'_>,
    ) -> Result<SharedMessage, Refusal> {
        let Some(sender) = self.participants.get(&request.conn) else {
            return Err(Refusal::invalid("the sender has left"));
        };
        let charge = |bytes| {
            let charge = sender.account.try_charge(Kind::Shared, bytes);
            charge.map_err(Refusal::over)
        };
        let all = charge(message.max_bytes())?;
        let (head, payload) = message
            .encode(&sender.id)
            .map_err(|error| Refusal::request(&error))?;
        drop(all);
        let (of_head, of_payload) = (charge(head.len())?, charge(payload.len())?);
        Ok(SharedMessage::messaging(
            share(head, of_head),
            share(payload, of_payload),
        ))
    }

    pub(super) fn set_attributes(&mut self, conn: Conn, attributes: Map<String, Value>) {
        let Some(participant) = self.participants.get_mut(&conn) else {
            return;
        };
        let mut changed = attributes;
        // The attribute from the token is not the participant's to change.
        changed.remove(TOKEN_ATTRIBUTE);
        changed.retain(|name, value| participant.attributes.get(name) != Some(value));
        let mut merged = participant.attributes.clone();
        merged.extend(changed.clone());
        let text_bytes = Value::Object(merged.clone()).to_string().len();
        if text_bytes > MAX_ATTRIBUTES_BYTES {
            participant.ignore_attributes(&format!("more than {MAX_ATTRIBUTES_BYTES} bytes"));
            return;
        }
        // As values, attributes take approximately four times the bytes of their text.
        match participant.account.try_charge(Kind::State, text_bytes * 4) {
            Ok(charge) => participant.attributes_charge = charge,
            Err(error) => {
                participant.ignore_attributes(&error.to_string());
                return;
            }
        }
        participant.attributes = merged;
        self.attributes_bytes += text_bytes;
        self.attributes_bytes -= std::mem::replace(&mut participant.attributes_bytes, text_bytes);
        if changed.is_empty() || !participant.messaging {
            return;
        }
        let message = wire::participant_attributes(&participant.id, changed);
        let account = Arc::clone(&participant.account);
        self.tell_of(conn, &account, &message);
    }

    /// Sends news of a participant to the others that may list participants.
    pub(super) fn tell_of(&self, conn: Conn, account: &Arc<Account>, news: &ServerToClient) {
        let (speaker, news) = (account.speaker(), share_news(news, account));
        for (other, participant) in &self.participants {
            let grant = participant.scope.messaging.as_ref();
            let may_list = grant.is_some_and(|grant| grant.list);
            if participant.messaging && may_list && *other != conn {
                participant.outbox.push_from_others(speaker, &news);
            }
        }
    }

    fn speaker(&self, conn: Conn) -> Speaker {
        let participant = self.participants.get(&conn);
        participant.map_or_else(Speaker::default, |one| one.account.speaker())
    }

    fn share_with_others(&self, conn: Conn, message: &SharedMessage) {
        let speaker = self.speaker(conn);
        for (other, participant) in &self.participants {
            if participant.messaging && *other != conn {
                participant.outbox.push_from_others(speaker, message);
            }
        }
    }
}

impl Participant {
    /// Logs that attributes were ignored, because the message has no answer on the wire. The log
    /// reports it once, because it may happen again and again.
    fn ignore_attributes(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_ignored, true) {
            tracing::warn!(participant = ?shortened(&self.name), why, "attributes ignored");
        }
    }
}

/// Enough of a name to identify the participant.
fn shortened(name: &str) -> &str {
    const LENGTH: usize = 200;
    &name[..name.floor_char_boundary(LENGTH)]
}

fn introduction(participant: &Participant) -> wire::Participant {
    wire::Participant {
        id: participant.id.clone(),
        role: participant.role.clone(),
        attributes: participant.attributes.clone(),
    }
}
