//! `meshagent room connect`: runs a program with the variables that an SDK needs to join a room.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use clap::{Args, ValueEnum};
use meshagent_protocol::{ApiScope, Role, RoomName, parse_json};

use crate::failure::{Failure, USAGE};
use crate::output::terminal;
use crate::scope;
use crate::settings::{self, ProjectArgs};
use crate::token::token;

/// A shell's exit code for a program that does not exist.
const NOT_FOUND: u8 = 127;
/// A shell's exit code for a program that can't be executed.
const NOT_EXECUTABLE: u8 = 126;

/// The API key, which can sign tokens for any participant. The program does not get it.
const KEY_VARIABLES: [&str; 3] = ["MESHAGENT_API_KEY", "MESHAGENT_KEY_ID", "MESHAGENT_SECRET"];

/// Run a program as a participant of a room
///
/// Signs a token and runs the program with MESHAGENT_API_URL, MESHAGENT_PROJECT_ID, MESHAGENT_ROOM
/// and MESHAGENT_TOKEN set; variables with the API key are removed. The program replaces this
/// process: it receives all signals, and its exit code is that of the command.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room connect --room my-room --identity ada -- python3 script.py
  meshagent room connect --room my-room --identity viewer --role user \\
      --meshagent-token \\
      '{\"sync\": {\"paths\": [{\"path\": \"*\", \"read_only\": true}]}}' \\
      -- node view.js")]
pub(crate) struct ConnectArgs {
    /// Name of the room: 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends
    #[arg(long, value_name = "NAME", env = "MESHAGENT_ROOM", value_parser = RoomName::parse)]
    room: RoomName,

    /// Name of the participant [default: the user's name on this machine]
    #[arg(long, value_name = "NAME", value_parser = settings::not_empty)]
    identity: Option<String>,

    /// Role of the participant
    #[arg(
        long,
        value_name = "ROLE",
        default_value = "agent",
        value_parser = ["agent", "tool", "user"]
    )]
    role: String,

    /// Permissions of the participant: userDefault, agentDefault, full, or an api scope as JSON
    /// [default: agentDefault]
    #[arg(long, value_name = "SCOPE", value_parser = api_scope)]
    meshagent_token: Option<ApiScope>,

    /// Variables for the program: `agent` sets all of the above, `none` only those that a flag
    /// requests (`--meshagent-token` requests MESHAGENT_TOKEN)
    #[arg(long, value_enum, default_value_t = Template::Agent)]
    template: Template,

    /// Further variable for the program; overrides all others
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = assignment)]
    env: Vec<(String, String)>,

    #[command(flatten)]
    project: ProjectArgs,

    /// Program and its arguments, after `--`
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Template {
    Agent,
    None,
}

/// Replaces this process by the program, so it returns only an error.
///
/// # Errors
/// If no key or server is found, or the program can't be started.
pub(crate) fn run(args: &ConnectArgs) -> anyhow::Result<()> {
    let [program, arguments @ ..] = args.command.as_slice() else {
        return Err(Failure::new("missing program to run")
            .with_exit_code(USAGE)
            .with_hint("pass the program and its arguments after --")
            .into());
    };
    let mut command = Command::new(program);
    command.args(arguments);
    set_variables(&mut command, args)?;
    for name in KEY_VARIABLES {
        // The caller may set it explicitly.
        if !args.env.iter().any(|(requested, _)| requested == name) {
            command.env_remove(name);
        }
    }
    // Returns only if it fails.
    let error = command.exec();
    let exit_code = match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    };
    let message = format!("can't start {}", program.display());
    Err(Failure::new(message)
        .with_source(error)
        .with_hint("pass the name or path of an installed program")
        .with_exit_code(exit_code)
        .into())
}

fn set_variables(command: &mut Command, args: &ConnectArgs) -> anyhow::Result<()> {
    if args.template == Template::Agent || args.meshagent_token.is_some() {
        let key = args.project.key(None)?;
        let identity = args.identity.clone().map_or_else(settings::user_name, Ok)?;
        let scope = args
            .meshagent_token
            .clone()
            .unwrap_or_else(ApiScope::agent_default);
        let jwt = token(&identity, &args.room, Role::from(args.role.clone()), scope).sign(&key);
        command.env("MESHAGENT_TOKEN", jwt);
        if args.template == Template::Agent {
            let server = args.project.server(Some(&key))?;
            command.env("MESHAGENT_API_URL", server.url);
            command.env("MESHAGENT_PROJECT_ID", key.project_id);
            command.env("MESHAGENT_ROOM", args.room.as_str());
            if server.is_found {
                // SDKs prefer these variables, which can only name another server.
                command.env_remove("MESHAGENT_ROOM_URL");
                command.env_remove("MESHAGENT_PROFILE_API_URL");
            }
        }
    }
    command.envs(args.env.iter().map(|(name, value)| (name, value)));
    Ok(())
}

fn assignment(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let name = name.trim();
    if name.is_empty() || text.contains('\0') {
        return Err("expected NAME=VALUE with a name that is not empty");
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn api_scope(text: &str) -> Result<ApiScope, String> {
    match text.trim() {
        "userDefault" => Ok(ApiScope::user_default()),
        "agentDefault" => Ok(ApiScope::agent_default()),
        "full" => Ok(ApiScope::full()),
        json => {
            let expected =
                "expected userDefault, agentDefault, full, or an api scope as a JSON object";
            let value = parse_json(json.as_bytes()).map_err(|_| expected.to_owned())?;
            let scope = scope::parse(&value, "");
            // The text has names of the JSON, decoded.
            scope.map_err(|error| format!("{expected}: {}", terminal::one_line(&error.to_string())))
        }
    }
}
