//! Checks of a message before its body is parsed: whether its sender has the right, and whether it
//! fits.
//!
//! JSON takes some forty times its text's bytes in memory. So its memory is estimated first, and
//! without a grant for the toolkit nothing large is parsed. The room checks the rights again, with
//! the path.

use meshagent_protocol::{ApiScope, Asks, ErrorCode, Message, Outline, Tool, Toolkit};

use crate::config::Limits;

/// A header up to this size is always parsed, so that its sender learns everything that is wrong
/// with it.
const SMALL_BYTES: usize = 16 << 10;
/// The longest header of `set_attributes` that is parsed.
pub(crate) const MAX_ATTRIBUTES_HEADER_BYTES: usize = 64 << 10;

/// Whether a message is parsed.
#[derive(Debug)]
pub(crate) enum Admission {
    /// The message is parsed; its header takes at most this many bytes as values.
    Read { parsed_bytes: usize },
    /// The message is refused with an error to its sender.
    Refused { code: ErrorCode, text: String },
    /// The message is dropped, and there is no answer that could report it.
    Ignored,
}

/// Checks a message of a participant with these rights.
pub(crate) fn admit(message: &Message, scope: &ApiScope, limits: &Limits) -> Admission {
    let outline = match Outline::of(message) {
        Ok(outline) => outline,
        Err(error) => return refused(error.code(), error.text),
    };
    let is_small = outline.header_bytes <= SMALL_BYTES;
    match &outline.asks {
        Asks::Tool { toolkit, tool } => {
            if let Some(refused) = no_grant(scope, toolkit, tool).filter(|_| !is_small) {
                return refused;
            }
        }
        Asks::Chunk { .. } if !is_small && scope.sync.is_none() && scope.storage.is_none() => {
            let text = "no call is open on this connection, and the token has no grant to open one";
            return refused(ErrorCode::PermissionDenied, text);
        }
        Asks::Attributes if outline.header_bytes > MAX_ATTRIBUTES_HEADER_BYTES => {
            return Admission::Ignored;
        }
        _ => {}
    }
    let max = limits.max_json_bytes;
    if outline.parsed_bytes > max && !is_small {
        let text = format!(
            "the message's JSON takes up to {} bytes in memory, {max} are allowed; send less at \
             once",
            outline.parsed_bytes
        );
        return refused(ErrorCode::InvalidRequest, text);
    }
    Admission::Read {
        parsed_bytes: outline.parsed_bytes,
    }
}

/// The refusal of a tool that the token allows for no path.
fn no_grant(scope: &ApiScope, toolkit: &str, tool: &str) -> Option<Admission> {
    let denied = |text: &str| Some(refused(ErrorCode::PermissionDenied, text));
    if toolkit.is_empty() {
        let text = "the field `toolkit` must be a string of at most 256 bytes";
        return Some(refused(ErrorCode::InvalidRequest, text));
    }
    let Some(toolkit) = Toolkit::find(toolkit) else {
        let text = "there is no such toolkit; ask room.list_toolkits for what there is";
        return Some(refused(ErrorCode::NotFound, text));
    };
    match toolkit {
        Toolkit::Sync if scope.sync.is_none() => denied("the token has no sync grant"),
        Toolkit::Storage if scope.storage.is_none() => denied("the token has no storage grant"),
        Toolkit::Sync | Toolkit::Storage => None,
        Toolkit::Messaging => match &scope.messaging {
            None => denied("the token has no messaging grant"),
            Some(grant) if tool == Tool::MessagingSend.name() && !grant.send => {
                denied("the token's messaging grant does not allow to send")
            }
            Some(grant) if tool == Tool::MessagingBroadcast.name() && !grant.broadcast => {
                denied("the token's messaging grant does not allow to broadcast")
            }
            Some(_) => None,
        },
    }
}

fn refused(code: ErrorCode, text: impl Into<String>) -> Admission {
    Admission::Refused {
        code,
        text: text.into(),
    }
}

#[cfg(test)]
mod tests {
    use meshagent_protocol::{ClientToServer, Content, Envelope, Invoke, MessageId};
    use serde_json::{Value, json};

    use super::*;

    fn message(toolkit: &str, tool: &str, arguments: Value) -> Message {
        let envelope = Envelope {
            id: MessageId::from(1),
            trace: None,
            message: ClientToServer::Invoke(Invoke {
                toolkit: toolkit.to_owned(),
                tool: tool.to_owned(),
                arguments: Content::Json(arguments),
                tool_call_id: None,
                participant_id: None,
                on_behalf_of_id: None,
            }),
        };
        let mut packets = Vec::new();
        envelope.encode(&mut packets);
        let mut reader =
            meshagent_protocol::PacketReader::new(meshagent_protocol::PacketLimits::default());
        let mut read = packets
            .iter()
            .filter_map(|packet| reader.handle_packet(packet).unwrap());
        read.next().unwrap()
    }

    fn code(admission: &Admission) -> Option<ErrorCode> {
        match admission {
            Admission::Refused { code, .. } => Some(*code),
            Admission::Read { .. } | Admission::Ignored => None,
        }
    }

    #[test]
    fn nobody_without_a_grant_has_a_large_body_read() {
        let limits = Limits::default();
        let zeros = json!({ "path": "ä", "json": vec![0; 20_000] });
        for (toolkit, tool, expected) in [
            ("sync", "create", ErrorCode::PermissionDenied),
            ("storage", "list", ErrorCode::PermissionDenied),
            ("messaging", "broadcast", ErrorCode::PermissionDenied),
            ("other", "tool", ErrorCode::NotFound),
        ] {
            let message = message(toolkit, tool, zeros.clone());
            let none = admit(&message, &ApiScope::default(), &limits);
            assert_eq!(code(&none), Some(expected), "{toolkit}");
            let full = admit(&message, &ApiScope::full(), &limits);
            assert_eq!(code(&full).is_none(), toolkit != "other", "{toolkit}");
        }
    }

    #[test]
    fn json_that_takes_too_much_as_values_is_refused() {
        let limits = Limits::default();
        for (shape, count) in [
            (json!(0), 1_000_000),
            (json!({ "": 0 }), 300_000),
            (json!([[]]), 600_000),
            (json!({ "ä": { "": [0] } }), 200_000),
        ] {
            let many = Value::Array(vec![shape.clone(); count]);
            let message = message("sync", "create", json!({ "path": "p", "json": many }));
            let admission = admit(&message, &ApiScope::full(), &limits);
            assert_eq!(code(&admission), Some(ErrorCode::InvalidRequest), "{shape}");
        }
        let text = json!({ "path": "p", "json": { "a": "ä".repeat(10 << 20) } });
        let admission = admit(&message("sync", "create", text), &ApiScope::full(), &limits);
        assert!(code(&admission).is_none());
    }
}
