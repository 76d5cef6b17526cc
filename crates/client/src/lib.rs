//! A client of the room server: one driver task owns the socket, handles are cheap.
