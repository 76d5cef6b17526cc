//! What a room server needs from a database: the Store trait, a memory store and a conformance suite.
