//! Arbitrary packets: each error loses one message, and messages do not depend on how they
//! are split.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshagent_protocol::{Message, MessageId, PacketLimits, PacketReader};

/// Small, so that inputs reach them.
const LIMITS: PacketLimits = PacketLimits {
    max_message_bytes: 4096,
    max_kind_bytes: 32,
};

fuzz_target!(|bytes: &[u8]| {
    let mut reader = PacketReader::new(LIMITS);
    let mut arrived = 0;
    for packet in packets(bytes) {
        let before = reader.buffered_bytes();
        match reader.handle_packet(&packet) {
            Ok(None) => {}
            Ok(Some(message)) => {
                assert!(message.body.len() <= arrived + packet.len());
                assert!(message.body.len() <= LIMITS.max_message_bytes);
                assert!(message.kind.len() <= LIMITS.max_kind_bytes);
                assert_eq!(reader.buffered_bytes(), 0);
                for step in [1 + packet.len() % 7, 1024, usize::MAX] {
                    assert_eq!(read_cut(&message, step), message);
                }
                arrived = 0;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                // The buffer of the lost message is freed.
                assert_eq!(reader.buffered_bytes(), 0);
            }
        }
        arrived += packet.len();
        assert!(reader.buffered_bytes() <= before + packet.len());
        assert!(reader.buffered_bytes() <= LIMITS.max_message_bytes);
    }

    // A complete message is read regardless of earlier packets.
    let message = Message {
        id: MessageId::from(77),
        kind: "last".to_owned(),
        body: b"body".as_slice().into(),
    };
    let mut encoded = Vec::new();
    message.encode(&mut encoded);
    // The first packet may interrupt a message, which is reported here.
    let _ = reader.handle_packet(&encoded[0]);
    assert_eq!(reader.handle_packet(&encoded[1]), Ok(Some(message)));
});

/// Reads a message whose body is split into packets of `step` bytes.
fn read_cut(message: &Message, step: usize) -> Message {
    let mut reader = PacketReader::new(LIMITS);
    let pieces: Vec<&[u8]> = message.body.chunks(step).collect();
    let total = u32::try_from(pieces.len()).expect("the body is short");
    let packet = |index: u32, rest: &[&[u8]]| {
        [&message.id.0[..], &index.to_be_bytes()]
            .into_iter()
            .chain(rest.iter().copied())
            .collect::<Vec<_>>()
            .concat()
    };
    let header = packet(0, &[&total.to_be_bytes(), message.kind.as_bytes()]);
    let mut read = reader.handle_packet(&header);
    for (index, piece) in (1..).zip(pieces) {
        assert_eq!(read, Ok(None));
        read = reader.handle_packet(&packet(index, &[piece]));
    }
    read.expect("the packets are in order")
        .expect("all packets were read")
}

/// The packets in the input. The first byte of each selects its form: raw, with a length prefix of
/// two bytes, or built from a short id and a short number, since random inputs rarely repeat an id.
fn packets(mut bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    std::iter::from_fn(move || {
        let (&how, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (packet, rest) = rest.split_at(length);
        bytes = rest;
        Some(if how % 4 == 0 {
            packet.to_vec()
        } else {
            let id = MessageId::from(u64::from(how / 64));
            let number = u32::from(how / 4 % 16);
            [&id.0[..], &number.to_be_bytes(), packet].concat()
        })
    })
}
