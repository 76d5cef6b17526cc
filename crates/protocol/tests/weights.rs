//! The estimated memory of JSON is an upper bound, and a close one.

#![cfg(not(target_arch = "wasm32"))]
#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]
#![expect(clippy::print_stdout, reason = "a failure prints its seed")]
#![expect(clippy::format_push_string, reason = "a test may allocate")]

use std::sync::Mutex;

use meshagent_protocol::{Envelope, Message, MessageId, parse_json, weigh_json};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Tests that measure the allocator must not overlap.
static MEASURING: Mutex<()> = Mutex::new(());

fn random(state: &mut u64, limit: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 20).unwrap() % limit
}

/// Arbitrary JSON, up to some levels.
fn any_json(state: &mut u64, levels: usize, out: &mut String) {
    let kinds = if levels == 0 { 4 } else { 6 };
    match random(state, kinds) {
        0 => out.push_str(
            ["0", "-1.5e300", "true", "null", "12345678901234567890123"][random(state, 5)],
        ),
        1 => out.push_str("\"\""),
        2 => out.push_str(&format!("\"{}\"", "ä".repeat(random(state, 40)))),
        3 => out.push_str(&format!("\"{}\"", r"\u00e4\n".repeat(random(state, 40)))),
        4 => {
            out.push('[');
            for index in 0..random(state, 20) {
                if index > 0 {
                    out.push_str([",", " , "][random(state, 2)]);
                }
                any_json(state, levels - 1, out);
            }
            out.push(']');
        }
        _ => {
            out.push('{');
            for index in 0..random(state, 20) {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&format!("\"{}\":", "kä".repeat(random(state, 4))));
                any_json(state, levels - 1, out);
            }
            out.push('}');
        }
    }
}

#[test]
fn weight_is_an_upper_bound() {
    let _measuring = MEASURING.lock();
    let mut texts: Vec<String> = [
        "0",
        "[]",
        "[0]",
        "{}",
        r#"{"":0}"#,
        r#"{"a":{"":[0]}}"#,
        r#"{"a":0,"b":0,"c":0,"d":0}"#,
        r#""""#,
        r#""ä""#,
        r#""\n""#,
    ]
    .into_iter()
    .flat_map(|part| {
        [1, 4, 5, 1000, 1024, 1025, 30_000].map(|count| {
            let parts = vec![part; count];
            format!("[{}]", parts.join(","))
        })
    })
    .collect();
    texts.push("7".repeat(1_000_000));
    texts.push(format!("1{}.5e-7", "0".repeat(1_000_000)));
    texts.push(format!("\"{}\"", r"\n".repeat(300_000)));
    texts.push(format!("{{{}\"k\":0}}", "\"k\":[0],".repeat(50_000)));
    for count in [3, 4, 7, 8, 14, 15, 28, 29, 1000, 50_000] {
        let members: Vec<String> = (0..count).map(|number| format!("\"{number}\":0")).collect();
        texts.push(format!("{{{}}}", members.join(",")));
    }
    let seed: u64 = std::env::var("WEIGHT_SEED").map_or(1, |text| text.parse().unwrap());
    println!("WEIGHT_SEED={seed}");
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for _ in 0..300 {
        let mut text = String::new();
        any_json(&mut state, 4, &mut text);
        texts.push(text);
    }
    for text in texts {
        // Rejected at its end, after everything was built.
        let cut = &text[..text.floor_char_boundary(text.len() - 1)];
        for text in [text.as_str(), cut] {
            let weight = weigh_json(text.as_bytes()).unwrap();
            let before = ALLOCATOR.current_usage();
            ALLOCATOR.reset_peak_usage();
            let parsed = parse_json(text.as_bytes());
            let peak = ALLOCATOR.peak_usage() - before + size_of::<serde_json::Value>();
            // An error allocates its own text.
            let excess = if parsed.is_ok() { 0 } else { 256 };
            drop(parsed);
            let start: String = text.chars().take(60).collect();
            assert!(
                peak <= weight + excess,
                "{start}… of {} bytes takes {peak}, weighed {weight}",
                text.len()
            );
            // A repeated key replaces the earlier one, which counting does not see.
            let generous = 3 * peak + 3 * text.len() + 1024;
            let repeats = text.contains("\"k");
            assert!(
                repeats || weight <= generous,
                "{start}… takes {peak}, weighed {weight}"
            );
        }
    }
}

#[test]
fn bound_of_a_plain_chunk_is_an_upper_bound() {
    let _measuring = MEASURING.lock();
    let ids = [
        "c".to_owned(),
        "ä".repeat(128),
        r"\u00e4\n".repeat(60),
        r"\\".repeat(256),
    ];
    for id in ids {
        for kind in ["sync".to_owned(), r"\u00e4".repeat(60), "k".repeat(300)] {
            let header = format!(
                r#"{{"tool_call_id":"{id}","chunk":{{"type":"binary","headers":{{"kind":"{kind}"}}}}}}"#
            );
            let mut body = (header.len() as u64).to_be_bytes().to_vec();
            body.extend_from_slice(header.as_bytes());
            let message = Message {
                id: MessageId::from(1),
                kind: "room.tool_call_request_chunk".to_owned(),
                body: body.into(),
            };
            let before = ALLOCATOR.current_usage();
            ALLOCATOR.reset_peak_usage();
            let parsed = Envelope::parse_plain_chunk(&message);
            let peak = ALLOCATOR.peak_usage() - before;
            let Some((_envelope, bound)) = parsed else {
                assert!(header.len() > 1024, "{header}");
                continue;
            };
            assert!(peak <= bound, "{header} takes {peak}, bound {bound}");
        }
    }
}
