//! The MeshAgent room wire protocol as state machines: bytes in, bytes and events out, no I/O.
