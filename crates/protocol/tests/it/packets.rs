//! Packets: order, limits, and arbitrary input of a peer.

use bytes::Bytes;
use meshagent_protocol::packet::{MAX_DATA_PACKET_BYTES, Packets};
use meshagent_protocol::{
    Envelope, Message, MessageId, PacketError, PacketFault, PacketLimits, PacketReader,
    ServerToClient,
};
use proptest::prelude::*;

use crate::hex;
use crate::test;

fn reader() -> PacketReader {
    PacketReader::new(PacketLimits {
        max_message_bytes: 10,
        max_kind_bytes: 8,
    })
}

/// Processes packets, written as `id index rest`, and compares the results.
fn check(packets: &[&str], expected: &[Result<Option<(u64, &str)>, (Option<u64>, PacketFault)>]) {
    let mut reader = reader();
    let seen: Vec<_> = packets
        .iter()
        .map(|packet| {
            let seen = reader.handle_packet(&hex::bytes(packet));
            assert!(reader.buffered_bytes() <= 10);
            seen
        })
        .collect();
    let number = |id: MessageId| u64::from_be_bytes(id.0);
    let seen: Vec<_> = seen
        .iter()
        .map(|result| match result {
            Ok(message) => Ok(message.as_ref().map(|message| {
                (
                    number(message.id),
                    std::str::from_utf8(&message.body).unwrap(),
                )
            })),
            Err(PacketError {
                message_id, fault, ..
            }) => Err((message_id.map(number), *fault)),
        })
        .collect();
    assert_eq!(seen, expected);
}

const HEADER_1: &str = "0000000000000001 00000000 00000002 74";
const HEADER_2: &str = "0000000000000002 00000000 00000001 74";
const FIRST_OF_1: &str = "0000000000000001 00000001 6162";
const SECOND_OF_1: &str = "0000000000000001 00000002 63";
const ONLY_OF_2: &str = "0000000000000002 00000001 64";

#[test]
fn successive_messages_are_read() {
    check(
        &[HEADER_1, FIRST_OF_1, SECOND_OF_1, HEADER_2, ONLY_OF_2],
        &[
            Ok(None),
            Ok(None),
            Ok(Some((1, "abc"))),
            Ok(None),
            Ok(Some((2, "d"))),
        ],
    );
}

#[test]
fn total_of_zero_is_a_message() {
    check(
        &["0000000000000007 00000000 00000000 74"],
        &[Ok(Some((7, "")))],
    );
}

#[test]
fn error_loses_one_message_and_is_reported_once() {
    let out_of_order = PacketFault::OutOfOrder {
        expected: 1,
        found: 2,
    };
    check(
        &[
            HEADER_1,
            SECOND_OF_1,
            FIRST_OF_1,
            SECOND_OF_1,
            HEADER_2,
            ONLY_OF_2,
        ],
        &[
            Ok(None),
            Err((Some(1), out_of_order)),
            Ok(None),
            Ok(None),
            Ok(None),
            Ok(Some((2, "d"))),
        ],
    );
    check(
        &[FIRST_OF_1, SECOND_OF_1, HEADER_2, ONLY_OF_2],
        &[
            Err((Some(1), PacketFault::NoHeader)),
            Ok(None),
            Ok(None),
            Ok(Some((2, "d"))),
        ],
    );
}

#[test]
fn interrupting_header_begins_its_own_message() {
    check(
        &[HEADER_1, FIRST_OF_1, HEADER_2, ONLY_OF_2, SECOND_OF_1],
        &[
            Ok(None),
            Ok(None),
            Err((Some(1), PacketFault::Interrupted)),
            Ok(Some((2, "d"))),
            Err((Some(1), PacketFault::NoHeader)),
        ],
    );
    check(
        &[HEADER_1, ONLY_OF_2, FIRST_OF_1],
        &[Ok(None), Err((Some(1), PacketFault::Interrupted)), Ok(None)],
    );
}

#[test]
fn malformed_packets_are_reported() {
    check(
        &[
            "",
            "00000000000000",
            "0000000000000009 000000",
            "0000000000000009 00000000 000000",
            "0000000000000009 00000000 00000001 ff",
            "0000000000000009 00000000 00000001 616161616161616161",
        ],
        &[
            Err((None, PacketFault::TooShort)),
            Err((None, PacketFault::TooShort)),
            Err((Some(9), PacketFault::TooShort)),
            Err((Some(9), PacketFault::TooShort)),
            Err((Some(9), PacketFault::KindNotUtf8)),
            Err((Some(9), PacketFault::KindTooLong { limit: 8 })),
        ],
    );
}

#[test]
fn declared_total_allocates_nothing_and_bytes_are_bounded() {
    let mut reader = reader();
    let header = hex::bytes("0000000000000001 00000000 ffffffff 74");
    assert_eq!(reader.handle_packet(&header), Ok(None));
    let mut index = 0_u32;
    let mut data = |bytes: usize| {
        index += 1;
        let mut packet = hex::bytes("0000000000000001");
        packet.extend(index.to_be_bytes());
        packet.resize(12 + bytes, b'x');
        packet
    };
    for _ in 0..10_000 {
        assert_eq!(reader.handle_packet(&data(0)), Ok(None));
    }
    assert_eq!(reader.buffered_bytes(), 0);
    assert_eq!(reader.handle_packet(&data(10)), Ok(None));
    assert_eq!(reader.buffered_bytes(), 10);
    let error = reader.handle_packet(&data(1)).unwrap_err();
    assert_eq!(error.fault, PacketFault::TooLarge { limit: 10 });
    assert_eq!(reader.buffered_bytes(), 0);
    assert_eq!(reader.handle_packet(&data(1)), Ok(None));
}

