//! Yjs v1 updates written byte by byte, including those that no editor writes.

/// The id of an operation: client and clock.
pub(crate) type Id = (u64, u64);

/// Operations of one client with consecutive clocks.
#[derive(Debug)]
pub(crate) struct Ops {
    client: u64,
    start: u64,
    next: u64,
    count: u64,
    body: Vec<u8>,
}

/// The position of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// The first position in the root.
    Root,
    /// The first position in an element or a text.
    In(Id),
    /// The position after a sibling.
    After(Id),
    /// An attribute of an element.
    Key(Id, &'a str),
}

impl Ops {
    pub(crate) fn new(client: u64, start: u64) -> Self {
        Self {
            client,
            start,
            next: start,
            count: 0,
            body: Vec::new(),
        }
    }

    /// Returns the clock after the last operation.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Adds garbage-collected operations, of which only the number is left.
    pub(crate) fn collected(&mut self, length: u64) {
        self.body.push(0);
        unsigned(&mut self.body, length);
        self.count += 1;
        self.next += length;
    }

    pub(crate) fn element(&mut self, place: Place<'_>, tag: &str) -> Id {
        let id = self.begin(place, 7, 1);
        self.body.push(3);
        string(&mut self.body, tag);
        id
    }

    /// Adds an element with the `$id` that every element needs.
    pub(crate) fn element_with_id(&mut self, place: Place<'_>, tag: &str) -> Id {
        let id = self.element(place, tag);
        let name = format!("{:x}-{:x}", id.0, id.1);
        self.attribute(id, "$id", &name);
        id
    }

    pub(crate) fn text_node(&mut self, place: Place<'_>) -> Id {
        let id = self.begin(place, 7, 1);
        self.body.push(6);
        id
    }

    pub(crate) fn attribute(&mut self, element: Id, key: &str, value: &str) {
        let mut encoded = vec![119];
        string(&mut encoded, value);
        self.values(Place::Key(element, key), 1, &encoded);
    }

    /// Adds `count` values that are already encoded.
    pub(crate) fn values(&mut self, place: Place<'_>, count: u64, encoded: &[u8]) -> Id {
        let id = self.begin(place, 8, count);
        unsigned(&mut self.body, count);
        self.body.extend_from_slice(encoded);
        id
    }

    /// Adds characters, and returns the id of the last UTF-16 unit.
    pub(crate) fn characters(&mut self, place: Place<'_>, text: &str) -> Id {
        let length = text.encode_utf16().count() as u64;
        let (client, first) = self.begin(place, 4, length);
        string(&mut self.body, text);
        (client, first + length - 1)
    }

    pub(crate) fn mark(&mut self, place: Place<'_>, key: &str, json: &str) -> Id {
        let id = self.begin(place, 6, 1);
        string(&mut self.body, key);
        string(&mut self.body, json);
        id
    }

    pub(crate) fn embed(&mut self, place: Place<'_>, json: &str) -> Id {
        let id = self.begin(place, 5, 1);
        string(&mut self.body, json);
        id
    }

    /// Returns the update, without deletions.
    pub(crate) fn finish(self) -> Vec<u8> {
        update([self], &[])
    }

    fn begin(&mut self, place: Place<'_>, content: u8, length: u64) -> Id {
        let own = (self.client, self.next);
        let out = &mut self.body;
        match place {
            Place::Root => {
                out.extend_from_slice(&[content, 1]);
                string(out, "xml");
            }
            Place::In(parent) => {
                out.extend_from_slice(&[content, 0]);
                id(out, parent);
            }
            Place::After(left) => {
                out.push(content | 0x80);
                id(out, left);
            }
            Place::Key(parent, key) => {
                out.extend_from_slice(&[content | 0x20, 0]);
                id(out, parent);
                string(out, key);
            }
        }
        self.next += length;
        self.count += 1;
        own
    }
}

/// Encodes an update with these clients' operations, in this order.
///
/// A deleted range is a client, a start, and a length.
pub(crate) fn update(
    groups: impl IntoIterator<Item = Ops>,
    deletes: &[(u64, u64, u64)],
) -> Vec<u8> {
    let mut body = Vec::new();
    let mut count = 0;
    for group in groups {
        count += 1;
        unsigned(&mut body, group.count);
        id(&mut body, (group.client, group.start));
        body.extend_from_slice(&group.body);
    }
    let mut out = Vec::with_capacity(body.len() + 16 + deletes.len() * 4);
    unsigned(&mut out, count);
    out.append(&mut body);
    let clients = deletes.chunk_by(|a, b| a.0 == b.0);
    unsigned(&mut out, clients.clone().count() as u64);
    for ranges in clients {
        unsigned(&mut out, ranges[0].0);
        unsigned(&mut out, ranges.len() as u64);
        for (_, start, length) in ranges {
            unsigned(&mut out, *start);
            unsigned(&mut out, *length);
        }
    }
    out
}

/// Encodes a state vector that announces `announced` clients and contains these.
pub(crate) fn state_vector(announced: u64, clocks: impl IntoIterator<Item = Id>) -> Vec<u8> {
    let mut out = Vec::new();
    unsigned(&mut out, announced);
    for clock in clocks {
        id(&mut out, clock);
    }
    out
}

pub(crate) fn unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

fn string(out: &mut Vec<u8>, text: &str) {
    unsigned(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn id(out: &mut Vec<u8>, (client, clock): Id) {
    unsigned(out, client);
    unsigned(out, clock);
}
