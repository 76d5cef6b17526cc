//! Toolkit `messaging`: who is here, what they say of themselves, and messages between them.

use meshagent_protocol::messaging::{self as wire, BroadcastInput, SendInput};
use meshagent_protocol::{Content, ErrorCode, MessagingGrant, ServerToClient};
use serde_json::{Map, Value};

use super::{Conn, Participant, Refusal, Request, Room};

/// Bytes of attributes that a participant may set about itself. Beyond it the change is ignored.
const MAX_ATTRIBUTES_BYTES: usize = 64 << 10;

impl Room {
    pub(super) fn messaging(&mut self, request: Request, tool: &str, arguments: &Content) {
        let Some(participant) = self.participants.get(&request.conn) else {
            return;
        };
        let Some(grant) = participant.scope.messaging.clone() else {
            return self.refuse(request, Refusal::denied("the token has no messaging grant"));
        };
        match tool {
            "enable" => self.enable(request, &grant),
            "disable" => self.disable(request),
            "send" => self.send_message(request, &grant, arguments),
            "broadcast" => self.broadcast(request, &grant, arguments),
            _ => self.refuse(
                request,
                Refusal::new(
                    ErrorCode::NotFound,
                    format!("there is no tool {tool:?} in toolkit \"messaging\"; it has enable, disable, send, broadcast"),
                ),
            ),
        }
    }

    fn enable(&mut self, request: Request, grant: &MessagingGrant) {
        self.respond(request, Content::Empty);
        let others: Vec<wire::Participant> = if grant.list {
            self.participants
                .iter()
                .filter(|(conn, participant)| participant.messaging && **conn != request.conn)
                .map(|(_, participant)| introduction(participant))
                .collect()
        } else {
            Vec::new()
        };
        let Some(participant) = self.participants.get_mut(&request.conn) else {
            return;
        };
        let newly = !std::mem::replace(&mut participant.messaging, true);
        let introduction = introduction(participant);
        self.send(request.conn, wire::enabled(&introduction.id, &others));
        if newly {
            self.send_to_others(request.conn, &wire::participant_enabled(&introduction));
        }
    }

    fn disable(&mut self, request: Request) {
        self.respond(request, Content::Empty);
        let Some(participant) = self.participants.get_mut(&request.conn) else {
            return;
        };
        if std::mem::replace(&mut participant.messaging, false) {
            let id = participant.id.clone();
            self.announce_disabled(&id);
        }
    }

    fn send_message(&self, request: Request, grant: &MessagingGrant, arguments: &Content) {
        if !grant.send {
            return self.refuse(
                request,
                Refusal::denied("the token's messaging grant does not allow to send"),
            );
        }
        let input = match SendInput::parse(arguments) {
            Ok(input) => input,
            Err(error) => return self.refuse(request, Refusal::request(&error)),
        };
        let to = self.participants.iter().find(|(_, participant)| {
            participant.messaging && participant.id == input.to_participant_id
        });
        let Some((conn, _)) = to else {
            let text = format!(
                "no participant {:?} has messaging enabled here",
                input.to_participant_id
            );
            return self.refuse(request, Refusal::new(ErrorCode::NotFound, text));
        };
        self.send(
            *conn,
            input.message.deliver(self.participant_id(request.conn)),
        );
        self.respond(request, Content::Empty);
    }

    fn broadcast(&self, request: Request, grant: &MessagingGrant, arguments: &Content) {
        if !grant.broadcast {
            return self.refuse(
                request,
                Refusal::denied("the token's messaging grant does not allow to broadcast"),
            );
        }
        let input = match BroadcastInput::parse(arguments) {
            Ok(input) => input,
            Err(error) => return self.refuse(request, Refusal::request(&error)),
        };
        self.send_to_others(
            request.conn,
            &input.message.deliver(self.participant_id(request.conn)),
        );
        self.respond(request, Content::Empty);
    }

    pub(super) fn set_attributes(&mut self, conn: Conn, attributes: Map<String, Value>) {
        let Some(participant) = self.participants.get_mut(&conn) else {
            return;
        };
        let mut changed = attributes;
        changed.retain(|name, value| participant.attributes.get(name) != Some(value));
        let mut merged = participant.attributes.clone();
        merged.extend(changed.clone());
        if Value::Object(merged.clone()).to_string().len() > MAX_ATTRIBUTES_BYTES {
            // The message has no answer on the wire, so the log is the only place to say it.
            tracing::warn!(participant = %participant.name, "attributes over {MAX_ATTRIBUTES_BYTES} bytes ignored");
            return;
        }
        participant.attributes = merged;
        if changed.is_empty() || !participant.messaging {
            return;
        }
        let message = wire::participant_attributes(&participant.id, changed);
        self.send_to_others(conn, &message);
    }

    pub(super) fn announce_disabled(&self, id: &str) {
        let message = wire::participant_disabled(id);
        for participant in self
            .participants
            .values()
            .filter(|participant| participant.messaging && participant.id != id)
        {
            participant.outbox.push(message.clone());
        }
    }

    fn send_to_others(&self, conn: Conn, message: &ServerToClient) {
        for (other, participant) in &self.participants {
            if participant.messaging && *other != conn {
                participant.outbox.push(message.clone());
            }
        }
    }
}

fn introduction(participant: &Participant) -> wire::Participant {
    wire::Participant {
        id: participant.id.clone(),
        role: participant.role.clone(),
        attributes: participant.attributes.clone(),
    }
}
