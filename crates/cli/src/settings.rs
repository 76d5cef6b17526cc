//! Settings from flags, the environment and the data directory: the data directory itself, the API
//! key, and the server's URL.

use std::env;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use meshagent_protocol::ApiKey;

use crate::failure::{Failure, UNREACHABLE, USAGE};
use crate::{keyfile, server_file};

/// Maximum time for a server on this machine to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEY_HINT: &str = "the first start of `meshagent serve` prints the API key of its server";
/// The hint for an invalid `MESHAGENT_API_URL`.
pub(crate) const URL_HINT: &str = "set it to http://HOST:PORT, or to https://HOST for a proxy";

/// Flags of the commands that need a project's API key or server.
#[derive(Args, Debug)]
pub(crate) struct ProjectArgs {
    /// Expected project of the API key; a key for another project is refused
    #[arg(long, value_name = "ID")]
    project_id: Option<String>,

    /// Data directory of a server on this machine, to find its API key and URL
    /// [default: as for `serve`]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl ProjectArgs {
    /// The key to sign with: the given one, else from the environment, else from the
    /// data directory.
    pub(crate) fn key(&self, given: Option<&str>) -> anyhow::Result<ApiKey> {
        let key = match given {
            Some(text) => ApiKey::parse(text).map_err(|error| {
                Failure::new("--key is not a valid API key")
                    .with_exit_code(USAGE)
                    .with_hint(KEY_HINT)
                    .with_source(error)
            })?,
            None => {
                if let Some(key) = key_from_env()? {
                    key
                } else {
                    let data_dir = self.data_dir()?;
                    keyfile::load(&data_dir)?.ok_or_else(|| {
                        Failure::new(format!(
                            "found no API key to sign a token with: neither MESHAGENT_API_KEY nor \
                             MESHAGENT_KEY_ID and MESHAGENT_SECRET are set, and {}{} does not \
                             exist",
                            keyfile::path(&data_dir).display(),
                            origin(self.data_dir.as_deref())
                        ))
                        .with_exit_code(USAGE)
                        .with_hint(
                            "set MESHAGENT_API_KEY, or run `meshagent serve` on this machine \
                             first, which creates a key",
                        )
                    })?
                }
            }
        };
        let named = [
            ("--project-id", self.project_id.clone()),
            (
                "MESHAGENT_PROJECT_ID",
                variable("MESHAGENT_PROJECT_ID")?.filter(|_| given.is_none()),
            ),
        ];
        for (name, id) in named {
            if let Some(id) = id.filter(|id| !same_id(id, &key.project_id)) {
                return Err(Failure::new(format!(
                    "{name} is {id}, but the key is for project {}",
                    key.project_id
                ))
                .with_exit_code(USAGE)
                .with_hint(format!("omit {name}, or use a key for that project"))
                .into());
            }
        }
        Ok(key)
    }

    /// The server's base URL: from the environment, else from the data directory. In the latter
    /// case, the server must answer and serve the key's project.
    pub(crate) fn server(&self, key: Option<&ApiKey>) -> anyhow::Result<ServerUrl> {
        if let Some(url) = variable("MESHAGENT_API_URL")? {
            if !is_server_url(&url) {
                let message = format!("invalid MESHAGENT_API_URL {url:?}");
                return Err(Failure::new(message)
                    .with_exit_code(USAGE)
                    .with_hint(URL_HINT)
                    .into());
            }
            return Ok(ServerUrl {
                url: url.trim_end_matches('/').to_owned(),
                is_found: false,
            });
        }
        let data_dir = self.data_dir()?;
        let start = "start one with `meshagent serve`, or set MESHAGENT_API_URL";
        let Some(server) = server_file::read(&data_dir)? else {
            let message = format!(
                "no server is running on the data directory {}{}",
                data_dir.display(),
                origin(self.data_dir.as_deref())
            );
            return Err(Failure::new(message)
                .with_exit_code(UNREACHABLE)
                .with_hint(start)
                .into());
        };
        if !answers(&server.url) {
            return Err(
                Failure::new(format!("the last server at {} does not answer", server.url))
                    .with_exit_code(UNREACHABLE)
                    .with_hint(start)
                    .into(),
            );
        }
        if let Some(key) = key
            && !same_id(&server.project_id, &key.project_id)
        {
            let message = format!(
                "the API key is for project {}, but the server at {} serves project {}",
                key.project_id, server.url, server.project_id
            );
            let hint = "set MESHAGENT_API_KEY to the key that the server was started with";
            return Err(Failure::new(message)
                .with_exit_code(USAGE)
                .with_hint(hint)
                .into());
        }
        Ok(ServerUrl {
            url: server.url,
            is_found: true,
        })
    }

