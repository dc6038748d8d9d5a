//! What is said once a minute at most, so that a peer that comes again and again does not fill the log.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const PAUSE: Duration = Duration::from_secs(60);
/// Subjects that are remembered. Beyond them nothing new is said: it would be a storm.
const SUBJECTS: usize = 256;

/// Remembers what was said when.
#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<HashMap<String, Instant>>);

impl Throttle {
    /// Tells whether to speak of this subject, and takes it that this is done.
    pub(super) fn allows(&self, subject: String) -> bool {
        let now = Instant::now();
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.get(&subject).is_some_and(|at| now - *at < PAUSE) {
            return false;
        }
        if said.len() >= SUBJECTS {
            said.retain(|_, at| now - *at < PAUSE);
        }
        if said.len() >= SUBJECTS {
            return false;
        }
        said.insert(subject, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_subject_is_named_once_a_minute() {
        let throttle = Throttle::default();
        assert!(throttle.allows("a".to_owned()));
        assert!(!throttle.allows("a".to_owned()));
        assert!(throttle.allows("b".to_owned()));
        tokio::time::advance(PAUSE).await;
        assert!(throttle.allows("a".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_subjects_is_forgotten_and_ends() {
        let throttle = Throttle::default();
        let said = (0..10_000).filter(|subject| throttle.allows(subject.to_string())).count();
        assert_eq!(said, SUBJECTS);
        tokio::time::advance(PAUSE).await;
        assert!(throttle.allows("another".to_owned()));
    }
}
