//! Test support: launchers for the server binary, the published SDKs and documentation samples, and
//! a simulation of the whole server. No production crate depends on it.
//!
//! # Layout
//!
//! - [`Server`], [`Credentials`], [`http_request`]: the server binary, its access tokens, and HTTP
//!   requests to it.
//! - [`Sdk`], [`SdkClient`]: the published SDKs and a remote control for scripts that use them.
//! - [`Samples`]: the code samples of the API page.
//! - [`with_server`], [`in_room`]: a server in the process for documentation examples.
//! - [`Logs`], [`run_to_end`]: child processes, each with a time limit and log files.
//! - [`simulation`]: server, clients, network and disk in virtual time.

mod credentials;
mod example;
mod http;
mod process;
mod repository;
mod samples;
mod sdk;
mod sdk_client;
mod server;
pub mod simulation;

pub use tempfile::TempDir;

pub use self::credentials::Credentials;
pub use self::example::{ExampleServer, in_room, with_server};
pub use self::http::{HttpResponse, http_request, http_upgrade};
pub use self::process::{Finished, Logs, STEP_LIMIT, run_to_end, wait_until};
pub use self::repository::repository_root;
pub use self::samples::{Sample, Samples};
pub use self::sdk::{Script, Sdk};
pub use self::sdk_client::{SdkClient, SdkError};
pub use self::server::Server;
