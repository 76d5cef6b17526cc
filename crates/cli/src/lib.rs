//! The meshagent command: serve, token, room connect.
