//! The limit on open files, and the number of connections that it allows.

use meshagent_server::Limits;

use crate::failure::{Failure, USAGE};

/// Files for the database, its readers, the runtime and the standard streams, with a reserve.
const OWN_FILES: usize = 64;
/// The server does not start with fewer connections.
const MIN_CONNECTIONS: usize = 16;
/// With this many connections, lowering the default limit is not worth a warning.
const MANY_CONNECTIONS: usize = 1_000;

/// Raises the limit on open files as far as the system allows, and lowers the limits on connections
/// to fit. Returns a warning if a requested limit was lowered, or the default limit was lowered
/// below [`MANY_CONNECTIONS`].
///
/// # Errors
/// If fewer than [`MIN_CONNECTIONS`] are possible.
pub(crate) fn apply_file_limit(limits: &mut Limits) -> Result<Option<String>, Failure> {
    // The usual soft limit is 1,024.
    let files = rlimit::increase_nofile_limit(u64::MAX).or_else(|error| {
        tracing::warn!(%error, "can't raise the limit on open files");
        rlimit::getrlimit(rlimit::Resource::NOFILE).map(|(soft, _hard)| soft)
    });
    let Ok(files) = files else {
        return Ok(None);
    };
    let wanted = limits.max_connections;
    let Some((sockets, http)) = share(files, wanted) else {
        let message = format!(
            "the limit of {files} open files is too low: the server needs {} or more",
            OWN_FILES + MIN_CONNECTIONS
        );
        return Err(Failure::new(message)
            .with_exit_code(USAGE)
            .with_hint("raise the limit with `ulimit -n`, or LimitNOFILE= in a systemd unit"));
    };
    let is_default = wanted == Limits::default().max_connections;
    let needs_warning = sockets < wanted && !(is_default && sockets >= MANY_CONNECTIONS);
    let warning = needs_warning.then(|| {
        format!(
            "the process may have only {files} files open, so --max-connections is {sockets} \
             instead of {wanted}; to change that, raise the limit (`ulimit -n`, or LimitNOFILE= in \
             a systemd unit) to {}",
            needed(wanted)
        )
    });
    limits.max_connections = sockets;
    limits.max_http_connections = limits.max_http_connections.min(http);
    Ok(warning)
}

/// The numbers of participant connections and of HTTP connections that a limit on files allows.
fn share(files: u64, wanted: usize) -> Option<(usize, usize)> {
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let left = files
        .checked_sub(OWN_FILES)
        .filter(|left| *left >= MIN_CONNECTIONS)?;
    // A fifth is reserved for HTTP, so that handshakes and health checks always succeed.
    let sockets = wanted.min(left - left.div_ceil(5));
    Some((sockets, left - sockets))
}

/// The limit on open files that this number of participant connections needs.
fn needed(connections: usize) -> usize {
    OWN_FILES.saturating_add(connections.saturating_add(connections.div_ceil(4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn participants_and_http_share_the_remaining_files() {
        for (files, wanted, expected) in [
            (0, 50_000, None),
            (79, 1, None),
            (80, 50_000, Some((12, 4))),
            (256, 50_000, Some((153, 39))),
            (256, 100, Some((100, 92))),
            (1024, 50_000, Some((768, 192))),
            (62_564, 50_000, Some((50_000, 12_500))),
            (62_563, 50_000, Some((49_999, 12_500))),
            (u64::MAX, 1, Some((1, usize::MAX - OWN_FILES - 1))),
        ] {
            assert_eq!(share(files, wanted), expected, "{files} {wanted}");
        }
        for wanted in [1, 2, 3, 4, 5, 999, 50_000] {
            let files = needed(wanted) as u64;
            let enough = share(files.max(80), wanted).unwrap();
            assert_eq!(enough.0, wanted);
        }
    }
}
