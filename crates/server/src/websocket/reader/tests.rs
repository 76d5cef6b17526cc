//! The reader of frames, tested with the bytes in the RFC, with violations, and against a model,
//! cut anywhere.

use proptest::prelude::*;

use super::*;

/// Bytes from hexadecimal digits; blanks are skipped.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .map(|digit| u8::try_from(digit).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// The events from bytes, without fragments, and how reading ends.
fn read(pieces: &[&[u8]]) -> (Vec<Event>, Result<(), Violation>) {
    let mut reader = FrameReader::new(1 << 20);
    let mut events = Vec::new();
    for piece in pieces {
        reader.handle_bytes(piece);
        loop {
            match reader.poll_event() {
                Ok(Some(Event::Fragment)) => {}
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(violation) => return (events, Err(violation)),
            }
        }
    }
    (events, Ok(()))
}

fn message(text: &str) -> Event {
    Event::Message(Bytes::copy_from_slice(text.as_bytes()))
}

#[test]
fn what_the_rfc_allows_is_read_wherever_it_is_cut() {
    let ping = Event::Ping(Bytes::from_static(b"Hello"));
    for (text, expected) in [
        // Section 5.7: a single masked message, here a binary one.
        ("8285 37fa213d 7f9f4d5158", vec![message("Hello")]),
        ("8280 37fa213d", vec![message("")]),
        // The same in fragments, with a ping between them.
        (
            "0283 00000000 48656c 8985 37fa213d 7f9f4d5158 8082 37fa213d 5b95",
            vec![ping.clone(), message("Hello")],
        ),
        // Empty fragments.
        (
            "0280 01020304 0080 01020304 0082 00000000 c3a4 8080 01020304",
            vec![message("ä")],
        ),
        ("8a80 01020304", vec![Event::Pong]),
        ("8880 01020304", vec![Event::Close]),
        ("8882 00000000 03e8", vec![Event::Close]),
        ("8885 00000000 0fa1 e282ac", vec![Event::Close]),
    ] {
        let bytes = hex(text);
        assert_eq!(read(&[&bytes]), (expected.clone(), Ok(())), "{text}");
        for cut in 0..bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let cut_read = read(&[first, second]);
            assert_eq!(cut_read, (expected.clone(), Ok(())), "{text} cut at {cut}");
        }
        let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(&bytewise), (expected, Ok(())), "{text} byte by byte");
    }
}

#[test]
fn each_fragment_is_told_of_and_an_empty_one_too() {
    let mut reader = FrameReader::new(1 << 20);
    reader.handle_bytes(&hex(
        "0280 01020304 0080 01020304 0082 00000000 c3a4 8080 01020304",
    ));
    for _ in 0..3 {
        assert_eq!(reader.poll_event(), Ok(Some(Event::Fragment)));
        assert!(reader.is_within_message());
    }
    assert_eq!(reader.poll_event(), Ok(Some(message("ä"))));
    assert_eq!(reader.poll_event(), Ok(None));
}

/// Includes what the tests of the real socket send.
#[test]
fn what_the_rfc_forbids_is_a_violation_wherever_it_is_cut() {
    let control = "7e".repeat(126);
    let long_ping = format!("89fe 007e 00000000 {control}");
    for (text, expected) in [
        ("8205 48656c6c6f", Violation::Unmasked),
        ("8900", Violation::Unmasked),
        ("8085 00000000 48656c6c6f", Violation::Continuation),
        ("0085 00000000 48656c6c6f", Violation::Continuation),
        ("0281 00000000 01 8281 00000000 02", Violation::Interrupted),
        ("0281 00000000 01 0181 00000000 02", Violation::Interrupted),
        ("c285 00000000 48656c6c6f", Violation::Reserved),
        ("a280 00000000", Violation::Reserved),
        ("9280 00000000", Violation::Reserved),
        ("8380 00000000", Violation::Reserved),
        ("8780 00000000", Violation::Reserved),
        ("8b80 00000000", Violation::Reserved),
        ("8f80 00000000", Violation::Reserved),
        ("0980 00000000", Violation::ControlFragmented),
        ("0880 00000000", Violation::ControlFragmented),
        (&long_ping, Violation::ControlTooLong),
        ("8aff 0000000000000001", Violation::ControlTooLong),
        ("8881 00000000 03", Violation::Close),
        ("8882 00000000 03e7", Violation::Close),
        ("8882 00000000 03ec", Violation::Close),
        ("8882 00000000 03ed", Violation::Close),
        ("8882 00000000 03ee", Violation::Close),
        ("8882 00000000 03f7", Violation::Close),
        ("8882 00000000 07d0", Violation::Close),
        ("8882 00000000 1388", Violation::Close),
        ("8883 00000000 03e8 ff", Violation::Close),
        ("82fe 007d 00000000", Violation::Length),
        ("82ff 000000000000ffff 00000000", Violation::Length),
        ("82ff 8000000000000000 00000000", Violation::TooLarge),
        ("82ff 0000000000100001 00000000", Violation::TooLarge),
        (
            "0281 00000000 01 80ff 0000000000100000 00000000",
            Violation::TooLarge,
        ),
        ("8185 00000000 48656c6c6f", Violation::Text),
    ] {
        let bytes = hex(text);
        assert_eq!(read(&[&bytes]).1, Err(expected), "{text}");
        let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(&bytewise).1, Err(expected), "{text} byte by byte");
    }
}

