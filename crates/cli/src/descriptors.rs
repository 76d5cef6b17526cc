//! How many files the process may have open, and how many connections that leaves.

use meshagent_server::Limits;

use crate::failure::{Failure, USAGE};

/// What the database, its readers, the runtime and the standard streams take, with something to spare.
const OWN_FILES: usize = 64;
/// Below this there is nothing that would be worth starting.
const FEWEST_CONNECTIONS: usize = 16;
/// From here on it is no news that there are fewer than the default allows.
const MANY_CONNECTIONS: usize = 1_000;

/// Raises the limit on open files as far as the system lets, and holds the bounds on connections to it. What there is
/// to say about that, if they had to be lowered below what was asked for or what a small server needs.
///
/// # Errors
/// If it leaves next to nothing for connections.
pub(crate) fn hold_to_limit(limits: &mut Limits) -> Result<Option<String>, Failure> {
    // The usual soft limit is 1,024.
    let files = rlimit::increase_nofile_limit(u64::MAX).or_else(|error| {
        tracing::warn!(%error, "the limit on open files stays as it is");
        rlimit::getrlimit(rlimit::Resource::NOFILE).map(|(soft, _hard)| soft)
    });
    let Ok(files) = files else {
        return Ok(None);
    };
    let wanted = limits.max_connections;
    let Some((sockets, http)) = share(files, wanted) else {
        let text = format!(
            "the process may have {files} files open, which is too few: it takes {OWN_FILES} itself, and one for each \
             connection"
        );
        return Err(Failure::new(text)
            .with_exit_code(USAGE)
            .with_hint("raise the limit: `ulimit -n`, or LimitNOFILE= of a systemd unit"));
    };
    let is_default = wanted == Limits::default().max_connections;
    let is_news = sockets < wanted && !(is_default && sockets >= MANY_CONNECTIONS);
    let warning = is_news.then(|| {
        format!(
            "the process may have {files} files open, so --max-connections is {sockets} instead of {wanted}; raise the \
             limit (`ulimit -n`, or LimitNOFILE= of a systemd unit) to {} for that",
            needed(wanted)
        )
    });
    limits.max_connections = sockets;
    limits.max_http_connections = limits.max_http_connections.min(http);
    Ok(warning)
}

/// How many connections of participants there may be, and how many that speak HTTP beside them.
fn share(files: u64, wanted: usize) -> Option<(usize, usize)> {
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let left = files
        .checked_sub(OWN_FILES)
        .filter(|left| *left >= FEWEST_CONNECTIONS)?;
    // A fifth is for HTTP, so that handshakes and whoever asks for health find a place.
    let sockets = wanted.min(left - left.div_ceil(5));
    Some((sockets, left - sockets))
}

/// The limit on open files from which on so many connections have a place.
fn needed(connections: usize) -> usize {
    OWN_FILES.saturating_add(connections.saturating_add(connections.div_ceil(4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn participants_and_http_share_what_is_left() {
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
