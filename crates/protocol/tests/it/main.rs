//! Tests of the protocol at its boundary: bytes, vectors of the published SDKs, and the document
//! that describes it.

mod docs;
mod grants;
mod hex;
mod packets;
mod paths;
mod session;
mod tokens;
mod toolkits;
mod vectors;
mod wire;
