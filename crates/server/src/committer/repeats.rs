//! Repeated warnings: each is logged when it begins, when it changes, and at growing intervals.

use std::time::{Duration, Instant};

use meshagent_store::{StoreError, WriteError};

use super::{BatchResult, with_causes};

const FIRST_PAUSE: Duration = Duration::from_mins(1);
const LONGEST_PAUSE: Duration = Duration::from_hours(1);
/// Upper bound on different warnings that are remembered, since participants can cause them.
const TEXTS: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Repeats {
    recent: Vec<Recent>,
}

#[derive(Debug)]
struct Recent {
    text: String,
    logged_at: Instant,
    seen_at: Instant,
    pause: Duration,
    left_out: u64,
}

impl Repeats {
    /// Returns the text, and how often it was left out, if it should be logged now. A warning that
    /// has not occurred for a while counts as new.
    pub(super) fn news(&mut self, text: String, now: Instant) -> Option<(String, u64)> {
        self.recent
            .retain(|one| now.saturating_duration_since(one.seen_at) <= FIRST_PAUSE);
        let known = self.recent.iter_mut().find(|one| one.text == text);
        let Some(one) = known else {
            if self.recent.len() == TEXTS {
                self.recent.remove(0);
            }
            self.recent.push(Recent {
                text: text.clone(),
                logged_at: now,
                seen_at: now,
                pause: FIRST_PAUSE,
                left_out: 0,
            });
            return Some((text, 0));
        };
        one.seen_at = now;
        if now.saturating_duration_since(one.logged_at) < one.pause {
            one.left_out += 1;
            return None;
        }
        one.logged_at = now;
        one.pause = (one.pause * 2).min(LONGEST_PAUSE);
        Some((text, std::mem::take(&mut one.left_out)))
    }

    /// Forgets all warnings, because their cause has ended.
    pub(super) fn end(&mut self) {
        self.recent.clear();
    }
}

/// The error of a result with its causes, and how often it was left out, if it should be logged
/// now.
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

/// Logs why a batch, or a write in it, did not reach the disk.
pub(super) fn report(result: &BatchResult, refusals: &mut Repeats) {
    match result {
        Ok(results) => {
            for error in results.iter().filter_map(|result| result.as_ref().err()) {
                let (text, message) = match error {
                    WriteError::Damaged { what } => (what.clone(), "a write met damage"),
                    WriteError::Full => (
                        error.to_string(),
                        "the store took only the deletions of a batch",
                    ),
                    _ => continue,
                };
                if let Some((error, unreported)) = refusals.news(text, Instant::now()) {
                    tracing::error!(error, unreported, "{message}");
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

    #[test]
    fn warnings_that_alternate_are_limited_and_begin_again_after_a_silence() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let mut logged = |second: u64, text: String| {
            let now = start + Duration::from_secs(second);
            repeats.news(text, now).is_some()
        };
        let documents = 20;
        let mut count = 0;
        for second in 0..60 {
            for document in 0..documents {
                count += usize::from(logged(second, format!("größe {document}")));
            }
        }
        assert_eq!(count, documents);
        assert!(logged(500, "größe 0".to_owned()));
        assert!(!logged(501, "größe 0".to_owned()));
    }
}
