//! The room server: rooms as state machines, the gate, HTTP and WebSocket around them.
