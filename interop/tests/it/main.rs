//! The published SDKs and the published CLI, unmodified, against the real server binary. Each test has a
//! server of its own and plays with it from outside; nothing here links the server's crates; our own client is one player among them.
//!
//! `cargo xtask interop` installs what the tests run. The SDKs' own defects are stepped around in the
//! scripts of `interop/python` and `interop/node`; no test asserts them.

mod cli;
mod cli_output;
mod convergence;
mod documents;
mod echo;
mod grants;
mod import;
mod limits;
mod messaging;
mod other_sdks;
mod our_client;
mod reconnect;
mod restore;
mod samples;
mod scenario;
mod storage;
mod toolkits;
mod wire;
