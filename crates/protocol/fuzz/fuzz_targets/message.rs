//! Arbitrary bodies of arbitrary types: an error that can be answered, or a message
//! that round-trips.
#![no_main]

use std::fmt::Debug;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use meshagent_protocol::messaging::{BroadcastInput, SendInput};
use meshagent_protocol::{
    ClientToServer, Content, Envelope, Message, MessageId, PacketLimits, PacketReader,
    ServerToClient, SyncChunk, SyncCreate, SyncDescribe, SyncDescribed, SyncOpenStart, SyncOutput,
    SyncPatch, SyncPatched, storage,
};

const KINDS: [&str; 15] = [
    "room.invoke_tool",
    "room.tool_call_request_chunk",
    "set_attributes",
    "room.list_toolkits",
    "room_ready",
    "connected",
    "room.status",
    "__response__",
    "room.tool_call_response_chunk",
    "messaging.send",
    "storage.file.updated",
    "storage.file.deleted",
    "storage.file.moved",
    "unknown",
    "",
];

fuzz_target!(|bytes: &[u8]| {
    let [kind, form, body @ ..] = bytes else {
        return;
    };
    let message = Message {
        id: MessageId::from(7),
        kind: KINDS[usize::from(*kind) % KINDS.len()].to_owned(),
        body: if form & 1 == 0 {
            Bytes::copy_from_slice(body)
        } else {
            with_header(body)
        },
    };

    if let Some((envelope, _)) = Envelope::parse_plain_chunk(&message) {
        assert_eq!(Envelope::parse(message.clone()), Ok(envelope));
    }
    match Envelope::parse(message.clone()) {
        Ok(envelope) => {
            let mut packets = Vec::new();
            envelope.encode(&mut packets);
            let again = Envelope::parse(read(&packets)).expect("own encoding is valid");
            assert_eq!(again, envelope);
            match &envelope.message {
                ClientToServer::Invoke(invoke) => inputs(&invoke.arguments),
                ClientToServer::RequestChunk { chunk, .. } => inputs(chunk),
                _ => {}
            }
        }
        Err(error) => {
            let answer = error.response();
            let ServerToClient::Response { request, .. } = &answer else {
                panic!("{answer:?} is not a response");
            };
            assert_eq!(*request, message.id);
            written_and_read(&answer);
        }
    }
    match ServerToClient::parse(&message) {
        Ok(Some(parsed)) => written_and_read(&parsed),
        Ok(None) => {}
        Err(error) => assert_eq!(error.id, message.id),
    }
});

/// A body whose header is the input up to the first zero byte, which JSON does not contain.
fn with_header(bytes: &[u8]) -> Bytes {
    let (header, payload) = match bytes.iter().position(|&byte| byte == 0) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[][..]),
    };
    let length = (header.len() as u64).to_be_bytes();
    [&length, header, payload].concat().into()
}

/// Reassembles the message from its packets.
fn read(packets: &[Bytes]) -> Message {
    let mut reader = PacketReader::new(PacketLimits::default());
    let mut read = None;
    for packet in packets {
        assert_eq!(read, None, "a message ends with its last packet");
        read = reader.handle_packet(packet).expect("packets are in order");
    }
    read.expect("all packets are there")
}

fn written_and_read(message: &ServerToClient) {
    let mut packets = Vec::new();
    message.encode(MessageId::from(8), &mut packets);
    let again = ServerToClient::parse(&read(&packets)).expect("own encoding is valid");
    assert_eq!(again.as_ref(), Some(message));
}

/// Parses the content as the input of each tool.
fn inputs(content: &Content) {
    same_again(
        storage::PathInput::parse,
        content,
        storage::PathInput::to_content,
    );
    same_again(storage::Delete::parse, content, storage::Delete::to_content);
    same_again(storage::Move::parse, content, storage::Move::to_content);
    same_again(
        storage::DownloadUrl::parse,
        content,
        storage::DownloadUrl::to_content,
    );
    same_again(
        storage::UploadChunk::parse,
        content,
        storage::UploadChunk::to_content,
    );
    same_again(
        storage::DownloadRequest::parse,
        content,
        storage::DownloadRequest::to_content,
    );
    same_again(SendInput::parse, content, SendInput::to_content);
    same_again(BroadcastInput::parse, content, BroadcastInput::to_content);
    same_again(SyncCreate::parse, content, SyncCreate::to_content);
    same_again(SyncDescribe::parse, content, SyncDescribe::to_content);
    let _ = SyncDescribed::parse(content);
    same_again(SyncPatch::parse, content, SyncPatch::to_content);
    same_again(SyncPatched::parse, content, SyncPatched::to_content);
    same_again(SyncOpenStart::parse, content, SyncOpenStart::to_content);
    let _ = SyncOutput::parse(content);
    if let Ok(chunk) = SyncChunk::parse(content)
        && let Ok(update) = chunk.decode()
    {
        assert!(update.len() <= chunk.max_decoded_bytes());
        let again =
            SyncChunk::parse(&SyncChunk::of_update(&update)).expect("own encoding is a chunk");
        assert_eq!(again.decode(), Ok(update));
    }
}

fn same_again<T: Debug + PartialEq, E: Debug>(
    parse: impl Fn(&Content) -> Result<T, E>,
    content: &Content,
    to_content: impl Fn(&T) -> Content,
) {
    if let Ok(input) = parse(content) {
        let again = parse(&to_content(&input)).expect("own encoding is valid");
        assert_eq!(again, input);
    }
}
