//! Schema-checked live documents: MeshSchema and MeshDocument over a Yjs-compatible CRDT, without any I/O.
