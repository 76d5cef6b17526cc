//! The W3C trace context in message headers, which is not part of the request.

use serde_json::{Map, Value, json};

/// The key under which the SDKs put metadata of a message.
pub(crate) const META_KEY: &str = "__meshagent__";

/// A parsed `traceparent`: the trace of a message, and the span that sent it.
///
/// # Wire form
///
/// ```text
/// "__meshagent__": {"v": 1, "otel": {"traceparent": "00-<32 hex>-<16 hex>-<2 hex>"}}
/// ```
///
/// Source: <https://www.w3.org/TR/trace-context/#traceparent-header>.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceParent {
    /// The trace; never all zero.
    pub trace_id: [u8; 16],
    /// The sender's span; never all zero.
    pub parent_id: [u8; 8],
    /// Bit 0: the sender records this trace.
    pub flags: u8,
}

impl TraceParent {
    /// Parses a `traceparent` value. As the standard requires, a malformed one is treated
    /// as absent.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let [version] = lower_hex::<1>(parts.next()?)?;
        let trace_id = lower_hex::<16>(parts.next()?)?;
        let parent_id = lower_hex::<8>(parts.next()?)?;
        let [flags] = lower_hex::<1>(parts.next()?)?;
        // Version 0 ends here; later ones may append fields.
        let ends_early = version == 0 && parts.next().is_some();
        if version == 0xff || ends_early || trace_id == [0; 16] || parent_id == [0; 8] {
            return None;
        }
        Some(Self {
            trace_id,
            parent_id,
            flags,
        })
    }

    /// The value of `__meshagent__` in the header of a message.
    pub(crate) fn to_meta(self) -> Value {
        json!({"v": 1, "otel": {"traceparent": self.to_string()}})
    }
}

impl std::fmt::Display for TraceParent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            u128::from_be_bytes(self.trace_id),
            u64::from_be_bytes(self.parent_id),
            self.flags
        )
    }
}

/// Removes the metadata from a message's header, and returns its trace context.
pub(crate) fn take_trace(header: &mut Map<String, Value>) -> Option<TraceParent> {
    // Keeps the order of the other keys: a header may be the payload, as in `set_attributes`.
    let meta = header.shift_remove(META_KEY)?;
    let text = meta.get("otel")?.get("traceparent")?.as_str()?;
    TraceParent::parse(text)
}

fn lower_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let pairs: &[[u8; 2]; N] = pairs.try_into().ok()?;
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}
