//! A participant without an SDK: packets and messages as the test wants them.

use anyhow::{Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshagent_testing::{SdkClient, wait_until};
use serde_json::{Value, json};

use crate::scenario::Scenario;

/// A socket and the messages that came and nobody has asked for yet.
pub(crate) struct Wire {
    client: SdkClient,
    arrived: Vec<Value>,
    last_id: u64,
    id_mask: u64,
}

impl Wire {
    /// Connects with the token in the query, as npm and Dart do, and waits until the server says
    /// that the participant is in the room.
    pub(crate) fn connect(s: &Scenario, room: &str, token: &str) -> Result<Self> {
        let mut wire = Self {
            client: s.wire(&format!("wire in {room}"))?,
            arrived: Vec::new(),
            last_id: 0,
            id_mask: u64::MAX,
        };
        let url = format!("{}?token={token}", s.server.socket_url(room));
        let answer = wire.client.call("connect", &json!({ "url": url }))?;
        ensure!(
            answer["status"] == json!(101),
            "the upgrade is answered by {answer}"
        );
        wire.wait("room_ready", |message| message["kind"] == "room_ready")?;
        wire.wait("connected", |message| message["kind"] == "connected")?;
        Ok(wire)
    }

    /// From now on message ids keep only these bits, and go on from `next`.
    pub(crate) fn truncate_ids(&mut self, bits: u32, next: u64) {
        self.id_mask = (1 << bits) - 1;
        self.last_id = next.wrapping_sub(1);
    }

    /// Sends a message; the id under which it went.
    pub(crate) fn send(&mut self, kind: &str, header: &Value, payload: &[u8]) -> Result<u64> {
        self.last_id = self.last_id.wrapping_add(1);
        let id = self.last_id & self.id_mask;
        let message = json!({
            "message_id": id,
            "kind": kind,
            "header": header,
            "payload": STANDARD.encode(payload),
        });
        self.client.call("send", &message)?;
        Ok(id)
    }

    /// Calls a tool with a JSON content; the answer's content header.
    pub(crate) fn invoke(&mut self, toolkit: &str, tool: &str, input: &Value) -> Result<Value> {
        let header = json!({
            "toolkit": toolkit,
            "tool": tool,
            "arguments": { "type": "json", "json": input },
        });
        let id = self.send("room.invoke_tool", &header, &[])?;
        self.response(id)
    }

    /// Begins a streamed `open` with this start chunk; the answers to the call and to the chunk.
    pub(crate) fn open(&mut self, call: &str, start: &Value) -> Result<(Value, Value)> {
        let header = json!({
            "toolkit": "sync",
            "tool": "open",
            "tool_call_id": call,
            "arguments": { "type": "control", "method": "open" },
        });
        let invoke = self.send("room.invoke_tool", &header, &[])?;
        // The SDKs don't wait for the first answer either.
        let start = self.send_chunk(call, start, &[])?;
        Ok((self.response(invoke)?, self.response(start)?))
    }

    /// Sends a `sync` chunk with these bytes as its payload; the answer to it.
    pub(crate) fn sync(&mut self, call: &str, payload: &[u8]) -> Result<Value> {
        let id = self.send_chunk(call, &json!({ "kind": "sync" }), payload)?;
        self.response(id)
    }

    fn send_chunk(&mut self, call: &str, headers: &Value, payload: &[u8]) -> Result<u64> {
        let chunk = json!({ "type": "binary", "headers": headers });
        let header = json!({ "tool_call_id": call, "chunk": chunk });
        self.send("room.tool_call_request_chunk", &header, payload)
    }

    /// Ends the stream; the answer to the chunk that ends it.
    pub(crate) fn close_stream(&mut self, call: &str) -> Result<Value> {
        let chunk = json!({ "type": "control", "method": "close" });
        let header = json!({ "tool_call_id": call, "chunk": chunk });
        let id = self.send("room.tool_call_request_chunk", &header, &[])?;
        self.response(id)
    }

    /// The content header of the response to this message.
    pub(crate) fn response(&mut self, id: u64) -> Result<Value> {
        let is_it = |message: &Value| {
            message["kind"] == "__response__" && message["message_id"] == json!(id)
        };
        Ok(self.wait(&format!("the response to message {id}"), is_it)?["header"].take())
    }

    /// The next chunk of the stream: its content header, and its payload as text.
    pub(crate) fn chunk(&mut self, call: &str) -> Result<(Value, String)> {
        let is_it = |message: &Value| {
            message["kind"] == "room.tool_call_response_chunk"
                && message["header"]["tool_call_id"] == json!(call)
        };
        let mut message = self.wait(&format!("a chunk of call {call}"), is_it)?;
        let payload = STANDARD.decode(message["payload"].as_str().unwrap_or_default())?;
        Ok((
            message["header"]["chunk"].take(),
            String::from_utf8(payload)?,
        ))
    }

    /// The first message, of those that came already or are to come, that is the one.
    fn wait(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        if let Some(index) = self.arrived.iter().position(&is_it) {
            return Ok(self.arrived.remove(index));
        }
        wait_until(what, || {
            let message = self
                .client
                .call("receive", &json!({ "timeout_ms": 1000 }))?;
            if message.get("ended").is_some() {
                bail!("the connection ended ({message}) before {what}");
            }
            if is_it(&message) {
                return Ok(Some(message));
            }
            if !message.is_null() {
                self.arrived.push(message);
            }
            Ok(None)
        })
    }

    /// Waits for the end of the connection: the close code, 1006 when no close frame came.
    pub(crate) fn end(&mut self) -> Result<i64> {
        wait_until("the end of the connection", || {
            let message = self
                .client
                .call("receive", &json!({ "timeout_ms": 1000 }))?;
            Ok(message["ended"]["code"].as_i64())
        })
    }
}