    fn data_dir(&self) -> anyhow::Result<PathBuf> {
        self.data_dir.clone().map_or_else(data_dir, Ok)
    }
}

/// A server's base URL.
#[derive(Debug)]
pub(crate) struct ServerUrl {
    pub(crate) url: String,
    /// Whether the URL comes from a data directory on this machine, not from the environment.
    pub(crate) is_found: bool,
}

/// The default data directory of this user.
///
/// # Errors
/// If no variable in the environment determines it.
pub(crate) fn data_dir() -> anyhow::Result<PathBuf> {
    let path = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(dir) = path("MESHAGENT_DATA_DIR") {
        return Ok(dir);
    }
    // The XDG base directory specification requires that relative paths are ignored.
    let data_home = path("XDG_DATA_HOME")
        .filter(|dir| dir.is_absolute())
        .or_else(|| path("HOME").map(|home| home.join(".local/share")));
    let data_home = data_home.ok_or_else(|| {
        Failure::new("can't determine the data directory: HOME is not set")
            .with_exit_code(USAGE)
            .with_hint("pass --data-dir, or set MESHAGENT_DATA_DIR or HOME")
    })?;
    Ok(data_home.join("meshagent"))
}

/// The variable that names the data directory, for messages; empty for a flag and the default.
pub(crate) fn origin(given: Option<&Path>) -> &'static str {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    match given {
        None if is_set("MESHAGENT_DATA_DIR") => " (from MESHAGENT_DATA_DIR)",
        _ => "",
    }
}

/// The API key from the environment, if it contains one.
///
/// # Errors
/// If the variables are incomplete, malformed or contradict each other.
pub(crate) fn key_from_env() -> anyhow::Result<Option<ApiKey>> {
    let variables = KeyVariables {
        api_key: variable("MESHAGENT_API_KEY")?,
        project_id: variable("MESHAGENT_PROJECT_ID")?,
        key_id: variable("MESHAGENT_KEY_ID")?,
        secret: variable("MESHAGENT_SECRET")?,
    };
    let key = variables.key();
    Ok(key.map_err(|failure| failure.with_exit_code(USAGE))?)
}

/// The variable with the secret of the key from the environment.
pub(crate) fn secret_variable() -> anyhow::Result<String> {
    let is_whole = variable("MESHAGENT_API_KEY")?.is_some();
    let name = if is_whole {
        "MESHAGENT_API_KEY"
    } else {
        "MESHAGENT_SECRET"
    };
    Ok(name.to_owned())
}

/// Checks that nobody can guess a server's secret; `place` says where it comes from.
///
/// # Errors
/// If it is short. The error does not repeat it.
pub(crate) fn check_secret(key: &ApiKey, place: &str) -> Result<(), Failure> {
    if key.secret.len() >= MIN_SECRET_BYTES {
        return Ok(());
    }
    Err(Failure::new(format!(
        "the secret in {place} has fewer than {MIN_SECRET_BYTES} bytes, so it can be guessed to \
         forge tokens: replace it by the output of `openssl rand -base64 32`"
    ))
    .with_exit_code(USAGE))
}

/// As many bytes as the HMAC signature of a token has.
const MIN_SECRET_BYTES: usize = 32;

