//! Test support: starts the server binary, the published SDKs and the samples of the API page, each as
//! a process of its own with time limits and logs, runs the examples of the documentation beside a server, and simulates the whole server in virtual time. No
//! production crate depends on it.

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
