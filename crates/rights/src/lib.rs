//! Grants and paths of a room: what a participant may see, read and write.
//!
//! The crate only decides. It performs no actions, and it knows neither the wire protocol nor the
//! document engine.
//!
//! # Layout
//!
//! - `grant`: the grants of a token, and the scope of an `api` grant.
//! - `sync_grant`, `storage_grant`, `file_policy`: the rights in the toolkits.
//! - `grant_path`: the paths in grants.
//! - `sight`: the visible paths of a scope, indexed.
//! - `path`: paths in a room, and names of rooms.

mod file_policy;
mod grant;
mod grant_path;
mod path;
mod sight;
mod storage_grant;
mod sync_grant;

pub use file_policy::{FileAction, FilePathRule, FilesPolicy, is_reserved_name};
pub use grant::{ApiScope, Grant, InvalidGrant, MessagingGrant, Role};
pub use grant_path::InvalidGrantPath;
pub use path::{DocPath, InvalidPath, InvalidRoomName, RoomName};
pub use sight::Sight;
pub use storage_grant::{SCHEMAS, StorageGrant, StoragePathGrant, is_schema_path};
pub use sync_grant::{SyncGrant, SyncPathGrant};