#[test]
fn memory_follows_what_arrived_and_not_what_was_declared() {
    let mut reader = FrameReader::new(4 << 20);
    // A frame of 4 MiB, of which 300 kB arrive.
    reader.handle_bytes(&hex("82ff 0000000000400000 01020304"));
    assert_eq!(reader.poll_event(), Ok(None));
    assert_eq!(reader.held_bytes(), 0);
    let mut arrived = 0;
    for _ in 0..300 {
        reader.handle_bytes(&[7; 1000]);
        arrived += 1000;
        assert_eq!(reader.poll_event(), Ok(None));
        let held = reader.held_bytes();
        assert!(held <= arrived + arrived / 2 + 1000, "{held} of {arrived}");
    }
    assert!(reader.is_within_message());
}

#[test]
fn nothing_is_held_between_messages() {
    let mut reader = FrameReader::new(1 << 20);
    let frame = [hex("82fe 4000 00000000"), vec![1; 0x4000]].concat();
    for piece in frame.chunks(999) {
        reader.handle_bytes(piece);
        let _ = reader.poll_event().unwrap();
    }
    assert_eq!(reader.input.capacity(), 0);
    assert_eq!(reader.message.capacity(), 0);
    // One byte of the next frame keeps only its own memory.
    reader.handle_bytes(&[frame.clone(), vec![0x82]].concat());
    assert!(reader.poll_event().unwrap().is_some());
    assert_eq!(reader.poll_event(), Ok(None));
    assert!(reader.input.capacity() < 64, "{}", reader.input.capacity());
    assert!(!reader.is_within_message());
}

/// A message in fragments, or a control frame.
#[derive(Clone, Debug)]
struct Sent {
    fragments: Vec<Vec<u8>>,
    /// Sent after the first fragment.
    ping: Option<Vec<u8>>,
    mask: [u8; 4],
}

fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | u8::try_from(short).unwrap()),
        middle @ 126..0x1_0000 => {
            frame.push(0xfe);
            frame.extend(u16::try_from(middle).unwrap().to_be_bytes());
        }
        long => {
            frame.push(0xff);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

fn sent() -> impl Strategy<Value = Sent> {
    let size = prop_oneof![6 => 0..200_usize, 2 => 200..3000_usize, 1 => 60_000..70_000_usize];
    let bytes = size.prop_flat_map(|size| prop::collection::vec(any::<u8>(), size));
    let fragments = prop::collection::vec(bytes, 1..4);
    let ping = prop::option::of(prop::collection::vec(any::<u8>(), 0..=MAX_CONTROL_BYTES));
    (fragments, ping, any::<[u8; 4]>()).prop_map(|(fragments, ping, mask)| Sent {
        fragments,
        ping,
        mask,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn messages_come_as_they_were_sent(
        all in prop::collection::vec(sent(), 1..6),
        cuts in prop::collection::vec(1..5000_usize, 1..50),
    ) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for sent in &all {
            let last = sent.fragments.len() - 1;
            for (number, fragment) in sent.fragments.iter().enumerate() {
                let opcode = if number == 0 { 2 } else { 0 };
                let fin = if number == last { 0x80 } else { 0 };
                bytes.extend(frame(fin | opcode, fragment, sent.mask));
                if number == 0 && let Some(ping) = &sent.ping {
                    bytes.extend(frame(0x89, ping, sent.mask));
                }
            }
            let whole = Event::Message(sent.fragments.concat().into());
            let ping = sent.ping.clone().map(|ping| Event::Ping(ping.into()));
            if last == 0 {
                expected.push(whole);
                expected.extend(ping);
            } else {
                expected.extend(ping);
                expected.push(whole);
            }
        }
        let mut rest = &bytes[..];
        let mut pieces = Vec::new();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        prop_assert_eq!(read(&pieces), (expected, Ok(())));
    }

    #[test]
    fn any_bytes_give_events_or_a_violation(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40),
    ) {
        let mut reader = FrameReader::new(1000);
        let mut arrived = 0;
        for piece in &pieces {
            reader.handle_bytes(piece);
            arrived += piece.len();
            let ended = loop {
                match reader.poll_event() {
                    Ok(Some(_)) => {}
                    Ok(None) => break false,
                    Err(_) => break true,
                }
            };
            prop_assert!(reader.held_bytes() <= 2 * arrived + 64);
            if ended {
                break;
            }
        }
    }
}
