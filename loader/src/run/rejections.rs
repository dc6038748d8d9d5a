//! Rejected rows: all are counted, the first are kept. Beside them the values that took the place of some that could not
//! be made, which reject no row but are no less worth knowing.

use larder_types::key::KeyError;

use super::report::Rejection;
use crate::mapping::Replaced;

/// Rejected rows that a run keeps: enough to find the cause, few enough for the history to stay small.
pub(crate) const MAX_KEPT: usize = 1000;

/// The rejected rows of a run.
#[derive(Debug, Default)]
pub(crate) struct Rejections {
    pub(crate) count: u64,
    pub(crate) kept: Vec<Rejection>,
    pub(crate) replaced: Replaced,
}

impl Rejections {
    pub(crate) fn add(&mut self, rejection: Rejection) {
        self.count += 1;
        if self.kept.len() < MAX_KEPT {
            self.kept.push(rejection);
        }
    }

    /// Counts rows of which only some are named.
    pub(crate) fn add_group(&mut self, count: u64, named: impl Iterator<Item = Rejection>) {
        self.count += count;
        let room = MAX_KEPT.saturating_sub(self.kept.len());
        self.kept.extend(named.take(room));
    }

    pub(crate) fn append(&mut self, other: Self) {
        self.count += other.count;
        self.replaced.append(&other.replaced);
        let room = MAX_KEPT.saturating_sub(self.kept.len());
        self.kept.extend(other.kept.into_iter().take(room));
    }
}

/// A row whose key cannot be one.
pub(crate) fn bad_key(row: u64, column: &str, error: KeyError) -> Rejection {
    Rejection {
        key: None,
        row: Some(row),
        field: None,
        code: "invalid_key".to_owned(),
        message: format!("column `{column}`: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_few_are_kept() {
        let many = || (0..MAX_KEPT as u64 + 5).map(|row| bad_key(row, "id", KeyError::Empty));
        let mut rejections = Rejections::default();
        many().for_each(|rejection| rejections.add(rejection));
        rejections.add_group(10, many().take(3));
        let mut other = Rejections::default();
        many().for_each(|rejection| other.add(rejection));
        rejections.append(other);
        assert_eq!(rejections.kept.len(), MAX_KEPT);
        assert_eq!(rejections.count, 2 * (MAX_KEPT as u64 + 5) + 10);
    }
}