/// The variables for an API key: complete, or in three parts.
#[derive(Clone, Default)]
struct KeyVariables {
    api_key: Option<String>,
    project_id: Option<String>,
    key_id: Option<String>,
    secret: Option<String>,
}

impl KeyVariables {
    fn key(self) -> Result<Option<ApiKey>, Failure> {
        let Self {
            api_key,
            project_id,
            key_id,
            secret,
        } = self;
        let Some(api_key) = api_key else {
            return match (project_id, key_id, secret) {
                // A project id alone is not a key; SDKs use it together with a token.
                (_, None, None) => Ok(None),
                (Some(project_id), Some(id), Some(secret)) => Ok(Some(ApiKey {
                    id,
                    project_id,
                    secret,
                })),
                (project_id, key_id, secret) => {
                    let parts = [
                        ("MESHAGENT_PROJECT_ID", project_id.is_some()),
                        ("MESHAGENT_KEY_ID", key_id.is_some()),
                        ("MESHAGENT_SECRET", secret.is_some()),
                    ];
                    let names = |set| {
                        let names: Vec<&str> = parts
                            .iter()
                            .filter(|part| part.1 == set)
                            .map(|part| part.0)
                            .collect();
                        names.join(" and ")
                    };
                    Err(Failure::new(format!(
                        "the environment sets {}, but not {}",
                        names(true),
                        names(false)
                    ))
                    .with_hint("set all three, or only MESHAGENT_API_KEY"))
                }
            };
        };
        let key = ApiKey::parse(&api_key).map_err(|error| {
            Failure::new("MESHAGENT_API_KEY is not a valid API key")
                .with_hint(KEY_HINT)
                .with_source(error)
        })?;
        let agrees = [
            (
                "MESHAGENT_PROJECT_ID",
                project_id.is_none_or(|id| same_id(&id, &key.project_id)),
            ),
            (
                "MESHAGENT_KEY_ID",
                key_id.is_none_or(|id| same_id(&id, &key.id)),
            ),
            (
                "MESHAGENT_SECRET",
                secret.is_none_or(|secret| secret == key.secret),
            ),
        ];
        match agrees.into_iter().find(|(_, agrees)| !agrees) {
            None => Ok(Some(key)),
            Some((name, _)) => Err(
                Failure::new(format!("{name} contradicts MESHAGENT_API_KEY")).with_hint(format!(
                    "unset {name}; MESHAGENT_API_KEY contains its value"
                )),
            ),
        }
    }
}

/// The value of a variable; an empty one counts as not set.
pub(crate) fn variable(name: &str) -> anyhow::Result<Option<String>> {
    match env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        // The source error would print the value, which may be a secret.
        Err(env::VarError::NotUnicode(_)) => {
            let message = format!("{name} is not valid UTF-8");
            Err(Failure::new(message).with_exit_code(USAGE).into())
        }
    }
}

/// The user's name on this machine, the default name of a participant.
pub(crate) fn user_name() -> anyhow::Result<String> {
    for name in ["USER", "LOGNAME"] {
        if let Some(user) = variable(name)?.filter(|user| !user.trim().is_empty()) {
            return Ok(user);
        }
    }
    Ok("meshagent".to_owned())
}

/// Parses a flag's text, which must not be blank.
pub(crate) fn not_empty(text: &str) -> Result<String, &'static str> {
    match text.trim() {
        "" => Err("expected a text that is not empty"),
        text => Ok(text.to_owned()),
    }
}

/// Parses a flag's whole number, which must be at least 1.
pub(crate) fn from_one<T: FromStr + Default + PartialEq>(text: &str) -> Result<T, &'static str> {
    let number = text.parse().ok().filter(|number| *number != T::default());
    number.ok_or("expected a whole number, at least 1")
}

/// Parses a flag's whole number, which may be 0.
pub(crate) fn from_zero<T: FromStr>(text: &str) -> Result<T, &'static str> {
    let number = text.parse().ok();
    number.ok_or("expected a whole number, at least 0")
}

