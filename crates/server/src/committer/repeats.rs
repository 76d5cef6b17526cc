//! Warnings that come again and again: the log has each when it begins, when it changes, and at growing intervals.

use std::time::{Duration, Instant};

use meshagent_store::{StoreError, WriteError};

use super::{BatchResult, with_causes};

const FIRST_PAUSE: Duration = Duration::from_mins(1);
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

#[derive(Debug, Default)]
pub(super) struct Repeats {
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    text: String,
    at: Instant,
    pause: Duration,
    left_out: u64,
}

impl Repeats {
    /// Gives the text back if the log is to have it now, and how often it was left out before.
    pub(super) fn news(&mut self, text: String, now: Instant) -> Option<(String, u64)> {
        let (pause, left_out) = match &mut self.last {
            Some(last) if last.text == text => {
                if now.duration_since(last.at) < last.pause {
                    last.left_out += 1;
                    return None;
                }
                ((last.pause * 2).min(LONGEST_PAUSE), last.left_out)
            }
            _ => (FIRST_PAUSE, 0),
        };
        self.last = Some(Last {
            text: text.clone(),
            at: now,
            pause,
            left_out: 0,
        });
        Some((text, left_out))
    }

    /// What was warned of is over.
    pub(super) fn end(&mut self) {
        self.last = None;
    }
}

/// The error of a result with its causes, if the log has not just had it, and how often it was left out.
pub(super) fn news<T>(
    repeats: &mut Repeats,
    result: &Result<T, StoreError>,
) -> Option<(String, u64)> {
    match result {
        Ok(_) => {
            repeats.end();
            None
        }
        Err(error) => repeats.news(with_causes(error), Instant::now()),
    }
}

/// Has the log say what kept a batch, or a write of it, from the disk.
pub(super) fn report(result: &BatchResult, refusals: &mut Repeats) {
    match result {
        Ok(results) => {
            for error in results.iter().filter_map(|result| result.as_ref().err()) {
                if let WriteError::Damaged { what } = error
                    && let Some((error, unreported)) = refusals.news(what.clone(), Instant::now())
                {
                    tracing::error!(error, unreported, "a write met damage");
                }
            }
        }
        Err(error) => {
            if let Some((error, unreported)) = refusals.news(with_causes(error), Instant::now()) {
                tracing::error!(error, unreported, "the store refused a batch");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_logged_at_growing_intervals() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let mut logged = Vec::new();
        for second in 0..10_000 {
            let now = start + Duration::from_secs(second);
            if let Some((_, left_out)) = repeats.news("gone".to_owned(), now) {
                logged.push((second, left_out));
            }
        }
        let expected = [
            (0, 0),
            (60, 59),
            (180, 119),
            (420, 239),
            (900, 479),
            (1_860, 959),
            (3_780, 1_919),
            (7_380, 3_599),
        ];
        assert_eq!(logged, expected);
        assert!(repeats.news("full".to_owned(), start).is_some());
        assert!(repeats.news("full".to_owned(), start).is_none());
        repeats.end();
        assert!(repeats.news("full".to_owned(), start).is_some());
    }
}