#[test]
fn large_bodies_are_split_below_limit_of_sdks() {
    let body = Bytes::from(vec![7; 3 * MAX_DATA_PACKET_BYTES + 1]);
    let (head, payload) = (body.slice(..5), body.slice(5..));
    let packets: Vec<Bytes> = Packets::new(MessageId::from(1), "t", head, payload).collect();
    let sizes: Vec<usize> = packets.iter().map(Bytes::len).collect();
    let full = MAX_DATA_PACKET_BYTES + 12;
    assert_eq!(sizes, [17, full, full, full, 13]);
}

#[test]
fn first_packet_gives_estimate_of_message_size() {
    let limits = PacketLimits {
        max_message_bytes: 5000,
        ..PacketLimits::default()
    };
    let header = |total: u32| {
        let mut packet = hex::bytes("0000000000000001 00000000");
        packet.extend(total.to_be_bytes());
        packet.push(b't');
        packet
    };
    let packet = |index: u32, bytes: &[u8]| {
        let mut packet = hex::bytes("0000000000000001");
        packet.extend(index.to_be_bytes());
        packet.extend(bytes);
        packet
    };
    let mut reader = PacketReader::new(limits);
    assert_eq!(reader.expected_bytes(), 0);
    let mut packets = vec![header(3)];
    packets.extend((1..=3).map(|index| packet(index, &[0; 1000])));
    let mut expected = Vec::new();
    for packet in &packets {
        reader.handle_packet(packet).unwrap();
        expected.push(reader.expected_bytes());
    }
    assert_eq!(expected, [0, 3000, 3000, 0]);

    // The declared number of packets is irrelevant: the estimate stays within the limit.
    reader.handle_packet(&header(u32::MAX)).unwrap();
    reader.handle_packet(&packet(1, &[0; 1000])).unwrap();
    assert_eq!(reader.expected_bytes(), 5000);
}

proptest! {
    #[test]
    fn a_message_survives_any_cut(
        id: u64,
        kind in "[a-z_.]{0,20}",
        body in prop::collection::vec(any::<u8>(), 0..5000),
        cuts in prop::collection::vec(0_usize..1500, 0..20),
    ) {
        let mut packets: Vec<Vec<u8>> = Vec::new();
        let mut rest = body.as_slice();
        for cut in cuts {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            packets.push(now.to_vec());
            rest = later;
        }
        packets.push(rest.to_vec());
        let total = u32::try_from(packets.len()).unwrap();

        let mut reader = PacketReader::new(PacketLimits::default());
        let mut header = id.to_be_bytes().to_vec();
        header.extend(0_u32.to_be_bytes());
        header.extend(total.to_be_bytes());
        header.extend(kind.as_bytes());
        prop_assert_eq!(reader.handle_packet(&header), Ok(None));
        let expected = Message { id: MessageId::from(id), kind, body: body.into() };
        for (index, data) in (1..).zip(&packets) {
            let mut packet = id.to_be_bytes().to_vec();
            packet.extend(u32::to_be_bytes(index));
            packet.extend(data);
            let done = (index == total).then(|| expected.clone());
            prop_assert_eq!(reader.handle_packet(&packet), Ok(done));
        }
        prop_assert_eq!(reader.buffered_bytes(), 0);

        let mut ours = Vec::new();
        expected.encode(&mut ours);
        let mut seen = Vec::new();
        for packet in ours {
            seen.extend(reader.handle_packet(&packet).unwrap());
        }
        prop_assert_eq!(seen, [expected]);
    }

    #[test]
    fn any_bytes_are_ok_or_err(
        packets in prop::collection::vec(
            (0_u64..3, 0_u32..4, prop::collection::vec(any::<u8>(), 0..40)),
            0..40,
        ),
    ) {
        let mut reader = reader();
        for (id, index, rest) in packets {
            let mut packet = id.to_be_bytes().to_vec();
            packet.extend(index.to_be_bytes());
            packet.extend(rest);
            let _: Result<_, _> = reader.handle_packet(&packet);
            prop_assert!(reader.buffered_bytes() <= 10);
        }
    }

    #[test]
    fn any_body_is_ok_or_err(
        kind in prop::sample::select(vec![
            "room.invoke_tool",
            "room.tool_call_request_chunk",
            "set_attributes",
            "__response__",
            "connected",
            "storage.file.moved",
        ]),
        header in "\\PC{0,40}|\\{\"(type|arguments|chunk)\":[0-9\\[\\]{}\"a-z]{0,20}\\}",
        shift in -3_i64..3,
        payload in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let length = i64::try_from(header.len()).unwrap() + shift;
        let mut body = length.to_be_bytes().to_vec();
        body.extend(header.as_bytes());
        body.extend(payload);
        let message = Message { id: MessageId::from(1), kind: kind.to_owned(), body: body.into() };
        let _: Result<_, _> = ServerToClient::parse(&message);
        let _: Result<_, _> = Envelope::parse(message);
    }
}