/// Compares UUIDs, which may be in upper or lower case.
fn same_id(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// Whether a URL may be that of a server.
fn is_server_url(url: &str) -> bool {
    let schemes = ["http", "https", "ws", "wss"];
    url.split_once("://").is_some_and(|(scheme, rest)| {
        let host = rest.split('/').next().unwrap_or_default();
        schemes
            .iter()
            .any(|known| known.eq_ignore_ascii_case(scheme))
            && !host.is_empty()
    })
}

/// Whether a server listens at an `http://HOST:PORT` of this machine.
fn answers(url: &str) -> bool {
    let address = url.strip_prefix("http://").unwrap_or(url);
    let addresses = address.to_socket_addrs().into_iter().flatten();
    addresses
        .into_iter()
        .any(|address| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the golden vectors; the secret contains the separator.
    const KEY: &str = "ma-Ej5FZ.ibEtOkVkJmFBdAAA-._fvPjt7T76____._fz7.g-\
                       a-secret-with-dashes-and-enough-length-0123456789";
    const KEY_ID: &str = "123e4567-e89b-12d3-a456-426614174000";
    const PROJECT_ID: &str = "fbf7ef3e-3b7b-4fbe-bfff-fffefdfcfbfa";
    const SECRET: &str = "a-secret-with-dashes-and-enough-length-0123456789";

    fn check(
        api_key: &str,
        project_id: &str,
        key_id: &str,
        secret: &str,
    ) -> Result<Option<ApiKey>, String> {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let variables = KeyVariables {
            api_key: some(api_key),
            project_id: some(project_id),
            key_id: some(key_id),
            secret: some(secret),
        };
        variables.key().map_err(|failure| failure.to_string())
    }

    #[test]
    fn key_is_read_whole_or_in_parts() {
        let key = ApiKey {
            id: KEY_ID.into(),
            project_id: PROJECT_ID.into(),
            secret: SECRET.into(),
        };
        for (api_key, project_id, key_id, secret) in [
            (KEY, "", "", ""),
            ("", PROJECT_ID, KEY_ID, SECRET),
            (KEY, PROJECT_ID, KEY_ID, SECRET),
            (KEY, PROJECT_ID, "", ""),
            (KEY, &PROJECT_ID.to_uppercase(), "", SECRET),
        ] {
            let found = check(api_key, project_id, key_id, secret).unwrap().unwrap();
            assert!(
                found.project_id == key.project_id
                    && found.id == key.id
                    && found.secret == key.secret
            );
        }
        assert!(check("", "", "", "").unwrap().is_none());
        assert!(check("", PROJECT_ID, "", "").unwrap().is_none());
    }

    #[test]
    fn incomplete_or_contradicting_variables_are_named() {
        for (variables, expected) in [
            (
                ("", "", KEY_ID, ""),
                "the environment sets MESHAGENT_KEY_ID, \
                 but not MESHAGENT_PROJECT_ID and MESHAGENT_SECRET",
            ),
            (
                ("", PROJECT_ID, "", SECRET),
                "the environment sets MESHAGENT_PROJECT_ID and MESHAGENT_SECRET, \
                 but not MESHAGENT_KEY_ID",
            ),
            (
                (KEY, KEY_ID, "", ""),
                "MESHAGENT_PROJECT_ID contradicts MESHAGENT_API_KEY",
            ),
            (
                (KEY, "", PROJECT_ID, ""),
                "MESHAGENT_KEY_ID contradicts MESHAGENT_API_KEY",
            ),
            (
                (KEY, "", "", "other"),
                "MESHAGENT_SECRET contradicts MESHAGENT_API_KEY",
            ),
            (
                ("secret", "", "", ""),
                "MESHAGENT_API_KEY is not a valid API key",
            ),
        ] {
            let (api_key, project_id, key_id, secret) = variables;
            assert_eq!(
                check(api_key, project_id, key_id, secret).unwrap_err(),
                expected
            );
        }
    }
}
