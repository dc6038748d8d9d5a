//! The life of an alert: from the first finding to the recovery.
//!
//! ```text
//! well -> warning <-> critical -> well
//! ```
//!
//! It rises at once, and falls when `recover_after` findings in a row were below its level. Each change is told once;
//! a finding that changes nothing is not told. Pure.

use jiff::Timestamp;

use crate::project::alerts::Level;

/// How an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Alert {
    /// Its level; `None` while all is well.
    pub(crate) level: Option<Level>,
    /// The highest level since all was well: those who were told of it are told how it goes on.
    pub(crate) peak: Option<Level>,
    /// Since when something is wrong, or, while nothing is, since when nothing is.
    pub(crate) since: Timestamp,
    /// Findings below the level since the last one that was not.
    pub(crate) calm: u64,
}

/// A change that is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) from: Option<Level>,
    pub(super) to: Option<Level>,
    /// Whose channels are told.
    pub(super) peak: Level,
    /// Since when something was wrong.
    pub(super) since: Timestamp,
}

impl Alert {
    /// Of something that nothing is known of: all is well.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { level: None, peak: None, since: now, calm: 0 }
    }

    /// Takes in a finding.
    pub(super) fn find(&mut self, found: Option<Level>, now: Timestamp, recover_after: u64) -> Option<Change> {
        let from = self.level;
        if found == from {
            self.calm = 0;
            return None;
        }
        if found < from {
            self.calm += 1;
            if self.calm < recover_after {
                return None;
            }
        }
        let peak = self.peak.max(found);
        let wrong_since = if from.is_none() { now } else { self.since };
        *self = match found {
            Some(_) => Self { level: found, peak, since: wrong_since, calm: 0 },
            None => Self::new(now),
        };
        peak.map(|peak| Change { from, to: found, peak, since: wrong_since })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WARNING: Option<Level> = Some(Level::Warning);
    const CRITICAL: Option<Level> = Some(Level::Critical);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// What is told of findings that come a second apart, as (second, from, to).
    fn told(findings: &[Option<Level>], recover_after: u64) -> Vec<(usize, Option<Level>, Option<Level>)> {
        let mut alert = Alert::new(at(0));
        let mut told = Vec::new();
        for (second, found) in findings.iter().enumerate() {
            let now = at(i64::try_from(second).unwrap());
            told.extend(alert.find(*found, now, recover_after).map(|change| (second, change.from, change.to)));
        }
        told
    }

    #[test]
    fn changes_are_told_and_repetitions_are_not() {
        let findings = [None, WARNING, WARNING, CRITICAL, CRITICAL, WARNING, None, None, CRITICAL];
        let expected = [
            (1, None, WARNING),
            (3, WARNING, CRITICAL),
            (5, CRITICAL, WARNING),
            (6, WARNING, None),
            (8, None, CRITICAL),
        ];
        assert_eq!(told(&findings, 1), expected);
    }

    #[test]
    fn what_fails_every_other_time_is_told_once() {
        let findings = [CRITICAL, None, CRITICAL, None, None, CRITICAL, None, None, None, None];
        assert_eq!(told(&findings, 3), [(0, None, CRITICAL), (8, CRITICAL, None)]);
    }

    #[test]
    fn recovery_is_told_to_those_who_heard_of_the_worst() {
        let mut alert = Alert::new(at(0));
        for (second, found) in [(1, WARNING), (2, CRITICAL), (3, WARNING)] {
            alert.find(found, at(second), 1);
        }
        let change = alert.find(None, at(9), 1).unwrap();
        assert_eq!(change, Change { from: WARNING, to: None, peak: Level::Critical, since: at(1) });
        let change = alert.find(WARNING, at(10), 1).unwrap();
        assert_eq!((change.peak, change.since), (Level::Warning, at(10)));
    }
}
