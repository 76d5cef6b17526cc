//! A remote control for a script that uses a published SDK.
//!
//! Each request is one line of JSON, `{"id","op",…}`, and so is each answer: `{"id","ok"}` or
//! `{"id","error":{"message","code"}}`. Everything else that the script prints is its log.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::process::{Logs, Process, STEP_LIMIT};

/// An error that an SDK raised.
#[derive(Clone, Debug)]
pub struct SdkError {
    /// The text of the error.
    pub message: String,
    /// The server's error code, if the SDK reports it.
    pub code: Option<i64>,
}

impl std::fmt::Display for SdkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the SDK failed: {} (code {:?})", self.message, self.code)
    }
}

impl std::error::Error for SdkError {}

/// A running script, which is killed when this is dropped.
#[derive(Debug)]
pub struct SdkClient {
    name: String,
    // Declared before the process, so that it is dropped first: the end of its input ends the
    // script.
    stdin: ChildStdin,
    replies: Receiver<Value>,
    process: Process,
    log: File,
    last_id: u64,
}

impl SdkClient {
    /// Starts a script.
    ///
    /// # Errors
    /// When the script can't be started.
    pub fn start(mut command: Command, logs: &Logs, name: &str) -> Result<Self> {
        let log = File::create(logs.begin(name))?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?);
        let mut process = Process::spawn(command)?;
        let stdin = process
            .child
            .stdin
            .take()
            .context("the script's stdin is a pipe")?;
        let stdout = process
            .child
            .stdout
            .take()
            .context("the script's stdout is a pipe")?;
        let (sender, replies) = channel();
        let mut noise = log.try_clone()?;
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = writeln!(noise, "< {line}");
                let Ok(reply) = serde_json::from_str::<Value>(&line) else {
                    continue;
                };
                if reply["id"].is_u64() && sender.send(reply).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            name: name.to_owned(),
            stdin,
            replies,
            process,
            log,
            last_id: 0,
        })
    }

    /// The name that was given to [`Self::start`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a request without waiting. [`Self::finish`] returns the answers in the same order.
    ///
    /// # Errors
    /// When the script has ended.
    pub fn begin(&mut self, op: &str, arguments: &Value) -> Result<()> {
        self.last_id += 1;
        let mut request = json!({ "id": self.last_id, "op": op });
        if let (Some(request), Some(arguments)) = (request.as_object_mut(), arguments.as_object()) {
            request.extend(arguments.clone());
        }
        writeln!(self.log, "> {request}")?;
        writeln!(self.stdin, "{request}")
            .with_context(|| format!("cannot send {op} to {}: it has ended", self.name))
    }

    /// Waits for the answer to the oldest request without one.
    ///
    /// # Errors
    /// An [`SdkError`] if the script reports one; another error if no answer arrives.
    pub fn finish(&mut self) -> Result<Value> {
        let Ok(mut reply) = self.replies.recv_timeout(STEP_LIMIT) else {
            let state = match self.process.child.try_wait()? {
                Some(status) => format!("it ended with {status}"),
                None => "it still runs".to_owned(),
            };
            bail!("no answer from {}: {state}", self.name);
        };
        let error = &reply["error"];
        if error.is_object() {
            return Err(SdkError {
                message: error["message"].as_str().unwrap_or_default().to_owned(),
                code: error["code"].as_i64(),
            }
            .into());
        }
        Ok(reply["ok"].take())
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub fn call(&mut self, op: &str, arguments: &Value) -> Result<Value> {
        self.begin(op, arguments)?;
        self.finish()
            .with_context(|| format!("{}: {op} {arguments}", self.name))
    }

    /// Sends a request that the SDK or the server has to refuse, and returns the refusal.
    ///
    /// # Errors
    /// When the request is not refused, or no answer arrives.
    pub fn refused(&mut self, op: &str, arguments: &Value) -> Result<SdkError> {
        match self.call(op, arguments) {
            Ok(value) => bail!("{}: {op} {arguments} was not refused: {value}", self.name),
            Err(error) => match error.downcast_ref::<SdkError>() {
                Some(refusal) => Ok(refusal.clone()),
                None => Err(error),
            },
        }
    }
}
