//! The published SDKs and CLI that `cargo xtask interop` installs, and the scripts that use them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::repository_root;

/// A script of the folder `interop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// A participant that uses the Python SDK.
    PythonClient,
    /// A participant that uses the npm SDK.
    NodeClient,
    /// A bare WebSocket client that sends packets which no SDK would send.
    Wire,
}

/// The folders of the installed packages.
#[derive(Clone, Debug)]
pub struct Sdk {
    python: PathBuf,
    node: PathBuf,
}

impl Sdk {
    /// Finds the installed packages.
    ///
    /// # Errors
    /// When the packages are not installed.
    pub fn installed() -> Result<Self> {
        let cache = repository_root().join("target/interop");
        let sdk = Self {
            python: cache.join("python"),
            node: cache.join("node"),
        };
        for stamp in [sdk.python.join("stamp"), sdk.node.join("stamp")] {
            ensure!(
                stamp.is_file(),
                "the published SDKs are not installed: run `cargo xtask interop`"
            );
        }
        Ok(sdk)
    }

    /// The Python interpreter that can import the SDK.
    pub fn python(&self) -> PathBuf {
        self.python.join("bin/python")
    }

    /// The published command-line tool.
    pub fn cli(&self) -> PathBuf {
        self.python.join("bin/meshagent")
    }

    /// The runner of JavaScript and TypeScript samples.
    pub fn tsx(&self) -> PathBuf {
        self.node.join("node_modules/.bin/tsx")
    }

    /// The folder whose `node_modules` contains the SDK. Sources below it can import its packages.
    pub fn node_folder(&self) -> &Path {
        &self.node
    }

    /// A command whose `PATH` begins with the published tools, without `MESHAGENT_*` variables.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let ours = [self.python.join("bin"), self.node.join("node_modules/.bin")];
        let all = ours.into_iter().chain(std::env::split_paths(&inherited));
        if let Ok(path) = std::env::join_paths(all) {
            command.env("PATH", path);
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MESHAGENT_") {
                command.env_remove(name);
            }
        }
        command
            .env("NODE_PATH", self.node.join("node_modules"))
            .env("PYTHONUNBUFFERED", "1");
        command
    }

    /// The command that runs one of our scripts.
    pub fn script(&self, script: Script) -> Command {
        let folder = repository_root().join("interop");
        let (program, file) = match script {
            Script::PythonClient => (self.python(), folder.join("python/client.py")),
            Script::NodeClient => (PathBuf::from("node"), folder.join("node/client.cjs")),
            Script::Wire => (PathBuf::from("node"), folder.join("node/wire.cjs")),
        };
        let mut command = self.command(program);
        command.arg(file);
        command
    }
}
